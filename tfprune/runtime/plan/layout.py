"""Lays out values in memory: the planes' halo of zeros makes a convolution a sum of shifted planes.

A channel's pixels lie row by row, `pitch` apart; between a row's last pixel and the next row's first is the
halo, at least as wide as any consumer's padding, so that left and right padding share it. Planes are
`plane` numbers apart; the rows between them are the vertical padding, shared as well. Whatever a kernel
computes at a halo position it stores as zero.

A convolution of stride 1 needs its input and output to have the same pitch, and so has everything that is
added to its output. A strided convolution reads **phases**: for strides (s, t) each plane is split into s *
t planes, of every s-th row and t-th column, and over these it has stride 1.

A vector is contiguous.
"""

import dataclasses
import math
from typing import NamedTuple

import numpy as np

from tfprune.runtime.graph import (
    INTEGER_PATH,
    MAX_VALUES,
    Concatenate,
    Constant,
    Conv,
    Embedding,
    Gather,
    Graph,
    Input,
    MatMul,
    Node,
    Pool,
    Quantize,
    Recurrent,
    Shape,
)
from tfprune.runtime.machine import Machine

# Accumulators of the sparse and the dense kernels, by the number of vector registers; what is left holds the
# weights and what is loaded. The tile is no larger than what its entries can keep in the first-level cache.
SPARSE_VECTORS = {32: 13, 16: 12}
DENSE_VECTORS = {32: 6, 16: 3}
DENSE_GROUP = 4
# The same of the convolution of whole numbers where one instruction adds four products: vectors of pixels as
# float32 would have them.
DOT_UNITS = 24
# The lanes of AVX-512.
WIDEST = 16


class Value(NamedTuple):
    """The value of a node, or its phases.

    Attributes:
        node: The index of the node.
        strides: `(vertical, horizontal)`: the phases that a convolution of these strides reads. Strides of 1
            have one phase, the value itself.
        in_bytes: Whether it is the steps of a `Quantize`, a byte each; of the same geometry as the numbers.
    """

    node: int
    strides: tuple[int, int] = (1, 1)
    in_bytes: bool = False

    @property
    def plain(self) -> "Value":
        """Returns the value that is split, or the value itself."""
        return Value(self.node, in_bytes=self.in_bytes)

    @property
    def in_float32(self) -> "Value":
        """Returns the value in float32, which has the geometry of its steps, too."""
        return Value(self.node, self.strides)

    @property
    def is_split(self) -> bool:
        """Returns whether the value is split into phases."""
        return self.strides != (1, 1)


@dataclasses.dataclass(frozen=True)
class Geometry:
    """The geometry of the planes of a value.

    Attributes:
        height: Rows with pixels.
        width: Pixels in a row.
        pitch: Distance of two rows.
        plane: Distance of two planes.
        front: Numbers before the first plane's first pixel that may be read.
        back: Numbers after the last plane (`plane` each) that may be read or written.
    """

    height: int
    width: int
    pitch: int
    plane: int
    front: int
    back: int

    @property
    def positions(self) -> int:
        """Returns the count of numbers from the first pixel of a plane to its last."""
        return (self.height - 1) * self.pitch + self.width


@dataclasses.dataclass(frozen=True)
class Tiles:
    """A cut of a plane for a kernel: `count` tiles of `vectors` vectors.

    Attributes:
        vectors: Vectors in a tile.
        count: The number of tiles.
        half: Whether the only tile's last vector is half as wide.
    """

    vectors: int
    count: int
    half: bool = False


