"""Chooses the weights of a layer that stay, and their values, by what its inputs are. NumPy arrays only.

A layer is `outputs = rows @ weights`. Of its rows X and of the outputs Y that it gave before it was pruned
the Gram matrices are known (`network/gram.py`), all that the mean squared error of any weights W needs:

```
error(W) = mean((Y - X @ W) ** 2) = energy - 2 * W * cross + W * (gram @ W)     summed over the inputs
```

Several groups of a kernel are one problem, whose arrays have the group as their first axis.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

Select = Callable[[np.ndarray, np.ndarray, float], np.ndarray]
"""A function `(scores, mask, sparsity)` to a mask at that sparsity, a subset; `[groups, inputs, outputs]`."""

DAMPING = 1e-2
"""What is added to the diagonal of a Gram matrix, as a share of its mean.

To it comes `FEW` times the square of the number of inputs over that of the rows. It draws the weights towards
what they were: those of inputs that are constant stay as they are.
"""
FEW = 1e-2
OBC_INPUTS = 640
"""The number of inputs up to which `obc` is exact within minutes."""

# SparseGPT's blocks of inputs, in which a mask is chosen at a time.
_BLOCK = 64
# The steps of `alternate`, those in which sparsity rises, and its penalty.
_STEPS, _RISING, _PENALTY = 40, 30, 1.0
# Rounds of exchanges, and the share of the weights that leave in the first one, at most.
_ROUNDS, _LEAVING = 3, 0.1
# Multiplications for which systems of equations are solved one output at a time.
_DIRECT = 4e11
_ITERATIONS, _TOLERANCE = 100, 1e-5


@dataclass(frozen=True)
class Problem:
    """The least squares of a layer.

    Attributes:
        gram: `X.T @ X` over the number of rows, `[groups, inputs, inputs]`, damped.
        cross: `X.T @ Y` likewise, `[groups, inputs, outputs]`.
        energy: The mean square of Y, `[groups, outputs]`.
        weights: The weights that the layer had, `[groups, inputs, outputs]`.
        importance: What the squared error of an output counts, `[groups, outputs]`.
        undamped: `gram` and `cross` as they were measured.
    """

    gram: np.ndarray
    cross: np.ndarray
    energy: np.ndarray
    weights: np.ndarray
    importance: np.ndarray
    undamped: tuple[np.ndarray, np.ndarray]

    @cached_property
    def drawing(self) -> tuple[np.ndarray, np.ndarray]:
        """The norms of the inputs, `[groups, inputs, 1]`, and the inverse for `within_reach`."""
        norms = np.sqrt(np.diagonal(self.gram, axis1=1, axis2=2))[:, :, None]
        matrix = self.gram / (norms * norms.transpose(0, 2, 1))
        # Of eigenvalues from the penalty up, which single precision is enough for.
        return norms, np.linalg.inv((matrix + _PENALTY * np.eye(norms.shape[1])).astype(np.float32))

    def of_outputs(self, places: np.ndarray) -> "Problem":
        """Returns the problem of some of the outputs."""
        gram, cross = self.undamped
        return Problem(
            self.gram,
            self.cross[:, :, places],
            self.energy[:, places],
            self.weights[:, :, places],
            self.importance[:, places],
            (gram, cross[:, :, places]),
        )

    def error(self, weights: np.ndarray) -> float:
        """Returns the mean squared error of the outputs, as a share of their mean square."""
        gram, cross = self.undamped
        each = self.energy + ((gram @ weights - 2 * cross) * weights).sum(1)
        total = (self.energy * self.importance).sum()
        return float(max((each * self.importance).sum(), 0.0) / total) if total > 0 else 0.0


def make_problem(
    gram: np.ndarray,
    cross: np.ndarray,
    energy: np.ndarray,
    weights: np.ndarray,
    rows: int,
    importance: np.ndarray | None = None,
) -> Problem:
    """Returns the problem of a layer, damped.

    Args:
        gram, cross, energy, weights, importance: As `Problem` has them.
        rows: The number of rows.
    """
    inputs = gram.shape[1]
    share = DAMPING + FEW * (inputs / max(rows, 1)) ** 2
    added = share * np.diagonal(gram, axis1=1, axis2=2).mean(1)
    # A group whose inputs are all constant has nothing to go by but its weights.
    added = np.where(added > 0, added, 1.0)[:, None, None]
    importance = np.ones_like(energy) if importance is None else importance
    weights = weights.astype(np.float64)
    return Problem(
        gram + added * np.eye(inputs), cross + added * weights, energy, weights, importance, (gram, cross)
    )


def refit(problem: Problem, mask: np.ndarray, direct: float = _DIRECT) -> np.ndarray:
    """Returns the weights of the smallest squared error among those that a mask leaves.

    Args:
        problem: The layer.
        mask: Booleans `[groups, inputs, outputs]`.
        direct: Multiplications of a group up to which equations are solved one output at a time, exactly.
    """
    parts = zip(problem.gram, problem.cross, mask, strict=True)
    return np.stack([_refit(*part, direct) for part in parts])


def _refit(gram: np.ndarray, cross: np.ndarray, mask: np.ndarray, direct: float) -> np.ndarray:
    counts = mask.sum(0, dtype=np.float64)
    if mask.all():
        return np.linalg.solve(gram, cross)
    if (counts**3).sum() > direct:
        return _conjugate_gradients(gram, cross, mask)
    weights = np.zeros(cross.shape)
    for column in np.flatnonzero(counts):
        stays = np.flatnonzero(mask[:, column])
        weights[stays, column] = np.linalg.solve(gram[np.ix_(stays, stays)], cross[stays, column])
    return weights


def _conjugate_gradients(gram: np.ndarray, cross: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Solves for all outputs together, each with weights of its own; by Hestenes and Stiefel (1952)."""
    scale = 1 / np.sqrt(np.diag(gram))[:, None]
    matrix = (gram * scale * scale.T).astype(np.float32)
    wanted = np.where(mask, cross * scale, 0).astype(np.float32)
    found = np.zeros_like(wanted)
    residual = wanted.copy()
    step = residual.copy()
    square = (residual**2).sum(0)
    enough = _TOLERANCE**2 * np.maximum((wanted**2).sum(0), 1e-30)
    for _ in range(_ITERATIONS):
        if (square <= enough).all():
            break
        ahead = np.where(mask, matrix @ step, 0)
        along = (step * ahead).sum(0)
        length = np.divide(square, along, out=np.zeros_like(square), where=along > 0)
        found += length * step
        residual -= length * ahead
        new = (residual**2).sum(0)
        step = residual + np.divide(new, square, out=np.zeros_like(new), where=square > 0) * step
        square = new
    return np.where(mask, found * scale, 0).astype(np.float64)


