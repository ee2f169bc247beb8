"""Layers of one's own, nested and shared models, and what is not known."""

import re

import keras
import numpy as np
import pytest
from keras import layers, ops

from tests.support import masked_twin
from tfprune.channels.groups import Traced, channel_groups
from tfprune.channels.labels import Channels


class Scaled(layers.Layer):
    """A layer of one's own that makes channels and scales them, with the rule of the documentation."""

    def __init__(self, units, **options):
        super().__init__(**options)
        self.units = units

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], self.units), name="kernel")
        self.scale = self.add_weight(shape=(self.units,), name="scale")

    def call(self, inputs, factor=None):
        made = ops.matmul(inputs, self.kernel) * self.scale
        return made if factor is None else made * factor

    def get_config(self):
        return {**super().get_config(), "units": self.units}


class Told(Scaled):
    def trace_channels(self, call):
        taken, made = call.take(-1), call.new(self.units)
        call.weight(self.kernel, 0, taken, "takes")
        call.weight(self.kernel, 1, made, "makes")
        call.weight(self.scale, 0, made, "scales")
        call.config("units", made)
        if "factor" in call.kwargs:
            call.unite(made, call.take(-1, call.kwargs["factor"]))
        return [Channels.along(call.shapes[0], -1, made)]


def dense_around(layer, **kwargs):
    inputs = keras.Input((4,))
    x = layer(layers.Dense(6, name="before")(inputs), **kwargs)
    return keras.Model(inputs, layers.Dense(3, name="after")(x))


def fixed(model):
    """Names of layers whose channels are fixed -> why."""
    return {group.layers[0]: group.fixed for group in channel_groups(model) if group.fixed}


def test_a_layer_of_ones_own_is_cut_by_its_rule():
    model = dense_around(Told(5, name="own"))
    _, small = masked_twin.check_cut(model, masked_twin.random_inputs(model))
    assert small.get_layer("own").units < 5
    assert fixed(model) == {"after": "output of the model"}


def test_tensors_among_the_named_arguments():
    inputs = keras.Input((4,))
    x = layers.Dense(6, name="before")(inputs)
    x = Told(5, name="own")(x, factor=layers.Dense(5, name="factor")(inputs))
    model = keras.Model(inputs, layers.Dense(3)(x))
    masked_twin.check_cut(model, masked_twin.random_inputs(model))
    assert [group.layers for group in channel_groups(model)][:2] == [("before",), ("factor", "own")]


class Subclassed(keras.Model):
    def __init__(self, **options):
        super().__init__(**options)
        self.dense = layers.Dense(5)

    def call(self, inputs):
        return self.dense(inputs)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Scaled(5, name="own"),
        lambda: layers.Lambda(lambda x: x * 2, name="own"),
        lambda: Subclassed(name="own"),
    ],
    ids=["own", "lambda", "subclassed"],
)
def test_what_has_no_rule_is_named_and_keeps_its_neighbours(make):
    layer = make()
    inputs = keras.Input((4, 2))
    x = layers.Dense(8, name="free")(layers.Dense(6, name="before")(inputs))
    x = layer(layers.Dense(7, name="taken")(x))
    model = keras.Model(inputs, layers.Dense(3, name="after")(x))
    traced, small = masked_twin.check_cut(model, masked_twin.random_inputs(model), reloaded=False)
    kind = type(layer).__name__
    assert traced.trace.unknown == {"own": kind}
    assert fixed(model)["taken"] == f"own: {kind} has no rule for its channels"
    assert small.get_layer("taken").units == 7 and small.get_layer("free").units < 8


def test_an_operation_without_a_rule_is_named():
    inputs = keras.Input((4, 4))
    x = ops.slogdet(layers.Dense(4, name="taken")(inputs))[1]
    traced = Traced(keras.Model(inputs, layers.Dense(3)(ops.reshape(x, (-1, 1)))))
    assert list(traced.trace.unknown.values()) == ["Slogdet"]


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (lambda self, call: None, "must return a list of 1 Channels, one for each output. Received: None"),
        (
            lambda self, call: [call.take(-1)],
            "must return a list of 1 Channels, .*: ['ndarray'] from layer 'own'",
        ),
        (lambda self, call: call.inputs * 2, "must return a list of 1 Channels, .*['Channels', 'Channels']"),
        (
            lambda self, call: call.inputs,
            "whose size along each axis is 1 or that of the tensor, (5,). Received",
        ),
        (
            lambda self, call: call.weight(self.kernel, 1, call.new(4), "makes"),
            "`labels` must have one label for each of the 5 places of axis 1 of own/kernel. Received: 4",
        ),
        (
            lambda self, call: call.weight(self.kernel, 2, call.new(5), "makes"),
            "`axis` must be one of the 2 axes of own/kernel. Received: axis=2 from layer 'own'",
        ),
        (
            lambda self, call: call.weight(self.kernel, 1, call.new(5), "gives"),
            "`role` must be one of makes, takes, scales, masks. Received: role='gives' from layer 'own'",
        ),
        (
            lambda self, call: [Channels.along((5,), 0, call.new(5))],
            "`trace_channels` of layer 'own' must say how",
        ),
        (
            lambda self, call: call.config("units", made := call.new(5)) or [Channels.along((5,), 0, made)],
            "`trace_channels` must name each axis of a weight that numbers channels. Received: of own/",
        ),
    ],
)
def test_a_rule_that_is_wrong(monkeypatch, rule, message):
    monkeypatch.setattr(Told, "trace_channels", rule)
    model = dense_around(Told(5, name="own"))
    with pytest.raises(ValueError, match=re.escape(message).replace(r"\.\*", ".*")):
        traced = Traced(model)
        masked_twin.cut(traced, np.arange(traced.count) % 2 == 0)


