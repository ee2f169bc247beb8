"""Pools over windows and over all pixels, and their gradients. A part: see `each_plane`."""

import dataclasses
from collections.abc import Callable
from typing import ClassVar

from llvmlite import ir

from tfprune.runtime.kernels.emitter import F32, I32, KernelEmitter
from tfprune.runtime.kernels.kernel import Kernel
from tfprune.sparse_training.kernels.loops import each_pixel, each_plane, operand, put, run_of

# Of the target: `rows`, `columns`; of the source the other numbers.
_WINDOW = (
    "rows",
    "columns",
    "source_rows",
    "source_columns",
    "height",
    "width",
    "stride_rows",
    "stride_columns",
    "top",
    "left",
)


@dataclasses.dataclass(frozen=True)
class _Window:
    """The taps of a window that lie on the image."""

    first_row: ir.Value
    last_row: ir.Value
    first_column: ir.Value
    last_column: ir.Value

    def each(self, e: KernelEmitter, body: Callable[[ir.Value, ir.Value], None]) -> None:
        e.each(
            self.first_row,
            self.last_row,
            lambda y: e.each(self.first_column, self.last_column, lambda x: body(y, x)),
        )

    def count(self, e: KernelEmitter) -> ir.Value:
        return e.b.mul(e.b.sub(self.last_row, self.first_row), e.b.sub(self.last_column, self.first_column))


def _window_at(e: KernelEmitter, y: ir.Value, x: ir.Value) -> _Window:
    edges = []
    for at, stride, before, size, side in (
        (y, "stride_rows", "top", "height", "source_rows"),
        (x, "stride_columns", "left", "width", "source_columns"),
    ):
        first = e.b.sub(e.b.mul(at, e.integer(stride)), e.integer(before))
        last = e.b.add(first, e.integer(size))
        zero, end = e.number(0), e.integer(side)
        edges.append(e.b.select(e.b.icmp_signed("<", first, zero), zero, first))
        edges.append(e.b.select(e.b.icmp_signed("<", last, end), last, end))
    return _Window(*edges)


def _taps(e: KernelEmitter) -> ir.Value:
    return e.b.mul(e.integer("height"), e.integer("width"))


def _sees_padding(e: KernelEmitter, window: _Window) -> ir.Value:
    return e.b.icmp_signed("<", window.count(e), _taps(e))


def _share(e: KernelEmitter, window: _Window, *, padding_counts: bool) -> ir.Value:
    count = _taps(e) if padding_counts else window.count(e)
    return e.splat(e.b.fdiv(ir.Constant(F32, 1.0), e.b.sitofp(count, F32)))


@dataclasses.dataclass(frozen=True)
class Pool(Kernel):
    """Takes the maximum or the average over a window.

    Attributes:
        images: The images of a tile.
        kind: "max" or "average".
        padding_counts: Whether the zeros around the image take part.
    """

    parameters: ClassVar = (*operand("source"), *operand("target"), *_WINDOW)
    images: int
    kind: str
    padding_counts: bool

    def write(self, e: KernelEmitter) -> None:
        """See `Kernel`."""
        b = e.b

        def plane(tile: ir.Value, channel: ir.Value) -> None:
            def pixel(y: ir.Value, x: ir.Value) -> None:
                window = _window_at(e, y, x)
                target = e.at(run_of(e, "target", tile, y, channel), b.mul(x, e.number(self.images)))
                for more in range(0, self.images, e.lanes):
                    if self.kind == "average":
                        start = e.constant(0)
                    elif self.padding_counts:
                        start = b.select(_sees_padding(e, window), e.constant(0), e.constant(float("-inf")))
                    else:
                        start = e.constant(float("-inf"))
                    put(e, start, target, e.number(more))

                def tap(row: ir.Value, column: ir.Value) -> None:
                    source = run_of(e, "source", tile, row, channel)
                    source = e.at(source, b.mul(column, e.number(self.images)))
                    for more in range(0, self.images, e.lanes):
                        value, before = e.load_vector(source, more), e.load_vector(target, more)
                        if self.kind == "average":
                            value = b.fadd(value, before)
                        else:
                            value = e.largest(value, before)
                        put(e, value, target, e.number(more))

                window.each(e, tap)
                if self.kind == "average":
                    share = _share(e, window, padding_counts=self.padding_counts)
                    for more in range(0, self.images, e.lanes):
                        put(e, b.fmul(e.load_vector(target, more), share), target, e.number(more))

            each_pixel(e, pixel)

        each_plane(e, plane)


