"""Scales and shifts: what layers and operations that have nothing to learn do to each channel."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

Refuse = Callable[[str], Exception]


def affine_of_layer(layer: Any, refuse: Refuse) -> tuple[np.ndarray, np.ndarray]:
    """Returns the scale and the shift of a built `Normalization` or a `Rescaling`, float64, of any shape.

    Args:
        layer: The layer.
        refuse: Makes the error from the rule that is broken.
    """
    if isinstance(layer, keras.layers.Rescaling):
        if keras.config.image_data_format() != "channels_last" and np.ndim(layer.scale):
            raise refuse("`keras.config.image_data_format()` must be 'channels_last'")
        return np.asarray(layer.scale, np.float64), np.asarray(layer.offset, np.float64)
    if layer.mean is None:
        raise refuse("the layer must be built")
    # (x - mean) / max(sqrt(variance), epsilon), or its inverse.
    mean, variance = (
        np.asarray(keras.ops.convert_to_numpy(number)).astype(np.float64)
        for number in (layer.mean, layer.variance)
    )
    deviation = np.maximum(np.sqrt(variance), keras.config.epsilon())
    return (deviation, mean) if layer.invert else (1.0 / deviation, -mean / deviation)


def affine_of_operation(
    name: str, constant: np.ndarray, constant_first: bool
) -> tuple[np.ndarray | float, np.ndarray | float] | None:
    """Returns the scale and the shift of a sum, difference, product or quotient with a constant.

    Args:
        name: The class of the operation: Add, Subtract, Multiply, Divide or TrueDivide.
        constant: The other operand.
        constant_first: Whether it is the first of the two.

    Returns:
        None where a constant is divided by a tensor.
    """
    match name:
        case "Add":
            return 1.0, constant
        case "Subtract":
            return (-1.0, constant) if constant_first else (1.0, -constant)
        case "Multiply":
            return constant, 0.0
    return None if constant_first else (1.0 / constant, 0.0)


def for_each_channel(array: Any, channels: int, refuse: Refuse) -> np.ndarray:
    """Returns a number for each channel, float64, from one number or an array of a number for each.

    Args:
        array: The scale or the shift.
        channels: Of the tensor.
        refuse: Makes the error from the rule that is broken.
    """
    array = np.asarray(array, np.float64)
    one_value = array.size == 1
    if not one_value and array.size != (array.shape or (1,))[-1]:
        raise refuse(f"it must scale and shift each channel as a whole. Received: shape {array.shape}")
    if not one_value and array.size != channels:
        raise refuse(f"it must have a number for each of {channels} channels. Received: {array.size}")
    return np.broadcast_to(array.reshape(-1), (channels,)).copy()
