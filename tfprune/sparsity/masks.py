"""Makes masks: scores and a sparsity in, booleans out. NumPy arrays only, no model.

One rule everywhere: of n weights exactly `max(n - round(sparsity * n), 1)` stay, those with the largest
scores, ties to the lower flat index; and a weight once removed never returns. A pattern may put groups of
weights in the place of weights.
"""

import abc
import math
from collections.abc import Iterator, Sequence
from itertools import repeat

import numpy as np

from tfprune.sparsity.patterns import WEIGHTS, Groups, Pattern, Weights
from tfprune.sparsity.selection import CommonThreshold, keep_largest, kept_count

SCOPES = ("layer", "global", "erk")


def check_scope(scope: str) -> str:
    """Returns `scope` if it is one of `SCOPES`, else raises a ValueError that lists them."""
    if scope not in SCOPES:
        raise ValueError(f"`scope` must be one of {list(SCOPES)}. Received: scope={scope!r}")
    return scope


class Ranked(abc.ABC):
    """A tensor whose weights are to be ranked.

    The scores are computed whenever they are asked for, so that the tensors of a whole model can be ranked
    together without all their scores in memory.

    Attributes:
        name: The tensor's name, for errors.
        shape: Its shape.
        pattern: The groups in which its weights go.
        min_density: The fraction of its groups that stays in a ranking of several tensors.
        watches: Whether the scores are asked for even where the mask stays, because they may be of a function
            that keeps statistics from one update to the next.
    """

    name: str
    shape: tuple[int, ...]
    pattern: Pattern
    watches: bool
    min_density: float = 0.0

    @abc.abstractmethod
    def mask(self) -> np.ndarray:
        """Returns the present mask, booleans of the tensor's shape."""

    @abc.abstractmethod
    def scores(self) -> np.ndarray:
        """Returns the weights' scores, of the tensor's shape, the same at each call.

        Raises:
            ValueError: If one is not finite; the message names the tensor.
        """


def check_scores(scores: np.ndarray, name: str) -> np.ndarray:
    """Returns the scores as float32.

    Raises:
        ValueError: If one is not finite; the message has the `name`.
    """
    scores = np.asarray(scores, np.float32)
    if not all_finite(scores):
        raise ValueError(f"Scores must be finite. Received: NaN or infinity in {name}")
    return scores


def all_finite(values: np.ndarray) -> bool:
    """Returns whether no value is NaN or infinite."""
    # Two reductions take a fraction of the time of an array of booleans.
    return not values.size or bool(np.isfinite(values.max()) and np.isfinite(values.min()))


def new_masks(tensors: Sequence[Ranked], sparsity: float, scope: str = "layer") -> Iterator[np.ndarray]:
    """Yields the tensors' masks at `sparsity`, each a subset of the present one.

    Where a present mask already removes what `sparsity` asks, or more, it stays as it is, and the tensor is
    asked for scores only if it `watches`. All scores that are asked for are checked before the first mask is
    yielded. A tensor is not asked again once its mask is there, so that the mask may be put into use at once.
    In memory are a few arrays of the size of one tensor.

    Args:
        tensors: The tensors, in the order in which ties are broken.
        sparsity: Fraction to remove, in [0, 1).
        scope: "layer": of each tensor. "global": of all the tensors' weights together, where every tensor
            still keeps at least one group. "erk": of all together, divided by `erk_sparsities`.

    Raises:
        ValueError: On an unknown scope, a pattern that the scope excludes, or scores that are not finite
            (the message names the tensor).
    """
    check_scope(scope)
    for tensor in tensors:
        if scope != "layer" and not isinstance(tensor.pattern, Groups):
            raise ValueError(
                "Where m of every n weights go, every layer has the same share of zeros: `scope` must be "
                f"'layer'. Received: scope={scope!r}, for {tensor.name}"
            )
    if scope == "global":
        yield from _select_together(tensors, sparsity)
        return
    if scope == "erk":
        each = erk_sparsities([tensor.shape for tensor in tensors], sparsity)
    else:
        each = [sparsity] * len(tensors)
    reached = [t.pattern.reached(t.mask(), share) for t, share in zip(tensors, each, strict=True)]
    for tensor, stays in zip(tensors, reached, strict=True):
        if tensor.watches or not stays:
            tensor.scores()
    for tensor, share, stays in zip(tensors, each, reached, strict=True):
        yield tensor.mask() if stays else tensor.pattern.select(tensor.scores(), tensor.mask(), share)


