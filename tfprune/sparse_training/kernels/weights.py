"""The gradient of a convolution's weights, and the way of weights between their flat order and the lists."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple

from llvmlite import ir

from tfprune.runtime.kernels.emitter import FLOAT_BYTES, I32, I64, KernelEmitter
from tfprune.runtime.kernels.kernel import Kernel
from tfprune.sparse_training.kernels.convolution import LINE

# 64-bit numbers of a unit: the places of its first pixel in what is read and in the gradient, its rows, and
# the places of what is fetched ahead in both.
UNIT_WORDS = 5


class Block(NamedTuple):
    """The products that are added up at once.

    Attributes:
        outputs: The channels of the output's gradient.
        entries: The places in the input, for each output.
        crossed: Whether all outputs have the same entries.
    """

    outputs: int
    entries: int
    crossed: bool

    @property
    def products(self) -> int:
        """Returns the number of accumulators."""
        return self.outputs * self.entries

    @property
    def words(self) -> int:
        """Returns the 32-bit numbers of a block in its table: the place of its sums, outputs, entries."""
        return 1 + self.outputs + (self.entries if self.crossed else self.products)


@dataclasses.dataclass(frozen=True)
class WeightsGradient(Kernel):
    """Adds up the products of the input and the output's gradient over pixels and images.

    A part: the first and the last chunk of units, the first and the last group of blocks.

    Attributes:
        blocks: The shapes of blocks, each with its own code.
        images: The float32 numbers of a pixel.
        source_column: The distance of two positions of a row in the input, in float32.
        target_column: The same in the output's gradient.
    """

    parameters: ClassVar = (
        "source",  # places
        "target",
        "source_row",  # distance of two rows of positions
        "target_row",
        "columns",
        "chunks",  # int64 [chunks + 1]: the first unit of each
        "units",  # int64 [units, UNIT_WORDS]
        "firsts",  # int64 [blocks' shapes, groups + 1]: each group's first block
        "groups",
        "tables",  # int64 [blocks' shapes]: addresses of int32 [blocks, words]
        "partials",  # place: float32 [chunks, partial]
        "partial",
        "turns",  # int64 [blocks' shapes]: the blocks of the shapes before
        "source_share",  # float32 numbers to be fetched ahead for each block
        "target_share",
    )
    blocks: tuple[Block, ...]
    images: int
    source_column: int
    target_column: int

    @property
    def name(self) -> str:
        """Returns a name of letters, digits and underscores."""
        shapes = [f"{b.outputs}{'x' if b.crossed else 'of'}{b.entries}" for b in self.blocks]
        numbers = (self.images, self.source_column, self.target_column)
        return "_".join(["WeightsGradient", *shapes, *map(str, numbers)])

    def write(self, e: KernelEmitter) -> None:
        """See `Kernel`."""
        first_chunk, last_chunk = e.part(0), e.part(1)

        def chunk(index: ir.Value) -> None:
            partials = e.at(e.value("partials"), e.b.mul(index, e.integer("partial")))
            for shape, block in enumerate(self.blocks):

                def clear(_: ir.Value, words: ir.Value, block: Block = block) -> None:
                    place = e.at(partials, e.element(words, e.number(0), I32))
                    at = 0
                    for size in pieces(block.products, e.lanes):
                        zero = ir.Constant(ir.VectorType(ir.FloatType(), size), [0.0] * size)
                        e.store(zero, e.at(place, e.number(at)))
                        at += size

                self._each_block(e, shape, clear)
            start = e.at(e.pointer("chunks"), index, I64)
            first, last = (e.element(start, e.number(i), I64) for i in range(2))
            e.each(first, last, lambda unit: self._unit(e, unit, partials))

        e.each(first_chunk, last_chunk, chunk)

    def _each_block(self, e: KernelEmitter, shape: int, body: Callable[[ir.Value, ir.Value], None]) -> None:
        """Emits `body(index, words)` for the part's blocks of a shape."""
        b = e.b
        groups = b.add(e.integer("groups"), e.number(1))
        firsts = e.at(e.pointer("firsts"), b.mul(e.number(shape), groups), I64)
        table = b.inttoptr(e.element(e.pointer("tables"), e.number(shape), I64), ir.PointerType())
        words = e.number(self.blocks[shape].words)
        e.each(
            e.element(firsts, e.part(2), I64),
            e.element(firsts, e.part(3), I64),
            lambda at: body(at, e.at(table, b.mul(at, words), I32)),
        )

    def _unit(self, e: KernelEmitter, index: ir.Value, partials: ir.Value) -> None:
        start = e.at(e.pointer("units"), e.b.mul(index, e.number(UNIT_WORDS)), I64)
        source, target, rows, source_ahead, target_ahead = (
            e.element(start, e.number(i), I64) for i in range(UNIT_WORDS)
        )
        for shape, block in enumerate(self.blocks):

            def one(at: ir.Value, words: ir.Value, shape: int = shape, block: Block = block) -> None:
                turn = e.b.add(at, e.element(e.pointer("turns"), e.number(shape), I64))
                for name, ahead in (("source", source_ahead), ("target", target_ahead)):
                    share = e.integer(f"{name}_share")
                    fetched = e.at(e.value(name), e.multiply_add(turn, share, ahead))
                    lines = e.b.ashr(e.b.add(share, e.number(LINE - 1)), e.number(LINE.bit_length() - 1))

                    def fetch(line: ir.Value, fetched: ir.Value = fetched) -> None:
                        e.prefetch(e.at(fetched, e.b.mul(line, e.number(LINE))))

                    e.each(e.number(0), lines, fetch)
                place = e.at(partials, e.element(words, e.number(0), I32))
                self._block(e, block, words, place, source, target, rows)

            self._each_block(e, shape, one)

    def _block(
        self,
        e: KernelEmitter,
        block: Block,
        words: ir.Value,
        partial: ir.Value,
        source: ir.Value,
        target: ir.Value,
        rows: ir.Value,
    ) -> None:
        """Emits the products of a block over the pixels of a unit."""
        b = e.b

        def addresses(name: str, base: ir.Value, first: int, count: int) -> list[ir.Value]:
            places = [e.element(words, e.number(first + i), I32) for i in range(count)]
            return [e.at(e.value(name), b.add(base, place)) for place in places]

        outputs = addresses("target", target, 1, block.outputs)
        entries = addresses("source", source, 1 + block.outputs, block.words - 1 - block.outputs)

        def row(y: ir.Value, sums: list[ir.Value]) -> Sequence[ir.Value]:
            from_source, from_target = (b.mul(y, e.integer(f"{name}_row")) for name in ("source", "target"))

            def pixel(x: ir.Value, sums: list[ir.Value]) -> Sequence[ir.Value]:
                at_source = e.multiply_add(x, e.number(self.source_column), from_source)
                at_target = e.multiply_add(x, e.number(self.target_column), from_target)

                def loaded(place: ir.Value, at: ir.Value, lane: int) -> ir.Value:
                    return e.load_vector(e.at(place, at), lane)

                for lane in range(0, self.images, e.lanes):
                    totals, found = iter(sums), []
                    if block.crossed:
                        inputs = [loaded(place, at_source, lane) for place in entries]
                    for i, place in enumerate(outputs):
                        gradient = loaded(place, at_target, lane)
                        if not block.crossed:
                            mine = entries[i * block.entries :][: block.entries]
                            inputs = [loaded(place, at_source, lane) for place in mine]
                        found += [e.call("llvm.fmuladd", x, gradient, next(totals)) for x in inputs]
                    sums = found
                return sums

            return e.fold(e.number(0), e.integer("columns"), sums, pixel)

        sums = e.fold(e.number(0), rows, [e.constant(0)] * block.products, row)
        at = 0
        for piece in lane_sums(e, sums):
            here = e.at(partial, e.number(at))
            before = b.load(here, align=FLOAT_BYTES, typ=piece.type)
            e.store(b.fadd(before, piece), here)
            at += piece.type.count