def by_magnitude(problem: Problem, mask: np.ndarray, sparsity: float, select: Select) -> np.ndarray:
    """Returns the mask that leaves the largest weights."""
    return select(np.abs(problem.weights), mask, sparsity)


def by_wanda(problem: Problem, mask: np.ndarray, sparsity: float, select: Select) -> np.ndarray:
    """Returns the mask that leaves the largest products of a weight and the norm of its input.

    Sun et al., arXiv:2306.11695, but with the ranking that `select` makes.
    """
    norms = np.sqrt(np.diagonal(problem.undamped[0], axis1=1, axis2=2))
    return select(np.abs(problem.weights) * norms[:, :, None], mask, sparsity)


def by_columns(problem: Problem, mask: np.ndarray, sparsity: float, select: Select) -> np.ndarray:
    """Returns the mask of SparseGPT (Frantar and Alistarh, arXiv:2301.00774).

    Inputs are gone through in blocks. In a block the weights go whose removal costs least, `w**2 / d**2`, d
    the diagonal of the Cholesky factor of the inverse of the Gram matrix, and what they did is done by the
    inputs still to come. Each block reaches the sparsity, so that all together have as many weights as
    asked for.
    """
    scores = np.zeros(mask.shape)
    for scored, gram, cross, scale, stays in zip(
        scores, problem.gram, problem.cross, problem.importance, mask, strict=True
    ):
        inverse = np.linalg.inv(gram)
        factor = np.linalg.cholesky(inverse).T
        weights = np.where(stays, inverse @ cross, 0)
        for start in range(0, len(weights), _BLOCK):
            end = min(start + _BLOCK, len(weights))
            cost = weights[start:end] ** 2 / np.diag(factor)[start:end, None] ** 2 * scale
            cost = np.where(stays[start:end], cost, -1)
            # The share of the block's weights that a weight is better than.
            ranks = np.empty(cost.size)
            ranks[np.argsort(cost, axis=None, kind="stable")] = np.arange(cost.size) / cost.size
            scored[start:end] = ranks.reshape(cost.shape)
            gone = scored[start:end] < sparsity
            errors = np.zeros(cost.shape)
            for row in range(start, end):
                errors[row - start] = np.where(gone[row - start], weights[row], 0) / factor[row, row]
                weights[row:end] -= np.outer(factor[row, row:end], errors[row - start])
            weights[end:] -= factor[start:end, end:].T @ errors
            weights = np.where(stays, weights, 0)
    return select(scores, mask, sparsity)