def test_layers_with_other_weights_than_their_class_keep_their_channels():
    model = dense_around(layers.Dense(5, name="own"))
    model.get_layer("own").enable_lora(2)
    assert fixed(model) == {"before": "own: it has weights of LoRA", "after": "output of the model"}


def inner_model(inputs, name="inner"):
    given = keras.Input(inputs)
    x = layers.Dense(6, name="inside")(given)
    x = layers.LayerNormalization(epsilon=0.1)(layers.Reshape((-1, 6))(x)) if len(inputs) > 1 else x
    return keras.Model(given, [x, x[..., 1:5]], name=name)


def test_a_nested_model_that_is_called_twice():
    inputs = [keras.Input((5, 4)), keras.Input((5, 3))]
    first, second = (layers.Dense(8, name=f"to_{i}")(x) for i, x in enumerate(inputs))
    inner = inner_model((5, 8))
    made = [*inner(first), *inner(second), *inner(ops.relu(second))]
    sequence = keras.Sequential([layers.Dense(7, name="in_sequence"), layers.Flatten()], name="sequence")
    outputs = [layers.Dense(2)(sequence(x)) for x in made[::2]]
    model = keras.Model(inputs, [*outputs, layers.Dense(3)(layers.Flatten()(made[1]))])
    masked_twin.randomize(model)
    traced, small = masked_twin.check_cut(model, masked_twin.random_inputs(model))
    groups = [sorted(group.layers) for group in traced.groups]
    assert groups[:3] == [["to_0", "to_1"], ["inside"], ["in_sequence"]]
    assert [type(layer).__name__ for layer in small.layers if "inner" in layer.name] == ["Functional"]
    assert isinstance(small.get_layer("sequence"), keras.Sequential)


@pytest.mark.parametrize(("rows", "why"), [(4, None), (5, "reshape: its shape is not known")])
def test_a_reshape_that_divides_sizes_that_are_not_known(rows, why):
    inputs = keras.Input((None, None, 3))
    x = layers.Conv2D(6, 1, name="before")(inputs)
    model = keras.Model(inputs, layers.Dense(2)(layers.Reshape((rows, -1, 6), name="reshape")(x)))
    masked_twin.randomize(model)
    assert fixed(model).get("before") == why
    masked_twin.check_cut(
        model, [np.random.default_rng(0).normal(size=(7, 2 * rows, 3, 3)).astype("float32")]
    )


def test_a_layer_that_is_called_with_tensors_of_several_shapes():
    """One number in its configuration for tensors of 8 and of 12 channels: it cannot follow a cut of both."""
    inputs = keras.Input((6,))
    narrow, wide = layers.Dense(8, name="narrow")(inputs), layers.Dense(12, name="wide")(inputs)
    shared = layers.Reshape((4, -1), name="reshape")
    outputs = [layers.Dense(2)(layers.Flatten()(shared(x))) for x in (narrow, wide)]
    model = keras.Model(inputs, outputs)
    masked_twin.check_cut(model, masked_twin.random_inputs(model))
    assert (
        fixed(model)["narrow"]
        == fixed(model)["wide"]
        == "reshape: it is called with tensors of several shapes"
    )


def test_a_layer_without_weights_that_is_called_with_other_channels():
    """Groups of 2 in both, so that what stays of the one is as many groups as of the other."""
    inputs = keras.Input((6,))
    shared = layers.GroupNormalization(3, scale=False, center=False, epsilon=0.1)
    outputs = [layers.Dense(2)(shared(layers.Dense(6, name=name)(inputs))) for name in ("one", "other")]
    model = keras.Model(inputs, outputs)
    traced, _ = masked_twin.check_cut(model, masked_twin.random_inputs(model))
    assert sorted(traced.groups[0].layers) == ["one", "other"] and traced.groups[0].channels == 3


def test_a_weight_that_makes_and_takes_channels():
    inputs = keras.Input((5,), dtype="int32")
    table = layers.ReversibleEmbedding(7, 6, name="table")
    x = layers.LayerNormalization(epsilon=0.1)(table(inputs))
    model = keras.Model(inputs, table(x, reverse=True))
    masked_twin.randomize(model)
    _, small = masked_twin.check_cut(model, masked_twin.random_inputs(model))
    assert small.get_layer("table").output_dim < 6


def test_a_layer_without_weights_that_is_called_with_tensors_of_several_widths():
    inputs = keras.Input((4,))
    shared = layers.ReLU()
    outputs = [layers.Dense(2)(shared(layers.Dense(width)(inputs))) for width in (6, 9, 5)]
    model = keras.Model(inputs, outputs)
    _, small = masked_twin.check_cut(model, masked_twin.random_inputs(model))
    assert small.count_params() < model.count_params()