@dataclasses.dataclass(frozen=True)
class PoolGradient(Kernel):
    """Adds the gradient of a pool to that of its source.

    A maximum's goes to the first pixel of the window that has it.

    Attributes:
        images: The images of a tile.
        kind: "max" or "average".
        padding_counts: Whether the zeros around the image take part.
        accumulate: Whether the gradient adds to what is there; else zeros are written first.
    """

    parameters: ClassVar = (
        *operand("source"),
        *operand("output"),
        *operand("gradient"),
        *operand("target"),
        *_WINDOW,
    )
    images: int
    kind: str
    padding_counts: bool
    accumulate: bool

    def write(self, e: KernelEmitter) -> None:
        """See `Kernel`."""
        b = e.b
        bits = ir.VectorType(ir.IntType(1), e.lanes)

        def plane(tile: ir.Value, channel: ir.Value) -> None:
            def pixel_of(name: str, y: ir.Value, x: ir.Value) -> ir.Value:
                return e.at(run_of(e, name, tile, y, channel), b.mul(x, e.number(self.images)))

            def zeros(y: ir.Value, x: ir.Value) -> None:
                for more in range(0, self.images, e.lanes):
                    put(e, e.constant(0), pixel_of("target", y, x), e.number(more))

            if not self.accumulate:
                e.each(
                    e.number(0),
                    e.integer("source_rows"),
                    lambda y: e.each(e.number(0), e.integer("source_columns"), lambda x: zeros(y, x)),
                )

            def pixel(y: ir.Value, x: ir.Value) -> None:
                window = _window_at(e, y, x)
                for more in range(0, self.images, e.lanes):
                    give(window, y, x, more)

            def give(window: _Window, y: ir.Value, x: ir.Value, more: int) -> None:
                gradient = e.load_vector(pixel_of("gradient", y, x), more)
                if self.kind == "average":
                    part = b.fmul(gradient, _share(e, window, padding_counts=self.padding_counts))

                    def spread(row: ir.Value, column: ir.Value) -> None:
                        put(e, part, pixel_of("target", row, column), e.number(more), accumulate=True)

                    window.each(e, spread)
                    return
                output = e.load_vector(pixel_of("output", y, x), more)
                waiting = ir.Constant(bits, [1] * e.lanes)
                if self.padding_counts:  # What the padding gave comes from no pixel.
                    is_zero = b.fcmp_ordered("==", output, e.constant(0))
                    lost = b.and_(is_zero, _all_lanes(e, _sees_padding(e, window)))
                    waiting = b.and_(waiting, b.not_(lost))

                def tap(row: ir.Value, column: ir.Value, left: ir.Value) -> ir.Value:
                    value = e.load_vector(pixel_of("source", row, column), more)
                    hit = b.and_(left, b.fcmp_ordered("==", value, output))
                    part = b.select(hit, gradient, e.constant(0))
                    put(e, part, pixel_of("target", row, column), e.number(more), accumulate=True)
                    return b.and_(left, b.not_(hit))

                def taps_of(row: ir.Value, left: list[ir.Value]) -> list[ir.Value]:
                    columns = window.first_column, window.last_column
                    return e.fold(*columns, left, lambda column, left: [tap(row, column, left[0])])

                e.fold(window.first_row, window.last_row, [waiting], taps_of)

            each_pixel(e, pixel)

        each_plane(e, plane)


