"""Layers that prepare images: those that move pixels hand channels on, the others keep them."""

import keras
import numpy as np
import pytest
from keras import layers

from tests.support import masked_twin
from tfprune.channels.groups import Traced

MOVING = (
    lambda: layers.Resizing(7, 7),
    lambda: layers.CenterCrop(6, 6),
    lambda: layers.Rescaling(0.5),
)
AT_RANDOM = (
    lambda: layers.RandomCrop(5, 5),
    lambda: layers.RandomFlip(),
    lambda: layers.RandomRotation(0.1),
    lambda: layers.RandomTranslation(0.1, 0.1),
    lambda: layers.RandomZoom(0.1),
)
COMPUTING = (
    lambda: layers.RandomContrast(0.1),
    lambda: layers.RandomBrightness(0.1),
    lambda: layers.Normalization(mean=[1.0] * 4, variance=[2.0] * 4),
    lambda: layers.Rescaling([1.0, 2.0, 3.0, 4.0]),
    lambda: layers.Lambda(lambda x: x),
)


def _between(layer):
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, name="made")(inputs)
    for one in layer if isinstance(layer, list) else [layer]:
        x = one(x)
    return keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x)))


@pytest.mark.slow
def test_channels_pass_what_moves_pixels():
    model = _between([make() for make in MOVING])
    masked_twin.randomize(model)
    traced, small = masked_twin.check_cut(model, masked_twin.random_inputs(model))
    assert traced.groups[0].layers == ("made",) and not traced.groups[0].fixed
    assert small.count_params() < model.count_params()


def test_channels_pass_what_moves_pixels_at_random():
    model = _between([make() for make in AT_RANDOM])
    traced = Traced(model)
    assert traced.groups[0].layers == ("made",) and not traced.groups[0].fixed
    small = masked_twin.cut(traced, masked_twin.random_stays(traced, np.random.default_rng(0)))
    assert small.count_params() < model.count_params()


@pytest.mark.parametrize("make", COMPUTING)
def test_channels_stay_before_what_computes_with_them(make):
    layer = make()
    (fixed,) = (group for group in Traced(_between(layer)).groups if group.layers == ("made",))
    assert fixed.fixed.startswith(f"{layer.name}: ")


def test_what_takes_the_inputs_of_a_model_fixes_nothing():
    inputs = keras.Input((8, 8, 3))
    x = inputs
    for make in (*MOVING, *AT_RANDOM, *COMPUTING[:2]):
        x = make()(x)
    x = layers.Normalization(mean=[1.0] * 3, variance=[2.0] * 3)(layers.Rescaling([1.0, 2.0, 3.0])(x))
    x = layers.Conv2D(4, 3, name="made")(x)
    traced = Traced(keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x))))
    assert [group.layers for group in traced.groups if not group.fixed] == [("made",)]
    assert traced.trace.unknown == {}
