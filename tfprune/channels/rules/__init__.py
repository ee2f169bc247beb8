"""What each kind of layer does with the channels of its inputs: makes new ones, takes them, hands them on.

A module for each subject; `LAYERS` in it has a rule for each class of layers, `OPERATIONS` one for each
operation of `keras.ops`.
"""

from typing import Any

from tfprune.channels.rules import (
    activation,
    applications,
    arithmetic,
    attention,
    kernels,
    moves,
    normalization,
    positions,
    preprocessing,
    recurrent,
    wrappers,
)
from tfprune.channels.trace import Rule
from tfprune.network.kinds import builtin_layer, builtin_operation

_SUBJECTS = (
    *(kernels, normalization, activation, positions, moves, arithmetic, attention, recurrent),
    *(preprocessing, applications, wrappers),
)

_LAYERS: dict[str, Rule] = {}
_OPERATIONS: dict[str, Rule] = {}
for _subject in _SUBJECTS:
    _LAYERS |= getattr(_subject, "LAYERS", {})
    _OPERATIONS |= getattr(_subject, "OPERATIONS", {})


def rule_of(operation: Any) -> Rule | None:
    """Returns the rule of a layer or an operation of Keras's own; None where there is none."""
    name = builtin_layer(operation)
    if name is not None:
        return _LAYERS.get(name)
    name = builtin_operation(operation)
    return _OPERATIONS.get(name) if name is not None else None
