"""From the weights of a convolution to the lists that the kernels read.

Forwards, and for the gradient of the input, a convolution is a set of sums: a **row** is a channel of the
result, and its **entries** are the weights that it takes, each with the place that it is multiplied with,
relative to the position. The gradient's rows are the same for each class of pixels that a stride tells
apart: those of a class meet the same taps of the window.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from tfprune.sparse_training.graph import Kernel, Window
from tfprune.sparse_training.kernels.convolution import LINE
from tfprune.sparse_training.kernels.weights import Block
from tfprune.sparse_training.layout import Layout


class Grid(NamedTuple):
    """The positions of a sum, and the steps from one to the next, vertical and horizontal, in pixels.

    Attributes:
        rows: The rows of positions.
        columns: The positions of a row.
        source_steps: The steps in what is read.
        target_steps: The steps in what is written.
    """

    rows: int
    columns: int
    source_steps: tuple[int, int]
    target_steps: tuple[int, int]


@dataclasses.dataclass(frozen=True, eq=False)
class Sums:
    """The sums of a convolution in one direction, at the positions of one grid.

    Attributes:
        grid: The positions.
        target: The place of each row's first result, from the first pixel of the target, int64 `[rows]`.
        channel: The channel of each row, int64 `[rows]`.
        family: A number that is the same for rows that may share what they read, int64 `[rows]`,
            ascending.
        slot: The number of the pixels' class of each row, int64 `[rows]`.
        slots: The number of classes.
        row: The row of each entry, int64 `[entries]`, ascending; within a row, places ascend.
        place: What the entry reads, from the position, int64 `[entries]`.
        read: The channel that it reads, int64 `[entries]`.
        weight: The index in the kernel's values, int64 `[entries]`.
    """

    grid: Grid
    target: np.ndarray
    channel: np.ndarray
    family: np.ndarray
    slot: np.ndarray
    slots: int
    row: np.ndarray
    place: np.ndarray
    read: np.ndarray
    weight: np.ndarray

    @property
    def rows(self) -> int:
        """Returns the number of rows."""
        return len(self.target)

    @property
    def positions(self) -> int:
        """Returns the number of positions of an image."""
        return self.grid.rows * self.grid.columns


class _Axis(NamedTuple):
    """One axis of a window that moves over a side of `side` pixels."""

    side: int
    positions: int
    padding: int
    dilation: int
    stride: int

    @property
    def classes(self) -> int:
        """Returns the number of classes of pixels."""
        return min(self.stride, self.side)

    def pixels(self, of_class: int) -> int:
        """Returns the number of pixels of a class."""
        return -(-(self.side - of_class) // self.stride)


def axes_of(window: Window, source: Layout) -> tuple[_Axis, _Axis]:
    """Returns the two axes of a window over a value.

    Where there is but one position the stride is immaterial: it becomes so long that each pixel is a class
    of its own, which meets one tap at most.
    """
    axes = []
    for axis, (side, positions) in enumerate(
        zip(source.shape[:2], window.positions(source.shape), strict=True)
    ):
        padding, dilation = window.padding[2 * axis], window.dilation[axis]
        stride = window.strides[axis]
        if positions == 1:
            stride = max(stride, side + padding, window.size[axis] * dilation)
        axes.append(_Axis(side, positions, padding, dilation, stride))
    return axes[0], axes[1]


def forward_sums(kernel: Kernel, window: Window, groups: int, source: Layout, target: Layout) -> Sums:
    """Returns the sums that make a convolution's output.

    Args:
        kernel: The weights.
        window: The window.
        groups: The groups of channels.
        source: The layout of the input.
        target: The layout of the output.
    """
    vertical, horizontal = axes_of(window, source)
    outputs = kernel.shape[3]
    tap_row, tap_column, read, written = _weights(kernel, groups)
    down = tap_row * vertical.dilation - vertical.padding
    right = tap_column * horizontal.dilation - horizontal.padding
    reaches = _meets(down, vertical.positions, window.strides[0], vertical.side)
    reaches &= _meets(right, horizontal.positions, window.strides[1], horizontal.side)
    channels = np.arange(outputs)
    return _sorted(
        Grid(vertical.positions, horizontal.positions, window.strides, (1, 1)),
        channels * target.channel,
        channels,
        channels // (outputs // groups),
        np.zeros(outputs, np.int64),
        written,
        down * source.row + right * source.column + read * source.channel,
        read,
        reaches,
    )


def gradient_sums(kernel: Kernel, window: Window, groups: int, source: Layout, target: Layout) -> list[Sums]:
    """Returns the sums that make the gradient of a convolution's input from that of its output.

    Args:
        kernel: The weights.
        window: The window.
        groups: The groups of channels.
        source: The layout of the convolution's input, and of its gradient.
        target: The layout of the convolution's output, and of its gradient.

    Returns:
        The sums of each size of grid: one, where the strides divide the sides.
    """
    vertical, horizontal = axes_of(window, source)
    inputs = source.shape.channels
    tap_row, tap_column, written, read = _weights(kernel, groups)
    moved = [_classes(tap, axis) for tap, axis in ((tap_row, vertical), (tap_column, horizontal))]
    (class_row, down), (class_column, right) = moved
    place = down * target.row + right * target.column + read * target.channel
    sums = []
    for rows in sorted({vertical.pixels(r) for r in range(vertical.classes)}, reverse=True):
        for columns in sorted({horizontal.pixels(c) for c in range(horizontal.classes)}, reverse=True):
            here_rows = [r for r in range(vertical.classes) if vertical.pixels(r) == rows]
            here_columns = [c for c in range(horizontal.classes) if horizontal.pixels(c) == columns]
            slots = len(here_rows) * len(here_columns)
            slot_row, slot_column, channel = (
                grid.ravel()
                for grid in np.meshgrid(here_rows, here_columns, np.arange(inputs), indexing="ij")
            )
            slot = np.arange(slots).repeat(inputs)
            reaches = np.isin(class_row, here_rows) & np.isin(class_column, here_columns)
            reaches &= _meets(down, rows, 1, vertical.positions)
            reaches &= _meets(right, columns, 1, horizontal.positions)
            of_class = (class_row - here_rows[0]) * len(here_columns) + class_column - here_columns[0]
            sums.append(
                _sorted(
                    Grid(rows, columns, (1, 1), (vertical.stride, horizontal.stride)),
                    slot_row * source.row + slot_column * source.column + channel * source.channel,
                    channel,
                    slot * groups + channel // (inputs // groups),
                    slot,
                    of_class * inputs + written,
                    place,
                    read,
                    reaches,
                )
            )
    return sums


def _weights(kernel: Kernel, groups: int) -> tuple[np.ndarray, ...]:
    """Returns of each weight the tap's row and column, the input channel and the output channel."""
    positions = np.arange(kernel.size) if kernel.positions is None else kernel.positions
    tap_row, tap_column, read, written = np.unravel_index(positions, kernel.shape)
    return tap_row, tap_column, read + written // (kernel.shape[3] // groups) * kernel.shape[2], written


