"""The arena: the places of values in memory, and their use again by later values."""

from collections.abc import Callable

import numpy as np

from tfprune.memory import available_bytes, size_text
from tfprune.runtime.errors import GraphError
from tfprune.runtime.graph import Shape
from tfprune.runtime.plan.layout import DENSE_GROUP, Geometry

# The arena begins with 64 bytes for the image's address; every first pixel is aligned to 64 bytes.
ALIGNMENT = 16
_HEADER = ALIGNMENT
# Kernels work on whole vectors, of at most four registers.
_VECTOR_SLACK = 64


class Arena:
    """Gives out places, in float32 numbers from the arena's start.

    A value's halo is zero from the beginning and stays so, whichever kernel writes the value. Its place is
    therefore used again only for values that have their pixels at the same positions.
    """

    def __init__(self) -> None:
        """Makes an arena without values."""
        self.size = _HEADER
        self._free: dict[object, list[tuple[int, int]]] = {}
        self._taken: dict[int, tuple[object, int]] = {}

    def planes(self, geometry: Geometry, channels: int, pixels: object) -> int:
        """Takes a place for a value of planes.

        Args:
            geometry: The geometry of the planes.
            channels: The number of planes. The dense convolution writes them in whole groups.
            pixels: Tells apart values of the same geometry that have their pixels at different positions.

        Returns:
            The offset of the first plane's first pixel.
        """
        channels = _round_up(channels, DENSE_GROUP)
        front = _round_up(geometry.front, ALIGNMENT)
        size = front + channels * geometry.plane + geometry.back
        return self._take((geometry, pixels), channels, front, size)

    def vector(self, size: int) -> int:
        """Takes a place for a vector.

        Args:
            size: The length of the vector.

        Returns:
            The offset of the first.
        """
        return self._take("vector", size, 0, _round_up(size, _VECTOR_SLACK) + _VECTOR_SLACK)

    def release(self, offset: int) -> None:
        """Gives a place back.

        Args:
            offset: The offset that `planes` or `vector` returned.
        """
        kind, capacity = self._taken.pop(offset)
        self._free.setdefault(kind, []).append((capacity, offset))

    def _take(self, kind: object, capacity: int, front: int, size: int) -> int:
        fitting = sorted(place for place in self._free.get(kind, []) if place[0] >= capacity)
        if fitting:
            self._free[kind].remove(fitting[0])
            capacity, offset = fitting[0]
        else:
            offset = self.size + front
            self.size += _round_up(size, ALIGNMENT)
        self._taken[offset] = (kind, capacity)
        return offset


def require_memory(numbers: int, refuse: Callable[[str], GraphError] = GraphError) -> None:
    """Refuses what the system would at first promise and then kill the process for.

    Args:
        numbers: The float32 numbers that are needed at once.
        refuse: Makes the error of its message.

    Raises:
        GraphError: This process may not have so much memory.
    """
    needed, left = 4 * numbers, available_bytes()
    if needed > left:
        raise refuse(f"the network needs {size_text(needed)} of memory, and {size_text(left)} are left")


def aligned_zeros(size: int) -> np.ndarray:
    """Returns float32 zeros whose first lies at a multiple of 64 bytes.

    Args:
        size: The length.
    """
    spare = np.zeros(size + ALIGNMENT, np.float32)
    start = -(spare.ctypes.data // 4) % ALIGNMENT
    return spare[start : start + size]


def mask_of(geometry: Geometry, shape: Shape) -> np.ndarray:
    """Returns a plane with all bits set where there is a pixel, zero elsewhere.

    Args:
        geometry: The geometry of the plane.
        shape: The shape of the value; its height and width may be below the geometry's.

    Returns:
        float32 `[plane + slack]`; the set bits are a NaN.
    """
    rows = _as_rows(geometry, shape)
    rows[1].view(np.int32)[:] = -1
    return rows[0]


def counts_of(geometry: Geometry, shape: Shape, inverse_counts: np.ndarray) -> np.ndarray:
    """Returns a plane with a number for each pixel, zero elsewhere.

    Args:
        geometry: The geometry of the plane.
        shape: The shape of the value.
        inverse_counts: float32 `[height, width]`.

    Returns:
        float32 `[plane + slack]`.
    """
    flat, pixels = _as_rows(geometry, shape)
    pixels[:] = inverse_counts
    return flat


def _as_rows(geometry: Geometry, shape: Shape) -> tuple[np.ndarray, np.ndarray]:
    height, width, _ = shape
    flat = aligned_zeros(max(geometry.plane, height * geometry.pitch) + _VECTOR_SLACK)
    return flat, flat[: height * geometry.pitch].reshape(height, geometry.pitch)[:, :width]


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