def pieces(count: int, lanes: int) -> list[int]:
    """Cuts a count into powers of two that fit in a vector, descending."""
    sizes = [lanes] * (count // lanes)
    left = count % lanes
    while left:
        size = 1 << (left.bit_length() - 1)
        sizes.append(size)
        left -= size
    return sizes


def lane_sums(e: KernelEmitter, vectors: Sequence[ir.Value]) -> list[ir.Value]:
    """Returns the sum of the lanes of each vector, in vectors of `pieces(len(vectors), lanes)` numbers."""
    found, at = [], 0
    for size in pieces(len(vectors), e.lanes):
        found.append(_lane_sums(e, list(vectors[at : at + size])))
        at += size
    return found


def _lane_sums(e: KernelEmitter, vectors: list[ir.Value]) -> ir.Value:
    """Adds pairs of vectors, interleaved, until one is left; then its halves."""
    b, lanes = e.b, e.lanes
    # Runs of `run` lanes of a vector belong to the same sum, in the order of the sums.
    run = lanes
    while len(vectors) > 1:
        half = run // 2
        low, high = [], []
        for side, picked in ((0, low), (half, high)):
            for vector in range(2):
                for start in range(0, lanes, run):
                    picked += [vector * lanes + start + side + i for i in range(half)]
        vectors = [
            b.fadd(*(b.shuffle_vector(x, y, _order(picked)) for picked in (low, high)))
            for x, y in zip(vectors[::2], vectors[1::2], strict=True)
        ]
        run = half
    (vector,) = vectors
    while run > 1:
        run //= 2
        count = vector.type.count // 2
        low = [i // run * 2 * run + i % run for i in range(count)]
        vector = b.fadd(
            b.shuffle_vector(vector, vector, _order(low)),
            b.shuffle_vector(vector, vector, _order([i + run for i in low])),
        )
    return vector


def _order(picked: Sequence[int]) -> ir.Constant:
    return ir.Constant(ir.VectorType(I32, len(picked)), list(picked))


@dataclasses.dataclass(frozen=True)
class Scatter(Kernel):
    """Copies weights to their places in a list. A part: a range of weights."""

    parameters: ClassVar = (
        "values",  # float32 [weights]
        "packed",  # the list, of 32-bit numbers
        "places",  # int32 [weights]; negative: nowhere
    )

    def write(self, e: KernelEmitter) -> None:
        """See `Kernel`."""

        def weight(index: ir.Value) -> None:
            place = e.element(e.pointer("places"), index, I32)

            def copy() -> list[ir.Value]:
                e.store(e.element(e.pointer("values"), index), e.at(e.pointer("packed"), place))
                return []

            e.choose(e.b.icmp_signed(">=", place, e.number(0)), copy, list)

        e.each(e.part(0), e.part(1), weight)


@dataclasses.dataclass(frozen=True)
class Gather(Kernel):
    """Adds up the partial sums of each weight, chunk after chunk; a part: a range of vectors of them.

    They are read in their order, and the weights' gradients written to where they belong: it is one such
    number for each weight, not one for each chunk.
    """

    parameters: ClassVar = (
        "partials",  # place: float32 [chunks, partial]
        "partial",
        "chunks",
        "weights",  # int32 [partial]: the weight that each is of; negative: none
        "gradients",  # float32 [weights]
        "left_out",  # int32: the weights whose gradient is zero
        "zeros",  # their number
    )

    def write(self, e: KernelEmitter) -> None:
        """See `Kernel`."""
        b = e.b

        def put(weight: ir.Value, number: ir.Value) -> None:
            e.store(number, e.at(e.pointer("gradients"), weight))

        def vector(index: ir.Value) -> None:
            at = b.mul(index, e.number(e.lanes))

            def chunk(chunk_index: ir.Value, total: list[ir.Value]) -> list[ir.Value]:
                place = e.multiply_add(chunk_index, e.integer("partial"), at)
                return [b.fadd(total[0], e.load_vector(e.at(e.value("partials"), place)))]

            (total,) = e.fold(e.number(0), e.integer("chunks"), [e.constant(0)], chunk)
            for lane in range(e.lanes):
                weight = e.element(e.pointer("weights"), b.add(at, e.number(lane)), I32)
                number = b.extract_element(total, ir.Constant(I32, lane))

                def store(weight: ir.Value = weight, number: ir.Value = number) -> list[ir.Value]:
                    put(weight, number)
                    return []

                e.choose(b.icmp_signed(">=", weight, e.number(0)), store, list)

        def zero(index: ir.Value) -> None:
            put(e.element(e.pointer("left_out"), index, I32), ir.Constant(ir.FloatType(), 0.0))

        e.each(e.part(0), e.part(1), vector)
        first = b.icmp_signed("==", e.part(0), e.number(0))
        e.each(e.number(0), b.select(first, e.integer("zeros"), e.number(0)), zero)
