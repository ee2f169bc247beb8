"""Rules of what moves values, joins tensors and takes parts of them.

Where values go is found by the operation itself, which is called on labels in the place of values.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from tfprune.channels.labels import FIXED, Channels, narrowed
from tfprune.channels.rules.activation import along_axis
from tfprune.channels.rules.axes import named_axes
from tfprune.channels.trace import Call, Kept, Rule

# Sizes that are tried for those that are not known: what differs between two depends on the size. Where an
# operation asks for a size that it can divide, the larger ones are.
_TRIED = (2, 3), (12, 24)


def moved(call: Call) -> list[Channels]:
    """Values are moved, whatever the sizes of the axes along which labels differ."""
    return _by_labels(call, lambda channels, size: channels.labels)


def _moved_by_size(call: Call) -> list[Channels]:
    """Values are moved as the sizes of the axes say."""
    return _by_labels(call, _whole)


def _whole(channels: Channels, size: int) -> np.ndarray:
    return np.broadcast_to(channels.labels, [size if one is None else one for one in channels.shape])


def _by_labels(call: Call, values: Callable[[Channels, int], np.ndarray]) -> list[Channels]:
    """Returns where the labels of the inputs go.

    Args:
        call: The call.
        values: Returns the labels of an input on which the operation is called, given a size for what is
            not known.
    """
    if all(one.is_fixed for one in call.inputs):
        return [Channels.fixed(shape) for shape in call.shapes]
    offset = 1 + max(int(one.labels.max()) for one in call.inputs)
    unknown = any(None in one.shape for one in call.inputs)

    def moved_by(size: int) -> list[np.ndarray]:
        def given(argument: Any) -> Any:
            if not isinstance(argument, Channels):
                return argument
            labels = values(argument, size)
            # A batch of two, of which the second has other labels.
            return ops.convert_to_tensor(np.stack([labels, labels + offset]).astype("int32"))

        args, kwargs = keras.tree.map_structure(given, (call.args, call.kwargs))
        return [ops.convert_to_numpy(one) for one in keras.tree.flatten(call.layer.call(*args, **kwargs))]

    for sizes in _TRIED:
        try:
            tried = [moved_by(size) for size in (sizes if unknown else sizes[:1])]
            break
        except Exception:  # Each backend has its own where the sizes do not fit.
            if not unknown:
                raise
    else:
        return call.stay("its shape is not known")
    if any(len(one) != 2 or (one[1] - one[0] != offset).any() for outputs in tried for one in outputs):
        return call.stay("it moves the batch")
    found = [[narrowed(one[0].astype(int)) for one in outputs] for outputs in tried]
    alike = all(np.array_equal(one, other) for one, other in zip(found[0], found[-1], strict=True))
    return (
        [Channels(*one) for one in zip(call.shapes, found[0], strict=True)]
        if alike
        else call.stay("its shape is not known")
    )


def _reshaped(call: Call, setting: str, batch: int) -> list[Channels]:
    """Values take another shape, whose sizes follow from what stays.

    Args:
        call: The call.
        setting: The shape's name in the configuration.
        batch: The number of sizes that it gives to the batch.
    """
    (made,) = map(call.boxed, _moved_by_size(call))
    wanted = list(getattr(call.layer, setting))
    for axis in made.axes():
        labels, place = made.on(axis), axis + batch
        if wanted[place] != -1:
            call.config(
                setting,
                lambda kept: (*wanted[:place], int(kept(labels).sum()), *wanted[place + 1 :]),  # noqa: B023
            )
    return [made]


def _reshape(call: Call) -> list[Channels]:
    return _reshaped(call, "target_shape", 0)


def _reshape_operation(call: Call) -> list[Channels]:
    return _reshaped(call, "newshape", 1)


def _squeeze(call: Call) -> list[Channels]:
    if call.layer.axis is None:
        # Of a channels' axis only one may be left.
        axes = [axis + 1 for axis, size in enumerate(call.inputs[0].shape) if size == 1]
        call.config("axis", lambda kept: axes)
    return _moved_by_size(call)


def _repeat(call: Call) -> list[Channels]:
    return moved(call) if np.size(call.layer.repeats) == 1 else _along_others(call)


def _along_others(call: Call) -> list[Channels]:
    """Places along an axis are named by number: not those of channels."""
    axis = call.layer.axis
    if axis is None or set(named_axes(axis, len(call.inputs[0].shape))) & set(call.inputs[0].axes()):
        return call.stay("it names channels by number")
    if len(call.inputs) > 1:
        return call.stay("what it takes is computed")
    return _moved_by_size(call)


def _pad(call: Call) -> list[Channels]:
    channels = call.inputs[0]
    widths = list(call.layer.pad_width)
    widths = widths if len(widths) > 1 else widths * (len(channels.shape) + 1)
    labels = channels.labels
    for axis in channels.axes():
        before, after = widths[axis + 1]
        if before + after and call.layer.mode != "constant":
            return call.stay("it repeats channels by number")
        sizes = [(before, after) if place == axis else (0, 0) for place in range(labels.ndim)]
        labels = np.pad(labels, sizes, constant_values=FIXED)
    if np.sum(widths[0]):
        return call.stay("it moves the batch")
    return [Channels(call.shapes[0], labels)]


def _joined(call: Call, tensors: list[np.ndarray], axis: int, inputs: tuple[int, ...]) -> list[Channels]:
    """Returns the channels of tensors, whose labels these are, joined along an axis.

    Args:
        call: The call.
        tensors: Their labels, in the size of the tensor along the axis.
        axis: The axis.
        inputs: The axes of the outcome along which the labels of the tensors differ.
    """
    sizes = np.max([one.shape for one in tensors], axis=0)
    tensors = [
        np.broadcast_to(one, [one.shape[axis] if place == axis else size for place, size in enumerate(sizes)])
        for one in tensors
    ]
    made = Channels(call.shapes[0], np.concatenate(tensors, axis))
    # Joined along positions, channels of the same number go together.
    return [call.boxed(made, inputs[0] if inputs else axis)]


def _concatenate(call: Call) -> list[Channels]:
    (axis,) = named_axes(call.layer.axis, len(call.shapes[0]))
    if any(one.shape[axis] is None for one in call.inputs):
        if any(axis in one.axes() for one in call.inputs) or axis < 0:
            return call.stay("its shape is not known")
        sizes = [1] * len(call.inputs)
    else:
        sizes = [one.shape[axis] for one in call.inputs]
    tensors = []
    for one, size in zip(call.inputs, sizes, strict=True):
        wanted = [size if place == axis else each for place, each in enumerate(one.labels.shape)]
        tensors.append(np.broadcast_to(one.labels, wanted))
    return _joined(call, tensors, axis, tuple(place for one in call.inputs for place in one.axes()))


def _stack(call: Call) -> list[Channels]:
    (axis,) = named_axes(call.layer.axis, len(call.shapes[0]))
    if axis < 0:
        return call.stay("it moves the batch")
    tensors = [np.expand_dims(one.labels, axis) for one in call.inputs]
    places = tuple(place + (place >= axis) for one in call.inputs for place in one.axes())
    return _joined(call, tensors, axis, places)


def _split(call: Call) -> list[Channels]:
    """Along channels the places of the cuts follow from what stays."""
    channels = call.inputs[0]
    (axis,) = named_axes(call.layer.axis, len(channels.shape))
    if axis in channels.axes():
        labels = channels.on(axis)
        ends = np.cumsum([shape[axis] for shape in call.shapes])[:-1]
        call.config("indices_or_sections", lambda kept: [int(kept(labels[:end]).sum()) for end in ends])
    return _moved_by_size(call)


def _get_item(call: Call) -> list[Channels]:
    """Takes a part of a tensor; of channels the key follows from what stays."""
    channels = call.inputs[0]
    where, key = (1, call.args[1]) if len(call.args) > 1 else ("key", call.kwargs["key"])
    key = list(key) if isinstance(key, (list, tuple)) else [key]
    if Ellipsis not in key:
        key.append(Ellipsis)
    place = key.index(Ellipsis)
    missing = len(channels.shape) + 1 - sum(one is not None and one is not Ellipsis for one in key)
    key[place : place + 1] = [slice(None)] * missing
    taken = [number for number, one in enumerate(key) if one is not None]
    for axis in channels.axes():
        number, labels = taken[axis + 1], channels.on(axis)
        smaller = _smaller_key(key[number], labels)
        if smaller is None:
            return call.stay("it names channels by number")
        call.argument(where, lambda kept: (*key[:number], smaller(kept), *key[number + 1 :]))  # noqa: B023
    return _moved_by_size(call)


def _smaller_key(one: int | slice, labels: np.ndarray) -> Callable[[Kept], int | slice] | None:
    """Returns a function from what stays to what is taken of it; None if no number or slice says it."""

    def place(kept: Kept, end: int) -> int:
        return int(kept(labels[:end]).sum())

    if isinstance(one, int):
        return lambda kept: place(kept, one % len(labels))
    if one in (slice(None), slice(None, None, 1), slice(None, None, -1)):
        return lambda kept: one
    if one.step not in (None, 1):
        return None
    start, stop, _ = one.indices(len(labels))
    return lambda kept: slice(place(kept, start), place(kept, stop))


LAYERS: dict[str, Rule] = {
    "Flatten": _moved_by_size,
    "Reshape": _reshape,
    "Permute": moved,
    "RepeatVector": moved,
    "Concatenate": _concatenate,
}

OPERATIONS: dict[str, Rule] = {
    **dict.fromkeys(("Transpose", "Swapaxes", "Moveaxis", "ExpandDims", "Flip", "Fliplr", "Tile"), moved),
    **dict.fromkeys(("Ravel", "Unstack"), _moved_by_size),
    "Squeeze": _squeeze,
    "Reshape": _reshape_operation,
    "Repeat": _repeat,
    "Roll": along_axis,
    "Take": _along_others,
    "Pad": _pad,
    "Concatenate": _concatenate,
    "Stack": _stack,
    **dict.fromkeys(("Split", "ArraySplit"), _split),
    "GetItem": _get_item,
}
