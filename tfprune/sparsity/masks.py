"""Which weights stay: scores and a sparsity in, boolean masks out. NumPy arrays only, no model.

One rule everywhere: of n weights exactly `max(n - round(sparsity * n), 1)` stay, those with the largest
scores, ties to the lower flat index; and a weight once removed never returns.
"""

from collections.abc import Sequence

import numpy as np

SCOPES = ("layer", "global")


def check_scope(scope: str) -> str:
    """Returns `scope` if it is one of `SCOPES`, else raises a ValueError that lists them."""
    if scope not in SCOPES:
        raise ValueError(f"`scope` must be one of {list(SCOPES)}. Received: scope={scope!r}")
    return scope


def kept_count(size: int, sparsity: float, at_least: int = 1) -> int:
    """How many of `size` weights stay at `sparsity`: `max(size - round(sparsity * size), at_least)`."""
    return max(size - round(sparsity * size), at_least)


def keep_largest(scores: np.ndarray, count: int) -> np.ndarray:
    """Marks the `count` largest of the 1-D `scores`, ties to the lower index.

    A selection in linear time, not a sort.

    Returns:
        A boolean array like `scores` with exactly `count` elements True.
    """
    if count >= scores.size:
        return np.ones(scores.shape, bool)
    threshold = np.partition(scores, scores.size - count)[scores.size - count]
    keep = scores > threshold
    ties = np.flatnonzero(scores == threshold)
    keep[ties[: count - np.count_nonzero(keep)]] = True
    return keep


def update_masks(
    scores: Sequence[np.ndarray],
    masks: Sequence[np.ndarray],
    sparsity: float,
    scope: str = "layer",
    names: Sequence[str] | None = None,
) -> list[np.ndarray]:
    """Returns the masks at `sparsity`, each a subset of the one before.

    Where an old mask already removes more than `sparsity` asks, it stays as it is.

    Args:
        scores: One array a tensor, of any shapes, finite.
        masks: The present masks, booleans of the same shapes.
        sparsity: Fraction to remove, in [0, 1): of each tensor (`scope="layer"`) or of all the tensors'
            weights together (`scope="global"`, where every tensor still keeps at least one).
        scope: "layer" or "global".
        names: The tensors' names, for errors; by default their positions.

    Raises:
        ValueError: On scores that are not finite; the message names the tensor.
    """
    check_scope(scope)
    names = names if names is not None else [f"tensor {i}" for i in range(len(scores))]
    candidates = []
    for score, mask, name in zip(scores, masks, names, strict=True):
        score = np.asarray(score, np.float32).ravel()
        if not np.isfinite(score).all():
            raise ValueError(f"Scores must be finite. Received: NaN or infinity in {name}")
        candidates.append(np.where(mask.ravel(), score, -np.inf))
    sizes = [c.size for c in candidates]
    if scope == "layer":
        flat = [
            keep_largest(c, min(kept_count(n, sparsity), np.count_nonzero(m)))
            for c, n, m in zip(candidates, sizes, masks, strict=True)
        ]
    else:
        for candidate in candidates:
            candidate[np.argmax(candidate)] = np.inf  # Each tensor keeps at least its largest.
        count = kept_count(sum(sizes), sparsity, at_least=len(sizes))
        count = min(count, sum(np.count_nonzero(m) for m in masks))
        together = keep_largest(np.concatenate(candidates), count)
        flat = np.split(together, np.cumsum(sizes)[:-1])
    return [keep.reshape(mask.shape) for keep, mask in zip(flat, masks, strict=True)]
