"""How strong channels are by magnitude, for scores that let the weak ones lose all their weights."""

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from tfprune.channels.groups import Traced
from tfprune.channels.labels import FIXED

# Magnitude decides among the weights of channels that keep none.
_LEAST = 1e-6


def channel_standing(model: Any, kept: Iterable[tuple[keras.Variable, np.ndarray]]) -> dict[int, np.ndarray]:
    """Returns the standing of the channels that each weight makes and takes.

    The strength of a channel is the Euclidean norm of all weights that make or take it, in all layers whose
    channels go together, of those that would stay. Its standing is the strength over the median strength of
    the channels that keep a weight, at most 1; that of a channel that cannot be cut is 1. A weight's is the
    product of those of its channels.

    Args:
        model: A built functional or Sequential model, wrapped or not.
        kept: The prunable variables, each with its values and zeros where they would not stay.

    Returns:
        id of a variable -> standings, with the axes of the variable, of its size or of size 1. Variables
        that neither make nor take channels are left out.

    Raises:
        ValueError: If the model is subclassed or not built.
    """
    traced = Traced(model)
    values = {id(variable): array for variable, array in kept}
    axes = [one for one in traced.slices if id(one.variable) in values]
    squares = np.zeros(traced.count)
    for one in axes:
        array = np.moveaxis(values[id(one.variable)], one.axis, 0)
        np.add.at(squares, traced.sets[one.labels], np.square(array).reshape(len(array), -1).sum(1))
    squares[FIXED] = 0
    if not squares.any():
        return {}
    standing = np.sqrt(squares / np.median(squares[squares > 0])).clip(_LEAST, 1)
    standing[FIXED] = 1
    found: dict[int, np.ndarray] = {}
    for one in axes:
        shape = np.ones(values[id(one.variable)].ndim, int)
        shape[one.axis] = -1
        own = standing[traced.sets[one.labels]].reshape(shape)
        found[id(one.variable)] = found.get(id(one.variable), 1) * own
    return found
