"""Weights as 8-bit integers: symmetric about zero, with a scale for each output channel.

The largest weight of a channel is 127 steps of its scale. What was rounded once stays as it is when it is
rounded again, in parts too: where a channel has lost its largest weights since (an input was cut, a
transposed kernel was taken apart), the steps that are left are found.
"""

from collections.abc import Iterator

import numpy as np

from tfprune.runtime.sparse_array import SparseArray, nonzeros

# Symmetric: -128 is not used.
LARGEST_INT8 = 127
# Weights this near to whole steps, as a share of the largest, have been rounded already: a few roundings of
# float32. Two numbers of steps of 127 at most are 150 times as far from each other.
_ON_STEPS = 4e-7
# Of each channel, about so many weights say quickly that they have not.
_FIRST_WEIGHTS = 64
# Errors above this are of weights nearly halfway. Few outputs have too few such; no others need be sorted.
_NEARLY_HALFWAY = 0.4
# Weights that are worked on at a time: what is computed for each takes memory for these only.
_AT_A_TIME = 2**20


def channel_scales(kernel: np.ndarray | SparseArray) -> np.ndarray:
    """Returns what the integers of each output channel are multiplied by.

    Args:
        kernel: float32 `[..., output channels]`.

    Returns:
        float32 `[output channels]`: the largest absolute weight / 127, or over the most steps below 127 of
            which all weights of the channel are whole numbers; 1 for a channel of zeros, and where float32
            has no such number.
    """
    return _scales(*nonzeros(kernel), kernel.shape[-1])


def _scales(positions: np.ndarray, values: np.ndarray, channels: int) -> np.ndarray:
    """Returns `channel_scales` of the weights that are not zero."""
    largest = np.zeros(channels, np.float32)
    for part in _parts(positions):
        np.maximum.at(largest, positions[part] % channels, np.abs(values[part]))
    steps = _steps_of_largest(positions, values, largest)
    scales = largest / steps
    with np.errstate(over="ignore"):  # The rounded quotient of the largest number may be too large.
        scales = np.where(np.isinf(scales * steps), np.nextafter(scales, np.float32(0)), scales)
    return np.where(scales > 0, scales, np.float32(1)).astype(np.float32)


def _steps_of_largest(positions: np.ndarray, values: np.ndarray, largest: np.ndarray) -> np.ndarray:
    """Returns how many steps each channel's largest weight is, the most of which all are whole numbers.

    Args:
        positions: The positions of the weights that are not zero.
        values: float32, these weights.
        largest: float32 `[channels]`.

    Returns:
        float32 `[channels]`, from 1 to 127; 127 where there are no such steps.
    """
    channels = len(largest)
    found = np.full(channels, LARGEST_INT8, np.float32)
    steps = range(LARGEST_INT8, 0, -1)
    first = slice(_FIRST_WEIGHTS * channels)
    channel = positions[first] % channels
    shares = np.abs(values[first]) / largest[channel]
    possible = np.array([_on_steps(channel, shares, count, channels) for count in steps])
    # Of a network that was never rounded next to no channel goes on from here.
    left = possible.any(axis=0)
    kept = np.concatenate([left[positions[part] % channels] for part in _parts(positions)] or [[]])
    kept = np.flatnonzero(kept)
    channel = positions[kept] % channels
    shares = np.abs(values[kept]) / largest[channel]
    for count, may_be in zip(steps, possible, strict=True):
        if not (left & may_be).any():
            continue
        fits = left & may_be & _on_steps(channel, shares, count, channels)
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
    channels = kernel.shape[-1]
    scales = _scales(positions, values, channels)
    # A few too large at first: the scale of the smallest weights of float32 has no more digits.
    integers, errors = np.empty(len(values), np.int16), np.empty(len(values), np.float32)
    for part in _parts(positions):
        steps = values[part] / scales[positions[part] % channels]
        nearest = np.rint(steps)
        integers[part], errors[part] = nearest, nearest - steps
        errors[part][np.abs(errors[part]) <= _ON_STEPS * LARGEST_INT8] = 0
    if np.prod(kernel.shape[:-2]) > 1:
        _cancel(integers, errors, positions, int(np.prod(kernel.shape[-2:])))
    _cancel(integers, errors, positions, channels)
    return positions, np.clip(integers, -LARGEST_INT8, LARGEST_INT8).astype(np.int8), scales


def _cancel(integers: np.ndarray, errors: np.ndarray, positions: np.ndarray, groups: int) -> None:
    """Rounds the other way, in place, as few weights as bring each group's errors within half a step.

    Args:
        integers: int16, the weights.
        errors: float32, what they are above the weights before rounding.
        positions: The weights' positions.
        groups: How many groups there are; a weight's is the remainder of its position.
    """
    excess = np.zeros(groups)
    for part in _parts(positions):
        excess += np.bincount(positions[part] % groups, errors[part], groups)
    excess = np.rint(excess).astype(np.float32)
    way = np.sign(excess)

    def wrong_by_more_than(least: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = [np.zeros(0, np.int64)]
        for part in _parts(positions):
            group = positions[part] % groups
            found.append(part.start + np.flatnonzero(errors[part] * way[group] > least[group]))
        wrong = np.concatenate(found)
        return wrong, positions[wrong] % groups

    least = np.full(groups, _NEARLY_HALFWAY, np.float32)
    wrong, group = wrong_by_more_than(least)
    too_few = np.bincount(group, minlength=groups) < np.abs(excess)
    if too_few.any():
        wrong, group = wrong_by_more_than(np.where(too_few, np.float32(0), least))
    order = np.lexsort((-np.abs(errors[wrong]), group))
    wrong, group = wrong[order], group[order]
    rank = np.arange(len(wrong)) - np.searchsorted(group, group)
    turned = rank < np.abs(excess[group])
    wrong, change = wrong[turned], way[group[turned]]
    integers[wrong] -= change.astype(np.int16)
    errors[wrong] -= change


def _parts(positions: np.ndarray) -> Iterator[slice]:
    """Yields slices of so many weights as are worked on at a time."""
    for start in range(0, len(positions), _AT_A_TIME):
        yield slice(start, start + _AT_A_TIME)
