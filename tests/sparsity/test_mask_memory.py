"""Pruning adds the masks and a few tensors to the memory, whatever the scope, and changes all or nothing."""

import tracemalloc

import keras
import numpy as np
import pytest
from keras import layers

from tfprune.sparsity import apply, prune_low_magnitude, prune_to, pruned_layers, selection

LAYERS, SIDE = 24, 256
# Of a layer's kernel in float32.
TENSOR = 4 * SIDE**2


@pytest.fixture
def deep(monkeypatch):
    """A function that makes a wrapped model of many equal kernels, treated as a large one."""
    monkeypatch.setattr(apply, "_FEW_WEIGHTS", 0)
    monkeypatch.setattr(apply, "_SMALL", 0)
    monkeypatch.setattr(selection, "_CHUNK", 1 << 13)

    def make(**options):
        dense = [layers.Dense(SIDE, use_bias=False, name=f"dense_{i}") for i in range(LAYERS)]
        return prune_low_magnitude(keras.Sequential([keras.Input((SIDE,)), *dense]), None, **options)

    return make


@pytest.mark.slow
@pytest.mark.parametrize("scope", ["layer", "global", "erk"])
def test_the_tensors_are_never_together_in_memory(scope, deep, masks_of):
    model = deep()
    prune_to(model, 0.25, scope=scope)  # What is loaded once is not counted.
    tracemalloc.start()
    prune_to(model, 0.5, scope=scope)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    masks = masks_of(model)
    # A mask is a quarter of its tensor; one copy of all tensors would be 24.
    assert peak < sum(mask.nbytes for mask in masks) + 6 * TENSOR
    assert sum(np.count_nonzero(~mask) for mask in masks) == pytest.approx(LAYERS * SIDE**2 / 2, abs=LAYERS)


@pytest.mark.slow
@pytest.mark.parametrize("scope", ["layer", "global", "erk"])
def test_large_and_small_models_get_the_same_masks(scope, deep, masks_of, kernels_of, monkeypatch):
    model = deep()
    start = kernels_of(model)
    prune_to(model, 0.9, scope=scope)
    monkeypatch.undo()
    other = deep()
    for layer, kernel in zip(pruned_layers(other), start, strict=True):
        layer.prunable_variables[0].assign(kernel)
    prune_to(other, 0.9, scope=scope)
    for mask, expected in zip(masks_of(model), masks_of(other), strict=True):
        np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize("scope", ["layer", "global", "erk"])
def test_a_late_layer_that_is_not_finite_is_an_error_before_any_mask_changes(
    scope, deep, masks_of, kernels_of
):
    model = deep()
    last = pruned_layers(model)[-1].prunable_variables[0]
    bad = np.array(keras.ops.convert_to_numpy(last))
    bad[-1, -1] = np.inf
    last.assign(bad)
    before = kernels_of(model)
    with pytest.raises(ValueError, match=f"Weights must be finite.*dense_{LAYERS - 1}"):
        prune_to(model, 0.5, scope=scope)
    assert all(mask.all() for mask in masks_of(model))
    for kernel, expected in zip(kernels_of(model), before, strict=True):
        np.testing.assert_array_equal(kernel, expected)


def test_a_score_cannot_write_to_the_weights(deep):
    def greedy(tensor):
        tensor.weights[:] = 0.0
        return tensor.weights

    with pytest.raises(ValueError, match="read-only"):
        prune_to(deep(score=greedy), 0.5)
