"""Weights as 8-bit integers: symmetric about zero, with a scale for each output channel.

What was rounded once is rounded to the same integers again: a scale is that of the largest weight, which is
127 steps of it.
"""

import numpy as np

from tfprune.runtime.sparse_array import SparseArray, nonzeros

# Symmetric: -128 is not used.
LARGEST_INT8 = 127


def channel_scales(kernel: np.ndarray | SparseArray) -> np.ndarray:
    """Returns what the integers of each output channel are multiplied by.

    Args:
        kernel: float32 `[..., output channels]`.

    Returns:
        float32 `[output channels]`: the largest absolute weight / 127; 1 for a channel of zeros, and where
            float32 has no such number.
    """
    positions, values = nonzeros(kernel)
    channels = kernel.shape[-1]
    largest = np.zeros(channels, np.float32)
    np.maximum.at(largest, positions % channels, np.abs(values))
    scales = largest / np.float32(LARGEST_INT8)
    with np.errstate(over="ignore"):  # The rounded quotient of the largest number may be too large.
        scales = np.where(np.isinf(scales * LARGEST_INT8), np.nextafter(scales, np.float32(0)), scales)
    return np.where(scales > 0, scales, np.float32(1)).astype(np.float32)


def to_int8(values: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Returns the nearest integers.

    Args:
        values: float32 weights.
        scales: float32, the scale of each.

    Returns:
        int8 from -127 to 127, of the shape of `values`.
    """
    return np.clip(np.rint(values / scales), -LARGEST_INT8, LARGEST_INT8).astype(np.int8)
