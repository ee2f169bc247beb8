"""Rules of what moves axes, or joins and parts them."""

from collections.abc import Sequence

import numpy as np

from tfprune.channels.labels import Channels, narrowed
from tfprune.channels.rules.axes import channel_axis
from tfprune.channels.trace import Call, Rule


def _reshaped(call: Call, shape: Sequence[int | None], setting: str | None) -> list[Channels]:
    """A reshape of whole channels, whose sizes follow from what stays."""
    channels = call.inputs[0]
    if channels.is_fixed:
        return [Channels.fixed(shape)]
    whole = channels.whole()
    if whole is None or None in shape:
        return call.stay("its shape is not known")
    labels = narrowed(whole.reshape(shape))
    made = Channels(tuple(shape), labels)
    if len(made.axes()) > 1:
        # Only channels that lie along one axis can go from a box: those of a row go together.
        axis = made.axes()[0]
        rows = np.moveaxis(labels, axis, 0).reshape(labels.shape[axis], -1)
        call.unite(rows[:, :1], rows)
        made = Channels.along(shape, axis, rows[:, 0])
    if setting is not None:
        (axis,) = made.axes()
        along = made.on(axis)
        call.config(
            setting,
            lambda kept: tuple(int(kept(along).sum()) if i == axis else size for i, size in enumerate(shape)),
        )
    return [made]


def _flatten(call: Call) -> list[Channels]:
    channels = call.inputs[0]
    if channel_axis(call.layer) == 0 and not channels.is_fixed and len(channels.shape) > 1:
        # Keras moves the channels to the end first.
        moved = Channels(
            (*channels.shape[1:], channels.shape[0]),
            np.moveaxis(channels.labels, 0, -1),
        )
        call.inputs[0] = moved
    return _reshaped(call, call.shapes[0], None)


def _reshape(call: Call) -> list[Channels]:
    return _reshaped(call, call.shapes[0], "target_shape")


def _permute(call: Call) -> list[Channels]:
    order = [place - 1 for place in call.layer.dims]
    return [Channels(call.shapes[0], call.inputs[0].labels.transpose(order))]


def _transpose(call: Call) -> list[Channels]:
    axes = call.layer.axes
    if axes is None or axes[0] != 0:
        return call.stay("it moves the batch")
    return [Channels(call.shapes[0], call.inputs[0].labels.transpose([axis - 1 for axis in axes[1:]]))]


def _expand_dims(call: Call) -> list[Channels]:
    axes = call.layer.axis
    labels = call.inputs[0].labels
    rank = len(call.shapes[0]) + 1
    for axis in sorted(axis % rank for axis in (axes if isinstance(axes, (list, tuple)) else [axes])):
        if axis == 0:
            return call.stay("it moves the batch")
        labels = np.expand_dims(labels, axis - 1)
    return [Channels(call.shapes[0], labels)]


def _squeeze(call: Call) -> list[Channels]:
    axes = call.layer.axis
    shape = call.inputs[0].shape
    if axes is None:
        axes = [place + 1 for place, size in enumerate(shape) if size == 1]
    rank = len(shape) + 1
    gone = tuple(axis % rank - 1 for axis in (axes if isinstance(axes, (list, tuple)) else [axes]))
    return [Channels(call.shapes[0], call.inputs[0].labels.squeeze(gone))]


def _reshape_operation(call: Call) -> list[Channels]:
    return _reshaped(call, call.shapes[0], "newshape")


LAYERS: dict[str, Rule] = {"Flatten": _flatten, "Reshape": _reshape, "Permute": _permute}

OPERATIONS: dict[str, Rule] = {
    "Transpose": _transpose,
    "ExpandDims": _expand_dims,
    "Squeeze": _squeeze,
    "Reshape": _reshape_operation,
}
