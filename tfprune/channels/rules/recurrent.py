"""Rules of recurrent layers."""

from typing import Any

import keras
import numpy as np

from tfprune.channels.labels import Channels
from tfprune.channels.rules.axes import channel_axis, mixing
from tfprune.channels.trace import INSIDE, Call, Kept, Rule
from tfprune.network.kinds import builtin_layer

# Cell -> the blocks of columns in its kernels, one for each gate and the state.
_GATES = {"LSTMCell": 4, "GRUCell": 3, "SimpleRNNCell": 1, "ConvLSTMCell": 4}
_LAYERS = ("LSTM", "GRU", "SimpleRNN", "ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D")


def _units(call: Call, layer: Any, states: list[Channels]) -> np.ndarray:
    """Notes the weights of a recurrent layer that takes the first input; returns the labels of its units.

    Args:
        call: The call of the layer, or of one that it is inside.
        layer: The layer.
        states: The channels of the states that it begins with.
    """
    axis = channel_axis(layer)
    return _units_of(call, layer.cell, call.take(axis), axis, states)


def _units_of(
    call: Call, cell: Any, taken: np.ndarray, axis: int, states: list[Channels], which: int = 0
) -> np.ndarray:
    """Notes the weights of a cell that takes some channels; returns the labels of its units."""
    gates = _GATES[builtin_layer(cell)]
    units = call.new(cell.kernel.shape[-1] // gates)
    for activation in (cell.activation, getattr(cell, "recurrent_activation", None)):
        if mixing(activation):
            call.fix(units, mixing(activation))
    columns = np.tile(units, gates)
    call.weight(cell.kernel, -2, taken, "takes", which)
    call.weight(cell.kernel, -1, columns, "makes")
    call.weight(cell.recurrent_kernel, -2, units, "takes", INSIDE)
    call.weight(cell.recurrent_kernel, -1, columns, "makes")
    call.weight(cell.bias, -1, columns, "makes")
    for state in states:
        call.unite(units, call.take(axis, state))
    return units


def _refusal(call: Call, layers: list[Any]) -> str:
    """Returns why nothing of a call can be cut; empty if something can."""
    if any(layer.stateful for layer in layers):
        return "it keeps its state from call to call"
    return ""


def _states(call: Call) -> list[Channels]:
    """Returns the channels of the states that a call is given: all inputs but the first and the mask."""
    mask = call.kwargs.get("mask")
    return [one for one in call.inputs[1:] if one is not mask]


def _recurrent(call: Call) -> list[Channels]:
    layer = call.layer
    refusal = _refusal(call, [layer])
    if refusal:
        return call.stay(refusal)
    units = _units(call, layer, _states(call))
    call.config("units" if hasattr(layer, "units") else "filters", units)
    return [Channels.along(shape, channel_axis(layer), units) for shape in call.shapes]


def _bidirectional(call: Call) -> list[Channels]:
    """Units of the same number go together: Keras takes both directions to be equally wide."""
    layer = call.layer
    directions = {"layer": layer.forward_layer, "backward_layer": layer.backward_layer}
    if not all(builtin_layer(one) in _LAYERS for one in directions.values()):
        return call.stay("its recurrent layer has no rule")
    refusal = _refusal(call, list(directions.values()))
    if refusal:
        return call.stay(refusal)
    if len({_width(one) for one in directions.values()}) > 1:
        return call.stay("its directions are not equally wide")
    given = _states(call)
    half = len(given) // 2
    states = {"layer": given[:half], "backward_layer": given[half:]}
    made = {name: _units(call, one, states[name]) for name, one in directions.items()}
    for name, one in directions.items():
        call.config(name, _smaller(one, made[name]))
    forward, backward = made.values()
    call.unite(forward, backward)
    axis = channel_axis(layer.forward_layer)
    if layer.merge_mode is None:
        outputs = [forward, backward]
    else:
        outputs = [np.concatenate([forward, backward]) if layer.merge_mode == "concat" else forward]
    states_of_each = (len(call.shapes) - len(outputs)) // 2
    outputs += [forward] * states_of_each + [backward] * states_of_each
    return [Channels.along(shape, axis, labels) for shape, labels in zip(call.shapes, outputs, strict=True)]


def _width(layer: Any) -> int:
    """Returns the number of a layer's units, or of its filters."""
    return int(getattr(layer, _setting(layer)))


def _setting(layer: Any) -> str:
    return "units" if hasattr(layer, "units") else "filters"


def _smaller(layer: Any, units: np.ndarray) -> Any:
    """Returns a function from what stays to the description of a layer with fewer units."""
    given = keras.saving.serialize_keras_object(layer)
    given.pop("build_config", None)  # It would be built for as many inputs as before.
    setting = _setting(layer)

    def smaller(kept: Kept) -> dict[str, Any]:
        return {**given, "config": {**given["config"], setting: int(kept(units).sum())}}

    return smaller


def _of_cells(call: Call) -> list[Channels]:
    """A layer that runs a cell, or several, of which each takes what the one before it makes."""
    layer = call.layer
    stacked = builtin_layer(layer.cell) == "StackedRNNCells"
    cells = layer.cell.cells if stacked else [layer.cell]
    if not all(builtin_layer(cell) in _GATES for cell in cells):
        return call.stay("its cell has no rule")
    refusal = _refusal(call, [layer])
    if refusal or _states(call):
        return call.stay(refusal or "it is given states")
    axis = channel_axis(layer)
    taken, which = call.take(axis), 0
    states: list[np.ndarray] = []
    units: list[np.ndarray] = []
    for cell in cells:
        units.append(_units_of(call, cell, taken, axis, [], which))
        states += [units[-1]] * (len(cell.state_size) if isinstance(cell.state_size, (list, tuple)) else 1)
        taken, which = units[-1], INSIDE
    smaller = [_smaller(cell, labels) for cell, labels in zip(cells, units, strict=True)]
    if stacked:
        given = keras.saving.serialize_keras_object(layer.cell)
        given.pop("build_config", None)
        call.config(
            "cell",
            lambda kept: {**given, "config": {**given["config"], "cells": [one(kept) for one in smaller]}},
        )
    else:
        call.config("cell", smaller[0])
    made = [taken, *states][: len(call.shapes)]
    return [Channels.along(shape, axis, labels) for shape, labels in zip(call.shapes, made, strict=True)]


LAYERS: dict[str, Rule] = {
    **dict.fromkeys(_LAYERS, _recurrent),
    "Bidirectional": _bidirectional,
    "RNN": _of_cells,
}
