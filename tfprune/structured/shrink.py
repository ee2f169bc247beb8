"""Cuts exactly the channels that no output depends on."""

from dataclasses import dataclass

import keras
import numpy as np
from keras import ops

from tfprune.channels.groups import Traced
from tfprune.channels.labels import FIXED
from tfprune.sparsity import PruneLowMagnitude
from tfprune.structured.cut import build_smaller


@dataclass(frozen=True)
class Stays:
    """Channels that stay although the kernels that make them are zero.

    Attributes:
        layers: The layers that make them.
        channels: Their number.
        reason: Why they stay.
    """

    layers: tuple[str, ...]
    channels: int
    reason: str


def shrink(model: keras.Model) -> keras.Model:
    """Returns a smaller model with the same outputs, without the channels that change none of them.

    A channel goes if every weight that takes it is zero; if its value is always zero; or if its value is a
    constant that can be moved into the biases of the layers that take it (dense layers, and convolutions
    that pad nothing). What computes with channels together, as layer normalisation, keeps its channels.
    Values stay the same up to rounding: 1e-5 of the largest output.

    A wrapped model stays wrapped, with its masks, its schedules and its step.

    Args:
        model: A built functional or Sequential model. It is not changed.

    Returns:
        A new model of the same class, Sequential or functional, that is not compiled.

    Raises:
        ValueError: If the model is subclassed or not built.
    """
    return Dead(Traced(model)).cut()


class Dead:
    """The channels of a model that change no output.

    Args:
        traced: The model's channels.

    Attributes:
        removed: Booleans, one for each set of channels.
        edits: id of a weight -> values in which the constants of removed channels are.
    """

    def __init__(self, traced: Traced) -> None:
        self._traced = traced
        self.removed = np.zeros(traced.count, bool)
        self._values = {
            id(one.variable): np.array(ops.convert_to_numpy(one.variable)) for one in traced.slices
        }
        self._masked()
        self.edits: dict[int, np.ndarray] = {}
        self._find()

    def cut(self) -> keras.Model:
        """Returns the model without them."""
        traced, removed = self._traced, self.removed
        return build_smaller(
            traced.model, traced.trace.cuts, lambda labels: ~removed[traced.sets[labels]], self.edits
        )

    def _masked(self) -> None:
        """Takes removed weights as the zeros that they are in training."""
        for cut in self._traced.trace.cuts.values():
            if isinstance(cut.operation, PruneLowMagnitude):
                for kernel, mask in cut.operation.pruned:
                    if id(kernel.variable) in self._values:
                        self._values[id(kernel.variable)] *= ops.convert_to_numpy(mask)

    def _find(self) -> None:
        """Finds more and more of them: what a removed channel took is taken by one less."""
        while True:
            needed = self._needed()
            needed[FIXED] = True
            # What makes nothing and takes nothing cannot be told from what is computed otherwise.
            dead = ~needed & ~self.removed
            if not dead.any():
                break
            self.removed |= dead
            self._zero(dead)
        self._keep_one()

    def _needed(self) -> np.ndarray:
        """Returns the sets of which a weight that is not zero takes a channel, or that are mixed."""
        needed = np.zeros(self._traced.count, bool)
        needed[list(self._traced.mixed)] = True
        taken = np.zeros(self._traced.count, bool)
        for one in self._traced.slices:
            sets = self._traced.sets[one.labels]
            if one.role == "takes":
                taken[sets] = True
                values = np.moveaxis(self._values[id(one.variable)], one.axis, 0)
                needed[sets[values.reshape(len(sets), -1).any(1)]] = True
        return needed | ~taken

    def _zero(self, dead: np.ndarray) -> None:
        """Removes what makes the dead channels."""
        for one in self._traced.slices:
            gone = dead[self._traced.sets[one.labels]]
            if gone.any():
                values = np.moveaxis(self._values[id(one.variable)], one.axis, 0)
                values[gone] = 0
