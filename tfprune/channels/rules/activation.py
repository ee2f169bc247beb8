"""Rules of what computes with each value by itself: activations, dropout, casts."""

from tfprune.channels.labels import Channels
from tfprune.channels.rules.axes import mixes, name_of
from tfprune.channels.trace import Call, Rule


def same(call: Call) -> list[Channels]:
    """Each value becomes one, whatever the others are."""
    return [Channels(shape, call.inputs[0].labels) for shape in call.shapes]


def _activation(call: Call) -> list[Channels]:
    if mixes(call.layer):
        return call.stay(f"{name_of(call.layer.activation)} over its channels")
    return same(call)


def _softmax(call: Call) -> list[Channels]:
    axes = call.layer.axis
    rank = len(call.inputs[0].shape)
    over = {axis % (rank + 1) - 1 for axis in (axes if isinstance(axes, (list, tuple)) else [axes])}
    if over & set(call.inputs[0].axes()):
        return call.stay("softmax over its channels")
    return same(call)


def _masking(call: Call) -> list[Channels]:
    return call.stay("it compares all channels of a step with its value")


def _prelu(call: Call) -> list[Channels]:
    channels, alpha = call.inputs[0], call.layer.alpha
    for axis in channels.axes():
        if alpha.shape[axis] > 1:
            labels = channels.on(axis)
            if labels is None:
                return call.stay("its slopes are of channels and positions")
            call.weight(alpha, axis, labels, "scales")
    return same(call)


LAYERS: dict[str, Rule] = {
    "Activation": _activation,
    "Softmax": _softmax,
    "PReLU": _prelu,
    "Masking": _masking,
    **dict.fromkeys(
        (
            *("ReLU", "LeakyReLU", "ELU", "Identity", "ActivityRegularization"),
            *("Dropout", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D"),
            *("GaussianDropout", "GaussianNoise", "AlphaDropout"),
        ),
        same,
    ),
}

OPERATIONS: dict[str, Rule] = dict.fromkeys(
    (
        *("Relu", "Relu6", "Sigmoid", "HardSigmoid", "HardSilu", "Silu", "Tanh", "Gelu", "Elu", "Selu"),
        *("LeakyRelu", "Softplus", "Softsign", "Abs", "Absolute", "Negative", "Square", "Sqrt", "Exp"),
        *("Clip", "Cast", "Log", "Log1p", "Rsqrt", "Mish", "Celu", "HardTanh", "Identity", "Reciprocal"),
    ),
    same,
)
