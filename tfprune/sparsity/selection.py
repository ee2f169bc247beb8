"""Selects exactly the best: of one array, or of many without copying them together. NumPy only.

The tie rule is one: of equal scores the one with the lower flat index is better, and over several arrays the
one in the earlier array.
"""

from collections.abc import Callable, Iterable, Iterator

import numpy as np

# (scores, sizes) of one array of scores.
_Groups = tuple[np.ndarray, np.ndarray | None]


def kept_count(size: int, sparsity: float, at_least: int = 1) -> int:
    """Returns how many of `size` stay at `sparsity`: `max(size - round(sparsity * size), at_least)`."""
    return max(size - round(sparsity * size), at_least)


def keep_largest(scores: np.ndarray, count: int) -> np.ndarray:
    """Marks the `count` largest of the 1-D `scores`, ties to the lower index.

    A selection in linear time, not a sort.

    Returns:
        A boolean array like `scores` with exactly `count` elements True.
    """
    if count >= scores.size:
        return np.ones(scores.shape, bool)
    if count <= 0:
        return np.zeros(scores.shape, bool)
    threshold = _smallest(scores, scores.size - count)
    keep = scores > threshold
    ties = np.flatnonzero(scores == threshold)
    keep[ties[: count - np.count_nonzero(keep)]] = True
    return keep


_SAMPLE, _MARGIN = 1024, 48


def _smallest(scores: np.ndarray, k: int) -> np.generic:
    """Returns the element at place `k` of the 1-D `scores` in rising order.

    `np.partition` is slow on many equal elements, and what is removed already has -inf. Where there are
    such, the elements between two of a sample's, which are few, are selected from (Floyd and Rivest, 1975).
    """
    removed = np.count_nonzero(scores == -np.inf)
    if k < removed:
        return scores.dtype.type(-np.inf)
    if not removed:
        return np.partition(scores, k)[k]
    if scores.size < 2 * _SAMPLE:
        return np.partition(scores[scores > -np.inf], k - removed)[k - removed]
    sample = scores[:: scores.size // _SAMPLE]
    sample = np.sort(sample[sample > -np.inf])
    if sample.size > 2 * _MARGIN:
        place = int((k - removed) / (scores.size - removed) * sample.size)
        inside, below = scores <= sample[min(place + _MARGIN, sample.size - 1)], removed
        if place > _MARGIN:
            lowest = sample[place - _MARGIN]
            inside &= scores >= lowest
            below = np.count_nonzero(scores < lowest)
        else:
            inside &= scores > -np.inf
        between = scores[np.flatnonzero(inside)]
        if below <= k < below + between.size:
            return np.partition(between, k - below)[k - below]
    return np.partition(scores, k)[k]


class CommonThreshold:
    """Marks the largest scores of several arrays, as few as have `total` weights together.

    The arrays are read one after another, in a few passes, and never held together: with the scores' bits
    in an order-preserving form, each pass counts the weights over 16 more bits of those scores that begin as
    the threshold does, until the threshold is known to the last bit.

    Args:
        groups: Yields (scores, sizes) of each array whenever it is called, always the same and in the same
            order. `scores` are floats without NaN, of one dtype and of any shape. `sizes` has the whole
            number of weights that each score stands for; None stands for one each.
        total: How many weights have to be kept, at least one.
    """

    def __init__(self, groups: Callable[[], Iterable[_Groups]], total: int) -> None:
        self.value, self._left = _threshold(groups, total)

    def keep(self, scores: np.ndarray, sizes: np.ndarray | None) -> np.ndarray:
        """Marks the scores of the next array that stay; to be called once for each array, in order."""
        keep = scores > self.value
        if self._left > 0:
            ties = np.flatnonzero(scores == self.value)
            weights = np.arange(1, ties.size + 1) if sizes is None else np.cumsum(sizes.flat[ties])
            ties = ties[: np.searchsorted(weights, self._left) + 1]
            if ties.size:
                self._left -= int(weights[ties.size - 1])
            keep.flat[ties] = True
        return keep


# So many scores are looked at together: enough for speed, small beside a tensor.
_CHUNK = 1 << 18
_DIGITS = 1 << 16


def _threshold(groups: Callable[[], Iterable[_Groups]], total: int) -> tuple[np.floating, int]:
    """Returns the lowest score that stays, and how many weights stay among those of that score."""
    prefix, above, shift, dtype = 0, 0, None, None
    while shift is None or shift > 0:
        counts = np.zeros(_DIGITS)
        for scores, sizes in groups():
            if dtype is None:
                dtype = scores.dtype
                bits = 8 * dtype.itemsize
            now = bits - 16 if shift is None else shift - 16
            for chunk, chunk_sizes in _chunks(scores, sizes):
                keys = _ordered_bits(chunk)
                if now + 16 < bits:
                    same = np.flatnonzero((keys >> keys.dtype.type(now + 16)) == prefix)
                    keys = keys[same]
                    chunk_sizes = None if chunk_sizes is None else chunk_sizes[same]
                digits = (keys >> keys.dtype.type(now)) & keys.dtype.type(_DIGITS - 1)
                counts += np.bincount(digits.astype(np.intp), chunk_sizes, _DIGITS)
        shift = now
        # From the largest digit down.
        reached = np.cumsum(counts[::-1])
        digit = _DIGITS - 1 - int(np.searchsorted(reached, total - above))
        above += int(counts[digit + 1 :].sum())
        prefix = prefix << 16 | digit
    return _from_ordered_bits(prefix, dtype), total - above


def _chunks(scores: np.ndarray, sizes: np.ndarray | None) -> Iterator[_Groups]:
    scores, sizes = scores.ravel(), None if sizes is None else sizes.ravel()
    for start in range(0, scores.size, _CHUNK):
        part = slice(start, start + _CHUNK)
        yield scores[part], None if sizes is None else sizes[part]


def _ordered_bits(scores: np.ndarray) -> np.ndarray:
    """Returns unsigned numbers that are ordered as the floats are, -0.0 equal to 0.0."""
    signed = (scores + scores.dtype.type(0)).view(f"i{scores.dtype.itemsize}")
    largest = np.iinfo(signed.dtype).max
    signed ^= (signed >> (8 * signed.itemsize - 1)) & largest
    return signed.view(f"u{signed.itemsize}") ^ (largest + 1)


def _from_ordered_bits(bits: int, dtype: np.dtype) -> np.floating:
    """Returns the float that `_ordered_bits` turns into `bits`."""
    sign = 1 << (8 * dtype.itemsize - 1)
    bits = bits ^ sign if bits & sign else bits ^ (2 * sign - 1)
    return np.array(bits, f"u{dtype.itemsize}").view(dtype)[()]
