"""The order in which a value's numbers lie in memory.

`[tile][row][channel][column][image]`, float32: a tile is a few images of the batch, and the same pixel of
all of them is one or more whole vectors. A weight of a convolution is then a product of one number with
vectors, whatever the size of the map; and the few rows that a window sees, of all channels, are one piece of
memory. Around the pixels lies a halo of zeros, which nobody writes, so that a window at the edge needs no
care; the zeros after one row are those before the next, and so with the rows of two tiles.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from tfprune.sparse_training.graph import Shape, Window

# A power of two as the distance of two channels would put them all into the same few places of a cache.
_LEAST_COLUMNS_MADE_ODD = 8


class Halo(NamedTuple):
    """The rows and columns of zeros around the pixels."""

    top: int = 0
    bottom: int = 0
    left: int = 0
    right: int = 0

    def union(self, other: "Halo") -> "Halo":
        """Returns the halo that serves both."""
        return Halo(*map(max, self, other))


@dataclasses.dataclass(frozen=True)
class Layout:
    """The places of a value's numbers. Distances and sizes are counted in float32.

    Attributes:
        shape: The shape of an image's value.
        tiles: The tiles of the batch.
        images: The images of a tile, a multiple of the lanes of a vector.
        halo: The zeros around the pixels.
    """

    shape: Shape
    tiles: int
    images: int
    halo: Halo = Halo()

    @property
    def column(self) -> int:
        """Returns the distance of two columns."""
        return self.images

    @property
    def channel(self) -> int:
        """Returns the distance of two channels."""
        columns = self.shape.width + max(self.halo.left, self.halo.right)
        if self.shape.width >= _LEAST_COLUMNS_MADE_ODD and columns % 2 == 0:
            columns += 1
        return columns * self.images

    @property
    def row(self) -> int:
        """Returns the distance of two rows."""
        return self.shape.channels * self.channel

    @property
    def tile(self) -> int:
        """Returns the distance of two tiles."""
        return (self.shape.height + max(self.halo.top, self.halo.bottom)) * self.row

    @property
    def first(self) -> int:
        """Returns the place of the first pixel, counted from the start of the buffer."""
        return self.halo.top * self.row + self.halo.left * self.column

    @property
    def numbers(self) -> int:
        """Returns the size of a buffer."""
        return self.first + self.tiles * self.tile

    def view(self, buffer: np.ndarray) -> np.ndarray:
        """Returns the pixels in a buffer.

        Args:
            buffer: float32 `[numbers]`.

        Returns:
            A view `[tiles, rows, channels, columns, images]`.
        """
        height, width, channels = self.shape
        strides = (self.tile, self.row, self.channel, self.column, 1)
        return np.lib.stride_tricks.as_strided(
            buffer[self.first :],
            (self.tiles, height, channels, width, self.images),
            [stride * buffer.itemsize for stride in strides],
        )

    def pack(self, values: np.ndarray) -> np.ndarray:
        """Returns a new buffer with values in it.

        Args:
            values: `[images, height, width, channels]`, not more images than the tiles hold; the others
                become zeros.

        Returns:
            float32 `[numbers]`.
        """
        buffer = np.zeros(self.numbers, np.float32)
        batch = np.zeros((self.tiles * self.images, *self.shape), np.float32)
        batch[: len(values)] = values
        tiled = batch.reshape(self.tiles, self.images, *self.shape)
        self.view(buffer)[:] = tiled.transpose(0, 2, 4, 3, 1)
        return buffer

    def unpack(self, buffer: np.ndarray) -> np.ndarray:
        """Returns the values in a buffer.

        Args:
            buffer: float32 `[numbers]`.

        Returns:
            `[tiles * images, height, width, channels]`.
        """
        tiled = self.view(buffer).transpose(0, 4, 1, 3, 2)
        return tiled.reshape(self.tiles * self.images, *self.shape)


def halo_of_input(window: Window, shape: Shape) -> Halo:
    """Returns the zeros that a convolution's or a pool's input needs.

    Args:
        window: The window.
        shape: The shape of the input.
    """
    before, after = [], []
    for axis, (side, positions) in enumerate(zip(shape[:2], window.positions(shape), strict=True)):
        padding = window.padding[2 * axis]
        last = (positions - 1) * window.strides[axis] + (window.size[axis] - 1) * window.dilation[axis]
        before.append(padding)
        after.append(max(0, last - padding - (side - 1)))
    return Halo(before[0], after[0], before[1], after[1])


def halo_of_gradient(window: Window, shape: Shape) -> Halo:
    """Returns the zeros that the gradient of a convolution's output needs, to make that of the input.

    Args:
        window: The window.
        shape: The shape of the input.
    """
    before, after = [], []
    for axis, (side, positions) in enumerate(zip(shape[:2], window.positions(shape), strict=True)):
        padding, stride = window.padding[2 * axis], window.strides[axis]
        reach = (window.size[axis] - 1) * window.dilation[axis]
        if positions == 1:  # Each pixel has a list of its own: see `lists.axes_of`.
            before.append(0)
            after.append(0)
            continue
        # Tap t meets pixel p at the position (p + padding - t * dilation) / stride, where that is whole.
        before.append(max(0, (reach - padding) // stride))
        after.append(max(0, (side - 1 + padding) // stride - (positions - 1)))
    return Halo(before[0], after[0], before[1], after[1])