def have_reached(
    masks: Sequence[np.ndarray], patterns: Sequence[Pattern], sparsity: float, scope: str
) -> bool:
    """Returns whether masks are as sparse as `new_masks` makes them at `sparsity`.

    Args:
        masks: The present masks, booleans.
        patterns: One a mask.
        sparsity, scope: As for `new_masks`.
    """
    if scope == "global":
        total = kept_count(sum(mask.size for mask in masks), sparsity, at_least=len(masks))
        # Of the last group that stays, all weights do.
        group = max(pattern.largest_group(mask.shape) for mask, pattern in zip(masks, patterns, strict=True))
        return sum(map(np.count_nonzero, masks)) < total + group
    each = erk_sparsities([mask.shape for mask in masks], sparsity) if scope == "erk" else repeat(sparsity)
    return all(
        np.array_equal(pattern.select(np.zeros(mask.shape, np.float32), mask, share), mask)
        for mask, pattern, share in zip(masks, patterns, each, strict=False)
    )


def would_reach(
    masks: Sequence[np.ndarray], patterns: Sequence[Pattern], at: float, sparsity: float, scope: str
) -> bool:
    """Returns whether masks that are pruned to `at`, whatever the scores, are as sparse as at `sparsity`.

    Rounding to whole weights makes two sparsities the same. The arguments are those of `have_reached`.
    """
    if scope == "global":
        size = sum(mask.size for mask in masks)
        return kept_count(size, at, len(masks)) <= kept_count(size, sparsity, len(masks))
    each = erk_sparsities([mask.shape for mask in masks], at) if scope == "erk" else repeat(at)
    pruned = [
        pattern.select(np.zeros(mask.shape, np.float32), mask, share)
        for mask, pattern, share in zip(masks, patterns, each, strict=False)
    ]
    return have_reached(pruned, patterns, sparsity, scope)


def _select_together(tensors: Sequence[Ranked], sparsity: float) -> Iterator[np.ndarray]:
    """Yields the masks by one ranking of all tensors' groups."""
    least = sum(_least_groups(math.prod(tensor.shape), tensor.min_density) for tensor in tensors)
    total = kept_count(sum(math.prod(tensor.shape) for tensor in tensors), sparsity, at_least=least)
    present = sum(np.count_nonzero(tensor.mask()) for tensor in tensors)
    if present <= total:
        for tensor in tensors:
            if tensor.watches:
                tensor.scores()
        yield from (tensor.mask() for tensor in tensors)
        return
    # Means over channels are float64: so is then all that they are compared with.
    dtype = np.result_type(*(tensor.pattern.score_type for tensor in tensors))

    def groups_of(tensor: Ranked) -> tuple[np.ndarray, np.ndarray | None]:
        mask = tensor.mask()
        candidates = tensor.pattern.candidates(tensor.scores(), mask).astype(dtype, copy=False)
        if (least := _least_groups(candidates.size, tensor.min_density)) == 1:
            candidates.flat[np.argmax(candidates)] = np.inf  # Each tensor keeps at least its best group.
        else:
            left = candidates.ravel() > -np.inf
            candidates.flat[keep_largest(candidates.ravel(), least, left)] = np.inf
        return candidates, None if isinstance(tensor.pattern, Weights) else tensor.pattern.sizes(mask)

    threshold = CommonThreshold(lambda: map(groups_of, tensors), total)
    for tensor in tensors:
        mask, keep = tensor.mask(), threshold.keep(*groups_of(tensor))
        yield mask & tensor.pattern.spread(keep, mask.shape)


def _least_groups(groups: int, min_density: float) -> int:
    """Returns how many of a tensor's groups stay whatever the others' scores."""
    return max(math.floor(min_density * groups), 1)


class _Array(Ranked):
    watches = False

    def __init__(self, scores: np.ndarray, mask: np.ndarray, pattern: Pattern, name: str) -> None:
        self.name, self.pattern, self.shape = name, pattern, mask.shape
        self._scores, self._mask = scores, mask

    def mask(self) -> np.ndarray:
        return self._mask

    def scores(self) -> np.ndarray:
        return check_scores(self._scores, self.name)


def update_masks(
    scores: Sequence[np.ndarray],
    masks: Sequence[np.ndarray],
    sparsity: float,
    scope: str = "layer",
    names: Sequence[str] | None = None,
    patterns: Sequence[Pattern] | None = None,
) -> list[np.ndarray]:
    """Returns `new_masks` of arrays.

    Args:
        scores: One array a tensor, of any shapes, finite.
        masks: The present masks, booleans of the same shapes.
        sparsity, scope: As for `new_masks`.
        names: The tensors' names, for errors; by default their positions.
        patterns: One a tensor; by default single weights. In a tensor with G groups `max(G - round(s * G),
            1)` of them stay; in the global scope as few groups, from the top of the common ranking, as
            have the number of weights that has to stay.

    Raises:
        ValueError: As `new_masks`.
    """
    names = names if names is not None else [f"tensor {i}" for i in range(len(scores))]
    patterns = patterns if patterns is not None else [WEIGHTS] * len(scores)
    tensors = [_Array(*parts) for parts in zip(scores, masks, patterns, names, strict=True)]
    return list(new_masks(tensors, sparsity, scope))


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
