"""The sums of a convolution, forwards and for the gradient of the input, sparse and dense.

A **tile** is the pixels whose accumulators, of one row or of a group of rows, stay in registers while the
entries go by (rows and entries: see `lists`). A **unit** is the positions that one slot of partial sums
stands for. Both are told by tables, so that the same code serves any stride, and maps of any size.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple

from llvmlite import ir

from tfprune.runtime.kernels.emitter import I32, I64, KernelEmitter
from tfprune.runtime.kernels.kernel import Kernel

# 64-bit numbers of a position in the table (source, target, image mask) and of a row (target, channel, sums).
POSITION_WORDS = 3
ROW_WORDS = 3
GROUP_WORDS = 4


class Tile(NamedTuple):
    """The vectors of a tile.

    Attributes:
        source: The place of each pixel in what is read, from the first, in float32.
        target: The same in what is written.
        mask: The same in the image mask.
        images: The float32 numbers of a pixel.
    """

    source: tuple[int, ...]
    target: tuple[int, ...]
    mask: tuple[int, ...]
    images: int

    def vectors(self, places: Sequence[int], lanes: int) -> list[int]:
        """Returns the place of each vector."""
        return [place + lane for place in places for lane in range(0, self.images, lanes)]


class Epilogue(NamedTuple):
    """The steps from a sum to what is stored.

    Attributes:
        bias: Whether it starts at a number of the channel.
        accumulate: Whether what the target had is added.
        relu: "output": it becomes zero where the relu's output is not above zero; "affine": where
            `z * scale + shift` is not; "": neither.
        sums: "own": the partial sums of `m * (x - c)` and `m * (x - c)^2` are taken, with the image mask m
            and a number c of the channel; "product": those of `x` and `x * (z - c)`; "": none.
    """

    bias: bool = False
    accumulate: bool = False
    relu: str = ""
    sums: str = ""

    @property
    def reads_z(self) -> bool:
        """Returns whether a value z is read."""
        return self.relu == "affine" or self.sums == "product"


class _Sum(Kernel):
    """The common part of the sparse and the dense kernel.

    A part: the first and the last unit, the first and the last group.

    Attributes:
        tiles: The shapes of tiles, each with its own code.
        epilogue: What is done to the sums.
        blocked: Whether there is more than one block of entries.
    """

    parameters: ClassVar = (
        "source",  # places
        "target",
        "positions",  # int64 [positions, POSITION_WORDS]
        "units",  # int64 [units, tiles + 1]: the first position of each tile's shape; the last
        "rows",  # int64 [rows, ROW_WORDS]
        "row_count",
        "slot",  # float32 numbers of a unit's sums
        "channel",  # float32 numbers from the sums to the sums of products
        "blocks",
        "bias",
        "relu",
        "scale",
        "shift",
        "z",
        "sums",
        "mask",
        "center",
    )
    tiles: tuple[Tile, ...]
    epilogue: Epilogue
    blocked: bool

    @property
    def name(self) -> str:
        """Returns a name that is short, however long the tables of a tile."""
        choices = repr(dataclasses.astuple(self)).encode()
        return f"{type(self).__name__}_{hashlib.sha256(choices).hexdigest()[:24]}"

    def each_position(self, e: KernelEmitter, unit: ir.Value, body: "PositionBody") -> None:
        """Emits `body(tile, position)` for the positions of a unit."""
        shapes = len(self.tiles)
        edges = e.at(e.pointer("units"), e.b.mul(unit, e.number(shapes + 1)), I64)
        for index, tile in enumerate(self.tiles):
            first, last = (e.element(edges, e.number(index + i), I64) for i in range(2))
            e.each(first, last, lambda at, tile=tile: body(tile, _Position(e, at)))

    def clear_sums(self, e: KernelEmitter, unit: ir.Value, first_row: ir.Value, last_row: ir.Value) -> None:
        """Emits the zeros that the partial sums of some rows start with."""
        if not self.epilogue.sums:
            return

        def clear(index: ir.Value) -> None:
            for place in self._sums(e, unit, _Row(e, index)):
                e.store(e.constant(0), place)

        e.each(first_row, last_row, clear)

    def initial(
        self, e: KernelEmitter, tile: Tile, block: ir.Value, position: "_Position", row: "_Row"
    ) -> list[ir.Value]:
        """Returns what the accumulators of a row start with."""
        places = tile.vectors(tile.target, e.lanes)

        def start() -> list[ir.Value]:
            if not self.epilogue.bias:
                return [e.constant(0)] * len(places)
            bias = e.splat(e.element(e.pointer("bias"), row.channel))
            return [bias] * len(places)

        if not self.blocked:
            return start()
        target = e.at(e.value("target"), e.b.add(position.target, row.target))
        is_first = e.b.icmp_signed("==", block, e.number(0))
        return e.choose(is_first, start, lambda: [e.load_vector(target, place) for place in places])

    def finish_row(
        self,
        e: KernelEmitter,
        tile: Tile,
        unit: ir.Value,
        block: ir.Value,
        position: "_Position",
        row: "_Row",
        accumulators: Sequence[ir.Value],
    ) -> None:
        """Emits the epilogue and the stores of a row."""
        if not self.blocked:
            self._finish(e, tile, unit, position, row, accumulators)
            return
        is_last = e.b.icmp_signed("==", e.b.add(block, e.number(1)), e.integer("blocks"))

        def last() -> list[ir.Value]:
            self._finish(e, tile, unit, position, row, accumulators)
            return []

        def wait() -> list[ir.Value]:
            self._store(e, tile, position, row, accumulators)
            return []

        e.choose(is_last, last, wait)

    def _sums(self, e: KernelEmitter, unit: ir.Value, row: "_Row") -> list[ir.Value]:
        start = e.at(e.value("sums"), e.b.add(e.b.mul(unit, e.integer("slot")), row.sums))
        return [start, e.at(start, e.integer("channel"))]

    def _store(
        self,
        e: KernelEmitter,
        tile: Tile,
        position: "_Position",
        row: "_Row",
        values: Sequence[ir.Value],
    ) -> None:
        target = e.at(e.value("target"), e.b.add(position.target, row.target))
        for value, place in zip(values, tile.vectors(tile.target, e.lanes), strict=True):
            e.store(value, e.at(target, e.number(place)))

    def _finish(
        self,
        e: KernelEmitter,
        tile: Tile,
        unit: ir.Value,
        position: "_Position",
        row: "_Row",
        values: Sequence[ir.Value],
    ) -> None:
        b, epilogue = e.b, self.epilogue
        at = b.add(position.target, row.target)
        places = tile.vectors(tile.target, e.lanes)
        values = list(values)

        def operand(name: str) -> list[ir.Value]:
            start = e.at(e.value(name), at)
            return [e.load_vector(start, place) for place in places]

        def of_channel(name: str) -> ir.Value:
            return e.splat(e.element(e.pointer(name), row.channel))

        if epilogue.accumulate:
            values = [b.fadd(value, before) for value, before in zip(values, operand("target"), strict=True)]
        z = operand("z") if epilogue.reads_z else []
        if epilogue.relu:
            if epilogue.relu == "output":
                outputs = operand("relu")
            else:
                scale, shift = of_channel("scale"), of_channel("shift")
                outputs = [e.call("llvm.fma", x, scale, shift) for x in z]
            zero = e.constant(0)
            values = [
                b.select(b.fcmp_ordered(">", output, zero), value, zero)
                for value, output in zip(values, outputs, strict=True)
            ]
        self._store(e, tile, position, row, values)
        if epilogue.sums:
            center = of_channel("center")
            if epilogue.sums == "own":
                mask = e.at(e.value("mask"), position.mask)
                first = [b.fsub(value, center) for value in values]
                second = first
                masks = [e.load_vector(mask, place) for place in tile.vectors(tile.mask, e.lanes)]
                first = [b.fmul(x, m) for x, m in zip(first, masks, strict=True)]
            else:
                first = values
                second = [b.fsub(x, center) for x in z]
            plain, product = self._sums(e, unit, row)
            total, products = e.load_vector(plain), e.load_vector(product)
            for x, y in zip(first, second, strict=True):
                total = b.fadd(total, x)
                products = e.call("llvm.fma", x, y, products)
            e.store(total, plain)
            e.store(products, product)


PositionBody = Callable[[Tile, "_Position"], None]


class _Position:
    """A position of the table."""

    def __init__(self, e: KernelEmitter, index: ir.Value) -> None:
        start = e.at(e.pointer("positions"), e.b.mul(index, e.number(POSITION_WORDS)), I64)
        self.source, self.target, self.mask = (
            e.element(start, e.number(i), I64) for i in range(POSITION_WORDS)
        )


class _Row:
    """A row of the table."""

    def __init__(self, e: KernelEmitter, index: ir.Value) -> None:
        start = e.at(e.pointer("rows"), e.b.mul(index, e.number(ROW_WORDS)), I64)
        self.target, self.channel, self.sums = (e.element(start, e.number(i), I64) for i in range(ROW_WORDS))


@dataclasses.dataclass(frozen=True)
class SparseSum(_Sum):
    """Adds up the entries of each row; a group is one row.

    Attributes: see `_Sum`.
    """

    parameters: ClassVar = (
        *_Sum.parameters,
        "starts",  # int64 [blocks * rows + 1]
        "entries",  # int32 [entries, 2]
    )
    tiles: tuple[Tile, ...]
    epilogue: Epilogue
    blocked: bool

    def write(self, e: KernelEmitter) -> None:
        """See `Kernel`."""
        b = e.b
        first_unit, last_unit, first_row, last_row = (e.part(i) for i in range(4))

        def one_unit(unit: ir.Value) -> None:
            self.clear_sums(e, unit, first_row, last_row)

            def one_block(block: ir.Value) -> None:
                starts = e.at(e.pointer("starts"), b.mul(block, e.integer("row_count")), I64)

                def one_position(tile: Tile, position: _Position) -> None:
                    source = e.at(e.value("source"), position.source)

                    def one_row(index: ir.Value) -> None:
                        row = _Row(e, index)
                        first = e.element(starts, index, I64)
                        last = e.element(starts, b.add(index, e.number(1)), I64)
                        initial = self.initial(e, tile, block, position, row)

                        def entry(at: ir.Value, sums: list[ir.Value]) -> list[ir.Value]:
                            pair = e.at(e.pointer("entries"), b.mul(at, e.number(2)), I32)
                            read = e.at(source, e.element(pair, e.number(0), I32))
                            weight = e.splat(e.element(pair, e.number(1)))
                            return [
                                e.call("llvm.fma", e.load_vector(read, place), weight, total)
                                for total, place in zip(sums, tile.vectors(tile.source, e.lanes), strict=True)
                            ]

                        totals = e.fold(first, last, initial, entry)
                        self.finish_row(e, tile, unit, block, position, row, totals)

                    e.each(first_row, last_row, one_row)

                self.each_position(e, unit, one_position)

            if self.blocked:
                e.each(e.number(0), e.integer("blocks"), one_block)
            else:
                one_block(e.number(0))

        e.each(first_unit, last_unit, one_unit)


@dataclasses.dataclass(frozen=True)
class DenseSum(_Sum):
    """Adds up the products of matrices; the rows of a group share what is read.

    Attributes:
        sizes: The numbers of rows of a group that occur, descending. For the others see `_Sum`.
    """

    parameters: ClassVar = (
        *_Sum.parameters,
        "sizes",  # int64 [sizes + 1]: the first group of each size
        "groups",  # int64 [blocks, groups, GROUP_WORDS]
        "group_count",
        "places",  # int32 [places]
        "values",  # float32 [values]
    )
    tiles: tuple[Tile, ...]
    epilogue: Epilogue
    blocked: bool
    sizes: tuple[int, ...]

    def write(self, e: KernelEmitter) -> None:
        """See `Kernel`."""
        b = e.b
        first_unit, last_unit, first_group, last_group = (e.part(i) for i in range(4))
        sizes = e.pointer("sizes")

        def larger(x: ir.Value, y: ir.Value) -> ir.Value:
            return b.select(b.icmp_signed(">", x, y), x, y)

        def smaller(x: ir.Value, y: ir.Value) -> ir.Value:
            return b.select(b.icmp_signed("<", x, y), x, y)

        def groups_of(index: int, body: Callable[[ir.Value], None]) -> None:
            first = larger(first_group, e.element(sizes, e.number(index), I64))
            last = smaller(last_group, e.element(sizes, e.number(index + 1), I64))
            e.each(first, last, body)

        def words(block: ir.Value, group: ir.Value) -> list[ir.Value]:
            index = b.add(b.mul(block, e.integer("group_count")), group)
            start = e.at(e.pointer("groups"), b.mul(index, e.number(GROUP_WORDS)), I64)
            return [e.element(start, e.number(i), I64) for i in range(GROUP_WORDS)]

        def one_unit(unit: ir.Value) -> None:
            if self.epilogue.sums:
                for index, size in enumerate(self.sizes):

                    def clear(group: ir.Value, size: int = size) -> None:
                        first_row = words(e.number(0), group)[3]
                        self.clear_sums(e, unit, first_row, b.add(first_row, e.number(size)))

                    groups_of(index, clear)

            def one_block(block: ir.Value) -> None:
                for index, size in enumerate(self.sizes):
                    groups_of(index, lambda group, size=size: one_group(block, group, size))

            def one_group(block: ir.Value, group: ir.Value, size: int) -> None:
                first_place, count, first_value, first_row = words(block, group)
                places = e.at(e.pointer("places"), first_place, I32)
                values = e.at(e.pointer("values"), first_value)
                rows = [_Row(e, b.add(first_row, e.number(i))) for i in range(size)]

                def one_position(tile: Tile, position: _Position) -> None:
                    source = e.at(e.value("source"), position.source)
                    vectors = tile.vectors(tile.source, e.lanes)
                    initial = [self.initial(e, tile, block, position, row) for row in rows]

                    def entry(at: ir.Value, sums: list[ir.Value]) -> list[ir.Value]:
                        read = e.at(source, e.element(places, at, I32))
                        loaded = [e.load_vector(read, place) for place in vectors]
                        weights = e.at(values, b.mul(at, e.number(size)))
                        totals = iter(sums)
                        return [
                            e.call("llvm.fma", x, weight, next(totals))
                            for weight in (e.splat(e.element(weights, e.number(i))) for i in range(size))
                            for x in loaded
                        ]

                    totals = e.fold(e.number(0), count, [x for row in initial for x in row], entry)
                    for i, row in enumerate(rows):
                        mine = totals[i * len(vectors) : (i + 1) * len(vectors)]
                        self.finish_row(e, tile, unit, block, position, row, mine)

                self.each_position(e, unit, one_position)

            if self.blocked:
                e.each(e.number(0), e.integer("blocks"), one_block)
            else:
                one_block(e.number(0))

        e.each(first_unit, last_unit, one_unit)
