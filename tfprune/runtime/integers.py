"""Weights as 8-bit integers: symmetric about zero, with a scale for each output channel.

The largest weight of a channel is 127 steps of its scale. What was rounded once stays as it is when it is
rounded again, in parts too: where a channel has lost its largest weights since (an input was cut, a
transposed kernel was taken apart), the steps that are left are found.
"""

import numpy as np

from tfprune.runtime.sparse_array import SparseArray, nonzeros

# Symmetric: -128 is not used.
LARGEST_INT8 = 127
# Weights this near to whole steps, as a share of the largest, have been rounded already: a few roundings of
# float32. Two numbers of steps of 127 at most are 150 times as far from each other.
_ON_STEPS = 4e-7
# Of each channel, about so many weights say quickly that they have not.
_FIRST_WEIGHTS = 64


def channel_scales(kernel: np.ndarray | SparseArray) -> np.ndarray:
    """Returns what the integers of each output channel are multiplied by.

    Args:
        kernel: float32 `[..., output channels]`.

    Returns:
        float32 `[output channels]`: the largest absolute weight / 127, or over the most steps below 127 of
            which all weights of the channel are whole numbers; 1 for a channel of zeros, and where float32
            has no such number.
    """
    positions, values = nonzeros(kernel)
    channels = kernel.shape[-1]
    largest = np.zeros(channels, np.float32)
    np.maximum.at(largest, positions % channels, np.abs(values))
    steps = _steps_of_largest(positions % channels, values, largest)
    scales = largest / steps
    with np.errstate(over="ignore"):  # The rounded quotient of the largest number may be too large.
        scales = np.where(np.isinf(scales * steps), np.nextafter(scales, np.float32(0)), scales)
    return np.where(scales > 0, scales, np.float32(1)).astype(np.float32)


def _steps_of_largest(channel: np.ndarray, values: np.ndarray, largest: np.ndarray) -> np.ndarray:
    """Returns how many steps each channel's largest weight is, the most of which all are whole numbers.

    Args:
        channel: The channel of each weight.
        values: float32, the weights that are not zero.
        largest: float32 `[channels]`.

    Returns:
        float32 `[channels]`, from 1 to 127; 127 where there are no such steps.
    """
    found = np.full(len(largest), LARGEST_INT8, np.float32)
    shares = np.abs(values) / largest[channel]
    steps = range(LARGEST_INT8, 0, -1)
    first = slice(_FIRST_WEIGHTS * len(largest))
    early, weights = channel[first], shares[first]
    possible = np.array([_on_steps(early, weights, count, len(largest)) for count in steps])
    # Of a network that was never rounded next to no channel goes on from here.
    left = possible.any(axis=0)
    kept = left[channel]
    channel, shares = channel[kept], shares[kept]
    for count, may_be in zip(steps, possible, strict=True):
        if not (left & may_be).any():
            continue
        fits = left & may_be & _on_steps(channel, shares, count, len(largest))
        found[fits] = count
        left &= ~fits
    return found


def _on_steps(channel: np.ndarray, shares: np.ndarray, count: int, channels: int) -> np.ndarray:
    """Returns for each channel whether its shares of the largest weight are whole numbers of 1 / count."""
    scaled = shares * np.float32(count)
    off = np.abs(scaled - np.rint(scaled)) > _ON_STEPS * count
    return np.bincount(channel[off], minlength=channels) == 0


def to_int8(values: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Returns the nearest integers.

    Args:
        values: float32 weights.
        scales: float32, the scale of each.

    Returns:
        int8 from -127 to 127, of the shape of `values`.
    """
    return np.clip(np.rint(values / scales), -LARGEST_INT8, LARGEST_INT8).astype(np.int8)
