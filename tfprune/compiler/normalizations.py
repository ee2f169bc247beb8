"""Keras's normalizations, and arithmetic with constants: a scale and a shift for each channel."""

from typing import Any

import keras
import numpy as np

from tfprune.compiler.convolutions import read_weight
from tfprune.compiler.draft import Affine, Call, Draft, Value


def batch_normalization(draft: Draft, call: Call) -> int:
    """`BatchNormalization` with its moving statistics."""
    layer = call.operation
    if layer.axis not in (-1, call.rank - 1):
        raise call.refuse(f"`axis` must be the last one. Received: axis={layer.axis}")
    scale = 1.0 / np.sqrt(read_weight(call, layer.moving_variance) + layer.epsilon)
    if layer.scale:
        scale = scale * read_weight(call, layer.gamma)
    shift = -read_weight(call, layer.moving_mean) * scale
    if layer.center:
        shift = shift + read_weight(call, layer.beta)
    return _add_affine(draft, call, call.input, scale, shift)


def normalization(draft: Draft, call: Call) -> int:
    """`Normalization`: `(x - mean) / max(sqrt(variance), epsilon)`, or its inverse."""
    layer = call.operation
    mean, variance = read_weight(call, layer.mean), read_weight(call, layer.variance)
    deviation = np.maximum(np.sqrt(variance), keras.config.epsilon())
    if layer.invert:
        return _add_affine(draft, call, call.input, deviation, mean)
    return _add_affine(draft, call, call.input, 1.0 / deviation, -mean / deviation)


def rescaling(draft: Draft, call: Call) -> int:
    """`Rescaling`: `x * scale + offset`."""
    layer = call.operation
    if keras.config.image_data_format() != "channels_last" and np.ndim(layer.scale):
        raise call.refuse("`keras.config.image_data_format()` must be 'channels_last'")
    return _add_affine(draft, call, call.input, layer.scale, layer.offset)


def constant_operand(draft: Draft, call: Call) -> int | None:
    """`keras.ops` arithmetic of a tensor with a constant, such as `x / 255.0`.

    Args:
        draft: Where to append.
        call: Of `Add`, `Subtract`, `Multiply`, `Divide` or `TrueDivide`.

    Returns:
        The node's index; None if both operands are tensors.
    """
    if len(call.inputs) != 1 or len(call.arguments) != 2:
        return None
    first, second = call.arguments
    kind = type(call.operation).__name__
    reversed_order = isinstance(second, Value)
    constant = read_weight(call, first if reversed_order else second)
    scale, shift = 1.0, 0.0
    if kind == "Add":
        shift = constant
    elif kind == "Subtract":
        scale, shift = (-1.0, constant) if reversed_order else (1.0, -constant)
    elif kind == "Multiply":
        scale = constant
    elif reversed_order:
        raise call.refuse("a constant divided by a tensor")
    else:
        scale = 1.0 / constant
    return _add_affine(draft, call, call.input, scale, shift)


def _add_affine(draft: Draft, call: Call, source: Value, scale: Any, shift: Any) -> int:
    channels = draft.shapes[source.node][2]
    scale, shift = (_for_each_channel(call, array, channels) for array in (scale, shift))
    return draft.add(Affine(call.name, (source.node,), scale, shift), call)


def _for_each_channel(call: Call, array: Any, channels: int) -> np.ndarray:
    array = np.asarray(array, np.float64)
    one_value = array.size == 1
    if not one_value and array.size != (array.shape or (1,))[-1]:
        raise call.refuse(f"it must scale and shift each channel as a whole. Received: shape {array.shape}")
    if not one_value and array.size != channels:
        raise call.refuse(f"it must have a number for each of {channels} channels. Received: {array.size}")
    return np.broadcast_to(array.reshape(-1), (channels,)).copy()