def by_alternation(problem: Problem, mask: np.ndarray, sparsity: float, select: Select) -> np.ndarray:
    """Returns the mask of `within_reach`, improved by exchanges where single weights go and are not many."""
    chosen = within_reach(problem, mask, sparsity, select)
    free = getattr(select, "is_free", False)
    return exchanged(problem, chosen, mask) if free and _multiplications(chosen) < _DIRECT else chosen


def within_reach(problem: Problem, mask: np.ndarray, sparsity: float, select: Select) -> np.ndarray:
    """Returns the mask that alternating directions end at (Boza, arXiv:2401.02938).

    The weights of the smallest error, drawn to the nearest that have the pattern, and these drawn to those,
    in turns, while the sparsity rises.
    """
    scale = np.sqrt(problem.importance)[:, None, :]
    norms, inverse = problem.drawing
    wanted = (problem.cross / norms * scale).astype(np.float32)
    drawn = (problem.weights * norms * scale).astype(np.float32)
    pull = np.zeros_like(drawn)
    start = 1 - np.count_nonzero(mask) / mask.size
    for step in range(_STEPS):
        share = 1 - max(1 - (step + 1) / _RISING, 0) ** 3
        level = sparsity if share == 1 else start + max(sparsity - start, 0) * share
        ahead = drawn + pull
        stays = select(ahead**2, mask, level)
        near = np.where(stays, ahead, 0)
        pull = ahead - near
        drawn = inverse @ (wanted + np.float32(_PENALTY) * (near - pull))
    return select((drawn + pull) ** 2, mask, sparsity)


