"""Regrowth: methods that move a fixed number of weights about while a network trains.

At its first update a layer gets a random mask at the schedule's sparsity, unless it is that sparse already
(prune first to start from a trained network). At each later update the weights with the lowest scores are
removed and as many others grow anew, from zero, so that each tensor keeps its number of weights.
"""

import abc
import math
from typing import Any

import keras
import numpy as np

from tfprune.sparsity.scores import Tensor
from tfprune.sparsity.selection import keep_largest


class Regrowth(abc.ABC):
    """A method that chooses the weights that grow. Subclasses implement `growth_scores`.

    The share of a tensor's weights that moves at step t falls along a cosine,
    `drop_fraction / 2 * (1 + cos(pi * (t - begin_step) / (end_step - begin_step)))`, as in RigL
    (arXiv:1911.11134). The steps are those of the layer's `ConstantSparsity`.

    Args:
        drop_fraction: The share of the weights that moves at the start, in (0, 1).

    Raises:
        ValueError: If `drop_fraction` is outside that range.
    """

    needs_gradients = False

    def __init__(self, drop_fraction: float = 0.3) -> None:
        if not 0.0 < drop_fraction < 1.0:
            raise ValueError(f"`drop_fraction` must be in (0, 1). Received: drop_fraction={drop_fraction}")
        self.drop_fraction = float(drop_fraction)

    @abc.abstractmethod
    def growth_scores(self, tensor: Tensor, step: int) -> np.ndarray:
        """Returns a score for each weight; of the removed weights those with the largest scores grow.

        Args:
            tensor: The weights, with their gradients if `needs_gradients`.
            step: The training step, as the schedule counts it.

        Returns:
            An array of the tensor's shape.
        """

    def share(self, step: int, begin_step: int, end_step: int) -> float:
        """Returns the share of the weights that moves at a step.

        Args:
            step: The training step.
            begin_step: The step from which weights move, `drop_fraction` of them.
            end_step: The step at which the share, after half a cosine, is 0.
        """
        progress = min(max((step - begin_step) / (end_step - begin_step), 0.0), 1.0)
        return self.drop_fraction / 2 * (1 + math.cos(math.pi * progress))

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of `__init__`."""
        return {"drop_fraction": self.drop_fraction}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Regrowth":
        """Returns a method with the arguments of `get_config`."""
        return cls(**config)

    def __repr__(self) -> str:
        arguments = ", ".join(f"{k}={v!r}" for k, v in self.get_config().items())
        return f"{type(self).__name__}({arguments})"


@keras.saving.register_keras_serializable("tfprune")
class SET(Regrowth):
    """Lets random weights grow: sparse evolutionary training (Mocanu et al., arXiv:1707.04780)."""

    def growth_scores(self, tensor: Tensor, step: int) -> np.ndarray:
        return tensor.generator(step).random(tensor.weights.shape, np.float32)


@keras.saving.register_keras_serializable("tfprune")
class RigL(Regrowth):
    """Lets the weights with the largest gradients grow (Evci et al., arXiv:1911.11134)."""

    needs_gradients = True

    def growth_scores(self, tensor: Tensor, step: int) -> np.ndarray:
        return tensor.gradients.mean_abs


def drop_and_grow(scores: np.ndarray, growth_scores: np.ndarray, mask: np.ndarray, count: int) -> np.ndarray:
    """Removes the `count` weights with the lowest scores, then lets as many grow.

    A weight that was just removed may grow again, and then keeps its value, as in RigL.

    Args:
        scores: The weights' scores, an array of any shape; those of removed weights do not matter.
        growth_scores: The growth scores, of the same shape; those of weights that are left do not matter.
        mask: The present mask.
        count: The number of weights to move; where fewer can grow, fewer move.

    Returns:
        A mask with as many weights as `mask`.
    """
    size, present = mask.size, np.count_nonzero(mask)
    count = min(count, present, size - present)
    if count == 0:
        return mask
    stay = keep_largest(scores.ravel(), present - count, mask.ravel())
    grow = keep_largest(growth_scores.ravel(), count, ~stay)
    return (stay | grow).reshape(mask.shape)


METHODS: dict[str, type[Regrowth]] = {"set": SET, "rigl": RigL}
"""The methods, by the names that flags have for them."""
