"""What a network is called with: an array for each input, as the kernels read it."""

from typing import Any

import numpy as np

from tfprune.runtime.kernels.planes import IMAGE_ADDRESS, IMAGE_IS_UINT8, IMAGE_WORDS


class Batch:
    """The examples of a call, an array for each input, contiguous float32 or uint8.

    Attributes:
        count: How many examples.
    """

    def __init__(self, arrays: list[np.ndarray]) -> None:
        """Takes an array for each input.

        Raises:
            ValueError: They have different numbers of examples.
        """
        self._arrays = arrays
        counts = {len(array) for array in arrays}
        if len(counts) > 1:
            raise ValueError(f"`images` must be as many of each input. Received: {sorted(counts)}")
        self.count = counts.pop()

    def example(self, index: int) -> list[np.ndarray]:
        """Returns an example."""
        return [array[index] for array in self._arrays]

    def point(self, arena: np.ndarray, index: int) -> None:
        """Writes the addresses of an example's arrays into an arena."""
        header = arena[: 2 * IMAGE_WORDS * len(self._arrays)].view(np.int64).reshape(-1, IMAGE_WORDS)
        for words, array in zip(header, self._arrays, strict=True):
            words[IMAGE_ADDRESS] = array.ctypes.data + index * array.strides[0]
            words[IMAGE_IS_UINT8] = array.dtype == np.uint8

    def without_sense(self) -> np.ndarray:
        """Returns the indices of the examples that have a NaN."""
        found = np.zeros(self.count, bool)
        for array in self._arrays:
            if array.dtype == np.float32 and array.size and np.isnan(array.min()):
                found |= np.isnan(array.reshape(self.count, -1)).any(axis=1)
        return np.flatnonzero(found)


def as_input(array: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Returns the examples of an input as the kernels read them: contiguous, float32 or uint8.

    Args:
        array: `[n, ...]`, an array or what becomes one.
        shape: The shape of one example.

    Raises:
        ValueError: It has another shape, or numbers that float32 does not hold.
    """
    array = np.asarray(array)
    if array.dtype.kind not in "biuf" or array.shape[1:] != shape or not array.ndim:
        raise ValueError(
            f"`images` must be float32 or uint8 [n, {', '.join(map(str, shape))}], or other numbers that"
            f" float32 holds. Received: {array.dtype} {list(array.shape)}"
        )
    if array.dtype not in (np.float32, np.uint8):
        with np.errstate(over="ignore"):
            converted = array.astype(np.float32)
        same = converted == array.astype(np.longdouble)
        if not (same | np.isnan(converted)).all():
            lost = array[~(same | np.isnan(converted))].flat[0]
            raise ValueError(
                f"`images` must be numbers that float32 holds, as {lost!r} is none: convert them first,"
                f" with `astype(np.float32)`. Received: {array.dtype}"
            )
        array = converted
    return np.ascontiguousarray(array)
