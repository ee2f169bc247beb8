"""Layers inside other layers are cut, wrapped for pruning or not."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from tests.support import masked_twin
from tfprune import structured
from tfprune.channels.groups import Traced
from tfprune.sparsity import ConstantSparsity, masks_of, prune_low_magnitude, prune_to, strip_pruning


def _frames(inner, after=layers.Flatten):
    inputs = keras.Input((3, 6, 6, 2))
    x = after()(layers.TimeDistributed(inner, name="frames")(inputs))
    return keras.Model(inputs, layers.Dense(3)(x))


def _network():
    return keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            layers.Conv2D(6, 3, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.GlobalAveragePooling2D(),
            layers.Dense(4),
        ]
    )


def _spectral():
    inputs = keras.Input((6, 6, 2))
    x = layers.SpectralNormalization(layers.Conv2D(8, 3))(inputs)
    x = layers.Flatten()(layers.SpectralNormalization(layers.Conv2D(4, 3))(x))
    return keras.Model(inputs, layers.Dense(3)(x))


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        lambda: _frames(layers.Conv2D(8, 3)),
        lambda: _frames(_network(), lambda: layers.LSTM(4)),
        lambda: _frames(layers.SpectralNormalization(layers.Conv2D(8, 3))),
        _spectral,
    ],
    ids=["layer", "network", "wrapper", "spectral"],
)
def test_what_a_layer_holds_is_cut(make):
    model = make()
    masked_twin.randomize(model)
    traced, small = masked_twin.check_cut(model, masked_twin.random_inputs(model))
    assert traced.trace.unknown == {}
    assert small.count_params() < 0.7 * model.count_params()


@pytest.mark.slow
def test_a_network_that_a_layer_holds_is_shrunk():
    """Its last layer has channels that a layer behind does not take."""
    model = _frames(_network(), lambda: layers.LSTM(4))
    masked_twin.randomize(model)
    kernel = model.layers[2].cell.kernel
    kernel.assign(ops.convert_to_numpy(kernel) * np.float32([[1], [0], [1], [0]]))
    small = structured.shrink(model)
    assert small.get_layer("frames").layer.output_shape == (None, 2)
    inputs = masked_twin.random_inputs(model)
    outputs = zip(*(masked_twin.outputs_of(each, inputs) for each in (model, small)), strict=True)
    for expected, made in outputs:
        np.testing.assert_allclose(made, expected, rtol=1e-5, atol=1e-5)


def test_the_masks_of_what_a_layer_holds_are_cut():
    model = prune_low_magnitude(_frames(layers.Conv2D(8, 3)), ConstantSparsity(0.5, begin_step=0))
    prune_to(model, 0.5)
    traced = Traced(model)
    stays = np.ones(traced.count, bool)
    stays[traced.groups[0].sets[::2]] = False
    masks, kept = masks_of(model), masks_of(masked_twin.cut(traced, stays))
    (name,) = (name for name in masks if "frames" in name)
    np.testing.assert_array_equal(kept[name], masks[name][..., 1::2])


def test_channels_that_differ_from_step_to_step_stay():
    inputs = keras.Input((4,))
    x = layers.Reshape((6, 1))(layers.Dense(6, name="steps")(inputs))
    model = keras.Model(inputs, layers.Flatten()(layers.TimeDistributed(layers.Dense(2), name="each")(x)))
    reasons = {group.layers: group.fixed for group in Traced(model).groups}
    assert reasons["steps",] == "each: its channels differ from step to step"


def test_a_trained_spectral_normalisation_goes_on():
    model = _spectral()
    masked_twin.randomize(model)
    traced = Traced(model)
    stays = masked_twin.random_stays(traced, np.random.default_rng(0))
    small = masked_twin.cut(traced, stays)
    small(ops.ones((1, 6, 6, 2)), training=True)
    assert np.isfinite(small.get_weights()[0]).all()


@pytest.mark.parametrize("kind", ["alone", "pruned"])
def test_a_layer_in_a_wrapper_that_is_called_without_it_too_stays_one(kind):
    """A file of such a model, cut or not, Keras itself cannot load (3.15.1)."""
    inputs = keras.Input((5, 6))
    shared = layers.Dense(8, activation="relu", name="shared")
    x = layers.Flatten()(layers.TimeDistributed(shared, name="steps")(inputs))
    y = shared(layers.GlobalAveragePooling1D()(inputs))
    model = keras.Model(inputs, layers.Dense(2, name="head")(layers.Concatenate()([x, y])))
    masked_twin.randomize(model)
    if kind == "pruned":
        model = prune_low_magnitude(model, None, layers="shared|head")
    arrays = masked_twin.random_inputs(model)
    _, small = masked_twin.check_cut(model, arrays, reloaded=False)
    assert len(small.weights) == len(model.weights)
    plan = structured.plan(model, params=0.6)
    repaired = plan.apply(repair="ridge", images=np.concatenate([arrays[0]] * 8))
    for each in (plan.apply(), repaired):
        assert strip_pruning(each).count_params() == plan.after.parameters
