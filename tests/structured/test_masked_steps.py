"""Recurrent layers that skip masked steps are cut like others; what is exact does not count on the steps."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from tests.support import masked_twin
from tfprune.structured import plan, shrink

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


def test_a_unit_without_inputs_stays_where_steps_are_skipped():
    """Its value follows from its bias and the number of steps that count: it is no constant."""
    model = make_model(layers.LSTM(4, name="reader"))
    cell = model.get_layer("reader").cell
    for kernel in (cell.kernel, cell.recurrent_kernel):
        values = np.array(ops.convert_to_numpy(kernel))
        values[:, ::4] = 0  # All that makes unit 0.
        kernel.assign(values)
    cell.recurrent_kernel.assign(
        np.array([0, 1, 1, 1])[:, None] * ops.convert_to_numpy(cell.recurrent_kernel)
    )
    small = shrink(model)
    expected, found = (ops.convert_to_numpy(each(TEXTS, training=False)) for each in (model, small))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert small.get_layer("reader").units == 4
