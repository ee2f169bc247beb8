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


def keep_largest(scores: np.ndarray, count: int, among: np.ndarray | None = None) -> np.ndarray:
    """Marks the `count` largest of the 1-D `scores`, ties to the lower index.

    A selection in linear time, not a sort.

    Args:
        scores: Floats without NaN.
        count: How many to mark; all where there are not so many.
        among: Booleans like `scores`, True for those that can be marked; None for all.

    Returns:
        A boolean array like `scores`.
    """
    present = scores.size if among is None else np.count_nonzero(among)
    going = present - count
    if going <= 0:
        return np.ones(scores.shape, bool) if among is None else among.copy()
    if count <= 0:
        return np.zeros(scores.shape, bool)
    if among is not None and (places := _few_smallest(scores, going, among, present)) is not None:
        keep = among.copy()
        keep[places] = False
        return keep
    left = scores if among is None or present == scores.size else scores[among]
    threshold = np.partition(left, going)[going]
    keep, ties = scores > threshold, scores == threshold
    if among is not None:
        keep &= among
        ties &= among
    keep[np.flatnonzero(ties)[: count - np.count_nonzero(keep)]] = True
    return keep


_SAMPLE, _MARGIN = 1024, 48


def _few_smallest(scores: np.ndarray, going: int, among: np.ndarray, present: int) -> np.ndarray | None:
    """Returns the places of the `going` smallest scores, or None where they are not few.

    From one update of a schedule to the next few weights go. The scores up to one of a sample's, which are
    few, are selected from (Floyd and Rivest, 1975).
    """
    stride = max(scores.size // _SAMPLE, 1)
    sample = np.sort(scores[::stride][among[::stride]])
    place = int(going / present * sample.size) + _MARGIN
    if place >= sample.size // 2:
        return None
    places = np.flatnonzero((scores <= sample[place]) & among)
    if places.size < going:
        return None
    lowest = scores[places]
    threshold = np.partition(lowest, going - 1)[going - 1]
    gone, ties = places[lowest < threshold], places[lowest == threshold]
    return np.concatenate([gone, ties[ties.size - (going - gone.size) :]])


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
