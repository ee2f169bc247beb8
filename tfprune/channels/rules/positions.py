"""Rules of what computes with positions and hands channels on: pooling, padding, means."""

from tfprune.channels.labels import Channels
from tfprune.channels.rules.axes import channel_axis, named_axes
from tfprune.channels.trace import Call, Rule
from tfprune.network.kinds import builtin_operation


def positions(call: Call) -> list[Channels]:
    """Positions change, channels pass."""
    axis = channel_axis(call.layer)
    taken = call.take(axis)
    return [Channels.along(shape, axis, taken) for shape in call.shapes]


def _global_pooling(call: Call) -> list[Channels]:
    taken = call.take(channel_axis(call.layer))
    axis = channel_axis(call.layer) if len(call.shapes[0]) > 1 else 0
    return [Channels.along(call.shapes[0], axis, taken)]


def _reduced(call: Call) -> list[Channels]:
    """Values along some axes become one."""
    operation, channels = call.layer, call.inputs[0]
    if operation.axis is None:
        return call.stay("it computes with its channels together")
    over = named_axes(operation.axis, len(channels.shape))
    across = bool(set(over) & set(channels.axes()))
    if -1 in over or (across and builtin_operation(operation) != "Sum"):
        return call.stay("it computes with its channels together")
    if across:
        call.mix(channels, "it sums over its channels")
        return [Channels.fixed(call.shapes[0])]
    keeps = getattr(operation, "keepdims", False)
    return [Channels(call.shapes[0], channels.labels.squeeze(() if keeps else over))]


LAYERS: dict[str, Rule] = {
    **dict.fromkeys(
        (
            *(f"{kind}Pooling{n}D" for kind in ("Max", "Average") for n in (1, 2, 3)),
            *(f"{kind}{n}D" for kind in ("UpSampling", "ZeroPadding", "Cropping") for n in (1, 2, 3)),
            *(f"Adaptive{kind}Pooling{n}D" for kind in ("Max", "Average") for n in (1, 2, 3)),
        ),
        positions,
    ),
    **dict.fromkeys(
        [f"Global{kind}Pooling{n}D" for kind in ("Max", "Average") for n in (1, 2, 3)], _global_pooling
    ),
}

OPERATIONS: dict[str, Rule] = {
    **dict.fromkeys(
        (
            *("Mean", "Sum", "Max", "Min", "Amax", "Amin", "Prod", "Var", "Std", "Median", "Any", "All"),
            *("Argmax", "Argmin", "CountNonzero", "Logsumexp", "Norm", "Ptp"),
            *(f"Nan{kind}" for kind in ("max", "min", "mean", "sum", "prod", "var", "std", "median")),
        ),
        _reduced,
    ),
    **dict.fromkeys(
        ("MaxPool", "AveragePool", "AdaptiveMaxPool", "AdaptiveAveragePool", "Resize", "GaussianBlur"),
        positions,
    ),
}
