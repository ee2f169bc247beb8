"""Rules of normalisation.

Batch normalisation computes with each channel by itself, group normalisation with whole groups, so that
what stays of a smaller model has the values that it had. Layer, RMS and unit normalisation compute with all
channels: without some of them, the others are normalised over what stays, as in a network that was built so
narrow. Such channels are `mixed`: a plan may choose them, as Torch-Pruning does, and no mask of the whole
model computes the same; what is exact, `shrink`, keeps them.
"""

from tfprune.channels.labels import Channels
from tfprune.channels.rules.activation import same
from tfprune.channels.rules.axes import named_axes
from tfprune.channels.trace import Call, Rule


def _scale(call: Call) -> bool:
    """Notes the weights of a normalisation; returns whether it normalises over the channels' axis."""
    channels = call.inputs[0]
    over = named_axes(call.layer.axis, len(channels.shape))
    for axis in channels.axes():
        if axis in over:
            for variable in call.layer.weights:
                call.weight(variable, over.index(axis), channels.on(axis), "scales")
            return True
    return False


def _batch_normalization(call: Call) -> list[Channels]:
    _scale(call)
    return same(call)


def _over_channels(call: Call) -> list[Channels]:
    if _scale(call):
        call.mix(call.inputs[0], "it normalises over its channels")
    return same(call)


def _group_normalization(call: Call) -> list[Channels]:
    """Whole groups go, so that what stays is normalised as before."""
    layer, channels = call.layer, call.inputs[0]
    if channels.is_fixed:
        return same(call)
    (axis,) = named_axes(layer.axis, len(channels.shape))
    if channels.axes() != (axis,):
        return call.stay("it normalises over channels and positions together")
    taken = channels.on(axis)
    together = taken.reshape(layer.groups, -1)
    call.unite(together[:, :1], together)
    call.config("groups", together[:, 0])
    _scale(call)
    return same(call)


LAYERS: dict[str, Rule] = {
    "BatchNormalization": _batch_normalization,
    **dict.fromkeys(("LayerNormalization", "RMSNormalization", "UnitNormalization"), _over_channels),
    "GroupNormalization": _group_normalization,
}
