"""The calls of a convolution: forwards, the gradients of its input and of its weights, new weights.

Which kernel, dense or sparse, and how it is cut, depend on the weights and on the machine, not on the number
of threads: nor does any result.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from tfprune.runtime.kernels.kernel import Kernel as Code
from tfprune.runtime.machine import Machine
from tfprune.runtime.plan.parts import Even, Parts, TilesOrGroups
from tfprune.sparse_training import lists
from tfprune.sparse_training.graph import Kernel, Window
from tfprune.sparse_training.kernels.convolution import DenseSum, Epilogue, SparseSum
from tfprune.sparse_training.kernels.weights import Block, Gather, Scatter, WeightsGradient
from tfprune.sparse_training.layout import Layout
from tfprune.sparse_training.positions import Positions, positions_of

Address = int | np.ndarray

# A kernel with a greater share of its weights is faster dense, where outputs can share what they read: the
# sparse kernels took half of the dense ones' time at 0.4.
_DENSE_FROM = 0.6
_LEAST_ROWS_DENSE = 3
# The parts of the batch whose gradients of the weights are summed apart, at most.
_MOST_CHUNKS = 8
# The places of a block of the dense kernel, at most: the weights of a group then stay in the first-level
# cache, and what is read for a few rows in the second.
_MOST_PLACES = 256
# The pixels for which a group's weights are used while they are there, at least.
_STRIP_PIXELS = 16
# Entries are cut into blocks of channels where a tile's part of what is read exceeds so many bytes, but not
# into fewer entries of a row.
_TILE_BYTES = 32 * 1024
_LEAST_ENTRIES = 16
# A unit of the weights' gradient has so many vectors, at least, if it can, and what it reads at a time is so
# large, at most. The dense kernel's many accumulators are worth a sum of their lanes after more; the sparse
# one reads here and there, and more of fewer rows stays in the caches: it took 10 to 40 % less time so.
_LEAST_VECTORS_DENSE, _LEAST_VECTORS_SPARSE = 64, 16
_UNIT_BYTES = 2**17
# What is read is fetched ahead if it is larger than this; what is written goes past the caches if it is, an
# output sooner than a gradient, which is read again at once.
_AHEAD_BYTES = 2**20
_LARGE_OUTPUT_BYTES, _LARGE_GRADIENT_BYTES = 2**22, 2**24
RELU6_LIMIT = 6.0
# The lines that are fetched at once, at most.
_MOST_LINES = 32


class Call(NamedTuple):
    """One call of a kernel.

    Attributes:
        kernel: The kernel.
        arguments: Its parameters in their order; an array stands for its address.
        parts: The way to cut the call for threads.
        multiply_adds: The products of weights that stay with pixels, those of the whole batch.
        units_of_tile: Of the parts' first range, how many each tile of the batch has; 0: one may lie in
            several.
    """

    kernel: Code
    arguments: tuple[int | np.ndarray, ...]
    parts: Parts
    multiply_adds: int = 0
    units_of_tile: int = 0


class Statistics(NamedTuple):
    """Partial sums for each channel, taken where a convolution makes a value.

    Attributes:
        sums: The place of float32 `[slots, 2, channels, lanes]`. Forwards the sums of `m * (x - c)` and
            `m * (x - c)^2`, for the gradient of the input those of `x` and `x * (z - c)`.
        center: Address of float32 `[channels]`, the numbers c.
        mask: The place of float32 `[tiles, images]`, the numbers m; forwards only.
        z: The place of a value laid out as the gradient; for the gradient only.
    """

    sums: int
    center: Address
    mask: int = 0
    z: int = 0


class Relu(NamedTuple):
    """The derivative of a relu that is multiplied into a gradient.

    Attributes:
        output: The place of the relu's output, laid out as the gradient; None: it is made of `z` of the
            statistics, `z * scale + shift`.
        scale: Address of float32 `[channels]`.
        shift: Address of float32 `[channels]`.
        limit: 6 for a relu6, whose derivative is zero there and above; 0: no limit.
    """

    output: int | None = None
    scale: Address = 0
    shift: Address = 0
    limit: float = 0


@dataclasses.dataclass(frozen=True, eq=False)
class _Prepared:
    """A direction's sums with their list and tables."""

    sums: lists.Sums
    listed: lists.SparseList | lists.DenseList
    positions: Positions
    rows: np.ndarray
    costs: tuple[int, ...]
    blocks: int
    ahead: int
    lines: int

    @property
    def units(self) -> int:
        return len(self.positions.units) - 1

    @property
    def slots(self) -> int:
        return self.units * self.sums.slots


