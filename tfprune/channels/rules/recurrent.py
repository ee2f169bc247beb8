"""Rules of recurrent layers."""

from typing import Any

import keras
import numpy as np

from tfprune.channels.labels import Channels
from tfprune.channels.rules.axes import LAST, mixes, name_of, take
from tfprune.channels.trace import INSIDE, Call, Kept, Rule
from tfprune.network.kinds import builtin_layer

_GATES = {"LSTM": 4, "GRU": 3, "SimpleRNN": 1}


def _recurrent(call: Call, layer: Any = None, which: str = "units") -> list[Channels]:
    layer = layer or call.layer
    if len(call.inputs) > 1:
        return call.stay("it is given a state")
    gates = _GATES[type(layer).__name__]
    units = call.new(layer.units)
    if mixes(layer.cell):
        call.fix(units, f"{name_of(layer.cell.activation)} over its units")
    columns = np.tile(units, gates)
    cell = layer.cell
    call.weight(cell.kernel, 0, take(call, LAST), "takes")
    call.weight(cell.kernel, 1, columns, "makes")
    call.weight(cell.recurrent_kernel, 0, units, "takes", INSIDE)
    call.weight(cell.recurrent_kernel, 1, columns, "makes")
    call.weight(cell.bias, -1, columns, "makes")
    if which == "units":
        call.config("units", units)
    return [Channels.along(shape, LAST, units) for shape in call.shapes]


def _bidirectional(call: Call) -> list[Channels]:
    layer = call.layer
    directions = layer.forward_layer, layer.backward_layer
    if any(type(one).__name__ not in _GATES or not builtin_layer(one) for one in directions):
        return call.stay("its recurrent layer has no rule")
    if len(call.inputs) > 1 or len(call.shapes) > 1:
        return call.stay("it is given a state, or returns one")
    made = []
    for name, one in zip(("layer", "backward_layer"), directions, strict=True):
        (channels, *_) = _recurrent(call, one, which="inside")
        labels = channels.labels.ravel()
        made.append(labels)
        config = keras.saving.serialize_keras_object(one)

        def smaller(kept: Kept, config: Any = config, labels: np.ndarray = labels) -> Any:
            return {**config, "config": {**config["config"], "units": int(kept(labels).sum())}}

        call.config(name, smaller)
    if layer.merge_mode == "concat":
        return [Channels.along(call.shapes[0], LAST, np.concatenate(made))]
    call.unite(*made)
    return [Channels.along(call.shapes[0], LAST, made[0])]


LAYERS: dict[str, Rule] = {**dict.fromkeys(_GATES, _recurrent), "Bidirectional": _bidirectional}
