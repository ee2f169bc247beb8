"""Rules of recurrent layers."""

from typing import Any

import keras
import numpy as np

from tfprune.channels.labels import Channels
from tfprune.channels.rules.axes import channel_axis, mixing, take, taken_of
from tfprune.channels.trace import INSIDE, Call, Kept, Rule
from tfprune.network.kinds import builtin_layer

# Layer -> the blocks of columns in its kernels, one for each gate and the state.
_GATES = {"LSTM": 4, "GRU": 3, "SimpleRNN": 1, "ConvLSTM1D": 4, "ConvLSTM2D": 4, "ConvLSTM3D": 4}


def _units(call: Call, layer: Any, states: list[Channels]) -> np.ndarray:
    """Notes the weights of a recurrent layer that takes the first input; returns the labels of its units.

    Args:
        call: The call of the layer, or of one that it is inside.
        layer: The layer.
        states: The channels of the states that it begins with.
    """
    cell, count = layer.cell, layer.cell.kernel.shape[-1] // _GATES[builtin_layer(layer)]
    axis = channel_axis(layer)
    units = call.new(count)
    for activation in (cell.activation, getattr(cell, "recurrent_activation", None)):
        if mixing(activation):
            call.fix(units, mixing(activation))
    columns = np.tile(units, _GATES[builtin_layer(layer)])
    call.weight(cell.kernel, -2, take(call, axis), "takes")
    call.weight(cell.kernel, -1, columns, "makes")
    call.weight(cell.recurrent_kernel, -2, units, "takes", INSIDE)
    call.weight(cell.recurrent_kernel, -1, columns, "makes")
    call.weight(cell.bias, -1, columns, "makes")
    for state in states:
        call.unite(units, taken_of(call, state, axis))
    return units


def _refusal(call: Call, layers: list[Any]) -> str:
    """Returns why nothing of a call can be cut; empty if something can."""
    if any(layer.stateful for layer in layers):
        return "it keeps its state from call to call"
    if "mask" in call.kwargs and call.kwargs["mask"] is not None:
        return "it is given a mask"
    return ""


def _recurrent(call: Call) -> list[Channels]:
    layer = call.layer
    refusal = _refusal(call, [layer])
    if refusal:
        return call.stay(refusal)
    units = _units(call, layer, call.inputs[1:])
    call.config("units" if hasattr(layer, "units") else "filters", units)
    return [Channels.along(shape, channel_axis(layer), units) for shape in call.shapes]


def _bidirectional(call: Call) -> list[Channels]:
    """Units of the same number go together: Keras takes both directions to be equally wide."""
    layer = call.layer
    directions = {"layer": layer.forward_layer, "backward_layer": layer.backward_layer}
    if not all(builtin_layer(one) in _GATES for one in directions.values()):
        return call.stay("its recurrent layer has no rule")
    refusal = _refusal(call, list(directions.values()))
    if refusal:
        return call.stay(refusal)
    half = len(call.inputs[1:]) // 2
    states = {"layer": call.inputs[1 : 1 + half], "backward_layer": call.inputs[1 + half :]}
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


def _smaller(layer: Any, units: np.ndarray) -> Any:
    """Returns a function from what stays to the description of a layer with fewer units."""
    given = keras.saving.serialize_keras_object(layer)
    given.pop("build_config", None)  # It would be built for as many inputs as before.
    setting = "units" if hasattr(layer, "units") else "filters"

    def smaller(kept: Kept) -> dict[str, Any]:
        return {**given, "config": {**given["config"], setting: int(kept(units).sum())}}

    return smaller


LAYERS: dict[str, Rule] = {**dict.fromkeys(_GATES, _recurrent), "Bidirectional": _bidirectional}