def exchanged(problem: Problem, mask: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """Returns a mask of as many weights and a smaller error.

    The weights whose removal costs least, with the others of their output brought to their best, make room
    for the removed ones that would gain most, as long as the gain is larger.

    Args:
        problem: The layer.
        mask: Booleans `[groups, inputs, outputs]`.
        allowed: Likewise, True for the weights that may stay.
    """
    mask = mask.copy()
    for number in range(_ROUNDS):
        costs, gains = np.full(mask.shape, np.inf), np.full(mask.shape, -np.inf)
        for group, column in np.ndindex(mask.shape[0], mask.shape[2]):
            stays, gram = mask[group, :, column], problem.gram[group]
            others = allowed[group, :, column] & ~stays
            cross, scale = problem.cross[group, :, column], problem.importance[group, column]
            inverse = np.linalg.inv(gram[np.ix_(stays, stays)])
            weights = inverse @ cross[stays]
            costs[group, stays, column] = scale * weights**2 / np.diagonal(inverse)
            between = gram[np.ix_(others, stays)]
            left = np.diagonal(gram)[others] - ((between @ inverse) * between).sum(1)
            slope = cross[others] - between @ weights
            gains[group, others, column] = scale * slope**2 / np.maximum(left, 1e-30)
        count = int(_LEAVING * np.count_nonzero(mask) * (1 - number / _ROUNDS))
        count = min(count, np.count_nonzero(allowed & ~mask))
        if not count:
            break
        leaving = np.argsort(costs, axis=None, kind="stable")[:count]
        coming = np.argsort(-gains, axis=None, kind="stable")[:count]
        better = gains.ravel()[coming] > costs.ravel()[leaving]
        mask.ravel()[leaving[better]] = False
        mask.ravel()[coming[better]] = True
    return mask


def _multiplications(mask: np.ndarray) -> float:
    """Returns those of a round of exchanges."""
    counts = mask.sum(1, dtype=np.float64)
    return float((counts**2 * (2 * counts + mask.shape[1])).sum())


def by_order(problem: Problem, mask: np.ndarray, sparsity: float, select: Select) -> np.ndarray:
    """Returns the mask of Optimal Brain Compression (Frantar and Alistarh, arXiv:2208.11580).

    Of each output the weight goes whose removal, with the others brought to their best, costs least; then
    the next, down to the last. The costs rank the weights of all outputs together.
    """
    scores = np.zeros(mask.shape)
    for scored, gram, cross, scale, stays in zip(
        scores, problem.gram, problem.cross, problem.importance, mask, strict=True
    ):
        for column in range(cross.shape[1]):
            places = np.flatnonzero(stays[:, column])
            costs = removal_costs(gram[np.ix_(places, places)], cross[places, column])
            scored[places, column] = costs * scale[column]
    return select(scores, mask, sparsity)


def removal_costs(gram: np.ndarray, cross: np.ndarray) -> np.ndarray:
    """Returns what the removal of each weight of an output costs: one goes at a time, the cheapest first.

    A weight that goes later than another costs as much at least.

    Args:
        gram: `[inputs, inputs]`, positive definite.
        cross: `[inputs]`.
    """
    inverse = np.linalg.inv(gram)
    weights = inverse @ cross
    costs = np.zeros(len(cross))
    left = np.arange(len(cross))
    highest = 0.0
    while len(left):
        each = weights**2 / np.diagonal(inverse)
        least = int(each.argmin())
        highest = max(highest, each[least])
        costs[left[least]] = highest
        column = inverse[:, least].copy()
        weights = np.delete(weights - column * (weights[least] / column[least]), least)
        inverse -= np.outer(column, column / column[least])
        # The last takes the place of the one that went: no array is copied.
        left = np.delete(left, least)
        inverse = np.delete(np.delete(inverse, least, 0), least, 1)
    return costs


CHOICES: dict[str, Callable[[Problem, np.ndarray, float, Select], np.ndarray]] = {
    "magnitude": by_magnitude,
    "wanda": by_wanda,
    "sparsegpt": by_columns,
    "reconstruct": by_alternation,
    "obc": by_order,
}
"""How the mask is chosen, by the name of the method."""


def solve(
    problem: Problem, method: str, correct: bool, sparsity: float, present: np.ndarray, select: Select
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mask and the weights of a layer at a sparsity.

    Args:
        problem: The layer.
        method: A name in `CHOICES`; "obc" is "reconstruct" for more than `OBC_INPUTS` inputs.
        correct: Whether the weights that stay are corrected.
        sparsity: The share of the weights to remove.
        present: Those that are there, `[groups, inputs, outputs]`.
        select: The selection by the kernel's pattern.
    """
    if method == "obc" and present.shape[1] > OBC_INPUTS:
        method = "reconstruct"
    mask = CHOICES[method](problem, present, sparsity, select)
    # Of what is as it was, rounding is all that least squares would change.
    if correct and not (mask.all() and problem.error(problem.weights) < 1e-9):
        return mask, refit(problem, mask)
    return mask, np.where(mask, problem.weights, 0)