def _classes(tap: np.ndarray, axis: _Axis) -> tuple[np.ndarray, np.ndarray]:
    """Returns the class of the pixels that a tap meets, and how far from them its positions lie."""
    before = tap * axis.dilation - axis.padding
    of_class = before % axis.stride
    return of_class, (of_class - before) // axis.stride


def _meets(shift: np.ndarray, positions: int, stride: int, side: int) -> np.ndarray:
    """Returns whether a tap meets a pixel at one position at least, and not the halo alone."""
    first = np.maximum(0, -(shift // stride))
    return (first < positions) & (shift + first * stride < side)


def _sorted(
    grid: Grid,
    target: np.ndarray,
    channel: np.ndarray,
    family: np.ndarray,
    slot: np.ndarray,
    row: np.ndarray,
    place: np.ndarray,
    read: np.ndarray,
    kept: np.ndarray,
) -> Sums:
    weight = np.flatnonzero(kept)
    row, place, read = row[weight], place[weight], read[weight]
    order = np.lexsort((place, row))
    slots = int(slot[-1]) + 1
    return Sums(
        grid, target, channel, family, slot, slots, row[order], place[order], read[order], weight[order]
    )


@dataclasses.dataclass(frozen=True, eq=False)
class SparseList:
    """Entries as pairs of a place and a weight, row by row, in blocks of what is read.

    Attributes:
        starts: The first entry of each row in each block, int64 `[blocks * rows + 1]`.
        entries: int32 `[entries, 2]`: the place, and the bits of the weight.
        packed: The places of the kernel's weights in the entries, counted in 32-bit numbers, int32; those of
            weights without an entry are -1.
    """

    starts: np.ndarray
    entries: np.ndarray
    packed: np.ndarray


def sparse_list(sums: Sums, weights: int, blocks: int) -> SparseList:
    """Makes a list for the sparse kernel.

    Args:
        sums: The sums.
        weights: The number of the kernel's weights.
        blocks: The number of blocks. Each has about as many of the channels that are read.
    """
    channels, channel = np.unique(sums.read, return_inverse=True)
    block = channel * blocks // max(1, len(channels))
    order = np.argsort(block, kind="stable")
    counts = np.bincount(block * sums.rows + sums.row, minlength=blocks * sums.rows)
    entries = np.zeros((len(order), 2), np.int32)
    entries[:, 0] = sums.place[order]
    packed = np.full(weights, -1, np.int32)
    packed[sums.weight[order]] = 2 * np.arange(len(order)) + 1
    return SparseList(np.concatenate([[0], np.cumsum(counts)]), entries, packed)


@dataclasses.dataclass(frozen=True, eq=False)
class DenseList:
    """Groups of rows that read the same places, with a matrix of weights each.

    Attributes:
        sizes: The numbers of rows of a group that occur, descending.
        starts: The first group of each size, and the number of groups, int64 `[sizes + 1]`.
        order: The rows in the order of the groups.
        matrices: int64 `[blocks, groups, 4]`: the first of the group's places, their number, the place of its
            weights, its first row in `order`.
        places: int32 `[places]`.
        values: The matrices, each `[places, rows of the group]`, float32.
        packed: The places of the kernel's weights in `values`, int32; -1 as in `SparseList`.
    """

    sizes: tuple[int, ...]
    starts: np.ndarray
    order: np.ndarray
    matrices: np.ndarray
    places: np.ndarray
    values: np.ndarray
    packed: np.ndarray


def dense_list(sums: Sums, weights: int, most_rows: int, most_places: int) -> DenseList:
    """Makes a list for the dense kernel.

    Args:
        sums: The sums.
        weights: The number of the kernel's weights.
        most_rows: The rows of a group at most; groups of a family are about equally large.
        most_places: The places of a block at most.
    """
    packed = np.full(weights, -1, np.int32)
    families = np.concatenate([[0], np.flatnonzero(np.diff(sums.family)) + 1, [sums.rows]])
    read = []
    for first, last in zip(families, families[1:], strict=False):
        here = slice(*np.searchsorted(sums.row, [first, last]))
        read.append((first, last, here, *np.unique(sums.place[here], return_inverse=True)))
    blocks = max(1, *(-(-len(places) // most_places) for *_, places, _ in read))
    starts_of_places = np.concatenate([[0], np.cumsum([len(places) for *_, places, _ in read])])
    found = []  # Of each group: its size, first row, and of each block the first place, number, matrix.
    values = 0
    for (first, last, here, places, index), start in zip(read, starts_of_places, strict=False):
        edges = len(places) * np.arange(blocks + 1) // blocks
        cuts = -(-(last - first) // most_rows)
        rows = first + (last - first) * np.arange(cuts + 1) // cuts
        matrices = np.zeros((cuts, blocks), np.int64)
        for cut in range(cuts):
            size = rows[cut + 1] - rows[cut]
            matrices[cut] = values + edges[:-1] * size
            values += len(places) * size
            found.append((size, rows[cut], start + edges[:-1], np.diff(edges), matrices[cut]))
        of_entry = np.searchsorted(rows, sums.row[here], side="right") - 1
        size = np.diff(rows)[of_entry]
        packed[sums.weight[here]] = matrices[of_entry, 0] + index * size + sums.row[here] - rows[of_entry]
    found.sort(key=lambda group: -group[0])
    sizes = [int(group[0]) for group in found]
    distinct = tuple(sorted(set(sizes), reverse=True))
    firsts = np.concatenate([[0], np.cumsum(sizes)])
    groups = np.array(
        [
            [
                (places[b], counts[b], matrix[b], firsts[g])
                for g, (_, _, places, counts, matrix) in enumerate(found)
            ]
            for b in range(blocks)
        ],
        np.int64,
    )
    return DenseList(
        distinct,
        np.array([sizes.index(size) for size in distinct] + [len(sizes)], np.int64),
        np.concatenate([np.arange(row, row + size) for size, row, *_ in found]),
        groups,
        np.concatenate([places for *_, places, _ in read]).astype(np.int32),
        np.zeros(values, np.float32),
        packed,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Products:
    """The products of entries and output channels whose sums over pixels are the gradients of weights.

    They are made block by block, in an order in which what a few groups of blocks read fits in a cache.

    Attributes:
        blocks: The shapes of blocks.
        firsts: The first block of each shape in each group, int64 `[shapes, groups + 1]`.
        tables: Of each shape int32 `[blocks, words]`: the place of the block's sums in the partial sums,
            the places of its outputs and of its entries.
        costs: The products of each group, int64 `[groups]`.
        partial: The partial sums of a chunk, whole cache lines of them.
        weights: The weight that each of them is of, int32 `[partial]`; -1: of none.
        left_out: The weights that none is of, their gradients are 0; int32.
    """

    blocks: tuple[Block, ...]
    firsts: np.ndarray
    tables: tuple[np.ndarray, ...]
    costs: np.ndarray
    partial: int
    weights: np.ndarray
    left_out: np.ndarray


def sparse_products(sums: Sums, weights: int, at_once: int, row_blocks: int, read_blocks: int) -> Products:
    """Makes blocks of the entries of a row, and of what is left over of several.

    Args:
        sums: The sums of the forward pass.
        weights: The number of the kernel's weights.
        at_once: The products of a block, a power of two.
        row_blocks: The blocks of rows, and
        read_blocks: of channels that are read; a group is a row's entries in one of them.
    """
    rows, entries = sums.rows, len(sums.row)
    channels, channel = np.unique(sums.read, return_inverse=True)
    read_block = channel * read_blocks // max(1, len(channels))
    row_block = np.arange(rows) * row_blocks // rows
    # Groups in the order of row block, read block, row.
    group_row = np.concatenate(
        [np.tile(np.flatnonzero(row_block == i), read_blocks) for i in range(row_blocks)]
    )
    size = np.bincount(row_block, minlength=row_blocks)
    first_group = (np.cumsum(size) - size) * read_blocks
    first_row = np.cumsum(size) - size
    of_row = row_block[sums.row]
    group = first_group[of_row] + read_block * size[of_row] + sums.row - first_row[of_row]
    order = np.argsort(group, kind="stable")
    counts = np.bincount(group, minlength=len(group_row))
    starts = np.concatenate([[0], np.cumsum(counts)])
    done = np.zeros(len(group_row), np.int64)
    blocks, firsts, tables, partial = [], [], [], 0
    places = np.full(weights, -1, np.int32)
    length = at_once
    while length and entries:
        # Runs of so many entries of a group; of shorter ones several make a block, the last with repetitions.
        runs = (counts - done) // length
        run_group = np.arange(len(group_row)).repeat(runs)
        first = np.cumsum(runs) - runs
        if len(run_group):
            outputs = at_once // length
            number = -(-len(run_group) // outputs)
            entry = (starts[:-1] + done - length * first)[run_group] + length * np.arange(len(run_group))
            entry = order[entry[:, None] + np.arange(length)]
            sums_at = partial + np.arange(entry.size).reshape(entry.shape)
            places[sums.weight[entry]] = sums_at
            filled = np.minimum(np.arange(number * outputs), len(run_group) - 1)
            tables.append(
                np.column_stack(
                    [
                        partial + at_once * np.arange(number),
                        sums.target[group_row[run_group[filled]]].reshape(number, outputs),
                        sums.place[entry[filled]].reshape(number, at_once),
                    ]
                ).astype(np.int32)
            )
            blocks.append(Block(outputs, length, crossed=False))
            firsts.append(np.searchsorted(run_group[::outputs], np.arange(len(group_row) + 1)))
            partial += number * at_once
            done += runs * length
        length //= 2
    return Products(
        tuple(blocks),
        np.array(firsts, np.int64).reshape(len(blocks), len(group_row) + 1),
        tuple(tables),
        counts,
        *_of_partials(places, partial),
    )


def _of_partials(places: np.ndarray, partial: int) -> tuple[int, np.ndarray, np.ndarray]:
    """Returns the partial sums of a chunk, the weight of each, and the weights of none; see `Products`."""
    partial = max(1, -(-partial // LINE)) * LINE
    weights = np.full(partial, -1, np.int32)
    there = np.flatnonzero(places >= 0)
    weights[places[there]] = there
    return partial, weights, np.flatnonzero(places < 0).astype(np.int32)


def dense_products(sums: Sums, weights: int, block: Block, read_blocks: int) -> Products:
    """Makes blocks of all products of the outputs of a family with what any of them reads.

    Args:
        sums: The sums of the forward pass.
        weights: The number of the kernel's weights.
        block: The shape of the blocks. The last of a family is filled with products of no use.
        read_blocks: The blocks of what is read; a group is the products of some outputs with one of them.
    """
    outputs, entries = block.outputs, block.entries
    places = np.full(weights, -1, np.int32)
    tables, costs, partial = [], [], 0
    families = np.concatenate([[0], np.flatnonzero(np.diff(sums.family)) + 1, [sums.rows]])
    for first, last in zip(families, families[1:], strict=False):
        here = slice(*np.searchsorted(sums.row, [first, last]))
        read, one, index = np.unique(sums.place[here], return_index=True, return_inverse=True)
        channel = sums.read[here][one]
        # By blocks of channels, so that the taps of a channel stay together.
        _, channel = np.unique(channel, return_inverse=True)
        order = np.argsort(channel * read_blocks // (channel.max(initial=0) + 1), kind="stable")
        new = np.empty_like(order)
        new[order] = np.arange(len(order))
        read, index = read[order], new[index]
        groups, runs = -(-(last - first) // outputs), -(-len(read) // entries)
        run_edges = runs * np.arange(read_blocks + 1) // read_blocks
        row = np.minimum(first + np.arange(groups * outputs), last - 1).reshape(groups, outputs)
        column = np.minimum(np.arange(runs * entries), len(read) - 1).reshape(runs, entries)
        start = np.zeros((groups, runs), np.int64)
        for low, high in zip(run_edges, run_edges[1:], strict=False):
            size = groups * (high - low)
            start[:, low:high] = partial + block.products * np.arange(size).reshape(groups, -1)
            partial += size * block.products
            tables.append(
                np.concatenate(
                    [
                        start[:, low:high, None],
                        np.broadcast_to(sums.target[row][:, None], (groups, high - low, outputs)),
                        np.broadcast_to(read[column[low:high]], (groups, high - low, entries)),
                    ],
                    axis=2,
                ).reshape(size, block.words)
            )
            costs += [high - low] * groups
        of_row = sums.row[here] - first
        places[sums.weight[here]] = (
            start[of_row // outputs, index // entries] + of_row % outputs * entries + index % entries
        )
    return Products(
        (block,),
        np.concatenate([[0], np.cumsum(costs)]).astype(np.int64)[None],
        (np.concatenate(tables).astype(np.int32),),
        np.array(costs) * block.products,
        *_of_partials(places, partial),
    )
