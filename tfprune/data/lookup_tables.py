"""Point operations on uint8 images, as lookup tables.

A point operation maps every value of a channel to one new value, so it is a table of 256 entries:
of shape [256] where the channels share it, or [256, 3] with a column a channel. A chain of them is
a table, too. The values are those of Pillow's `ImageOps` and `ImageEnhance`.
"""

import functools

import numpy as np

from tfprune.extras import extra

with extra("experiments"):
    import cv2

_VALUES = np.arange(256)
_VALUES.flags.writeable = False

# calcHist returns float32 counts, which are exact up to here.
_LARGEST_EXACT_COUNT = 2**24


def apply_table(image: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Maps every value of an image through a table.

    Args:
        image: uint8 array of shape [height, width, 3].
        table: uint8 array of shape [256] or [256, 3].

    Returns:
        A new uint8 array of the image's shape.
    """
    return cv2.LUT(image, table if table.ndim == 1 else table[np.newaxis])


def compose_tables(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns the table that maps through `first`, then through `second`."""
    if first.ndim == 2 and second.ndim == 2:
        return np.take_along_axis(second, first, axis=0)
    return second[first]


def image_histogram(image: np.ndarray) -> np.ndarray:
    """Counts the values of each channel.

    Args:
        image: uint8 array of shape [height, width, 3].

    Returns:
        int64 array of shape [256, 3].
    """
    channels = range(image.shape[2])
    if image.shape[0] * image.shape[1] < _LARGEST_EXACT_COUNT:
        counts = [cv2.calcHist([image], [c], None, [256], [0, 256]) for c in channels]
    else:
        counts = [np.bincount(image[..., c].ravel(), minlength=256)[:, None] for c in channels]
    return np.concatenate(counts, axis=1).astype(np.int64)


def mapped_histogram(histogram: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Returns the histogram that an image has after `table`, from the one it had before."""
    table = table if table.ndim == 2 else np.repeat(table[:, np.newaxis], 3, axis=1)
    columns = [
        np.bincount(table[:, c], weights=histogram[:, c], minlength=256) for c in range(histogram.shape[1])
    ]
    return np.stack(columns, axis=-1).astype(np.int64)


@functools.lru_cache(maxsize=1024)
def blend_table(grey: int, factor: float) -> np.ndarray:
    """Table that moves every value towards (`factor` < 1) or away from (> 1) one grey level.

    `grey + factor * (value - grey)`, in float32, cut to [0, 255] and truncated, as Pillow's
    `Image.blend`.
    """
    grey, factor = np.float32(grey), np.float32(factor)
    blended = grey + factor * (_VALUES.astype(np.float32) - grey)
    return _frozen(np.clip(blended, 0, 255))


@functools.lru_cache(maxsize=16)
def posterize_table(bits: int) -> np.ndarray:
    """Table that keeps the `bits` (0 to 8) highest bits of each value."""
    if not 0 <= bits <= 8:
        raise ValueError(f"`bits` must be in [0, 8]. Received: bits={bits}")
    return _frozen(_VALUES & ~(2 ** (8 - bits) - 1))


@functools.lru_cache(maxsize=256)
def solarize_table(threshold: float) -> np.ndarray:
    """Table that inverts the values that are not below `threshold`."""
    return _frozen(np.where(_VALUES < threshold, _VALUES, 255 - _VALUES))


@functools.cache
def invert_table() -> np.ndarray:
    """Table that maps a value to 255 minus the value."""
    return _frozen(255 - _VALUES)


def autocontrast_table(low: np.ndarray, high: np.ndarray) -> np.ndarray | None:
    """Table that stretches each channel's values from `low` to `high` to 0 to 255.

    A channel of one value only stays as it is.

    Args:
        low: Lowest value of each channel, int64 array of shape [3].
        high: Highest value of each channel, int64 array of shape [3].

    Returns:
        uint8 array of shape [256, 3]; None where it would change nothing.
    """
    constant = high <= low
    if np.all(constant | (high - low == 255)):
        return None
    scale = 255.0 / np.where(constant, 1, high - low)
    stretched = _VALUES[:, np.newaxis] * scale - low * scale
    stretched = np.minimum(np.maximum(stretched, 0), 255).astype(np.uint8)
    return np.where(constant, _VALUES[:, np.newaxis], stretched).astype(np.uint8)


def equalize_table(histogram: np.ndarray) -> np.ndarray:
    """Table that makes each channel's histogram flat, by Pillow's integer rule.

    With `step` = (pixels that do not have the highest value present) // 255, a value becomes
    `(step // 2 + pixels of lower value) // step`. A channel whose `step` is 0 stays as it is.

    Args:
        histogram: int64 array of shape [256, 3].

    Returns:
        uint8 array of shape [256, 3].
    """
    highest = 255 - (histogram > 0)[::-1].argmax(axis=0)
    pixels = histogram.sum(axis=0)
    step = (pixels - histogram[highest, np.arange(histogram.shape[1])]) // 255
    lower = np.cumsum(histogram, axis=0) - histogram
    divisor = np.maximum(step, 1)
    equalized = np.minimum((divisor // 2 + lower) // divisor, 255)
    return np.where(step == 0, _VALUES[:, np.newaxis], equalized).astype(np.uint8)


class TableChain:
    """Point operations that wait to be applied to one image, all at once.

    Args:
        image: uint8 array of shape [height, width, 3]. It is not changed.
    """

    def __init__(self, image: np.ndarray) -> None:
        self._image = image
        self._image_histogram = None
        self._table = None

    def append(self, table: np.ndarray | None) -> None:
        """Adds a point operation to the end of the chain; None changes nothing."""
        if table is not None:
            self._table = table if self._table is None else compose_tables(self._table, table)

    def histogram(self) -> np.ndarray:
        """Returns the histogram after the chain so far, without applying it."""
        if self._image_histogram is None:
            self._image_histogram = image_histogram(self._image)
        if self._table is None:
            return self._image_histogram
        return mapped_histogram(self._image_histogram, self._table)

    def extremes(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the lowest and the highest value of each channel after the chain so far."""
        if self._table is None and self._image_histogram is None:
            # Several times as fast as the histogram. Over the rows first: NumPy takes many columns
            # at a time.
            rows = self._image.reshape(len(self._image), -1)
            low, high = (
                extreme.reduce(extreme.reduce(rows, axis=0).reshape(-1, 3), axis=0).astype(np.int64)
                for extreme in (np.minimum, np.maximum)
            )
            return low, high
        present = self.histogram() > 0
        return present.argmax(axis=0), 255 - present[::-1].argmax(axis=0)

    def image(self) -> np.ndarray:
        """Applies the chain so far and returns the image: the original where nothing waits."""
        if self._table is not None:
            self._image = apply_table(self._image, self._table)
            self._image_histogram = self._table = None
        return self._image


def _frozen(table: np.ndarray) -> np.ndarray:
    """Makes a table uint8 and, because it is cached, read-only."""
    table = table.astype(np.uint8)
    table.flags.writeable = False
    return table
