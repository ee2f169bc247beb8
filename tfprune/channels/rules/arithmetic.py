"""Rules of arithmetic between tensors."""

import keras
import numpy as np

from tfprune.channels.labels import Channels, narrowed
from tfprune.channels.trace import Call, Rule


def elementwise(call: Call) -> list[Channels]:
    """Values of several tensors meet: their channels go together."""
    call.by_place = True
    constants = [one for one in keras.tree.flatten(call.args) if not isinstance(one, Channels)]
    shape = call.shapes[0]
    if any(np.size(one) > 1 for one in constants if one is not None):
        return call.stay("it computes with a constant of several values")
    if any(len(one.shape) != len(shape) for one in call.inputs):
        return call.stay("its inputs have different numbers of axes")
    met = call.inputs[0]
    for other in call.inputs[1:]:
        if _is_spread(met, other):
            call.fix(met, "it meets all channels of another tensor")
            met = other
        elif _is_spread(other, met):
            call.fix(other, "it meets all channels of another tensor")
        else:
            call.unite(met.labels, other.labels)
            met = Channels(shape, np.broadcast_arrays(met.labels, other.labels)[0])
    return [Channels(shape, narrowed(met.labels))]


def _is_spread(one: Channels, other: Channels) -> bool:
    """Returns whether a tensor has one value where the other has several channels."""
    return any(one.shape[axis] == 1 and other.shape[axis] != 1 for axis in other.axes())


LAYERS: dict[str, Rule] = dict.fromkeys(
    ("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum"), elementwise
)

OPERATIONS: dict[str, Rule] = dict.fromkeys(
    ("Add", "Subtract", "Multiply", "Divide", "TrueDivide", "Maximum", "Minimum", "Power"), elementwise
)
