"""Keras's own quantization of a pruned network: what was removed stays removed."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from tfprune import sparsity


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_zeros_stay_zeros(mode):
    keras.utils.set_random_seed(0)
    chain = [layers.Dense(32, activation="relu"), layers.EinsumDense("ab,bc->ac", 16), layers.Dense(4)]
    model = keras.Sequential([keras.Input((24,)), *chain])
    pruned = sparsity.prune_low_magnitude(model, None)
    sparsity.prune_to(pruned, 0.9)
    stripped = sparsity.strip_pruning(pruned)
    inputs = np.random.default_rng(0).normal(size=(8, 24)).astype(np.float32)
    expected = ops.convert_to_numpy(stripped(inputs))
    removed = [ops.convert_to_numpy(layer.kernel) == 0 for layer in stripped.layers]
    assert all(zeros.mean() > 0.85 for zeros in removed)
    stripped.quantize(mode)
    # An identity through each layer shows its kernel as it is computed with, whatever it is stored as.
    for layer, zeros in zip(stripped.layers, removed, strict=True):
        rows = np.eye(zeros.shape[0], dtype=np.float32)
        bias = 0 if layer.bias is None else ops.convert_to_numpy(layer.bias)
        computed = ops.convert_to_numpy(layer(rows)) - bias
        if layer is stripped.layers[0]:  # Behind ReLU the negative ones do not show.
            computed = computed + ops.convert_to_numpy(layer(-rows))
        assert not computed[zeros].any()
        assert computed[~zeros].any()
    found = ops.convert_to_numpy(stripped(inputs))
    assert np.abs(found - expected).max() < {"int8": 0.05, "int4": 0.5}[mode] * np.abs(expected).max()
