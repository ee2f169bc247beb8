"""Chooses the weights of a layer that stay, and their values, by what its inputs are. NumPy arrays only.

A layer is `outputs = rows @ weights`. Of its rows X and of the outputs Y that it gave before it was pruned
the Gram matrices are known (`network/gram.py`), all that the mean squared error of any weights W needs:

```
error(W) = mean((Y - X @ W) ** 2) = energy - 2 * W * cross + W * (gram @ W)     summed over the inputs
```

Several groups of a kernel are one problem, whose arrays have the group as their first axis.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tfprune.blas import for_each
from tfprune.sparsity.selection import keep_largest

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
# Steps from one level to the next, where many are gone through.
_STEPS_BETWEEN = 4
# Rows of a matrix that are computed at a time.
_ROWS = 256
# The size up to which a matrix is inverted at once.
_WHOLE = 1024
# Rounds of exchanges, the share of the weights that leave in the first one, at most, and how many are looked
# at for each that comes.
_ROUNDS, _LEAVING, _CANDIDATES = 3, 0.1, 8
# Multiplications for which systems of equations are solved one output at a time, and inverted for exchanges.
_DIRECT, _EXCHANGED = 4e11, 1e11
_ITERATIONS, _TOLERANCE = 100, 1e-5


@dataclass(frozen=True)
class Problem:
    """The least squares of a layer.

    Attributes:
        gram: `X.T @ X` over the number of rows, `[groups, inputs, inputs]`, damped.
        cross: `X.T @ Y` likewise, `[groups, inputs, outputs]`, with as much of the weights that were.
        energy: The mean square of Y, `[groups, outputs]`.
        weights: The weights that the layer had, `[groups, inputs, outputs]`.
        importance: What the squared error of an output counts, `[groups, outputs]`.
        damping: What was added to the diagonal of `gram`, `[groups]`.
    """

    gram: np.ndarray
    cross: np.ndarray
    energy: np.ndarray
    weights: np.ndarray
    importance: np.ndarray
    damping: np.ndarray

    @cached_property
    def norms(self) -> np.ndarray:
        """The norms of the inputs, `[groups, inputs, 1]`."""
        return np.sqrt(np.diagonal(self.gram, axis1=1, axis2=2), dtype=np.float64)[:, :, None]

    @cached_property
    def correlations(self) -> np.ndarray:
        """`gram` of inputs of norm one, float32."""
        found = np.empty(self.gram.shape, np.float32)
        inverse = 1 / self.norms[..., 0]
        for row, gram, one in zip(found, self.gram, inverse, strict=True):
            for start in range(0, len(row), _ROWS):
                cut = slice(start, start + _ROWS)
                row[cut] = gram[cut] * one[cut, None] * one
        return found

    def drawing(self) -> np.ndarray:
        """Returns the inverse for alternating directions, float32."""
        matrix = self.correlations.copy()
        # Of eigenvalues from the penalty up, which single precision is enough for.
        for one in matrix:
            np.fill_diagonal(one, one.diagonal() + _PENALTY)
        _invert(matrix)
        return matrix

    def of_outputs(self, places: np.ndarray) -> "Problem":
        """Returns the problem of some of the outputs."""
        return Problem(
            self.gram,
            self.cross[:, :, places],
            self.energy[:, places],
            self.weights[:, :, places],
            self.importance[:, places],
            self.damping,
        )

    def moments(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the means of the outputs' squares and of their products with Y, without the damping.

        Args:
            weights: `[groups, inputs, outputs]`, multiplied in their precision.

        Returns:
            Two arrays `[groups, outputs]`.
        """
        squares = np.zeros(self.energy.shape)
        # A few rows at a time, which may have to be copied in that precision.
        for start in range(0, weights.shape[1], _ROWS):
            cut = slice(start, start + _ROWS)
            squares += (weights[:, cut] * (self.gram[:, cut] @ weights)).sum(1)
        squares -= self.damping[:, None] * _summed(weights, weights)
        return squares, _summed(weights, self.cross) - self.damping[:, None] * _summed(weights, self.weights)

    def error(self, weights: np.ndarray) -> float:
        """Returns the mean squared error of the outputs, as a share of their mean square.

        Args:
            weights: `[groups, inputs, outputs]`, multiplied in their precision.
        """
        squares, products = self.moments(weights)
        each = self.energy - 2 * products + squares
        total = (self.energy * self.importance).sum()
        return float(max((each * self.importance).sum(), 0.0) / total) if total > 0 else 0.0


