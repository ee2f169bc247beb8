"""Rules of what computes with positions and hands channels on: pooling, padding, means."""

from tfprune.channels.labels import Channels
from tfprune.channels.rules.axes import LAST, channel_axis, take
from tfprune.channels.trace import Call, Rule


def positions(call: Call) -> list[Channels]:
    """Positions change, channels pass."""
    axis = channel_axis(call.layer)
    taken = take(call, axis)
    return [Channels.along(shape, axis, taken) for shape in call.shapes]


def _global_pooling(call: Call) -> list[Channels]:
    taken = take(call, channel_axis(call.layer))
    axis = channel_axis(call.layer) if len(call.shapes[0]) > 1 else 0
    return [Channels.along(call.shapes[0], axis, taken)]


def _repeat_vector(call: Call) -> list[Channels]:
    return [Channels.along(call.shapes[0], LAST, take(call, LAST))]


def _reduce(call: Call) -> list[Channels]:
    operation, channels = call.layer, call.inputs[0]
    rank = len(channels.shape)
    axes = operation.axis
    if axes is None:
        return call.stay("it reduces the channels")
    axes = {axis % (rank + 1) - 1 for axis in (axes if isinstance(axes, (list, tuple)) else [axes])}
    if axes & set(channels.axes()) or -1 in axes:
        return call.stay("it reduces the channels")
    labels = channels.labels
    if not operation.keepdims:
        labels = labels.squeeze(tuple(axes))
    return [Channels(call.shapes[0], labels)]


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
    "RepeatVector": _repeat_vector,
}

OPERATIONS: dict[str, Rule] = dict.fromkeys(("Mean", "Sum", "Max", "Min"), _reduce)
