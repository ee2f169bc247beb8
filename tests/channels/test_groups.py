import keras
import pytest
from keras import layers

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


def test_a_subclassed_model_is_an_error():
    class Own(keras.Model):
        def call(self, inputs):
            return inputs

    with pytest.raises(ValueError, match="`model` must be functional or Sequential and built"):
        channel_groups(Own())
