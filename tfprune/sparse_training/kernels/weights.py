"""The gradient of a convolution's weights, and the way of weights between their flat order and the lists."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple

from llvmlite import ir

from tfprune.runtime.kernels.emitter import FLOAT_BYTES, I32, I64, KernelEmitter
from tfprune.runtime.kernels.kernel import Kernel

# 64-bit numbers of a unit: the places of its first pixel in what is read and in the gradient, its rows.
UNIT_WORDS = 3


class Block(NamedTuple):
    """The products that are added up at once: each of some outputs with each of some entries.

    Attributes:
        outputs: The channels of the output.
        entries: The places in the input.
    """

    outputs: int
    entries: int

    @property
    def products(self) -> int:
        """Returns the number of accumulators."""
        return self.outputs * self.entries

    @property
    def words(self) -> int:
        """Returns the 32-bit numbers of a block in its table: the place of its sums, outputs, entries."""
        return 1 + self.outputs + self.entries


@dataclasses.dataclass(frozen=True)
class WeightsGradient(Kernel):
    """Adds up the products of the input and the output's gradient over pixels and images.

    A part: the first and the last chunk of units, the first and the last row.

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
        "firsts",  # int64 [blocks' shapes, rows + 1]: each row's first block
        "row_count",
        "tables",  # int64 [blocks' shapes]: addresses of int32 [blocks, words]
        "partials",  # place: float32 [chunks, partial]
        "partial",
    )
    blocks: tuple[Block, ...]
    images: int
    source_column: int
    target_column: int

    @property
    def name(self) -> str:
        """Returns a name of letters, digits and underscores."""
        shapes = "_".join(f"{block.outputs}x{block.entries}" for block in self.blocks)
        return f"WeightsGradient_{shapes}_{self.images}_{self.source_column}_{self.target_column}"

    def write(self, e: KernelEmitter) -> None:
        """See `Kernel`."""
        b = e.b
        first_chunk, last_chunk, first_row, last_row = (e.part(i) for i in range(4))

        def blocks_of(index: int, body: Callable[[ir.Value], None]) -> None:
            firsts = e.at(
                e.pointer("firsts"),
                b.mul(e.number(index), b.add(e.integer("row_count"), e.number(1))),
                I64,
            )
            table = b.inttoptr(e.element(e.pointer("tables"), e.number(index), I64), ir.PointerType())
            words = self.blocks[index].words

            def one(at: ir.Value) -> None:
                body(e.at(table, b.mul(at, e.number(words)), I32))

            e.each(e.element(firsts, first_row, I64), e.element(firsts, last_row, I64), one)

        def chunk(chunk_index: ir.Value) -> None:
            partials = e.at(e.value("partials"), b.mul(chunk_index, e.integer("partial")))
            chunk_start = e.at(e.pointer("chunks"), chunk_index, I64)

            for index, block in enumerate(self.blocks):

                def clear(words: ir.Value, block: Block = block) -> None:
                    place = e.at(partials, e.element(words, e.number(0), I32))
                    at = 0
                    for size in pieces(block.products, e.lanes):
                        zero = ir.Constant(ir.VectorType(ir.FloatType(), size), [0.0] * size)
                        b.store(zero, e.at(place, e.number(at)), align=FLOAT_BYTES)
                        at += size

                blocks_of(index, clear)

            def unit(unit_index: ir.Value) -> None:
                start = e.at(e.pointer("units"), b.mul(unit_index, e.number(UNIT_WORDS)), I64)
                source, target, rows = (e.element(start, e.number(i), I64) for i in range(UNIT_WORDS))
                for index, block in enumerate(self.blocks):

                    def one(words: ir.Value, block: Block = block) -> None:
                        place = e.at(partials, e.element(words, e.number(0), I32))
                        self._block(e, block, words, place, source, target, rows)

                    blocks_of(index, one)

            e.each(e.element(chunk_start, e.number(0), I64), e.element(chunk_start, e.number(1), I64), unit)

        e.each(first_chunk, last_chunk, chunk)

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
        outputs = [
            e.at(e.value("target"), b.add(target, e.element(words, e.number(1 + i), I32)))
            for i in range(block.outputs)
        ]
        entries = [
            e.at(e.value("source"), b.add(source, e.element(words, e.number(1 + block.outputs + i), I32)))
            for i in range(block.entries)
        ]

        def row(y: ir.Value, sums: list[ir.Value]) -> Sequence[ir.Value]:
            from_source, from_target = (b.mul(y, e.integer(f"{name}_row")) for name in ("source", "target"))

            def pixel(x: ir.Value, sums: list[ir.Value]) -> Sequence[ir.Value]:
                at_source = e.multiply_add(x, e.number(self.source_column), from_source)
                at_target = e.multiply_add(x, e.number(self.target_column), from_target)
                for lane in range(0, self.images, e.lanes):
                    gradients = [e.load_vector(e.at(place, at_target), lane) for place in outputs]
                    inputs = [e.load_vector(e.at(place, at_source), lane) for place in entries]
                    totals = iter(sums)
                    sums = [
                        e.call("llvm.fma", x, gradient, next(totals))
                        for gradient in gradients
                        for x in inputs
                    ]
                return sums

            return e.fold(e.number(0), e.integer("columns"), sums, pixel)

        sums = e.fold(e.number(0), rows, [e.constant(0)] * block.products, row)
        at = 0
        for piece in lane_sums(e, sums):
            here = e.at(partial, e.number(at))
            before = b.load(here, align=FLOAT_BYTES, typ=piece.type)
            b.store(b.fadd(before, piece), here, align=FLOAT_BYTES)
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
    """Adds up the partial sums of each weight, chunk after chunk. A part: a range of weights."""

    parameters: ClassVar = (
        "partials",  # place: float32 [chunks, partial]
        "partial",
        "chunks",
        "places",  # int32 [weights]; negative: zero
        "gradients",  # float32 [weights]
    )

    def write(self, e: KernelEmitter) -> None:
        """See `Kernel`."""
        b = e.b
        zero = ir.Constant(ir.FloatType(), 0.0)

        def weight(index: ir.Value) -> None:
            place = e.element(e.pointer("places"), index, I32)

            def chunk(chunk_index: ir.Value, total: list[ir.Value]) -> list[ir.Value]:
                at = e.multiply_add(chunk_index, e.integer("partial"), place)
                return [b.fadd(total[0], e.element(e.value("partials"), at))]

            there = b.icmp_signed(">=", place, e.number(0))
            chunks = b.select(there, e.integer("chunks"), e.number(0))
            (total,) = e.fold(e.number(0), chunks, [zero], chunk)
            e.store(total, e.at(e.pointer("gradients"), index))

        e.each(e.part(0), e.part(1), weight)
