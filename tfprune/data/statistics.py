"""What a pass over the examples of a dataset finds: the values of channels and labels, and how far it is."""

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np

# Images whose values are counted at a time, to bound the memory that it takes.
_CHUNK = 1024
# Seconds between lines that say how far a pass is.
_EVERY = 10.0


class ChannelValues:
    """Counts of the values of each channel of images, which give exact statistics.

    Sums and squares are taken in whole numbers, so that the order and number of images cost no precision.
    """

    def __init__(self) -> None:
        self._counts = np.zeros((3, 256), np.int64)

    def add(self, images: np.ndarray) -> None:
        """Counts the values of uint8 images of shape [examples, height, width, 3]."""
        offsets = (np.arange(3) * 256).astype(np.uint16)
        for start in range(0, len(images), _CHUNK):
            values = images[start : start + _CHUNK] + offsets
            self._counts += np.bincount(values.ravel(), minlength=3 * 256).reshape(3, 256)

    def statistics(self) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
        """Returns the mean and population standard deviation of each channel, in 0 to 255."""
        statistics = []
        for channel in self._counts.tolist():
            pixels = sum(channel)
            total = sum(value * count for value, count in enumerate(channel))
            squares = sum(value * value * count for value, count in enumerate(channel))
            variance = (pixels * squares - total * total) / pixels**2
            statistics.append((total / pixels, math.sqrt(variance)))
        mean, std = zip(*statistics, strict=True)
        return mean, std


def channel_statistics(
    images: np.ndarray,
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Returns the mean and population standard deviation of each channel of uint8 images, exactly.

    Args:
        images: uint8 array of shape [examples, height, width, 3].

    Returns:
        As `ChannelValues.statistics`.
    """
    values = ChannelValues()
    values.add(images)
    return values.statistics()


class LabelValues:
    """The whole numbers among the labels of a split.

    Args:
        split: Its name, for errors.
    """

    def __init__(self, split: str) -> None:
        self._split = split
        self._present: set[int] = set()

    def add(self, labels: np.ndarray, first: int) -> None:
        """Adds labels of shape [examples].

        Args:
            labels: Whole numbers.
            first: Number of the first example.

        Raises:
            ValueError: If one is below 0.
        """
        if np.any(below := labels < 0):
            row = int(np.argmax(below))
            raise ValueError(
                f"the labels of classes must be at least 0. Received: {labels[row]}, y of {self._split} "
                f"example {first + row}; numbers to predict, not classes, must be floats"
            )
        self._present.update(np.unique(labels).tolist())

    def names(self, test: "LabelValues") -> tuple[str, ...]:
        """Returns the classes by their numbers, where they have no other names.

        Args:
            test: The labels of the test split.

        Raises:
            ValueError: If the training examples lack one of them, or are all of one class.
        """
        count = max(self._present | test._present) + 1
        missing = next((label for label in range(count) if label not in self._present), None)
        if missing is not None:
            raise ValueError(
                f"the labels of classes must be 0, 1, 2, ... without gaps. Received: {count - 1}, but no "
                f"{self._split} example of class {missing}; give class names as a third part, if there is "
                "such a class, or floats, if y are numbers to predict"
            )
        if count == 1:
            raise ValueError(
                f"y must have more than one class. Received: {self._split} examples of class 0 alone"
            )
        return tuple(map(str, range(count)))

    def check_below(self, count: int) -> None:
        """Checks that each label has one of so many names.

        Raises:
            ValueError: If one has none.
        """
        if max(self._present) >= count:
            raise ValueError(
                f"y must be below the number of class names, {count}. Received: {max(self._present)} in "
                f"{self._split}"
            )


class Told:
    """Says every ten seconds how far a pass is.

    Args:
        text: What comes before the number of examples.
        log: Receives the lines.
        total: How many examples there are; None if that is not known.
    """

    def __init__(self, text: str, log: Callable[[str], Any], total: int | None = None) -> None:
        self._text, self._log, self._total = text, log, total
        self._last = time.monotonic()

    def __call__(self, done: int) -> None:
        """Takes the number of examples up to now."""
        if time.monotonic() - self._last >= _EVERY:
            self._last = time.monotonic()
            self._log(f"{self._text}: {done:,}{f' of {self._total:,}' if self._total else ''} examples")
