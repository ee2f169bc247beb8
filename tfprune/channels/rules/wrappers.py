"""Rules for layers that call another layer."""

from collections.abc import Sequence

import numpy as np

from tfprune.channels.labels import Channels
from tfprune.channels.trace import Call, Rule


def _time_distributed(call: Call) -> list[Channels]:
    """The layer inside sees one step: no time axis."""
    channels = call.inputs[0]
    if 0 in channels.axes():
        return call.stay("its channels differ from step to step")
    step = Channels(channels.shape[1:], channels.labels[0])
    made = call.held("layer", call.layer.layer, [step], [shape[1:] for shape in call.shapes])
    return [
        Channels(shape, np.expand_dims(one.labels, 0)) for shape, one in zip(call.shapes, made, strict=True)
    ]


def _spectral_normalization(call: Call) -> Sequence[Channels]:
    layer = call.layer
    made = call.held("layer", layer.layer, call.inputs, call.shapes)
    for one in list(call.slices):
        # The vector has as many places as the kernel's last axis.
        if one.variable is layer.kernel and one.axis % len(layer.kernel.shape) == len(layer.kernel.shape) - 1:
            call.weight(layer.vector_u, 1, one.labels, "masks")
    return made


LAYERS: dict[str, Rule] = {
    "TimeDistributed": _time_distributed,
    "SpectralNormalization": _spectral_normalization,
}
