"""What is built without some channels computes what the whole model does when they are zero."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from tfprune.channels.cut import build_smaller
from tfprune.channels.groups import Traced
from tfprune.sparsity import ConstantSparsity, masks_of, prune_low_magnitude, prune_to


def make_model():
    inputs = keras.Input((8, 8, 3), name="image")
    first = layers.Conv2D(8, 3, padding="same", name="first")(inputs)
    first = layers.BatchNormalization()(first)
    second = layers.Conv2D(8, 3, padding="same", name="second")(layers.ReLU()(first))
    x = layers.Flatten()(layers.Add()([first, second]))
    return keras.Model(inputs, layers.Dense(5, name="head")(x))


@pytest.mark.parametrize("wrapped", [False, True])
def test_half_of_the_channels(wrapped):
    model = make_model()
    if wrapped:
        model = prune_low_magnitude(model, ConstantSparsity(0.5, begin_step=0))
        prune_to(model, 0.5)
    traced = Traced(model)
    stays = np.ones(traced.count, bool)
    stays[traced.groups[0].sets[::2]] = False
    masks = {name: np.array(mask) for name, mask in masks_of(model).items()} if wrapped else {}
    small = build_smaller(model, traced.trace.cuts, lambda labels: stays[traced.sets[labels]])
    for one in traced.slices:  # The whole model's twin: what makes the channels is zero.
        if one.role in ("makes", "scales"):
            sizes = [1] * len(one.variable.shape)
            sizes[one.axis] = -1
            one.variable.assign(one.variable * stays[traced.sets[one.labels]].reshape(sizes))
    images = np.random.default_rng(0).random((2, 8, 8, 3), np.float32)
    expected = ops.convert_to_numpy(model(images))
    np.testing.assert_allclose(
        ops.convert_to_numpy(small(images)), expected, atol=1e-5 * np.abs(expected).max()
    )
    assert small.count_params() < 0.6 * model.count_params()
    if wrapped:
        kept = masks_of(small)
        assert kept.keys() == masks.keys()
        np.testing.assert_array_equal(kept["second/kernel"], masks["second/kernel"][:, :, 1::2, 1::2])
        assert small.get_layer("prune_low_magnitude_first").pruning_schedule.target_sparsity == 0.5
