"""What a network is called with, an array for each input as the kernels read it; and what a call returns."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tfprune.runtime.kernels.planes import IMAGE_ADDRESS, IMAGE_IS_UINT8, IMAGE_WORDS
from tfprune.runtime.plan.plan import Port


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


def as_batch(images: Any, ports: Sequence[Port]) -> Batch:
    """Returns the examples of a call.

    Args:
        images: An array of the only input; of several a list in their order, or a dictionary by their names.
        ports: The network's inputs.

    Raises:
        ValueError: They are not an array for each input, as many of each, of its shape, as `as_input` says.
    """
    if isinstance(images, dict):
        if images.keys() != {port.name for port in ports}:
            wanted = ", ".join(repr(port.name) for port in ports)
            raise ValueError(f"`images` must be by the names {wanted}. Received: {sorted(map(str, images))}")
        given = [images[port.name] for port in ports]
    elif len(ports) == 1:
        given = [images]
    else:
        given = list(images) if isinstance(images, list | tuple) else [images]
        if len(given) != len(ports):
            raise ValueError(f"`images` must be a list of {len(ports)} inputs. Received: {len(given)}")
    return Batch([as_input(array, port.shape) for array, port in zip(given, ports, strict=True)])


def as_results(outputs: Sequence[np.ndarray], ports: Sequence[Port]) -> Any:
    """Returns the outputs as a call does: the only one; or several, by name.

    Args:
        outputs: `[n, size]` of each output.
        ports: The network's outputs.
    """
    shaped = {port.name: output.reshape(-1, *port.shape) for port, output in zip(ports, outputs, strict=True)}
    return next(iter(shaped.values())) if len(shaped) == 1 else shaped


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