def cut(positions: int, lanes: int, most: int) -> Tiles:
    """Cuts a plane into tiles of at most `most` vectors so that little is computed in vain.

    Args:
        positions: Numbers in a plane.
        lanes: Numbers in a vector.
        most: Vectors in a tile, at most.

    Returns:
        The cut that wastes least; of equal ones that with the largest tiles.
    """
    needed = -(-positions // lanes)
    if needed <= most:
        # Processors that halve vectors of 512 bits compute half of one in half the time.
        return Tiles(needed, 1, half=lanes == WIDEST and positions <= needed * lanes - lanes // 2)
    sizes = range(most, most // 2, -1)
    best = min(sizes, key=lambda size: (-needed % size, -size))
    return Tiles(best, -(-needed // best))


def sparse_tiles(geometry: Geometry, target: Machine) -> Tiles:
    """Returns the sparse convolution's cut of a plane."""
    return cut(geometry.positions, target.lanes, SPARSE_VECTORS[target.registers])


def dense_tiles(geometry: Geometry, target: Machine) -> Tiles:
    """Returns the dense convolution's cut of a plane."""
    return cut(geometry.positions, target.lanes, DENSE_VECTORS[target.registers])


def integer_tiles(geometry: Geometry, target: Machine) -> Tiles:
    """Returns the cut of a plane for convolutions of whole numbers, by vectors of float32."""
    most = DOT_UNITS if target.dot_products else SPARSE_VECTORS[target.registers]
    return dataclasses.replace(cut(geometry.positions, target.lanes, most), half=False)


def taps(node: Conv, row: int | np.ndarray, column: int | np.ndarray) -> tuple[int | np.ndarray, ...]:
    """Returns the places that elements of a convolution's kernel read.

    Args:
        node: The convolution.
        row: The elements' rows in the kernel.
        column: Their columns.

    Returns:
        Phase, rows down and columns right from the output's position, of the shape of `row`; the phase is 0
        where the strides are 1. Rows down grow with the row, columns right with the column.
    """
    down, phase_row = divmod(row * node.dilation[0] - node.padding[0], node.strides[0])
    right, phase_column = divmod(column * node.dilation[1] - node.padding[2], node.strides[1])
    return phase_row * node.strides[1] + phase_column, down, right


def phase_shape(shape: Shape, strides: tuple[int, int]) -> Shape:
    """Returns the shape of the largest phase of a value, all phases' planes as channels."""
    return (
        -(-shape[0] // strides[0]),
        -(-shape[1] // strides[1]),
        shape[2] * strides[0] * strides[1],
    )


def is_vector(shape: Shape) -> bool:
    """Returns whether a value of this shape has one pixel and is stored as a vector."""
    return shape[:2] == (1, 1)


class Layout:
    """The geometry of every value of a graph that is not a vector."""

    def __init__(self, graph: Graph, shapes: list[Shape], target: Machine) -> None:
        """Plans the halos.

        Args:
            graph: The network.
            shapes: The shapes of the graph's values.
            target: The machine.
        """
        self._target = target
        self._shapes: dict[Value, Shape] = {}
        self._leader: dict[Value, Value] = {}
        self._halo: dict[Value, tuple[int, int]] = {}  # rows, columns
        for index, shape in enumerate(shapes):
            self._add(Value(index), shape)
        strides = [node.strides[1] for node in graph.nodes if isinstance(node, Conv | Pool)]
        self._widest_step = max(strides, default=1)
        self._tiles = [sparse_tiles, dense_tiles]
        if any(isinstance(node, Quantize) for node in graph.nodes):
            self._tiles.append(integer_tiles)
        for index, node in enumerate(graph.nodes):
            self._constrain(index, node, shapes)
        self._plan()

    def geometry(self, value: Value) -> Geometry:
        """Returns the geometry of a value."""
        return self._geometries[value.in_float32]

    def _add(self, value: Value, shape: Shape) -> None:
        if value not in self._shapes:
            self._shapes[value] = shape
            self._leader[value] = value
            self._halo[value] = (0, 0)

    def _find(self, value: Value) -> Value:
        while (leader := self._leader[value]) != value:
            # Every other step of the way is skipped next time, or long ways would be gone again and again.
            self._leader[value] = value = self._leader[leader]
        return value

    def _join(self, a: Value, b: Value) -> None:
        if self._has_planes(a) and self._has_planes(b):
            self._leader[self._find(a)] = self._find(b)

    def _has_planes(self, value: Value) -> bool:
        return value.is_split or not is_vector(self._shapes[value])

    def _need(self, value: Value, rows: int, columns: int) -> None:
        before = self._halo[value]
        self._halo[value] = (max(before[0], rows), max(before[1], columns))

    def _constrain(self, index: int, node: Node, shapes: list[Shape]) -> None:
        output = shapes[index]
        if isinstance(node, Input | Constant | Embedding | Gather | Recurrent) or is_vector(output):
            return
        if isinstance(node, Concatenate) and node.axis != 2:  # It is put together pixel by pixel.
            return
        if isinstance(node, Conv | Pool) and is_vector(shapes[node.inputs[0]]):
            raise node.refuse("an image of one pixel that padding enlarges is not supported")
        if isinstance(node, Pool):
            height, width, _ = shapes[node.inputs[0]]
            below = (output[0] - 1) * node.strides[0] + node.size[0] - node.padding[0] - height
            right = (output[1] - 1) * node.strides[1] + node.size[1] - node.padding[2] - width
            self._need(Value(node.inputs[0]), max(node.padding[0], below), max(node.padding[2], right))
            return
        if isinstance(node, Conv):
            source = reads(node).in_float32
            self._add(source, phase_shape(shapes[node.inputs[0]], node.strides))
            height, width, _ = self._shapes[source]
            rows, columns = node.kernel.shape[:2]
            for row, column in ((0, 0), (rows - 1, columns - 1)):
                _, down, right = taps(node, row, column)
                self._need(
                    source,
                    max(-down, output[0] - 1 + down - (height - 1)),
                    max(-right, output[1] - 1 + right - (width - 1)),
                )
            self._join(source, Value(index))
            joined = node.inputs[1:]
        else:
            joined = node.inputs[:1] if isinstance(node, MatMul) else node.inputs
        for other in joined:
            self._join(Value(other), Value(index))

    def _plan(self) -> None:
        groups: dict[Value, list[Value]] = {}
        for value in self._shapes:
            if self._has_planes(value):
                groups.setdefault(self._find(value), []).append(value)
        self._geometries: dict[Value, Geometry] = {}
        for values in groups.values():
            pitch = max(self._shapes[value][1] + self._halo[value][1] for value in values)
            rows = max(self._halo[value][0] for value in values)
            sizes = {self._shapes[value][:2] for value in values}
            # A convolution reads as much as the whole tiles of its target, of another size perhaps.
            beyond = max(self._whole_tiles(flat) - flat.positions for flat in _flat(sizes, pitch))
            of_size = {
                (flat.height, flat.width): self._geometry(flat, rows, beyond) for flat in _flat(sizes, pitch)
            }
            for value in values:
                self._geometries[value] = of_size[self._shapes[value][:2]]

    def _whole_tiles(self, flat: Geometry) -> int:
        """Returns the count of numbers that a convolution computes for a plane."""
        cuts = [tiles(flat, self._target) for tiles in self._tiles]
        return max(tiles.count * tiles.vectors for tiles in cuts) * self._target.lanes

    def _geometry(self, flat: Geometry, rows: int, beyond: int) -> Geometry:
        """Returns the geometry of a size.

        Args:
            flat: The size and the pitch.
            rows: The rows of its halo.
            beyond: The most numbers that a tile reads past a last pixel.
        """
        lanes = self._target.lanes
        height, width, pitch = flat.height, flat.width, flat.pitch
        # A row is also written in whole vectors.
        last_row = (height - 1) * pitch + math.ceil(width / lanes) * lanes
        plane = max((height + rows) * pitch, self._whole_tiles(flat), last_row)
        plane = -(-plane // lanes) * lanes  # planes begin alike, and are stored to aligned
        front = rows * pitch + (pitch - width)
        # What a whole tile, or a strided row of vectors, reads past the last pixel.
        back = (rows + 1) * pitch + max(beyond, (self._widest_step + 2) * lanes)
        return dataclasses.replace(flat, plane=plane, front=front, back=back)


def _flat(sizes: set[tuple[int, int]], pitch: int) -> list[Geometry]:
    """Returns geometries of sizes of one pitch, which planes have no place in yet."""
    return [Geometry(height, width, pitch, 0, 0, 0) for height, width in sizes]


def check_reach(node: Node, geometry: Geometry, channels: int, lowest: int, highest: int) -> None:
    """Makes sure that a kernel stays within a value's memory; no graph should fail this.

    Args:
        node: The node of the kernel; for the message.
        geometry: The geometry of the value.
        channels: The number of the value's planes.
        lowest: Smallest offset that is read or written, from the first plane's first pixel.
        highest: Largest.

    Raises:
        GraphError: The kernel would leave the value's memory.
    """
    end = channels * geometry.plane + geometry.back
    if lowest < -geometry.front or highest >= end or end > MAX_VALUES:
        raise node.refuse(f"would reach from {lowest} to {highest}, outside of {-geometry.front} to {end}")


def reads(node: Conv) -> Value:
    """Returns the value that a convolution on planes reads: its input, or the phases of its input."""
    return Value(node.inputs[0], tuple(node.strides), node.path == INTEGER_PATH)
