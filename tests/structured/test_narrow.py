"""Convolutions take and make only the channels that they have weights for; the outputs stay."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from tests.structured.test_shrink import filters, names, randomize, shrunk, zero
from tfprune.sparsity import prune_low_magnitude
from tfprune.structured import dead_channels, shrink

IMAGES = np.random.default_rng(0).normal(size=(2, 6, 6, 3)).astype("float32")
WIDTH = 40


def convolution(x, name, **options):
    return layers.Conv2D(WIDTH, 3, **{"padding": "same", "name": name, **options})(x)


def keep(layer, takes=WIDTH, makes=WIDTH, first=0):
    """Leaves a convolution the weights from some channels, `first` the first, to some others."""
    zero(layer.kernel, ..., slice(0, first), slice(None))
    zero(layer.kernel, ..., slice(first + takes, None), slice(None))
    zero(layer.kernel, ..., slice(makes, None))


def stream(**options):
    """A convolution, then blocks on a stream; the second block's take and make few channels of it."""
    inputs = keras.Input((6, 6, 3))
    x = convolution(inputs, "stem")
    for block in ("one", "two"):
        y = layers.ReLU(name=f"{block}_relu1")(convolution(x, f"{block}_conv1", **options))
        y = convolution(y, f"{block}_conv2", use_bias=False)
        y = layers.BatchNormalization(name=f"{block}_norm")(y)
        x = layers.ReLU(name=f"{block}_relu2")(layers.Add(name=f"{block}_add")([x, y]))
    model = keras.Model(inputs, layers.Dense(4, name="head")(layers.GlobalAveragePooling2D(name="pool")(x)))
    randomize(model)
    keep(model.get_layer("two_conv1"), takes=5, first=7)
    keep(model.get_layer("two_conv2"), makes=9)
    return model


def test_selects_and_scatters_stand_at_the_ends_of_a_stream(tmp_path):
    model = stream()
    small = shrunk(model, IMAGES)
    two = ["conv1_select", "conv1", "relu1", "conv2", "norm", "norm_scatter", "add", "relu2"]
    assert [name for name in names(small) if name.startswith("two_")] == [f"two_{name}" for name in two]
    assert not any(name.startswith("one_conv1_") for name in names(small))
    assert (small.get_layer("two_conv2").filters, small.get_layer("two_norm").gamma.shape) == (9, (9,))
    assert tuple(small.get_layer("two_conv1").kernel.shape) == (3, 3, 5, WIDTH)
    assert not small.get_layer("two_conv1_select").trainable
    small.save(tmp_path / "small.keras")
    loaded = keras.saving.load_model(tmp_path / "small.keras")
    np.testing.assert_array_equal(*(ops.convert_to_numpy(each(IMAGES)) for each in (small, loaded)))
    assert names(shrunk(small, IMAGES)) == names(small)


def test_the_report_names_what_is_narrowed():
    found = dead_channels(stream())
    assert [(one.layer, one.takes, one.of_taken, one.makes, one.of_made) for one in found.narrowed] == [
        ("two_conv1", 5, WIDTH, WIDTH, WIDTH),
        ("two_conv2", WIDTH, WIDTH, 9, WIDTH),
    ]
    assert str(found) == (
        "0 of 204 channels change no output\n"
        "Convolutions that are narrowed, by 1x1 convolutions around them:\n"
        "  two_conv1: takes 5 of 40, makes 40 of 40\n"
        "  two_conv2: takes 40 of 40, makes 9 of 40"
    )


def test_a_wrapped_model_keeps_its_layers_and_narrow_is_a_choice():
    model = stream()
    assert names(shrink(model, narrow=False)) == names(model)
    assert len(shrink(prune_low_magnitude(model, None)).layers) == len(model.layers)


def test_what_was_narrowed_loses_more_channels_later():
    small = shrink(stream())
    zero(small.get_layer("two_conv1").kernel, ..., slice(0, 2), slice(None))
    zero(small.get_layer("two_conv2").kernel, ..., slice(0, 3))
    smaller = shrunk(small, IMAGES)
    assert names(smaller) == names(small)
    assert filters(smaller)["two_conv1_select"] == 3 and filters(smaller)["two_conv2"] == 6


def test_convolutions_that_take_the_same_share_a_selection():
    inputs = keras.Input((6, 6, 3))
    x = layers.LeakyReLU(name="act")(convolution(inputs, "stem"))
    sides = [convolution(x, name, use_bias=False) for name in ("left", "right", "other", "whole")]
    model = keras.Model(inputs, layers.Dense(4)(layers.Flatten()(layers.Add()(sides))))
    randomize(model)
    for name, first in (("left", 3), ("right", 3), ("other", 4)):
        keep(model.get_layer(name), takes=6, first=first)
    small = shrunk(model, IMAGES)
    selects = [name for name in names(small) if name.endswith("_select")]
    assert selects == ["left_select", "other_select"]
    assert small.get_layer("right").input is small.get_layer("left").input


