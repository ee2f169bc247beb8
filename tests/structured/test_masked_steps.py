"""Recurrent layers that skip masked steps are cut like others."""

import keras
import numpy as np
import pytest
from keras import layers

from tests.support import masked_twin
from tfprune.structured import plan

TEXTS = np.array([[3, 1, 4, 1, 5], [2, 6, 0, 0, 0], [0, 0, 0, 3, 5], [0, 0, 0, 0, 0]], np.int32)


def make_model(*readers):
    inputs = keras.Input((5,), dtype="int32")
    x = layers.Embedding(9, 6, mask_zero=True, name="words")(inputs)
    for reader in readers:
        x = reader(x)
    model = keras.Model(inputs, layers.Dense(3, name="head")(x))
    masked_twin.randomize(model)
    return model


@pytest.mark.slow
@pytest.mark.one_backend
@pytest.mark.parametrize(
    "readers",
    [
        lambda: [layers.Bidirectional(layers.GRU(5, return_sequences=True)), layers.LSTM(4)],
        lambda: [layers.RNN([layers.GRUCell(4), layers.SimpleRNNCell(5)])],
    ],
    ids=["layers", "cells"],
)
def test_a_mask_goes_with_the_cut(readers):
    model = make_model(*readers())
    made = plan(model, params=0.6, scope="layer")
    assert all(group.kept < group.channels for group in made.groups[:-1])
    masked_twin.check_cut(model, [TEXTS])
