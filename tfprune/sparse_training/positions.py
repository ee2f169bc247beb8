"""The tables that tell a kernel where a sum's positions are, and in what order to take them."""

import dataclasses
from typing import NamedTuple

import numpy as np

from tfprune.sparse_training.kernels.convolution import LINE, Tile
from tfprune.sparse_training.layout import Layout
from tfprune.sparse_training.lists import Grid

# Slots of partial sums, at least, so that as many threads have something to do.
_LEAST_UNITS = 32


@dataclasses.dataclass(frozen=True, eq=False)
class Positions:
    """Positions, strips and units (see `kernels.convolution`).

    Attributes:
        tiles: The shapes of tiles.
        positions: int64 `[positions, POSITION_WORDS]`.
        strips: int64 `[strips, shapes + 1]`.
        units: int64 `[units + 1]`.
        lines: The cache lines of a channel that lie between two positions of a row.
        rows: The rows of what is read that lie between two rows of positions.
    """

    tiles: tuple[Tile, ...]
    positions: np.ndarray
    strips: np.ndarray
    units: np.ndarray
    lines: int
    rows: int

    def units_of_tile(self, tiles: int, images: int) -> int:
        """Returns the units of each tile of the batch; 0 where a unit has positions of several.

        Args:
            tiles: The tiles of the batch.
            images: The images of a tile.
        """
        alone = all(place < images for tile in self.tiles for place in tile.mask)
        return (len(self.units) - 1) // tiles if alone else 0


class _Axis(NamedTuple):
    """The distances of two neighbours in what is read, in what is written, and in the image mask."""

    count: int
    source: int
    target: int
    mask: int


def positions_of(
    grid: Grid,
    source: Layout,
    target: Layout,
    numbers: int,
    ahead: int,
    *,
    strip_pixels: int = 1,
) -> Positions:
    """Cuts the positions of a batch.

    Args:
        grid: The positions of an image.
        source: The layout of what is read.
        target: The layout of what is written.
        numbers: float32 numbers of a tile at most.
        ahead: The rows of what is read that lie between a position and what is fetched then.
        strip_pixels: The pixels of a strip, at least, where a unit has so many. A strip is whole rows.
    """
    images = min(numbers, source.images)
    pixels = max(1, numbers // images)
    down, right = grid.source_steps
    down_target, right_target = grid.target_steps
    axes = (
        _Axis(source.tiles, source.tile, target.tile, source.images),
        _Axis(grid.rows, down * source.row, down_target * target.row, 0),
        _Axis(grid.columns, right * source.column, right_target * target.column, 0),
    )
    # Each axis is cut into about equal pieces; one that is not cut leaves pixels of a tile to the next.
    edges = []
    for axis in reversed(axes):
        pieces = -(-axis.count // pixels)
        edges.insert(0, axis.count * np.arange(pieces + 1) // pieces)
        pixels = 1 if pieces > 1 else pixels // axis.count
    starts = [edge[:-1] for edge in edges]
    lengths = [np.diff(edge) for edge in edges]
    pieces = [len(start) for start in starts]
    of_strip = max(1, min(pieces[1], -(-strip_pixels // (grid.columns * int(lengths[1][0])))))
    strips_of_tile = -(-pieces[1] // of_strip)
    units_of_tile = min(strips_of_tile, -(-_LEAST_UNITS // pieces[0]))

    index = np.indices((*pieces, source.images // images)).reshape(4, -1)
    shape = np.stack([length[i] for length, i in zip(lengths, index, strict=False)])
    shapes, of_shape = np.unique(-shape, axis=1, return_inverse=True)
    of_shape = of_shape.ravel()
    strip = index[0] * strips_of_tile + index[1] * strips_of_tile // pieces[1]
    order = np.lexsort((np.arange(len(strip)), of_shape, strip))
    places = [
        sum(start[i] * getattr(axis, name) for start, i, axis in zip(starts, index, axes, strict=False))
        + index[3] * images
        for name in ("source", "target", "mask")
    ]
    places = [place[order] for place in places]
    count = np.bincount(
        strip * shapes.shape[1] + of_shape, minlength=pieces[0] * strips_of_tile * shapes.shape[1]
    )
    firsts = np.concatenate([[0], np.cumsum(count)])
    edges_of_shapes = np.arange(pieces[0] * strips_of_tile)[:, None] * shapes.shape[1]
    strips = firsts[edges_of_shapes + np.arange(shapes.shape[1] + 1)]
    units = strips_of_tile * np.arange(units_of_tile) // units_of_tile
    units = (np.arange(pieces[0])[:, None] * strips_of_tile + units).ravel()
    return Positions(
        tuple(_tile(tuple(-shape), axes, images) for shape in shapes.T),
        np.column_stack([*places, places[0] + ahead * source.row, np.append(places[1][1:], places[1][-1])]),
        strips,
        np.append(units, pieces[0] * strips_of_tile),
        max(1, int(lengths[2].max()) * right * images // LINE),
        int(lengths[0].max()) * int(lengths[1].max()) * down,
    )


def _tile(shape: tuple[int, ...], axes: tuple[_Axis, ...], images: int) -> Tile:
    inside = list(np.ndindex(*(int(side) for side in shape)))
    source, target, mask = (
        tuple(sum(at * getattr(axis, name) for at, axis in zip(index, axes, strict=True)) for index in inside)
        for name in ("source", "target", "mask")
    )
    return Tile(source, target, mask, images)
