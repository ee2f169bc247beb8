"""The variance of outputs, brought back after pruning without a correction. NumPy arrays only."""

import numpy as np

from tfprune.sparsity.reconstruction import Problem

# The least variance, as a share of what it was, that is told from rounding.
_LEAST = 1e-6


def variance_factors(problem: Problem, weights: np.ndarray, rows: int) -> np.ndarray:
    """Returns what to multiply the weights of each output by, so that its variance is what it was.

    As far as the output is still what it was: `was` and `now` are its variances and `r` its correlation with
    what it was, of which chance is taken off as in the adjusted coefficient of determination:

    ```
    reliability**2 = 1 - (1 - r**2) * (rows - 1) / (rows - 2)
    factor = 1 + reliability * (sqrt(was / now) - 1)
    ```

    The factor is 1 where the reliability is not above 0, or nothing but rounding is left of the variance.

    Source: arXiv:2605.21426 (variance by channel, drawn to 1 where little is left of it); the reliability is
    of our own.

    Args:
        problem: The layer; around the means, or else mean squares are brought back.
        weights: `[groups, inputs, outputs]`.
        rows: The number of rows that the problem was measured on.

    Returns:
        float64 `[groups, outputs]`.
    """
    was, (now, shared) = problem.energy, problem.moments(weights)
    known = (was > 0) & (now > _LEAST * was) & (shared > 0)
    ratio = np.sqrt(np.divide(was, now, out=np.ones_like(was), where=known))
    explained = np.divide(shared**2, was * now, out=np.zeros_like(was), where=known)
    by_chance = (1 - np.minimum(explained, 1)) * (rows - 1) / (rows - 2) if rows > 2 else 1.0
    return 1 + np.sqrt(np.maximum(1 - by_chance, 0)) * np.where(known, ratio - 1, 0)
