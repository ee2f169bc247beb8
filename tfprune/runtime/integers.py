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


def to_int8(kernel: np.ndarray | SparseArray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rounds a kernel so that the errors of the weights of an output cancel.

    Each weight is rounded to the nearest integer. Then, of the weights by which an output channel reads an
    input channel, and after it of all weights of an output channel, those that were nearly halfway are
    rounded the other way, as few as bring the sum of the errors within half a step. Pixels, and what lies
    behind ReLU, are positive on average, so that the sum of the errors counts more than each of them
    (SQuant, arXiv:2202.07471). Weights that were rounded already stay as they are.

    Args:
        kernel: float32 `[..., input channels, output channels]`.

    Returns:
        The positions of the weights that are not zero (flattened, row-major, increasing), an int8 for each
            from -127 to 127, which may be zero, and the scales as of `channel_scales`.
    """
    positions, values = nonzeros(kernel)
    scales = channel_scales(kernel)
    output = positions % kernel.shape[-1]
    steps = values / scales[output]
    integers = np.rint(steps)
    errors = integers - steps
    errors[np.abs(errors) <= _ON_STEPS * LARGEST_INT8] = 0
    if np.prod(kernel.shape[:-2]) > 1:
        _cancel(integers, errors, positions % np.prod(kernel.shape[-2:]))
    _cancel(integers, errors, output)
    return positions, np.clip(integers, -LARGEST_INT8, LARGEST_INT8).astype(np.int8), scales


def _cancel(integers: np.ndarray, errors: np.ndarray, group: np.ndarray) -> None:
    """Rounds the other way, in place, as few weights as bring each group's errors within half a step."""
    excess = np.rint(np.bincount(group, errors))
    way = np.sign(excess)[group]
    wrong = np.flatnonzero(errors * way > 0)
    wrong = wrong[np.lexsort((-np.abs(errors[wrong]), group[wrong]))]
    of_group = group[wrong]
    rank = np.arange(len(wrong)) - np.searchsorted(of_group, of_group)
    turned = wrong[rank < np.abs(excess[of_group])]
    integers[turned] -= way[turned]
    errors[turned] -= way[turned]
