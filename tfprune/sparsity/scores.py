"""How much each weight matters: a score turns a tensor into numbers of its shape, larger = kept longer.

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
    """What the gradients of one tensor were over some batches; arrays of its shape.

    Attributes:
        mean_abs: Mean over the batches of the gradient's absolute value.
        mean_square: Mean over the batches of the gradient's square.
    """

    mean_abs: np.ndarray
    mean_square: np.ndarray


@dataclass(frozen=True)
class Tensor:
    """What a score may look at.

    Attributes:
        name: The tensor's name.
        weights: Its values, float32, read-only. They are those of the model, not a copy where that can be
            spared, so that they hold during the call only.
        gradients: Of the loss, where the score asks for them (`needs_gradients`), else None. Those of
            removed weights are as if they were there.
        seed: For scores that draw numbers; the layer's own.
    """

    name: str
    weights: np.ndarray
    gradients: Gradients | None = None
    seed: int = 0

    def generator(self, step: int = 0) -> np.random.Generator:
        """Returns a source of random numbers, the same for the same seed, tensor and step."""
        return np.random.default_rng([self.seed, zlib.crc32(self.name.encode()), step])


Score = Callable[[Tensor], np.ndarray]


def needs_gradients(score: Score) -> Score:
    """Marks a score that reads `tensor.gradients`, so that they are measured before it is called."""
    score.needs_gradients = True
    return score


def magnitude(tensor: Tensor) -> np.ndarray:
    """The absolute value (L1); groups are ranked by their L2 norm. Small weights go first."""
    return np.abs(tensor.weights)


def random(tensor: Tensor) -> np.ndarray:
    """Uniform random numbers, the baseline of every other score; the same at each call for one seed."""
    return tensor.generator().random(tensor.weights.shape, np.float32)


@needs_gradients
def taylor(tensor: Tensor) -> np.ndarray:
    """First order: how much the loss changes if the weight goes, `mean |weight * gradient|`.

    The mean is over batches (Molchanov et al., arXiv:1611.06440, for single weights).
    """
    return np.abs(tensor.weights) * tensor.gradients.mean_abs


@needs_gradients
def fisher(tensor: Tensor) -> np.ndarray:
    """Second order: `weight ** 2 * h / 2`, with the curvature h from the diagonal of the Fisher matrix.

    Optimal Brain Damage (LeCun, Denker and Solla, 1989), whose second derivative is approximated, as
    usual, by the mean over batches of the squared gradient; smaller batches bring it closer to the Fisher
    matrix's own mean over examples.
    """
    return np.square(tensor.weights) * tensor.gradients.mean_square / 2


def lamp(tensor: Tensor) -> np.ndarray:
    """Layer-adaptive magnitude: the weight's square over the sum of the squares of those not smaller.

    For `scope="global"`: the largest weight of every tensor has 1, so that none is emptied before all are
    down to one weight. Within one tensor the order is the magnitude's. Lee et al., arXiv:2010.07611.
    """
    squares = np.square(tensor.weights, dtype=np.float64).ravel()
    order = np.argsort(-squares, kind="stable")  # Of equal ones the first stays longest, as elsewhere.
    sums = np.cumsum(squares[order])
    scores = np.zeros_like(squares)
    scores[order] = np.divide(squares[order], sums, out=np.zeros_like(sums), where=sums > 0)
    return scores.reshape(tensor.weights.shape)


magnitude.group_norm = 2

SCORES: dict[str, Score] = {score.__name__: score for score in (magnitude, lamp, random, taylor, fisher)}


def get(score: str | Score) -> Score:
    """Returns the score of that name; a function is returned as it is.

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
