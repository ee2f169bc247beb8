"""Exact selection: the k best of n, ties to the lower index. NumPy only."""

import numpy as np


def kept_count(size: int, sparsity: float, at_least: int = 1) -> int:
    """How many of `size` stay at `sparsity`: `max(size - round(sparsity * size), at_least)`."""
    return max(size - round(sparsity * size), at_least)


def keep_largest(scores: np.ndarray, count: int) -> np.ndarray:
    """Marks the `count` largest of the 1-D `scores`, ties to the lower index.

    A selection in linear time, not a sort.

    Returns:
        A boolean array like `scores` with exactly `count` elements True.
    """
    if count >= scores.size:
        return np.ones(scores.shape, bool)
    if count <= 0:
        return np.zeros(scores.shape, bool)
    threshold = np.partition(scores, scores.size - count)[scores.size - count]
    keep = scores > threshold
    ties = np.flatnonzero(scores == threshold)
    keep[ties[: count - np.count_nonzero(keep)]] = True
    return keep


def keep_until(scores: np.ndarray, sizes: np.ndarray, total: int) -> np.ndarray:
    """Marks the largest of the 1-D `scores`, as few as have `total` weights together.

    Args:
        scores: One score a group of weights.
        sizes: The number of weights of each group, whole numbers.
        total: How many weights have to stay, at least.

    Returns:
        A boolean array like `scores`.
    """
    if (sizes == 1).all():  # One weight a group: no sort is needed.
        return keep_largest(scores, total)
    order = np.argsort(-scores, kind="stable")
    count = np.searchsorted(np.cumsum(sizes[order]), total) + 1
    keep = np.zeros(scores.shape, bool)
    keep[order[:count]] = True
    return keep