class Convolution:
    """A convolution's lists, and the calls that use them.

    Places are offsets of buffers in the arena, in float32 numbers.

    Attributes:
        forward_slots: The slots of the forward pass's partial sums.
        gradient_slots: The same of the input's gradient.
        partials: The float32 numbers of scratch memory that `weights_gradient` needs.
        dense: Whether the dense kernels are used.
        blocks: The blocks of entries of the forward pass.
        bytes: The size of the lists and tables.
    """

    def __init__(
        self,
        kernel: Kernel,
        window: Window,
        groups: int,
        source: Layout,
        target: Layout,
        machine: Machine,
        *,
        dense: bool | None = None,
        input_gradient: bool = True,
    ) -> None:
        """Makes the lists.

        Args:
            kernel: The weights.
            window: The window.
            groups: The groups of channels.
            source: The layout of the input, with a halo of at least `layout.halo_of_input`; that of its
                gradient too.
            target: The layout of the output, and of its gradient, with a halo of at least
                `layout.halo_of_gradient`.
            machine: The machine.
            dense: Whether to use the dense kernels; None: where they are likely to be faster.
            input_gradient: Whether the input's gradient is wanted, too.
        """
        self._source, self._target, self._machine = source, target, machine
        self._weights = len(kernel.values)
        outputs = kernel.shape[3] // groups
        if dense is None:
            dense = kernel.density >= _DENSE_FROM and outputs >= _LEAST_ROWS_DENSE
        self.dense = dense
        forward = lists.forward_sums(kernel, window, groups, source, target)
        self._forward = self._prepare(forward, source, target)
        self._gradients = []
        if input_gradient:
            sums = lists.gradient_sums(kernel, window, groups, source, target)
            self._gradients = [self._prepare(part, target, source) for part in sums]
        self._products = self._make_products(forward)
        self._units = self._units_of_products(forward)
        self._tables = np.array([table.ctypes.data for table in self._products.tables], np.int64)
        counts = [len(table) for table in self._products.tables]
        self._turns = np.cumsum([0, *counts], dtype=np.int64)

    @property
    def forward_slots(self) -> int:
        """See the class."""
        return self._forward.slots

    @property
    def gradient_slots(self) -> int:
        """See the class."""
        return sum(part.slots for part in self._gradients)

    @property
    def blocks(self) -> int:
        """See the class."""
        return self._forward.blocks

    @property
    def partials(self) -> int:
        """See the class."""
        return (len(self._units.chunks) - 1) * self._products.partial

    @property
    def bytes(self) -> int:
        """See the class."""
        held = [self._products]
        for part in (self._forward, *self._gradients):
            held += [part, part.listed, part.positions]
        arrays = [value for owner in held for value in vars(owner).values() if isinstance(value, np.ndarray)]
        return sum(array.nbytes for array in (*arrays, *self._products.tables))

    def forward(
        self,
        source: int,
        target: int,
        *,
        bias: Address | None = None,
        activation: str = "",
        statistics: Statistics | None = None,
        past_caches: bool | None = None,
    ) -> list[Call]:
        """Returns the calls that make the output.

        Args:
            source: The place of the input.
            target: The place of the output.
            bias: Address of float32 `[outputs]`; None: none.
            activation: "relu", "relu6" or none, "".
            statistics: The partial sums to take of the output; None: none.
            past_caches: Whether the output is not needed soon; None: if it is large.
        """
        if past_caches is None:
            past_caches = _bytes(self._target) > _LARGE_OUTPUT_BYTES
        epilogue = Epilogue(
            bias=bias is not None,
            activate=bool(activation),
            limit=RELU6_LIMIT if activation == "relu6" else 0,
            sums="own" if statistics else "",
            past_caches=past_caches,
        )
        given = {"bias": bias} if bias is not None else {}
        return [
            self._call(self._forward, self._source, self._target, source, target, epilogue, statistics, given)
        ]

    def input_gradient(
        self,
        gradient: int,
        target: int,
        *,
        accumulate: bool = False,
        relu: Relu | None = None,
        statistics: Statistics | None = None,
        past_caches: bool | None = None,
    ) -> list[Call]:
        """Returns the calls that make the gradient of the input.

        Args:
            gradient: The place of the output's gradient.
            target: The place of the input's gradient.
            accumulate: Whether to add it to what is there.
            relu: The derivative to multiply the sum with; None: none.
            statistics: The partial sums to take of the product; None: none.
            past_caches: Whether the gradient is not needed soon; None: if it is large.
        """
        if past_caches is None:
            past_caches = _bytes(self._source) > _LARGE_GRADIENT_BYTES
        kind = "" if relu is None else "affine" if relu.output is None else "output"
        epilogue = Epilogue(
            accumulate=accumulate,
            relu=kind,
            limit=relu.limit if relu else 0,
            sums="product" if statistics else "",
            past_caches=past_caches,
        )
        given = {}
        if kind == "output":
            given = {"relu": relu.output + self._source.first}
        elif kind == "affine":
            given = {"scale": relu.scale, "shift": relu.shift}
        calls = []
        for part in self._gradients:
            calls.append(
                self._call(part, self._target, self._source, gradient, target, epilogue, statistics, given)
            )
            if statistics:
                moved = part.slots * 2 * self._source.shape.channels * self._machine.lanes
                sums, *others = statistics
                statistics = Statistics(sums + moved, *others)
        return calls

    def weights_gradient(self, source: int, gradient: int, gradients: Address, partials: int) -> list[Call]:
        """Returns the calls that make the gradient of the weights.

        Args:
            source: The place of the input.
            gradient: The place of the output's gradient.
            gradients: Address of float32 `[weights]`, in the order of the kernel's positions.
            partials: The place of scratch memory.
        """
        products, units, grid = self._products, self._units, self._forward.sums.grid
        chunks = len(units.chunks) - 1
        calls = []
        if products.blocks:
            shares = [
                -(-size // max(1, int(self._turns[-1]))) if _bytes(layout) > _AHEAD_BYTES else 0
                for size, layout in ((units.source_size, self._source), (units.target_size, self._target))
            ]
            code = WeightsGradient(
                products.blocks,
                self._source.images,
                grid.source_steps[1] * self._source.column,
                self._target.column,
            )
            arguments = (
                source + self._source.first,
                gradient + self._target.first,
                units.source_row,
                units.target_row,
                grid.columns,
                units.chunks,
                units.table,
                products.firsts,
                products.firsts.shape[1] - 1,
                self._tables,
                partials,
                products.partial,
                self._turns,
                *shares,
            )
            parts = TilesOrGroups(chunks, tuple(products.costs.tolist()))
            calls.append(Call(code, arguments, parts, self._multiply_adds(self._forward)))
        arguments = (
            partials,
            products.partial,
            chunks,
            products.weights,
            gradients,
            products.left_out,
            len(products.left_out),
        )
        return [*calls, Call(Gather(), arguments, Even(products.partial // self._machine.lanes))]

    def refresh(self, values: Address) -> list[Call]:
        """Returns the calls that bring new weights to the lists.

        Args:
            values: Address of float32 `[weights]`, in the order of the kernel's positions.
        """
        return [
            Call(
                Scatter(),
                (values, part.listed.values if self.dense else part.listed.entries, part.listed.packed),
                Even(self._weights),
            )
            for part in (self._forward, *self._gradients)
        ]

    def _multiply_adds(self, part: _Prepared) -> int:
        images = self._source.tiles * self._source.images
        return len(part.sums.weight) * part.sums.positions * images

    def _prepare(self, sums: lists.Sums, source: Layout, target: Layout) -> _Prepared:
        machine = self._machine
        span = int(sums.place.max(initial=0) - sums.place.min(initial=0))
        ahead = int(sums.place.max(initial=0)) // source.row + 1
        if self.dense:
            most_rows = 6 if machine.registers <= 16 else 12
            listed = lists.dense_list(sums, self._weights, most_rows, _MOST_PLACES)
            order = listed.order
            sizes = np.diff([*listed.matrices[0, :, 3], sums.rows])
            costs = listed.matrices[:, :, 1].sum(0) * sizes + 1
            positions = positions_of(
                sums.grid, source, target, 2 * machine.lanes, ahead, strip_pixels=_STRIP_PIXELS
            )
            blocks = len(listed.matrices)
        else:
            numbers = 8 * machine.lanes
            tile_bytes = 4 * (span // source.row + 1) * source.shape.channels * 3 * numbers // 2
            blocks = max(1, min(-(-tile_bytes // _TILE_BYTES), len(sums.row) // sums.rows // _LEAST_ENTRIES))
            listed = lists.sparse_list(sums, self._weights, blocks)
            order = np.arange(sums.rows)
            costs = np.bincount(sums.row, minlength=sums.rows) + 1
            positions = positions_of(sums.grid, source, target, numbers, ahead)
        channels = target.shape.channels
        rows = np.column_stack(
            [
                sums.target,
                sums.channel,
                sums.slot * 2 * channels * machine.lanes + sums.channel * machine.lanes,
            ]
        )[order]
        ahead = 0
        lines = 1 << (positions.lines - 1).bit_length()
        if _bytes(source) > _AHEAD_BYTES:
            whole = lines * source.shape.channels * positions.rows
            ahead = min(-(-whole // (blocks * len(costs))), _MOST_LINES)
        return _Prepared(sums, listed, positions, rows, tuple(costs.tolist()), blocks, ahead, lines)

    def _call(
        self,
        part: _Prepared,
        source_layout: Layout,
        target_layout: Layout,
        source: int,
        target: int,
        epilogue: Epilogue,
        statistics: Statistics | None,
        given: dict,
    ) -> Call:
        sums, listed, lanes = part.sums, part.listed, self._machine.lanes
        channels = target_layout.shape.channels
        values = dict.fromkeys(SparseSum.parameters + DenseSum.parameters, 0) | given
        values |= {
            "source": source + source_layout.first,
            "target": target + target_layout.first,
            "units": part.positions.units,
            "strips": part.positions.strips,
            "positions": part.positions.positions,
            "rows": part.rows,
            "groups": len(part.costs),
            "source_channel": source_layout.channel,
            "blocks": part.blocks,
            "slot": sums.slots * 2 * channels * lanes,
            "channel": channels * lanes,
        }
        if statistics:
            values |= {
                "z": statistics.z + target_layout.first,
                "sums": statistics.sums,
                "mask": statistics.mask,
                "center": statistics.center,
            }
        choices = (part.positions.tiles, epilogue, part.blocks > 1, part.ahead, part.lines)
        if self.dense:
            code = DenseSum(*choices, listed.sizes)
            values |= {
                "sizes": listed.starts,
                "matrices": listed.matrices,
                "places": listed.places,
                "values": listed.values,
            }
        else:
            code = SparseSum(*choices)
            values |= {"starts": listed.starts, "entries": listed.entries}
        arguments = tuple(values[name] for name in code.parameters)
        parts, products = TilesOrGroups(part.units, part.costs), self._multiply_adds(part)
        of_tile = part.positions.units_of_tile(target_layout.tiles, target_layout.images)
        return Call(code, arguments, parts, products, of_tile)

    def _rows_of_products(self, grid: lists.Grid) -> int:
        """Returns the rows of a unit of the weights' gradient."""
        vectors = grid.columns * self._source.images // self._machine.lanes
        least = _LEAST_VECTORS_DENSE if self.dense else _LEAST_VECTORS_SPARSE
        return min(grid.rows, -(-least // vectors))

    def _make_products(self, sums: lists.Sums) -> lists.Products:
        grid, source, target = sums.grid, self._source, self._target
        rows = self._rows_of_products(grid)
        span = int(sums.place.max(initial=0) - sums.place.min(initial=0)) // source.row
        read_blocks = -(-4 * (rows * grid.source_steps[0] + span) * source.row // _UNIT_BYTES)
        row_blocks = -(-4 * rows * target.row // _UNIT_BYTES)
        if self.dense:
            block = Block(4, 3, crossed=True) if self._machine.registers <= 16 else Block(6, 4, crossed=True)
            return lists.dense_products(sums, self._weights, block, read_blocks)
        most = max(1, len(sums.row) // sums.rows // _LEAST_ENTRIES)
        return lists.sparse_products(
            sums, self._weights, 8, min(row_blocks, sums.rows), min(read_blocks, most)
        )

    def _units_of_products(self, sums: lists.Sums) -> "_Units":
        grid, source, target = sums.grid, self._source, self._target
        tiles = source.tiles
        if grid.rows == 1:  # Tiles take the place of rows.
            table = np.array([[0, 0, tiles, 0, 0]], np.int64)
            return _Units(table, np.array([0, 1], np.int64), source.tile, target.tile, 0, 0)
        source_row, target_row = grid.source_steps[0] * source.row, target.row
        at_once = self._rows_of_products(grid)
        of_tile = -(-grid.rows // at_once)
        edges = grid.rows * np.arange(of_tile + 1) // of_tile
        tile, row = (index.ravel() for index in np.indices((tiles, of_tile)))
        first = edges[row]
        # The rows that the next unit reads and this one does not, counted from this one's first position.
        read = (sums.place + source.halo.left * source.column) // source.row
        low, high, step = int(read.min(initial=0)), int(read.max(initial=0)), grid.source_steps[0]
        new = max((at_once - 1) * step + high + 1, at_once * step + low)
        rows = (2 * at_once - 1) * step + high + 1 - new
        from_source, from_target = (
            tile * source.tile + first * source_row,
            tile * target.tile + first * target_row,
        )
        table = np.column_stack(
            [
                from_source,
                from_target,
                np.diff(edges)[row],
                from_source + new * source.row,
                from_target + at_once * target_row,
            ]
        )
        chunks = min(tiles, _MOST_CHUNKS)
        firsts = tiles * np.arange(chunks + 1) // chunks * of_tile
        return _Units(table, firsts, source_row, target_row, rows * source.row, target.tile // of_tile)


def _bytes(layout: Layout) -> int:
    return 4 * layout.numbers


class _Units(NamedTuple):
    """The units of the weights' gradient.

    Attributes:
        table: int64 `[units, UNIT_WORDS]`.
        chunks: The first unit of each chunk, and their number, int64 `[chunks + 1]`.
        source_row: The distance of two rows of positions in the input,
        target_row: and in the output's gradient.
        source_size: The numbers that a unit reads of the input that none before it has read,
        target_size: and of the gradient.
    """

    table: np.ndarray
    chunks: np.ndarray
    source_row: int
    target_row: int
    source_size: int
    target_size: int
