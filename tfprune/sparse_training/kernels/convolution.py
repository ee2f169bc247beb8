"""The sums of a convolution, forwards and for the gradient of the input, sparse and dense.

A **tile** is the pixels whose accumulators, of one row or of a group of rows, stay in registers while the
entries go by (rows and entries: see `lists`); a **position** is the place of one. A **strip** is the
positions that a matrix of weights is used for while it is in the first-level cache, and a **unit** the
strips that one slot of partial sums stands for. All are told by tables, so that the same code serves any
stride, and maps of any size.

Entries may come in blocks of what they read, small enough for a cache; between blocks the accumulators wait
in the target. What later positions read is fetched ahead, in shares, because no processor foresees it.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple

from llvmlite import ir

from tfprune.runtime.kernels.emitter import I32, I64, KernelEmitter
from tfprune.runtime.kernels.kernel import Kernel

# 64-bit numbers of a position in the table: the places in source, target and image mask, of what is fetched
# ahead of the source, and the target's of the position after it; of a row: the places of its first result and
# of its sums, and its channel between them; of a group's matrix: see `lists.DenseList`.
POSITION_WORDS = 5
ROW_WORDS = 3
GROUP_WORDS = 4
# float32 numbers of a cache line.
LINE = 16


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
        limit: Above it the relu is constant, its derivative zero; 0: there is no such limit.
        activate: Whether the relu itself, with its limit, is applied to the sum.
        sums: "own": the partial sums of `m * (x - c)` and `m * (x - c)^2` are taken, with the image mask m
            and a number c of the channel; "product": those of `x` and `x * (z - c)`; "": none.
        past_caches: Whether what is stored is not needed soon; the places of the vectors are then aligned.
    """

    bias: bool = False
    accumulate: bool = False
    relu: str = ""
    limit: float = 0
    activate: bool = False
    sums: str = ""
    past_caches: bool = False

    @property
    def reads_z(self) -> bool:
        """Returns whether a value z is read."""
        return self.relu == "affine" or self.sums == "product"


