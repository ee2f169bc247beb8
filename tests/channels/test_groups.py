import keras
import numpy as np
import pytest
from keras import layers, ops

from tfprune.channels.groups import channel_groups


def test_layers_that_are_added_go_together():
    inputs = keras.Input((8, 8, 3))
    first = layers.Conv2D(8, 3, padding="same", name="first")(inputs)
    second = layers.Conv2D(8, 3, padding="same", name="second")(layers.ReLU()(first))
    x = layers.Flatten()(layers.Add()([first, second]))
    model = keras.Model(inputs, layers.Dense(5, name="head")(x))
    together, head = channel_groups(model)
    assert (together.layers, together.takers, together.channels) == (
        ("first", "second"),
        ("second", "head"),
        8,
    )
    assert not together.fixed
    assert str(head) == "5 channels of head: fixed, output of the model"


def normalized(x):
    return x / (1 + ops.sum(ops.abs(x), axis=-1, keepdims=True))


def swish_of_ones_own(x):
    return x * ops.sigmoid(1.3 * x)


@pytest.mark.parametrize(
    ("activation", "reason"),
    [
        ("softmax", "first: softmax over its channels"),
        (normalized, "first: normalized over its channels"),
        (lambda x: x * np.arange(8, dtype="float32"), "first: <lambda> over its channels"),
        (lambda x: ops.matmul(x, np.ones((8, 8), "float32")), "first: <lambda> over its channels"),
        ("gelu", ""),
        ("log_sigmoid", ""),
        (swish_of_ones_own, ""),
    ],
)
def test_activations_that_compute_with_several_channels(activation, reason):
    inputs = keras.Input((8,))
    x = layers.Dense(8, activation=activation, name="first")(inputs)
    (first,) = (g for g in channel_groups(keras.Model(inputs, layers.Dense(3)(x))) if g.layers == ("first",))
    assert first.fixed == reason


def test_a_subclassed_model_is_an_error():
    class Own(keras.Model):
        def call(self, inputs):
            return inputs

    with pytest.raises(ValueError, match="`model` must be functional or Sequential and built"):
        channel_groups(Own())
    with pytest.raises(ValueError, match="begin it with a `keras.Input`. Received: model=<Sequential"):
        channel_groups(keras.Sequential([layers.Dense(3)]))
