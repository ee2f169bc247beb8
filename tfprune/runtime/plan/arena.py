"""The arena: the places of values in memory, and their use again by later values."""

import bisect
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from tfprune.runtime.graph import Shape
from tfprune.runtime.plan.layout import DENSE_GROUP, Geometry

# Every first pixel is aligned to 64 bytes.
ALIGNMENT = 16
# Kernels work on whole vectors, of at most four registers.
VECTOR_SLACK = 64


class Region(NamedTuple):
    """A part of the arena, in float32 numbers from the arena's start."""

    start: int
    size: int


class Arena:
    """Gives out places, in float32 numbers from the arena's start.

    A value's halo is zero from the beginning and stays so, whichever kernel writes the value. Its place is
    therefore used again only for values that have their pixels at the same positions; in a tight arena for
    any value, and a value's region has to be cleared before it is written.

    Attributes:
        size: The numbers given out so far, at most at a time.
        tight: Whether any value may take any place.
    """

    def __init__(self, header: int, tight: bool = False) -> None:
        """Makes an arena without values.

        Args:
            header: The numbers at its beginning that are for the images' addresses.
            tight: See the class.
        """
        self._header = _round_up(header, ALIGNMENT)
        self.size = self._header
        self.tight = tight
        self._free: dict[object, list[tuple[int, int]]] = {}
        self._taken: dict[int, tuple[object, int]] = {}
        self._regions: dict[int, Region] = {}

    def planes(self, geometry: Geometry, channels: int, pixels: object, in_bytes: bool = False) -> int:
        """Takes a place for a value of planes.

        Args:
            geometry: The geometry of the planes.
            channels: The number of planes. The dense convolution writes them in whole groups.
            pixels: Tells apart values of the same geometry that have their pixels at different positions.
            in_bytes: Whether a pixel takes a byte.

        Returns:
            The offset of the first plane's first pixel.
        """
        channels = _round_up(channels, DENSE_GROUP)
        front, behind = geometry.front, channels * geometry.plane + geometry.back
        if in_bytes:
            front, behind = -(-front // 4), -(-behind // 4)
        front = _round_up(front, ALIGNMENT)
        return self._take((geometry, pixels, in_bytes), channels, front, front + behind)

    def vector(self, size: int) -> int:
        """Takes a place for a vector.

        Args:
            size: The length of the vector.

        Returns:
            The offset of the first.
        """
        return self._take("vector", size, 0, _round_up(size, VECTOR_SLACK) + VECTOR_SLACK)

    def region(self, offset: int) -> Region:
        """Returns all that belongs to a place of a tight arena, halos included.

        Args:
            offset: The offset that `planes` or `vector` returned.
        """
        return self._regions[offset]

    def release(self, offset: int) -> None:
        """Gives a place back.

        Args:
            offset: The offset that `planes` or `vector` returned.
        """
        if self.tight:
            del self._regions[offset]
            return
        kind, capacity = self._taken.pop(offset)
        bisect.insort(self._free.setdefault(kind, []), (capacity, offset))

    def _take(self, kind: object, capacity: int, front: int, size: int) -> int:
        size = _round_up(size, ALIGNMENT)
        if self.tight:
            offset = self._first_gap(size) + front
            self._regions[offset] = Region(offset - front, size)
            self.size = max(self.size, offset - front + size)
            return offset
        free = self._free.get(kind, [])
        smallest = bisect.bisect_left(free, (capacity, 0))
        if smallest < len(free):
            capacity, offset = free.pop(smallest)
        else:
            offset = self.size + front
            self.size += size
        self._taken[offset] = (kind, capacity)
        return offset

    def _first_gap(self, size: int) -> int:
        """Returns the start of the first gap between the regions that is large enough."""
        start = self._header
        for region in sorted(self._regions.values()):
            if region.start - start >= size:
                break
            start = region.start + region.size
        return start


class Table(NamedTuple):
    """A constant that is made after all that the network needs is known and allowed.

    Attributes:
        numbers: The float32 numbers that it has.
        make: Makes it.
    """

    numbers: int
    make: Callable[[], np.ndarray]


def aligned_zeros(size: int) -> np.ndarray:
    """Returns float32 zeros whose first lies at a multiple of 64 bytes.

    Args:
        size: The length.
    """
    spare = np.zeros(size + ALIGNMENT, np.float32)
    start = -(spare.ctypes.data // 4) % ALIGNMENT
    return spare[start : start + size]


def plane_numbers(geometry: Geometry, shape: Shape) -> int:
    """Returns the length of the arrays that `mask_of` and `inverse_counts_of` make."""
    return max(geometry.plane, shape[0] * geometry.pitch) + VECTOR_SLACK


def mask_of(geometry: Geometry, shape: Shape) -> np.ndarray:
    """Returns a plane with all bits set where there is a pixel, zero elsewhere.

    Args:
        geometry: The geometry of the plane.
        shape: The shape of the value; its height and width may be below the geometry's.

    Returns:
        float32 `[plane + slack]`; the set bits are a NaN.
    """
    flat, pixels = _as_rows(geometry, shape)
    pixels.view(np.int32)[:] = -1
    return flat


def mask_of_bytes(geometry: Geometry, shape: Shape) -> np.ndarray:
    """Returns a plane with 255 where there is a pixel, zero elsewhere.

    Args:
        geometry: As of `mask_of`.
        shape: As of `mask_of`.

    Returns:
        uint8 `[plane + slack]`.
    """
    return (mask_of(geometry, shape).view(np.int32) != 0).astype(np.uint8) * np.uint8(255)


def inverse_counts_of(geometry: Geometry, rows: Sequence[int], columns: Sequence[int]) -> np.ndarray:
    """Returns a plane with a number for each pixel, zero elsewhere.

    Args:
        geometry: The geometry of the plane.
        rows: For each row a count.
        columns: For each column a count.

    Returns:
        float32 `[plane + slack]`; at each pixel 1 / (its row's count x its column's).
    """
    flat, pixels = _as_rows(geometry, (len(rows), len(columns), 1))
    np.multiply.outer(np.float32(rows), np.float32(columns), out=pixels)
    np.divide(np.float32(1), pixels, out=pixels)
    return flat


def _as_rows(geometry: Geometry, shape: Shape) -> tuple[np.ndarray, np.ndarray]:
    height, width, _ = shape
    flat = aligned_zeros(plane_numbers(geometry, shape))
    return flat, flat[: height * geometry.pitch].reshape(height, geometry.pitch)[:, :width]


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