class _Sum(Kernel):
    """The common part of the sparse and the dense kernel.

    A part: the first and the last unit, the first and the last group.

    Attributes:
        tiles: The shapes of tiles, each with its own code.
        epilogue: The steps from a sum to what is stored.
        blocked: Whether there is more than one block of entries.
        ahead: The cache lines that are fetched ahead for each position, block and group.
        lines: The cache lines of a channel's part in a tile of what is read, a power of two.
    """

    parameters: ClassVar = (
        "source",  # places
        "target",
        "units",  # int64 [units + 1]: the first strip of each
        "strips",  # int64 [strips, tiles + 1]: the first position of each tile's shape; the last
        "positions",  # int64 [positions, POSITION_WORDS]
        "rows",  # int64 [rows, ROW_WORDS]
        "groups",  # how many
        "blocks",
        "source_channel",  # distance of two channels
        "slot",  # float32 numbers of a unit's sums
        "channel",  # float32 numbers from the sums to the sums of products
        "bias",  # float32 [channels]
        "relu",  # place of the relu's output
        "scale",  # float32 [channels]
        "shift",
        "z",  # place
        "sums",  # place: float32 [units, slots, 2, channels, lanes]
        "mask",  # place: float32 [tiles, images]
        "center",  # float32 [channels]
    )
    tiles: tuple[Tile, ...]
    epilogue: Epilogue
    blocked: bool
    ahead: int
    lines: int

    @property
    def name(self) -> str:
        """Returns a name that is short, however long the tables of a tile."""
        choices = repr(dataclasses.astuple(self)).encode()
        return f"{type(self).__name__}_{hashlib.sha256(choices).hexdigest()[:24]}"

    def write(self, e: KernelEmitter) -> None:
        """See `Kernel`."""

        def unit(index: ir.Value) -> None:
            if self.epilogue.sums:
                self.each_row(e, lambda row: self._clear_sums(e, index, _Row(e, row)))
            units = e.at(e.pointer("units"), index, I64)
            first, last = (e.element(units, e.number(i), I64) for i in range(2))
            e.each(first, last, lambda strip: self.strip(e, index, strip))

        e.each(e.part(0), e.part(1), unit)

    def each_row(self, e: KernelEmitter, body: Callable[[ir.Value], None]) -> None:
        """Emits `body(row)` for the rows of the part."""
        raise NotImplementedError

    def strip(self, e: KernelEmitter, unit: ir.Value, strip: ir.Value) -> None:
        """Emits the sums of a strip."""
        raise NotImplementedError

    def each_position(
        self, e: KernelEmitter, strip: ir.Value, body: Callable[[Tile, "_Position"], None]
    ) -> None:
        """Emits `body(tile, position)` for the positions of a strip."""
        shapes = len(self.tiles)
        edges = e.at(e.pointer("strips"), e.b.mul(strip, e.number(shapes + 1)), I64)
        for index, tile in enumerate(self.tiles):
            first, last = (e.element(edges, e.number(index + i), I64) for i in range(2))
            e.each(first, last, lambda at, tile=tile: body(tile, _Position(e, at)))

    def each_block(self, e: KernelEmitter, body: Callable[[ir.Value], None]) -> None:
        """Emits `body(block)` for the blocks of entries."""
        if self.blocked:
            e.each(e.number(0), e.integer("blocks"), body)
        else:
            body(e.number(0))

    def fetch_ahead(self, e: KernelEmitter, position: "_Position", block: ir.Value, group: ir.Value) -> None:
        """Emits the prefetch of a share of what later positions read."""
        b = e.b
        turn = e.multiply_add(block, e.integer("groups"), group)
        first = b.mul(turn, e.number(self.ahead))
        start = e.at(e.value("source"), position.ahead)
        for more in range(self.ahead):
            line = b.add(first, e.number(more))
            channel = b.ashr(line, e.number(self.lines.bit_length() - 1))
            place = b.mul(b.and_(line, e.number(self.lines - 1)), e.number(LINE))
            e.prefetch(e.at(start, e.multiply_add(channel, e.integer("source_channel"), place)))

    def initial(
        self, e: KernelEmitter, tile: Tile, block: ir.Value, position: "_Position", row: "_Row"
    ) -> list[ir.Value]:
        """Returns what the accumulators of a row start with."""
        places = tile.vectors(tile.target, e.lanes)

        def start() -> list[ir.Value]:
            if not self.epilogue.bias:
                return [e.constant(0)] * len(places)
            return [e.splat(e.element(e.pointer("bias"), row.channel))] * len(places)

        if not self.blocked:
            return start()
        target = e.at(e.value("target"), e.b.add(position.target, row.target))
        is_first = e.b.icmp_signed("==", block, e.number(0))
        # Where the target's own numbers are to be added, they are what waits there for the last block.
        if self.epilogue.accumulate:
            loaded = [e.load_vector(target, place) for place in places]
            return loaded
        return e.choose(is_first, start, lambda: [e.load_vector(target, place) for place in places])

    def finish_row(
        self,
        e: KernelEmitter,
        tile: Tile,
        unit: ir.Value,
        block: ir.Value,
        position: "_Position",
        row: "_Row",
        values: Sequence[ir.Value],
    ) -> None:
        """Emits the epilogue and the stores of a row."""
        target = e.at(e.value("target"), e.b.add(position.target, row.target))
        places = tile.vectors(tile.target, e.lanes)

        def last() -> list[ir.Value]:
            finished = self._finish(e, tile, unit, position, row, values)
            for value, place in zip(finished, places, strict=True):
                address = e.at(target, e.number(place))
                if self.epilogue.past_caches:
                    e.store_past_caches(value, address)
                else:
                    e.store(value, address)
            return []

        def wait() -> list[ir.Value]:
            for value, place in zip(values, places, strict=True):
                e.store(value, e.at(target, e.number(place)))
            return []

        if self.blocked:
            is_last = e.b.icmp_signed("==", e.b.add(block, e.number(1)), e.integer("blocks"))
            e.choose(is_last, last, wait)
        else:
            last()

    def _sums(self, e: KernelEmitter, unit: ir.Value, row: "_Row") -> list[ir.Value]:
        start = e.at(e.value("sums"), e.multiply_add(unit, e.integer("slot"), row.sums))
        return [start, e.at(start, e.integer("channel"))]

    def _clear_sums(self, e: KernelEmitter, unit: ir.Value, row: "_Row") -> None:
        for place in self._sums(e, unit, row):
            e.store(e.constant(0), place)

    def _finish(
        self,
        e: KernelEmitter,
        tile: Tile,
        unit: ir.Value,
        position: "_Position",
        row: "_Row",
        values: Sequence[ir.Value],
    ) -> list[ir.Value]:
        """Emits the epilogue of a row and returns what is to be stored."""
        b, epilogue = e.b, self.epilogue
        at = b.add(position.target, row.target)
        places = tile.vectors(tile.target, e.lanes)
        finished, zero = list(values), e.constant(0)

        def operand(name: str) -> list[ir.Value]:
            start = e.at(e.value(name), at)
            if self.ahead:
                following = e.at(e.value(name), b.add(position.next, row.target))
                for place in dict.fromkeys(place // LINE * LINE for place in places):
                    e.prefetch(e.at(following, e.number(place)))
            return [e.load_vector(start, place) for place in places]

        def of_channel(name: str) -> ir.Value:
            return e.splat(e.element(e.pointer(name), row.channel))

        if epilogue.accumulate and not self.blocked:
            finished = [b.fadd(x, before) for x, before in zip(finished, operand("target"), strict=True)]
        z = operand("z") if epilogue.reads_z else []
        if epilogue.relu:
            if epilogue.relu == "output":
                outputs = operand("relu")
            else:
                scale, shift = of_channel("scale"), of_channel("shift")
                outputs = [e.call("llvm.fmuladd", x, scale, shift) for x in z]
            finished = [
                b.select(self._passes(e, output), x, zero)
                for x, output in zip(finished, outputs, strict=True)
            ]
        if epilogue.activate:
            finished = [e.largest(x, zero) for x in finished]
            if epilogue.limit:
                finished = [e.minimum(x, e.constant(epilogue.limit)) for x in finished]
        if epilogue.sums:
            center = of_channel("center")
            if epilogue.sums == "own":
                mask = e.at(e.value("mask"), position.mask)
                second = [b.fsub(x, center) for x in finished]
                masks = [e.load_vector(mask, place) for place in tile.vectors(tile.mask, e.lanes)]
                first = [b.fmul(x, m) for x, m in zip(second, masks, strict=True)]
            else:
                first = finished
                second = [b.fsub(x, center) for x in z]
            plain, product = self._sums(e, unit, row)
            total, products = e.load_vector(plain), e.load_vector(product)
            for x, y in zip(first, second, strict=True):
                total = b.fadd(total, x)
                products = e.call("llvm.fmuladd", x, y, products)
            e.store(total, plain)
            e.store(products, product)
        return finished

    def _passes(self, e: KernelEmitter, output: ir.Value) -> ir.Value:
        """Returns where the relu that made an output has a derivative."""
        above = e.b.fcmp_ordered(">", output, e.constant(0))
        if not self.epilogue.limit:
            return above
        return e.b.and_(above, e.b.fcmp_ordered("<", output, e.constant(self.epilogue.limit)))


class _Position:
    """A position of the table."""

    def __init__(self, e: KernelEmitter, index: ir.Value) -> None:
        start = e.at(e.pointer("positions"), e.b.mul(index, e.number(POSITION_WORDS)), I64)
        self.source, self.target, self.mask, self.ahead, self.next = (
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
        "starts",  # int64 [blocks * groups + 1]: the first entry
        "entries",  # int32 [entries, 2]: the place, the bits of the weight
    )
    tiles: tuple[Tile, ...]
    epilogue: Epilogue
    blocked: bool
    ahead: int
    lines: int

    def each_row(self, e: KernelEmitter, body: Callable[[ir.Value], None]) -> None:
        """See `_Sum`."""
        e.each(e.part(2), e.part(3), body)

    def strip(self, e: KernelEmitter, unit: ir.Value, strip: ir.Value) -> None:
        """See `_Sum`."""

        def position(tile: Tile, position: _Position) -> None:
            def block(block_index: ir.Value) -> None:
                def row(index: ir.Value) -> None:
                    self.fetch_ahead(e, position, block_index, index)
                    row = _Row(e, index)
                    initial = self.initial(e, tile, block_index, position, row)
                    totals = self._add_up(e, tile, position, block_index, index, initial)
                    self.finish_row(e, tile, unit, block_index, position, row, totals)

                e.each(e.part(2), e.part(3), row)

            self.each_block(e, block)

        self.each_position(e, strip, position)

    def _add_up(
        self,
        e: KernelEmitter,
        tile: Tile,
        position: _Position,
        block: ir.Value,
        row: ir.Value,
        initial: list[ir.Value],
    ) -> list[ir.Value]:
        b = e.b
        source = e.at(e.value("source"), position.source)
        starts = e.at(e.pointer("starts"), e.multiply_add(block, e.integer("groups"), row), I64)
        first, last = (e.element(starts, e.number(i), I64) for i in range(2))

        def entry(at: ir.Value, sums: list[ir.Value]) -> list[ir.Value]:
            pair = e.at(e.pointer("entries"), b.mul(at, e.number(2)), I32)
            read = e.at(source, e.element(pair, e.number(0), I32))
            weight = e.splat(e.element(pair, e.number(1)))
            places = tile.vectors(tile.source, e.lanes)
            return [
                e.call("llvm.fmuladd", e.load_vector(read, place), weight, total)
                for total, place in zip(sums, places, strict=True)
            ]

        def pair(index: ir.Value, sums: list[ir.Value]) -> list[ir.Value]:
            at = e.multiply_add(index, e.number(2), first)
            return entry(b.add(at, e.number(1)), entry(at, sums))

        pairs = b.ashr(b.sub(last, first), e.number(1))
        totals = e.fold(e.number(0), pairs, initial, pair)
        return e.fold(e.multiply_add(pairs, e.number(2), first), last, totals, entry)


@dataclasses.dataclass(frozen=True)
class DenseSum(_Sum):
    """Adds up the products of matrices; the rows of a group share what is read.

    Attributes:
        sizes: The numbers of rows of a group that occur, descending. For the others see `_Sum`.
    """

    parameters: ClassVar = (
        *_Sum.parameters,
        "sizes",  # int64 [sizes + 1]: the first group of each size
        "matrices",  # int64 [blocks, groups, GROUP_WORDS]
        "places",  # int32 [places]
        "values",  # float32 [values]
    )
    tiles: tuple[Tile, ...]
    epilogue: Epilogue
    blocked: bool
    ahead: int
    lines: int
    sizes: tuple[int, ...]

    def each_row(self, e: KernelEmitter, body: Callable[[ir.Value], None]) -> None:
        """See `_Sum`."""

        def group(index: ir.Value, size: int) -> None:
            first = self._matrix(e, e.number(0), index)[3]
            for row in range(size):
                body(e.b.add(first, e.number(row)))

        self._each_group(e, group)

    def strip(self, e: KernelEmitter, unit: ir.Value, strip: ir.Value) -> None:
        """See `_Sum`."""

        def block(block_index: ir.Value) -> None:
            def group(index: ir.Value, size: int) -> None:
                first_place, count, first_value, first_row = self._matrix(e, block_index, index)
                places = e.at(e.pointer("places"), first_place, I32)
                values = e.at(e.pointer("values"), first_value)
                rows = [_Row(e, e.b.add(first_row, e.number(i))) for i in range(size)]

                def position(tile: Tile, position: _Position) -> None:
                    self.fetch_ahead(e, position, block_index, index)
                    initial = []
                    for row in rows:
                        initial += self.initial(e, tile, block_index, position, row)
                    totals = self._multiply(e, tile, position, places, values, size, count, initial)
                    vectors = len(totals) // size
                    for i, row in enumerate(rows):
                        mine = totals[i * vectors : (i + 1) * vectors]
                        self.finish_row(e, tile, unit, block_index, position, row, mine)

                self.each_position(e, strip, position)

            self._each_group(e, group)

        self.each_block(e, block)

    def _multiply(
        self,
        e: KernelEmitter,
        tile: Tile,
        position: _Position,
        places: ir.Value,
        values: ir.Value,
        size: int,
        count: ir.Value,
        initial: list[ir.Value],
    ) -> list[ir.Value]:
        source = e.at(e.value("source"), position.source)

        def entry(at: ir.Value, sums: list[ir.Value]) -> list[ir.Value]:
            read = e.at(source, e.element(places, at, I32))
            loaded = [e.load_vector(read, place) for place in tile.vectors(tile.source, e.lanes)]
            weights = e.at(values, e.b.mul(at, e.number(size)))
            found, totals = [], iter(sums)
            for i in range(size):
                weight = e.splat(e.element(weights, e.number(i)))
                found += [e.call("llvm.fmuladd", x, weight, next(totals)) for x in loaded]
            return found

        return e.fold(e.number(0), count, initial, entry)

    def _each_group(self, e: KernelEmitter, body: Callable[[ir.Value, int], None]) -> None:
        """Emits `body(group, size)` for the groups of the part."""
        b, sizes = e.b, e.pointer("sizes")
        for index, size in enumerate(self.sizes):
            first, last = (e.element(sizes, e.number(index + i), I64) for i in range(2))
            first = b.select(b.icmp_signed(">", first, e.part(2)), first, e.part(2))
            last = b.select(b.icmp_signed("<", last, e.part(3)), last, e.part(3))
            e.each(first, last, lambda group, size=size: body(group, size))

    def _matrix(self, e: KernelEmitter, block: ir.Value, group: ir.Value) -> list[ir.Value]:
        """Returns the numbers of a group's matrix in a block."""
        index = e.multiply_add(block, e.integer("groups"), group)
        start = e.at(e.pointer("matrices"), e.b.mul(index, e.number(GROUP_WORDS)), I64)
        return [e.element(start, e.number(i), I64) for i in range(GROUP_WORDS)]
