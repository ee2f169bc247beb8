"""Loops over values, which lie as `[tile][row][channel][column][images]` (see `layout`).

A run is the pixels of a row of a channel of a tile, contiguous in memory. Kernels read and write runs alone,
never the zeros around an image. Each operand of a kernel has parameters of its own for the distances of its
tiles, rows and channels.
"""

from collections.abc import Callable, Sequence

from llvmlite import ir

from tfprune.runtime.kernels.emitter import F32, I32, I64, KernelEmitter

# The arena's first 64-bit numbers: the address of the images, whether they are uint8, how many they are, and
# the number of training steps so far.
IMAGES_ADDRESS, IMAGES_ARE_UINT8, IMAGES, STEP = range(4)
HEADER_WORDS = 4

VectorBody = Callable[[ir.Value, list[ir.Value]], Sequence[ir.Value]]


def operand(name: str) -> tuple[str, ...]:
    """Returns the parameters of a value: its first pixel's place, the distances of tiles, rows, channels."""
    return name, f"{name}_tile", f"{name}_row", f"{name}_channel"


def run_of(e: KernelEmitter, name: str, tile: ir.Value, row: ir.Value, channel: ir.Value) -> ir.Value:
    """Returns the address of a run of an operand."""
    pointer = e.value(name)
    for index, distance in ((tile, "tile"), (row, "row"), (channel, "channel")):
        pointer = e.at(pointer, e.b.mul(index, e.integer(f"{name}_{distance}")))
    return pointer


def header(e: KernelEmitter, index: int) -> ir.Value:
    """Returns a number of the arena's header."""
    return e.element(e.arena, e.number(index), I64)


def float_of(e: KernelEmitter, name: str) -> ir.Value:
    """Returns a float32 parameter, which was given as its bits."""
    return e.b.bitcast(e.b.trunc(e.integer(name), I32), F32)


def splat_of(e: KernelEmitter, name: str, channel: ir.Value) -> ir.Value:
    """Returns a vector of a channel's number in an array that a parameter is the address of."""
    return e.splat(e.element(e.pointer(name), channel))


def each_run(e: KernelEmitter, body: Callable[[ir.Value, ir.Value, ir.Value], None]) -> None:
    """Emits `body(tile, row, channel)`; a part: first and last row of all tiles', first and last channel."""

    def line(index: ir.Value) -> None:
        rows = e.integer("rows")
        tile, row = e.b.sdiv(index, rows), e.b.srem(index, rows)
        e.each(e.part(2), e.part(3), lambda channel: body(tile, row, channel))

    e.each(e.part(0), e.part(1), line)


def each_plane(e: KernelEmitter, body: Callable[[ir.Value, ir.Value], None]) -> None:
    """Emits `body(tile, channel)`; a part: first and last tile, first and last channel."""
    e.each(
        e.part(0), e.part(1), lambda tile: e.each(e.part(2), e.part(3), lambda channel: body(tile, channel))
    )


def each_vector(
    e: KernelEmitter, images: int, body: VectorBody, carried: Sequence[ir.Value] = ()
) -> list[ir.Value]:
    """Emits `values = body(offset, values)` for each vector of a run, and returns the last values.

    The vectors of a pixel come one after the other, each with values of its own, `len(carried)` of them.
    """
    registers = range(0, images, e.lanes)
    count = len(carried)

    def pixel(x: ir.Value, values: list[ir.Value]) -> list[ir.Value]:
        start, following = e.b.mul(x, e.number(images)), []
        for i, more in enumerate(registers):
            offset = e.b.add(start, e.number(more)) if more else start
            following += body(offset, values[i * count : (i + 1) * count])
        return following

    last = e.fold(e.number(0), e.integer("columns"), [*carried] * len(registers), pixel)
    return [_total(e, last[i::count]) for i in range(count)]


def each_pixel(e: KernelEmitter, body: Callable[[ir.Value, ir.Value], None]) -> None:
    """Emits `body(row, column)` for each pixel of a plane."""
    rows, columns = e.integer("rows"), e.integer("columns")
    e.each(e.number(0), rows, lambda y: e.each(e.number(0), columns, lambda x: body(y, x)))


def each_block(
    e: KernelEmitter, sums: Sequence[str], body: Callable[[ir.Value, ir.Value, ir.Value], Sequence[ir.Value]]
) -> None:
    """Emits loops that add up sums over blocks of rows, in slots of their own.

    A part: first and last block of all tiles', first and last channel. The kernel has the parameters `block`,
    rows of one, `blocks` of a tile, and `channels`.

    Args:
        e: The kernel.
        sums: The places of sums, float32 `[slots, 2, channels, lanes]`.
        body: Gets tile, row and channel, and returns what a run adds: two vectors for each place.
    """
    b = e.b
    rows = e.integer("rows")

    def block(slot: ir.Value) -> None:
        tile, index = b.sdiv(slot, e.integer("blocks")), b.srem(slot, e.integer("blocks"))
        first = b.mul(index, e.integer("block"))
        last = b.add(first, e.integer("block"))
        last = b.select(b.icmp_signed("<", last, rows), last, rows)

        def run(row: ir.Value, channel: ir.Value) -> None:
            at = []
            for name in sums:
                for which in range(2):
                    line = e.multiply_add(slot, e.number(2), e.number(which))
                    place = e.multiply_add(line, e.integer("channels"), channel)
                    at.append(e.at(e.value(name), b.mul(place, e.number(e.lanes))))
            is_first = b.icmp_signed("==", row, first)
            for place, added in zip(at, body(tile, row, channel), strict=True):
                before = e.choose(
                    is_first, lambda: [e.constant(0)], lambda place=place: [e.load_vector(place)]
                )
                e.store(b.fadd(before[0], added), place)

        e.each(first, last, lambda row: e.each(e.part(2), e.part(3), lambda channel: run(row, channel)))

    e.each(e.part(0), e.part(1), block)


def load(e: KernelEmitter, run: ir.Value, offset: ir.Value) -> ir.Value:
    """Loads a vector of a run."""
    return e.load_vector(e.at(run, offset))


def put(
    e: KernelEmitter, value: ir.Value, run: ir.Value, offset: ir.Value, *, accumulate: bool = False
) -> None:
    """Stores a vector of a run, or adds it to what is there."""
    at = e.at(run, offset)
    e.store(e.b.fadd(e.load_vector(at), value) if accumulate else value, at)


def _total(e: KernelEmitter, vectors: Sequence[ir.Value]) -> ir.Value:
    total = vectors[0]
    for other in vectors[1:]:
        total = e.b.fadd(total, other)
    return total
