"""Rules of normalisation."""

from typing import Any

from tfprune.channels.labels import Channels
from tfprune.channels.rules.axes import take
from tfprune.channels.trace import Call, Rule


def normalized_axis(layer: Any, rank: int) -> int | None:
    """Returns the one axis, without the batch's, along which a normalisation has its parameters."""
    axes = layer.axis if isinstance(layer.axis, (list, tuple)) else [layer.axis]
    if len(axes) != 1:
        return None
    return axes[0] % (rank + 1) - 1


def _batch_normalization(call: Call) -> list[Channels]:
    layer, channels = call.layer, call.inputs[0]
    axis = normalized_axis(layer, len(channels.shape))
    if axis is None:
        return call.stay("it normalises along several axes")
    taken = take(call, axis)
    for variable in layer.variables:
        if len(variable.shape) == 1:
            call.weight(variable, 0, taken, "scales")
    return [Channels.along(call.shapes[0], axis, taken)]


def _layer_normalization(call: Call) -> list[Channels]:
    layer, channels = call.layer, call.inputs[0]
    axis = normalized_axis(layer, len(channels.shape))
    if axis is None:
        return call.stay("it normalises along several axes")
    taken = take(call, axis)
    call.mix(taken, "it normalises over its channels")
    for variable in layer.weights:
        call.weight(variable, 0, taken, "scales")
    return [Channels.along(call.shapes[0], axis, taken)]


def _unit_normalization(call: Call) -> list[Channels]:
    axis = normalized_axis(call.layer, len(call.inputs[0].shape))
    if axis is None:
        return call.stay("it normalises along several axes")
    call.mix(call.inputs[0], "it normalises over its channels")
    return list(call.inputs)


def _group_normalization(call: Call) -> list[Channels]:
    """Whole groups go, so that what stays is normalised as before."""
    layer, channels = call.layer, call.inputs[0]
    axis = normalized_axis(layer, len(channels.shape))
    taken = take(call, axis)
    groups = layer.groups if layer.groups != -1 else len(taken)
    together = taken.reshape(groups, -1)
    call.unite(together[:, :1], together)
    call.config("groups", lambda kept: int(kept(together[:, 0]).sum()))
    for variable in layer.weights:
        call.weight(variable, 0, taken, "scales")
    return [Channels.along(call.shapes[0], axis, taken)]


LAYERS: dict[str, Rule] = {
    "BatchNormalization": _batch_normalization,
    "LayerNormalization": _layer_normalization,
    "RMSNormalization": _layer_normalization,
    "UnitNormalization": _unit_normalization,
    "GroupNormalization": _group_normalization,
}
