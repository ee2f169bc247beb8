"""A copy of a model computes what the model does, with what its layers learned besides weights."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from tfprune.network.copying import copy_in_float32


def _assert_copied(layer, inputs, values):
    head = layers.Dense(2, dtype="mixed_float16")
    model = keras.Model(inputs, head(layer(inputs)))
    copy, values = copy_in_float32(model), ops.convert_to_tensor(values)
    assert {part.dtype_policy.name for part in copy.layers[1:]} == {"float32"}
    expected = ops.convert_to_numpy(ops.cast(model(values), "float32"))
    np.testing.assert_allclose(ops.convert_to_numpy(copy(values)), expected, rtol=0, atol=1e-2)


def test_statistics():
    layer = layers.Normalization()
    layer.adapt(np.random.default_rng(0).normal(30, 5, (20, 4)))
    _assert_copied(layer, keras.Input((4,)), np.full((2, 4), 25, np.float32))


@pytest.mark.one_backend  # Strings are TensorFlow's.
def test_vocabulary():
    layer = layers.StringLookup(output_mode="multi_hot")
    layer.adapt(np.array(["a", "b"]))
    _assert_copied(layer, keras.Input((2,), dtype="string"), np.array([["b", "c"]]))
