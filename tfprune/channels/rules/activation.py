"""Rules of what computes with each value by itself, or along one axis: activations, dropout, sums so far."""

from tfprune.channels.labels import Channels
from tfprune.channels.rules.axes import mixing, named_axes
from tfprune.channels.trace import Call, Rule


def same(call: Call) -> list[Channels]:
    """Each value becomes one, whatever the others are."""
    return [Channels(shape, call.inputs[0].labels) for shape in call.shapes]


def _activation(call: Call) -> list[Channels]:
    reason = mixing(call.layer.activation)
    return call.stay(reason) if reason else same(call)


def along_axis(call: Call) -> list[Channels]:
    """The values along an axis are computed together, those of each place of the others by themselves."""
    channels = call.inputs[0]
    axis = call.layer.axis
    over = (-1,) if axis is None else named_axes(axis, len(channels.shape))
    if -1 in over or set(over) & set(channels.axes()):
        return call.stay("it computes with its channels together")
    return same(call)


def _normalize(call: Call) -> list[Channels]:
    channels = call.inputs[0]
    if set(named_axes(call.layer.axis, len(channels.shape))) & set(channels.axes()):
        call.mix(channels, "it normalises over its channels")
    return same(call)


def _prelu(call: Call) -> list[Channels]:
    channels, alpha = call.inputs[0], call.layer.alpha
    for axis in channels.axes():
        if alpha.shape[axis] > 1:
            call.weight(alpha, axis, channels.on(axis), "scales")
    return same(call)


def _masking(call: Call) -> list[Channels]:
    return call.stay("it compares all channels of a step with its value")


LAYERS: dict[str, Rule] = {
    "Activation": _activation,
    "Softmax": along_axis,
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

OPERATIONS: dict[str, Rule] = {
    **dict.fromkeys(
        (
            *("Relu", "Relu6", "Sigmoid", "SparseSigmoid", "LogSigmoid", "HardSigmoid", "HardSilu", "Silu"),
            *("Tanh", "HardTanh", "TanhShrink", "Softplus", "Softsign", "SoftShrink", "HardShrink"),
            *("SparsePlus", "Squareplus", "LeakyRelu", "Elu", "Selu", "Celu", "Gelu", "Mish", "Threshold"),
            *("Absolute", "Abs", "Fabs", "Negative", "Sign", "Signbit", "Square", "Sqrt", "Rsqrt", "Cbrt"),
            *("Reciprocal", "Exp", "Exp2", "Expm1", "Log", "Log2", "Log10", "Log1p", "Erf", "Erfc", "Erfinv"),
            *("Sin", "Cos", "Tan", "Sinh", "Cosh", "Sinc", "Arcsin", "Arccos", "Arctan", "Arcsinh"),
            *("Arccosh", "Arctanh", "Deg2rad", "Rad2deg", "I0", "Round", "Floor", "Ceil", "Trunc", "Clip"),
            *("Cast", "SaturateCast", "Copy", "Identity", "StopGradient", "NanToNum", "ConvertToTensor"),
            *("Isfinite", "Isinf", "Isnan", "LogicalNot", "BitwiseNot", "BitwiseInvert", "Real"),
            *("ZerosLike", "OnesLike", "FullLike"),
        ),
        same,
    ),
    **dict.fromkeys(
        ("Softmax", "LogSoftmax", "Sparsemax", "Cumsum", "Cumprod", "Sort", "Argsort"), along_axis
    ),
    "Normalize": _normalize,
}