def _summed(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return np.einsum("gio,gio->go", left, right)


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
        gram, cross, energy, weights, importance: As `Problem` has them; `gram` is overwritten.
        rows: The number of rows.
    """
    inputs = gram.shape[1]
    share = DAMPING + FEW * (inputs / max(rows, 1)) ** 2
    added = share * np.diagonal(gram, axis1=1, axis2=2).mean(1, dtype=np.float64)
    # A group whose inputs are all constant has nothing to go by but its weights.
    added = np.where(added > 0, added, 1.0)
    importance = np.ones_like(energy) if importance is None else importance
    weights = weights.astype(np.float64)
    for one, more in zip(gram, added, strict=True):
        np.fill_diagonal(one, one.diagonal() + more)
    return Problem(gram, cross + added[:, None, None] * weights, energy, weights, importance, added)


def _invert(matrices: np.ndarray) -> None:
    """Inverts symmetric positive definite matrices, `[groups, size, size]`, in place, by halves (Schur)."""
    size = matrices.shape[-1]
    if size <= _WHOLE:
        matrices[:] = np.linalg.inv(matrices)
        return
    half = size // 2
    first, between, last = matrices[:, :half, :half], matrices[:, :half, half:], matrices[:, half:, half:]
    _invert(first)
    across = first @ between
    last -= between.swapaxes(1, 2) @ across
    _invert(last)
    between[:] = across @ last
    first += between @ across.swapaxes(1, 2)
    between *= -1
    matrices[:, half:, :half] = between.swapaxes(1, 2)


def refit(problem: Problem, mask: np.ndarray, direct: float = _DIRECT) -> np.ndarray:
    """Returns the weights of the smallest squared error among those that a mask leaves.

    Args:
        problem: The layer.
        mask: Booleans `[groups, inputs, outputs]`.
        direct: Multiplications up to which equations are solved one output at a time, exactly.
    """
    if not mask.all() and _equations(mask) > direct:
        return conjugate_gradients(problem, mask)
    weights = np.zeros(problem.cross.shape)

    def solve_one(group: int, column: int) -> None:
        places = np.flatnonzero(mask[group, :, column])
        gram, cross = problem.gram[group][np.ix_(places, places)], problem.cross[group, places, column]
        weights[group, places, column] = np.linalg.solve(gram, cross)

    whole = mask.all((1, 2))
    for group in np.flatnonzero(whole):
        weights[group] = np.linalg.solve(problem.gram[group], problem.cross[group])
    for_each(solve_one, np.argwhere(mask.any(1) & ~whole[:, None]))
    return weights


def _equations(mask: np.ndarray) -> float:
    """Returns the multiplications of the systems of equations of all outputs, about."""
    return float((mask.sum(1, dtype=np.float64) ** 3).sum())


def conjugate_gradients(
    problem: Problem, mask: np.ndarray, start: np.ndarray | None = None, iterations: int = _ITERATIONS
) -> np.ndarray:
    """Returns nearly what `refit` does, for all outputs together; by Hestenes and Stiefel (1952).

    Args:
        problem: The layer.
        mask: Booleans `[groups, inputs, outputs]`.
        start: Weights times the norms of their inputs, float32, to begin with. Default: zero.
        iterations: At most.
    """
    matrix = problem.correlations
    wanted = np.where(mask, problem.cross / problem.norms, 0).astype(np.float32)
    if start is None:
        found, residual = np.zeros_like(wanted), wanted.copy()
    else:
        found = np.where(mask, start, 0)
        residual = wanted - np.where(mask, matrix @ found, 0)
    step = residual.copy()
    square = np.square(residual).sum(1, keepdims=True)
    enough = _TOLERANCE**2 * np.maximum(np.square(wanted).sum(1, keepdims=True), 1e-30)
    for _ in range(iterations):
        if (square <= enough).all():
            break
        ahead = np.where(mask, matrix @ step, 0)
        along = (step * ahead).sum(1, keepdims=True)
        length = np.divide(square, along, out=np.zeros_like(square), where=along > 0)
        found += length * step
        residual -= length * ahead
        new = np.square(residual).sum(1, keepdims=True)
        step *= np.divide(new, square, out=np.zeros_like(new), where=square > 0)
        step += residual
        square = new
    return np.where(mask, found / problem.norms, 0)


def by_magnitude(problem: Problem, mask: np.ndarray, sparsity: float, select: Select) -> np.ndarray:
    """Returns the mask that leaves the largest weights."""
    return select(np.abs(problem.weights), mask, sparsity)


def by_wanda(problem: Problem, mask: np.ndarray, sparsity: float, select: Select) -> np.ndarray:
    """Returns the mask that leaves the largest products of a weight and the norm of its input.

    Sun et al., arXiv:2306.11695, but with the ranking that `select` makes.
    """
    squares = np.diagonal(problem.gram, axis1=1, axis2=2) - problem.damping[:, None]
    norms = np.sqrt(np.maximum(squares, 0))
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
        inverse = np.linalg.inv(gram.astype(np.float64))
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
    return exchanged(problem, chosen, mask) if free and _equations(chosen) < _EXCHANGED else chosen


def within_reach(problem: Problem, mask: np.ndarray, sparsity: float, select: Select) -> np.ndarray:
    """Returns the mask that alternating directions end at (Boza, arXiv:2401.02938).

    The weights of the smallest error, drawn to the nearest that have the pattern, and these drawn to those,
    in turns, while the sparsity rises.
    """
    turns = _Turns(problem, mask, select)
    start = 1 - np.count_nonzero(mask) / mask.size
    for step in range(_STEPS):
        share = 1 - max(1 - (step + 1) / _RISING, 0) ** 3
        turns.take(sparsity if share == 1 else start + max(sparsity - start, 0) * share)
    return turns.mask(sparsity)


def along(
    problem: Problem, mask: np.ndarray, sparsities: Iterable[float], select: Select
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields masks at sparsities that rise, each a few steps of alternating directions from the one before.

    With a mask come the weights that it leaves, not at their best, times the norms of their inputs.
    """
    turns = _Turns(problem, mask, select)
    for sparsity in sparsities:
        for _ in range(_STEPS_BETWEEN):
            turns.take(sparsity)
        chosen = turns.mask(sparsity)
        yield chosen, turns.weights(chosen)


class _Turns:
    """The alternating directions: weights of a small error, and the nearest that have the pattern, in turns.

    Both are times the norms of their inputs, and the roots of their outputs' importance, float32.
    """

    def __init__(self, problem: Problem, mask: np.ndarray, select: Select) -> None:
        self._scale = np.sqrt(problem.importance)[:, None, :].astype(np.float32)
        self._inverse = problem.drawing()
        self._wanted = (problem.cross / problem.norms).astype(np.float32) * self._scale
        self._drawn = (problem.weights * problem.norms).astype(np.float32) * self._scale
        self._pull = np.zeros_like(self._drawn)
        self._mask, self._select = mask, select

    def take(self, sparsity: float) -> None:
        """Takes a step at a sparsity."""
        ahead = self._drawn + self._pull
        near = np.where(self.mask(sparsity), ahead, 0)
        self._pull = ahead - near
        self._drawn = self._inverse @ (self._wanted + np.float32(_PENALTY) * (near - self._pull))

    def mask(self, sparsity: float) -> np.ndarray:
        """Returns the largest that have the pattern."""
        return self._select((self._drawn + self._pull) ** 2, self._mask, sparsity)

    def weights(self, mask: np.ndarray) -> np.ndarray:
        """Returns weights times the norms of their inputs."""
        weights = np.where(mask, self._drawn, 0)
        return np.divide(weights, self._scale, out=np.zeros_like(weights), where=self._scale > 0)


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
        count = int(_LEAVING * np.count_nonzero(mask) * (1 - number / _ROUNDS))
        count = min(count, np.count_nonzero(allowed & ~mask))
        if not count:
            break
        costs, gains = _costs_and_gains(problem, mask, allowed & ~mask, _CANDIDATES * count)
        leaving = np.argsort(costs, axis=None, kind="stable")[:count]
        coming = np.argsort(-gains, axis=None, kind="stable")[:count]
        better = gains.ravel()[coming] > costs.ravel()[leaving]
        mask.ravel()[leaving[better]] = False
        mask.ravel()[coming[better]] = True
    return mask


def _costs_and_gains(
    problem: Problem, mask: np.ndarray, others: np.ndarray, most: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns what each weight's removal costs, infinity for one that is not there, and what others gain.

    Args:
        problem: The layer.
        mask: The weights that are there, `[groups, inputs, outputs]`.
        others: Those that may come.
        most: The number of these to look at, those of the steepest slopes; others gain minus infinity.
    """
    matrix, weights = problem.correlations, refit(problem, mask, np.inf) * problem.norms
    slope = problem.cross / problem.norms - matrix @ weights.astype(np.float32)
    steepness = problem.importance[:, None] * slope**2
    some = keep_largest(steepness.ravel(), most, others.ravel()).reshape(mask.shape)
    costs, gains = np.full(mask.shape, np.inf), np.full(mask.shape, -np.inf)

    def look_at(group: int, column: int) -> None:
        stays, seen = (np.flatnonzero(each[group, :, column]) for each in (mask, some))
        inverse = np.linalg.inv(matrix[group][np.ix_(stays, stays)])
        squares = weights[group, stays, column] ** 2
        costs[group, stays, column] = problem.importance[group, column] * squares / np.diagonal(inverse)
        # What of an input those that are there do not give: no less than its damping.
        between = matrix[group][np.ix_(seen, stays)]
        left = 1 - ((between @ inverse) * between).sum(1)
        left = np.maximum(left, problem.damping[group] / problem.norms[group, seen, 0] ** 2)
        gains[group, seen, column] = steepness[group, seen, column] / left

    for_each(look_at, np.argwhere(mask.any(1)))
    return costs, gains


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
    inverse = np.linalg.inv(gram.astype(np.float64))
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
