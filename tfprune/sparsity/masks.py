"""Which weights stay: scores and a sparsity in, boolean masks out. NumPy arrays only, no model.

One rule everywhere: of n weights exactly `max(n - round(sparsity * n), 1)` stay, those with the largest
scores, ties to the lower flat index; and a weight once removed never returns. A pattern may put groups of
weights in the place of weights.
"""

import math
from collections.abc import Sequence

import numpy as np

from tfprune.sparsity.patterns import WEIGHTS, Groups, Pattern
from tfprune.sparsity.selection import keep_until, kept_count

SCOPES = ("layer", "global", "erk")


def check_scope(scope: str) -> str:
    """Returns `scope` if it is one of `SCOPES`, else raises a ValueError that lists them."""
    if scope not in SCOPES:
        raise ValueError(f"`scope` must be one of {list(SCOPES)}. Received: scope={scope!r}")
    return scope


def update_masks(
    scores: Sequence[np.ndarray],
    masks: Sequence[np.ndarray],
    sparsity: float,
    scope: str = "layer",
    names: Sequence[str] | None = None,
    patterns: Sequence[Pattern] | None = None,
) -> list[np.ndarray]:
    """Returns the masks at `sparsity`, each a subset of the one before.

    Where an old mask already removes more than `sparsity` asks, it stays as it is.

    Args:
        scores: One array a tensor, of any shapes, finite.
        masks: The present masks, booleans of the same shapes.
        sparsity: Fraction to remove, in [0, 1).
        scope: "layer": of each tensor. "global": of all the tensors' weights together, where every tensor
            still keeps at least one group. "erk": of all together, divided by `erk_sparsities`.
        names: The tensors' names, for errors; by default their positions.
        patterns: One a tensor; by default single weights. In a tensor with G groups `max(G - round(s * G),
            1)` of them stay; in the global scope as few groups, from the top of the common ranking, as
            have the number of weights that has to stay.

    Raises:
        ValueError: On scores that are not finite; the message names the tensor.
    """
    check_scope(scope)
    names = names if names is not None else [f"tensor {i}" for i in range(len(scores))]
    patterns = patterns if patterns is not None else [WEIGHTS] * len(scores)
    scores = [np.asarray(score, np.float32) for score in scores]
    for score, name in zip(scores, names, strict=True):
        if not np.isfinite(score).all():
            raise ValueError(f"Scores must be finite. Received: NaN or infinity in {name}")
    for pattern, name in zip(patterns, names, strict=True):
        if scope != "layer" and not isinstance(pattern, Groups):
            raise ValueError(
                "Where m of every n weights go, every layer has the same share of zeros: `scope` must be "
                f"'layer'. Received: scope={scope!r}, for {name}"
            )
    if scope == "global":
        return _select_together(scores, masks, sparsity, patterns)
    each = (
        [sparsity] * len(scores) if scope == "layer" else erk_sparsities([m.shape for m in masks], sparsity)
    )
    return [
        pattern.select(score, mask, s)
        for pattern, score, mask, s in zip(patterns, scores, masks, each, strict=True)
    ]


def _select_together(
    scores: Sequence[np.ndarray], masks: Sequence[np.ndarray], sparsity: float, patterns: Sequence[Pattern]
) -> list[np.ndarray]:
    """One ranking of all tensors' groups."""
    candidates = [p.candidates(s, m) for p, s, m in zip(patterns, scores, masks, strict=True)]
    flat = [candidate.ravel() for candidate in candidates]
    for candidate in flat:
        candidate[np.argmax(candidate)] = np.inf  # Each tensor keeps at least its best group.
    sizes = [p.sizes(m).ravel() for p, m in zip(patterns, masks, strict=True)]
    total = kept_count(sum(mask.size for mask in masks), sparsity, at_least=len(masks))
    total = min(total, sum(np.count_nonzero(mask) for mask in masks))
    if all(pattern is WEIGHTS for pattern in patterns):
        sizes = [np.ones(1)]
    together = keep_until(np.concatenate(flat), np.concatenate(sizes), total)
    split = np.split(together, np.cumsum([candidate.size for candidate in flat])[:-1])
    return [
        mask & pattern.spread(keep.reshape(candidate.shape), mask.shape)
        for pattern, keep, candidate, mask in zip(patterns, split, candidates, masks, strict=True)
    ]


def erk_sparsities(shapes: Sequence[tuple[int, ...]], sparsity: float) -> list[float]:
    """Divides an overall sparsity over tensors as Erdos-Renyi-Kernel does (RigL, arXiv:1911.11134).

    A tensor's density is proportional to `sum(shape) / prod(shape)`, so that small tensors stay denser;
    one that would be more than dense stays dense, and the others share the rest.

    Args:
        shapes: The tensors' shapes.
        sparsity: Fraction of all their weights to remove, in [0, 1).

    Returns:
        One sparsity a tensor, in [0, 1).
    """
    sizes = [math.prod(shape) for shape in shapes]
    raw = [sum(shape) / max(size, 1) for shape, size in zip(shapes, sizes, strict=True)]
    dense: set[int] = set()
    while True:
        rest = [i for i in range(len(shapes)) if i not in dense]
        if not rest:
            return [0.0] * len(shapes)
        keep = (1.0 - sparsity) * sum(sizes) - sum(sizes[i] for i in dense)
        factor = keep / sum(raw[i] * sizes[i] for i in rest)
        over = {i for i in rest if factor * raw[i] >= 1.0}
        if not over:
            return [0.0 if i in dense else 1.0 - factor * raw[i] for i in range(len(shapes))]
        dense |= over
