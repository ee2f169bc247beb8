"""Layers inside other layers are cut, wrapped for pruning or not."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from tests.support import masked_twin
from tfprune.channels.groups import Traced
from tfprune.sparsity import ConstantSparsity, masks_of, prune_low_magnitude, prune_to


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
