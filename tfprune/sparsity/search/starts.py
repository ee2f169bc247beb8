"""The allocations that a search starts from: uniform, ERK, LAMP and global magnitude."""

from collections.abc import Callable, Sequence

import numpy as np

from tfprune.sparsity.apply import read
from tfprune.sparsity.masks import update_masks
from tfprune.sparsity.scores import Tensor, lamp, magnitude
from tfprune.sparsity.search.allocation import Allocations
from tfprune.sparsity.search.kernels import Searched

# Name -> scope and score.
STARTS = {
    "uniform": ("layer", magnitude),
    "erk": ("erk", magnitude),
    "lamp": ("global", lamp),
    "global": ("global", magnitude),
}
_HALVINGS = 16


def starting_allocations(kernels: Sequence[Searched], allocations: Allocations) -> dict[str, np.ndarray]:
    """Returns the starts: each at the sparsity with which it is next to the budget, then settled.

    Args:
        kernels: The kernels.
        allocations: Those within the budget.
    """
    weights = [np.asarray(read(kernel.variable), np.float32) for kernel in kernels]
    masks = [
        np.ones(array.shape, bool) if kernel.mask is None else kernel.mask
        for array, kernel in zip(weights, kernels, strict=True)
    ]
    order = np.argsort([-array.size for array in weights], kind="stable")
    found = {}
    for name, (scope, score) in STARTS.items():
        scores = [
            np.asarray(score(Tensor(kernel.name, array)), np.float32)
            for kernel, array in zip(kernels, weights, strict=True)
        ]

        def removed(sparsity: float, scope: str = scope, scores: list[np.ndarray] = scores) -> np.ndarray:
            new = update_masks(scores, masks, sparsity, scope)
            return np.array([mask.size - np.count_nonzero(mask) for mask in new])

        counts = removed(
            _sparsity(lambda share, of=removed: allocations.costs.total(of(share)), allocations.limit)
        )
        found[name] = allocations.settled(counts, order)
    return found


def _sparsity(cost: Callable[[float], float], limit: float) -> float:
    """Returns the least sparsity within the budget, by bisection."""
    low, high = 0.0, 1.0 - 1e-9
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if cost(middle) <= limit else (middle, high)
    return high
