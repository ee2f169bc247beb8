"""Scores: functions from a tensor to numbers of its shape; the weights with the largest stay longest.

A new score is a function, registered so that a saved model finds it again:

```python
@keras.saving.register_keras_serializable("my_project")
def squared(tensor):
    return tensor.weights**2

prune_low_magnitude(model, schedule, score=squared)
```
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Gradients:
    """Statistics of one tensor's gradients over some batches: arrays of the tensor's shape.

    Attributes:
        mean_abs: The mean over the batches of the gradient's absolute value.
        mean_square: The mean over the batches of the gradient's square.
    """

    mean_abs: np.ndarray
    mean_square: np.ndarray


@dataclass(frozen=True)
class Tensor:
    """A tensor as a score sees it.

    Attributes:
        name: The tensor's name.
        weights: The tensor's values, float32, read-only. They may be the model's memory and not a copy, so
            that they hold during the call only.
        gradients: The gradients of the loss, if the score asks for them (`needs_gradients`), else None. For a
            removed weight they are what they would be if it were there, at zero.
        seed: The layer's seed, for scores that draw numbers.
        standing: How strong the channels of each weight are by magnitude, from 0 to 1, if the score asks for
            it (`needs_channels`), else 1. It has as many axes as the weights, of their sizes or of size 1.
    """

    name: str
    weights: np.ndarray
    gradients: Gradients | None = None
    seed: int = 0
    standing: np.ndarray | float = 1.0

    def generator(self, step: int = 0) -> np.random.Generator:
        """Returns a source of random numbers; equal seeds, names and steps give equal numbers."""
        return np.random.default_rng([self.seed, zlib.crc32(self.name.encode()), step])


Score = Callable[[Tensor], np.ndarray]


def needs_gradients(score: Score) -> Score:
    """Marks a score that reads `tensor.gradients`, so that they are measured before it is called."""
    score.needs_gradients = True
    return score


def needs_channels(score: Score) -> Score:
    """Marks a score that reads `tensor.standing`, which is then found in a functional or Sequential model."""
    score.needs_channels = True
    return score


def magnitude(tensor: Tensor) -> np.ndarray:
    """Returns the absolute values of the weights. Groups of weights are ranked by their L2 norm."""
    return np.abs(tensor.weights)


def random(tensor: Tensor) -> np.ndarray:
    """Returns uniform random numbers, the baseline of every score; one seed gives the same at each call."""
    return tensor.generator().random(tensor.weights.shape, np.float32)


@needs_gradients
def taylor(tensor: Tensor) -> np.ndarray:
    """Estimates the change of the loss without each weight, to first order: `mean |weight * gradient|`.

    The mean is over batches. Molchanov et al., arXiv:1611.06440, here for single weights.
    """
    return np.abs(tensor.weights) * tensor.gradients.mean_abs


@needs_gradients
def fisher(tensor: Tensor) -> np.ndarray:
    """Estimates the change of the loss without each weight, to second order: `weight ** 2 * h / 2`.

    The curvature h is the diagonal of the Fisher matrix, approximated by the mean over batches of the squared
    gradient. The Fisher matrix is a mean over examples, so that smaller batches come closer to it. Optimal
    Brain Damage (LeCun, Denker and Solla, 1989).
    """
    return np.square(tensor.weights) * tensor.gradients.mean_square / 2


def lamp(tensor: Tensor) -> np.ndarray:
    """Returns each weight's square divided by the sum of the squares of the weights not smaller.

    Layer-adaptive magnitude, for `scope="global"` (Lee et al., arXiv:2010.07611). The largest weight of
    every tensor has score 1, so that no tensor is emptied before all are down to one weight. Within one
    tensor the order is the magnitude's.
    """
    squares = np.square(tensor.weights, dtype=np.float64).ravel()
    order = np.argsort(-squares, kind="stable")  # Of equal ones the first stays longest, as elsewhere.
    sums = np.cumsum(squares[order])
    scores = np.zeros_like(squares)
    scores[order] = np.divide(squares[order], sums, out=np.zeros_like(sums), where=sums > 0)
    return scores.reshape(tensor.weights.shape)


@needs_channels
def gathered(tensor: Tensor) -> np.ndarray:
    """Returns the magnitude times the standing of the channels that a weight makes and takes.

    The weights that stay gather in fewer channels: those that would keep a few weak ones lose them all, so
    that `tfprune.structured.shrink` cuts more. `sparsity/standing.py` says what a channel's standing is. By
    a `regrowth` weights go by their magnitude alone.
    """
    return np.abs(tensor.weights) * tensor.standing


magnitude.group_norm = 2

SCORES: dict[str, Score] = {
    score.__name__: score for score in (magnitude, lamp, gathered, random, taylor, fisher)
}


def get(score: str | Score) -> Score:
    """Returns the score of a name, or a function as it is.

    Raises:
        ValueError: If there is none; the message lists the valid names.
    """
    if callable(score):
        return score
    if not isinstance(score, str) or score not in SCORES:
        raise ValueError(
            f"`score` must be one of {sorted(SCORES)} or a function of a tensor. Received: score={score!r}"
        )
    return SCORES[score]
