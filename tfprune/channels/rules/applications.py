"""Rules for the layers that `keras.applications` brings of its own."""

from tfprune.channels.labels import Channels
from tfprune.channels.rules.activation import same
from tfprune.channels.rules.arithmetic import elementwise
from tfprune.channels.rules.axes import LAST
from tfprune.channels.trace import Call, Rule


def _layer_scale(call: Call) -> list[Channels]:
    taken = call.take(LAST)
    call.weight(call.layer.gamma, 0, taken, "scales")
    call.config("projection_dim", taken)
    return [Channels.along(call.shapes[0], LAST, taken)]


LAYERS: dict[str, Rule] = {
    "LayerScale": _layer_scale,
    "StochasticDepth": same,
    "CustomScaleLayer": elementwise,
}