@dataclasses.dataclass(frozen=True)
class GlobalPool(Kernel):
    """Takes the maximum or the average over all pixels.

    Attributes:
        images: The images of a tile.
        kind: "max" or "average".
    """

    parameters: ClassVar = (*operand("source"), *operand("target"), "rows", "columns")
    images: int
    kind: str

    def write(self, e: KernelEmitter) -> None:
        """See `Kernel`."""
        b = e.b

        def plane(tile: ir.Value, channel: ir.Value) -> None:
            target = run_of(e, "target", tile, e.number(0), channel)
            start = e.constant(0 if self.kind == "average" else float("-inf"))

            def total_of(more: int) -> ir.Value:
                def combined(y: ir.Value, x: ir.Value, total: ir.Value) -> ir.Value:
                    source = e.at(run_of(e, "source", tile, y, channel), b.mul(x, e.number(self.images)))
                    value = e.load_vector(source, more)
                    return b.fadd(total, value) if self.kind == "average" else e.largest(value, total)

                return _over_pixels(e, start, combined)

            for more in range(0, self.images, e.lanes):
                total = total_of(more)
                if self.kind == "average":
                    total = b.fmul(total, _share_of_all(e))
                put(e, total, target, e.number(more))

        each_plane(e, plane)


@dataclasses.dataclass(frozen=True)
class GlobalPoolGradient(Kernel):
    """Gives each pixel its part of a global pool's gradient; pixels with the same maximum share it.

    Attributes:
        images: The images of a tile.
        kind: "max" or "average".
        accumulate: Whether the gradient adds to what is there.
    """

    parameters: ClassVar = (
        *operand("source"),
        *operand("output"),
        *operand("gradient"),
        *operand("target"),
        "rows",
        "columns",
    )
    images: int
    kind: str
    accumulate: bool

    def write(self, e: KernelEmitter) -> None:
        """See `Kernel`."""
        b = e.b

        def plane(tile: ir.Value, channel: ir.Value) -> None:
            first = e.number(0)
            gradients, outputs = (run_of(e, name, tile, first, channel) for name in ("gradient", "output"))

            def is_largest(y: ir.Value, x: ir.Value, output: ir.Value, more: int) -> ir.Value:
                source = e.at(run_of(e, "source", tile, y, channel), b.mul(x, e.number(self.images)))
                return b.fcmp_ordered("==", e.load_vector(source, more), output)

            def give(more: int) -> None:
                gradient = e.load_vector(gradients, more)
                output = None
                if self.kind == "average":
                    gradient = b.fmul(gradient, _share_of_all(e))
                else:
                    output = e.load_vector(outputs, more)

                    def counted(y: ir.Value, x: ir.Value, count: ir.Value) -> ir.Value:
                        hit = is_largest(y, x, output, more)
                        return b.fadd(count, b.select(hit, e.constant(1), e.constant(0)))

                    gradient = b.fdiv(gradient, _over_pixels(e, e.constant(0), counted))

                def pixel(y: ir.Value, x: ir.Value) -> None:
                    part = gradient
                    if self.kind == "max":
                        part = b.select(is_largest(y, x, output, more), gradient, e.constant(0))
                    target = e.at(run_of(e, "target", tile, y, channel), b.mul(x, e.number(self.images)))
                    put(e, part, target, e.number(more), accumulate=self.accumulate)

                each_pixel(e, pixel)

            for more in range(0, self.images, e.lanes):
                give(more)

        each_plane(e, plane)


def _over_pixels(
    e: KernelEmitter, start: ir.Value, body: Callable[[ir.Value, ir.Value, ir.Value], ir.Value]
) -> ir.Value:
    """Emits `value = body(row, column, value)` for each pixel, and returns the last value."""

    def row(y: ir.Value, values: list[ir.Value]) -> list[ir.Value]:
        columns = e.number(0), e.integer("columns")
        return e.fold(*columns, values, lambda x, values: [body(y, x, values[0])])

    return e.fold(e.number(0), e.integer("rows"), [start], row)[0]


def _share_of_all(e: KernelEmitter) -> ir.Value:
    pixels = e.b.sitofp(e.b.mul(e.integer("rows"), e.integer("columns")), F32)
    return e.splat(e.b.fdiv(ir.Constant(F32, 1.0), pixels))


def _all_lanes(e: KernelEmitter, bit: ir.Value) -> ir.Value:
    """Returns a vector of one bit."""
    numbers = ir.VectorType(I32, e.lanes)
    spread = e.b.bitcast(e.splat(e.b.bitcast(e.b.zext(bit, I32), F32)), numbers)
    return e.b.icmp_signed("!=", spread, ir.Constant(numbers, [0] * e.lanes))