@pytest.mark.parametrize(
    ("options", "inserted"),
    [
        ({"strides": 2}, {"scatter"}),  # Four positions of a selection would be of use for one.
        ({"padding": "valid", "activation": "sigmoid"}, {"select", "scatter"}),
        ({"dilation_rate": 2, "kernel_size": (3, 2)}, {"select", "scatter"}),
    ],
)
def test_strides_paddings_and_activations(options, inserted):
    inputs = keras.Input((None, None, 3))
    x = convolution(inputs, "stem")
    made = {"kernel_size": 3, "padding": "same", "name": "conv", **options}
    y = layers.Conv2D(WIDTH, **made)(x)
    outs = [layers.GlobalMaxPooling2D()(tensor) for tensor in (x, y)]
    model = keras.Model(inputs, layers.Dense(4)(layers.Multiply()(outs)))
    randomize(model)
    keep(model.get_layer("conv"), takes=4, makes=6)
    small = shrunk(model, IMAGES)
    assert {name[5:] for name in names(small) if name.startswith("conv_")} == inserted
    assert filters(small)["conv"] == 6


@pytest.mark.parametrize("activation", ["softmax", layers.LeakyReLU()])
def test_what_an_activation_may_compute_with_all_channels_stays(activation):
    inputs = keras.Input((6, 6, WIDTH))
    x = convolution(inputs, "conv", activation=activation)
    model = keras.Model(inputs, layers.Dense(4, name="head")(layers.GlobalMaxPooling2D(name="pool")(x)))
    randomize(model)
    keep(model.get_layer("conv"), takes=4, makes=4)
    small = shrunk(model, np.random.default_rng(0).normal(size=(2, 6, 6, WIDTH)).astype("float32"))
    assert names(small) == ["conv_select", "conv", "pool", "head"]


@keras.saving.register_keras_serializable("tests")
class Holder(layers.Layer):
    """A layer of one's own that calls another, and says nothing of its channels."""

    def __init__(self, inner, **options):
        super().__init__(**options)
        self.inner = inner

    def call(self, inputs):
        return self.inner(inputs)

    def get_config(self):
        return super().get_config() | {"inner": keras.saving.serialize_keras_object(self.inner)}

    @classmethod
    def from_config(cls, config):
        return cls(keras.saving.deserialize_keras_object(config.pop("inner")), **config)


def test_what_a_layer_of_ones_own_calls_too_stays():
    inputs = keras.Input((6, 6, WIDTH))
    conv = layers.Conv2D(WIDTH, 3, padding="same", name="conv")
    x = Holder(conv, name="holder")(layers.ReLU(name="relu")(conv(inputs)))
    model = keras.Model(inputs, layers.Dense(4, name="head")(layers.GlobalMaxPooling2D(name="pool")(x)))
    randomize(model)
    keep(conv, takes=4, makes=4)
    small = shrunk(model, np.random.default_rng(0).normal(size=(2, 6, 6, WIDTH)).astype("float32"))
    assert names(small) == ["conv", "relu", "holder", "pool", "head"]


def test_sequences_volumes_and_nested_models():
    sequences = keras.Input((12, WIDTH))
    body = keras.Sequential(
        [keras.Input((12, WIDTH)), layers.Conv1D(WIDTH, 5, padding="same", name="conv")], name="body"
    )
    volumes = layers.Reshape((4, 3, 1, WIDTH))(sequences)
    volumes = layers.Conv3D(WIDTH, (2, 2, 1), padding="same", name="volume")(volumes)
    outs = [layers.GlobalMaxPooling1D()(body(sequences)), layers.GlobalMaxPooling3D()(volumes)]
    outs.append(layers.Dense(WIDTH)(layers.GlobalMaxPooling1D()(sequences)))
    model = keras.Model(sequences, layers.Dense(4)(layers.Add()(outs)))
    randomize(model)
    for layer in (body.get_layer("conv"), model.get_layer("volume")):
        keep(layer, takes=12, makes=8, first=2)
    small = shrunk(model, np.random.default_rng(0).normal(size=(2, 12, WIDTH)).astype("float32"))
    assert [layer.name for layer in small.get_layer("body").layers] == ["conv_select", "conv", "conv_scatter"]
    assert {"volume_select", "volume_scatter"} <= set(names(small))


def test_what_is_called_by_the_layer_and_what_is_shared_stays():
    inputs = keras.Input((6, 6, WIDTH))
    shared = layers.Conv2D(WIDTH, 3, padding="same", name="shared")
    last = convolution(shared(shared(inputs)), "last")
    model = keras.Model(inputs, last)
    for layer in (shared, model.get_layer("last")):
        keep(layer, takes=4, makes=4)
    small = shrunk(model, np.random.default_rng(0).normal(size=(2, 6, 6, WIDTH)).astype("float32"))
    assert names(small) == ["shared", "last_select", "last"]
    assert small.output_names == ["last"]
