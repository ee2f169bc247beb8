"""Rules of what joins tensors, and takes parts of them."""

import numpy as np

from tfprune.channels.labels import Channels, narrowed
from tfprune.channels.trace import Call, Rule


def _concatenate(call: Call) -> list[Channels]:
    rank = len(call.shapes[0])
    axis = call.layer.axis % (rank + 1) - 1
    tensors = call.inputs
    sizes = [1] * rank
    for other in range(rank):
        if other != axis:
            sizes[other] = max(one.labels.shape[other] for one in tensors)
    parts = []
    for one in tensors:
        if one.shape[axis] is None:
            return call.stay("its shape is not known")
        wanted = [one.shape[axis] if other == axis else size for other, size in enumerate(sizes)]
        parts.append(np.broadcast_to(one.labels, wanted))
    if any(size > 1 for size in sizes):
        # Joined along positions: what meets along the channels goes together.
        first = [part.take([0], axis) for part in parts]
        for one, tensor in zip(first[1:], tensors[1:], strict=True):
            if axis in tensor.axes() or axis in tensors[0].axes():
                return call.stay("it joins channels and positions")
            call.unite(first[0], one)
        return [Channels(call.shapes[0], first[0])]
    return [Channels(call.shapes[0], narrowed(np.concatenate(parts, axis)))]


def _split(call: Call) -> list[Channels]:
    """Parts of a tensor; along channels the places of the cuts follow from what stays."""
    operation, channels = call.layer, call.inputs[0]
    rank = len(channels.shape)
    axis = operation.axis % (rank + 1) - 1
    if axis not in channels.axes():
        return [Channels(shape, channels.labels) for shape in call.shapes]
    sizes = [shape[axis] for shape in call.shapes]
    ends = np.cumsum(sizes)
    parts = np.split(channels.labels, ends[:-1], axis)
    labels = channels.on(axis)
    if labels is None:
        return call.stay("it splits channels and positions")
    call.config("indices_or_sections", lambda kept: np.cumsum(kept(labels))[ends[:-1] - 1].tolist())
    return [Channels(shape, narrowed(part)) for shape, part in zip(call.shapes, parts, strict=True)]


def _get_item(call: Call) -> list[Channels]:
    """A part of a tensor; the channels must be taken whole."""
    channels = call.inputs[0]
    key = call.args[1] if len(call.args) > 1 else call.kwargs.get("key")
    key = key if isinstance(key, tuple) else (key,)
    if channels.is_fixed:
        return [Channels.fixed(call.shapes[0])]
    plain = all(isinstance(one, (slice, int)) for one in key)
    if not plain or not key or key[0] != slice(None):
        return call.stay("it takes part of its channels")
    labels, gone = channels.labels, []
    for axis, one in enumerate(key[1:]):
        if axis in channels.axes():
            if one != slice(None):
                return call.stay("it takes part of its channels")
        elif isinstance(one, int):
            gone.append(axis)
    return [Channels(call.shapes[0], labels.squeeze(tuple(gone)) if gone else labels)]


LAYERS: dict[str, Rule] = {"Concatenate": _concatenate}

OPERATIONS: dict[str, Rule] = {
    "Concatenate": _concatenate,
    "Split": _split,
    "GetItem": _get_item,
}
