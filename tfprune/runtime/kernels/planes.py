"""Kernels on planes: the image, the split for strides, and operations value by value."""

import dataclasses
from collections.abc import Callable
from typing import ClassVar

from llvmlite import ir

from tfprune.runtime.kernels.activations import activate
from tfprune.runtime.kernels.emitter import F32, I8, I32, I64, KernelEmitter
from tfprune.runtime.kernels.kernel import Kernel

# The first 64-bit numbers of the arena: so many for each image, where it is and whether it is uint8. In a
# library made ahead of time also which of its processors' code the arena is for, and what a waiting thread
# calls, or 0.
IMAGE_WORDS = 4
IMAGE_ADDRESS, IMAGE_IS_UINT8, VARIANT, WAIT = range(IMAGE_WORDS)

# What a map computes of two values, and how many numbers the second has.
MAPS = ("copy", "add", "multiply", "maximum", "minimum")
SECONDS = ("same", "channel", "pixel", "one")


@dataclasses.dataclass(frozen=True)
class Image(Kernel):
    """Makes planes of an image, `pixel * scale + shift`; a part: first and last plane."""

    parameters: ClassVar = (
        "image",  # its first number in the arena
        "target",
        "plane",
        "pitch",
        "row_step",  # elements of the image from one target row to the next
        "column_step",
        "table",  # int32 [planes, 3]: first element of the image, rows, columns
        "scales",  # float32 [planes]
        "shifts",  # float32 [planes]
    )

    def write(self, e: KernelEmitter) -> None:
        """See `Kernel`."""
        b = e.b
        address, is_uint8 = (
            e.element(e.arena, b.add(e.integer("image"), e.number(word)), I64)
            for word in (IMAGE_ADDRESS, IMAGE_IS_UINT8)
        )
        image, is_uint8 = b.inttoptr(address, ir.PointerType()), b.icmp_signed("!=", is_uint8, e.number(0))

        def planes(of: ir.Type) -> None:
            several = ir.VectorType(of, e.lanes)

            def plane(index: ir.Value) -> None:
                first, rows, columns = (
                    e.element(e.pointer("table"), e.multiply_add(index, e.number(3), e.number(i)), I32)
                    for i in range(3)
                )
                scale, shift = e.element(e.pointer("scales"), index), e.element(e.pointer("shifts"), index)
                target = e.at(e.value("target"), b.mul(index, e.integer("plane")))

                def row(y: ir.Value) -> None:
                    line = e.at(image, e.multiply_add(y, e.integer("row_step"), first), of)
                    there = e.at(target, b.mul(y, e.integer("pitch")))

                    def scaled(pixels: ir.Value, factor: ir.Value, summand: ir.Value) -> ir.Value:
                        if of == I8:
                            pixels = b.uitofp(pixels, factor.type)
                        return b.fadd(b.fmul(pixels, factor), summand)

                    def column(x: ir.Value) -> None:
                        pixel = e.element(line, b.mul(x, e.integer("column_step")), of)
                        e.store(scaled(pixel, scale, shift), e.at(there, x))

                    def columns_at_once(index: ir.Value) -> None:
                        x, pixels = b.mul(index, e.number(e.lanes)), ir.Constant(several, ir.Undefined)
                        place = b.mul(x, e.integer("column_step"))
                        for lane in range(e.lanes):
                            pixels = b.insert_element(
                                pixels, e.element(line, place, of), ir.Constant(I32, lane)
                            )
                            place = b.add(place, e.integer("column_step"))
                        e.store(scaled(pixels, e.splat(scale), e.splat(shift)), e.at(there, x))

                    # Behind the last pixel the memory is not the image's: what is left goes one by one.
                    vectors = b.sdiv(columns, e.number(e.lanes)) if e.lanes > 1 else e.number(0)
                    e.each(e.number(0), vectors, columns_at_once)
                    e.each(b.mul(vectors, e.number(e.lanes)), columns, column)

                e.each(e.number(0), rows, row)

            e.each(e.part(0), e.part(1), plane)

        def branch(of: ir.Type) -> Callable[[], list[ir.Value]]:
            return lambda: planes(of) or []

        e.choose(is_uint8, branch(I8), branch(F32))


@dataclasses.dataclass(frozen=True)
class Clear(Kernel):
    """Makes a region zero, which another value has used; a part: first and last vector."""

    parameters: ClassVar = ("target",)

    def write(self, e: KernelEmitter) -> None:
        """See `Kernel`."""
        target = e.value("target")

        def vector(index: ir.Value) -> None:
            e.store(e.constant(0), e.at(target, e.b.mul(index, e.number(e.lanes))))

        e.each(e.part(0), e.part(1), vector)


@dataclasses.dataclass(frozen=True)
class Split(Kernel):
    """Copies every `stride`-th column of rows to planes of their own; a part: first and last target plane."""

    parameters: ClassVar = (
        "source",
        "target",
        "plane",
        "pitch",
        "row_step",  # elements of the source from one target row to the next
        "vectors",  # in a target row
        "table",  # int32 [planes, 3]: first element of the source, rows, first element of its mask
        "masks",
    )
    stride: int
    in_bytes: bool = False

    def write(self, e: KernelEmitter) -> None:
        """See `Kernel`."""
        with e.of_numbers(I8 if self.in_bytes else F32):
            self._write(e)

    def _write(self, e: KernelEmitter) -> None:
        b = e.b

        def plane(index: ir.Value) -> None:
            first, rows, mask_at = (
                e.element(e.pointer("table"), e.multiply_add(index, e.number(3), e.number(i)), I32)
                for i in range(3)
            )
            source = e.at(e.value("source"), first)
            target = e.at(e.value("target"), b.mul(index, e.integer("plane")))
            mask = e.at(e.pointer("masks"), mask_at)

            def row(y: ir.Value) -> None:
                line = e.at(source, b.mul(y, e.integer("row_step")))
                there = e.at(target, b.mul(y, e.integer("pitch")))

                def part(i: ir.Value) -> None:
                    x = b.mul(i, e.number(e.lanes))
                    picked = strided(e, e.at(line, b.mul(x, e.number(self.stride))), self.stride)
                    e.store(e.keep(picked, e.load_vector(e.at(mask, x))), e.at(there, x))

                e.each(e.number(0), e.integer("vectors"), part)

            e.each(e.number(0), rows, row)

        e.each(e.part(0), e.part(1), plane)


@dataclasses.dataclass(frozen=True)
class Map(Kernel):
    """Computes `activation(first operation second)` value by value; a part: first and last plane.

    `operation` is one of `MAPS`. The second has, by `second`, as many numbers as the first; one for each
    plane, or a single one, in a vector; or one plane for all.
    """

    parameters: ClassVar = ("first", "second", "target", "plane", "mask", "vectors")
    operation: str
    second: str
    activation: str
    settings: tuple[float, ...] = ()

    def write(self, e: KernelEmitter) -> None:
        """See `Kernel`."""
        b = e.b
        combine = {"add": b.fadd, "multiply": b.fmul, "maximum": e.largest, "minimum": e.smallest}

        def plane(index: ir.Value) -> None:
            start = b.mul(index, e.integer("plane"))
            of_plane = None
            if self.operation != "copy" and self.second in ("channel", "one"):
                place = index if self.second == "channel" else e.number(0)
                of_plane = e.splat(e.element(e.value("second"), place))

            def part(i: ir.Value) -> None:
                x = b.mul(i, e.number(e.lanes))
                at = b.add(start, x)
                value = e.load_vector(e.at(e.value("first"), at))
                if self.operation != "copy":
                    second = of_plane
                    if second is None:
                        second = e.load_vector(e.at(e.value("second"), at if self.second == "same" else x))
                    value = combine[self.operation](value, second)
                value = activate(e, self.activation, value, self.settings)
                e.store(e.keep(value, e.load_vector(e.at(e.pointer("mask"), x))), e.at(e.value("target"), at))

            e.each(e.number(0), e.integer("vectors"), part)

        e.each(e.part(0), e.part(1), plane)


@dataclasses.dataclass(frozen=True)
class Gather(Kernel):
    """Makes planes of numbers from other places; a part: first and last plane."""

    parameters: ClassVar = (
        "source",
        "target",
        "plane",
        "pitch",
        "height",
        "width",
        "rows",  # int32 [height]: the elements of the source from its start to a row
        "columns",  # int32 [width]: from the row to a column
        "channels",  # int32 [planes]: from the pixel to a channel
    )
    from_constant: bool
    side_by_side: bool  # whether the columns are neighbours in the source

    def write(self, e: KernelEmitter) -> None:
        """See `Kernel`."""
        b = e.b
        source = e.pointer("source") if self.from_constant else e.value("source")

        def plane(index: ir.Value) -> None:
            channel = e.at(source, e.element(e.pointer("channels"), index, I32))
            target = e.at(e.value("target"), b.mul(index, e.integer("plane")))
            if self.side_by_side:
                channel = e.at(channel, e.element(e.pointer("columns"), e.number(0), I32))

            def row(y: ir.Value) -> None:
                line = e.at(channel, e.element(e.pointer("rows"), y, I32))
                there = e.at(target, b.mul(y, e.integer("pitch")))

                def column(x: ir.Value) -> None:
                    place = x if self.side_by_side else e.element(e.pointer("columns"), x, I32)
                    e.store(e.element(line, place), e.at(there, x))

                def columns_at_once(index: ir.Value) -> None:
                    x = b.mul(index, e.number(e.lanes))
                    e.store(e.load_vector(e.at(line, x)), e.at(there, x))

                width, copied = e.integer("width"), e.number(0)
                if self.side_by_side and e.lanes > 1:
                    # Only whole vectors of the row: what is behind it is another's.
                    vectors = b.sdiv(width, e.number(e.lanes))
                    e.each(copied, vectors, columns_at_once)
                    copied = b.mul(vectors, e.number(e.lanes))
                e.each(copied, width, column)

            e.each(e.number(0), e.integer("height"), row)

        e.each(e.part(0), e.part(1), plane)


@dataclasses.dataclass(frozen=True)
class MatMul(Kernel):
    """Computes the graph's `MatMul`, by rows of vectors of pixels; a part: first and last target plane."""

    parameters: ClassVar = (
        "first",
        "first_plane",
        "first_pitch",
        "second",
        "second_plane",
        "second_pitch",
        "target",
        "target_plane",
        "target_pitch",
        "rows",
        "columns",
        "vectors",  # in a row
        "channels",
        "mask",  # of the first's planes
    )
    vector: bool  # whether the planes are single numbers

    def write(self, e: KernelEmitter) -> None:
        """See `Kernel`."""
        b = e.b

        def plane(index: ir.Value) -> None:
            def row(y: ir.Value) -> None:
                first = e.at(e.value("first"), b.mul(y, e.integer("first_pitch")))
                second = e.at(e.value("second"), e.multiply_add(y, e.integer("second_pitch"), index))
                target = e.at(e.value("target"), b.mul(index, e.integer("target_plane")))
                target = e.at(target, b.mul(y, e.integer("target_pitch")))
                mask = e.at(e.pointer("mask"), b.mul(y, e.integer("first_pitch")))

                def part(i: ir.Value) -> None:
                    x = i if self.vector else b.mul(i, e.number(e.lanes))

                    def channel(c: ir.Value, total: list[ir.Value]) -> list[ir.Value]:
                        pixels = e.at(first, e.multiply_add(c, e.integer("first_plane"), x))
                        factor = e.element(second, b.mul(c, e.integer("second_plane")))
                        if self.vector:
                            return [b.fadd(total[0], b.fmul(e.load(pixels, F32), factor))]
                        pixels = e.load_vector(pixels)
                        return [e.call("llvm.fmuladd", pixels, e.splat(factor), total[0])]

                    nothing = ir.Constant(F32, 0.0) if self.vector else e.constant(0)
                    total = e.fold(e.number(0), e.integer("channels"), [nothing], channel)[0]
                    if not self.vector:
                        total = e.keep(total, e.load_vector(e.at(mask, x)))
                    e.store(total, e.at(target, x))

                # The numbers behind a row are the next one's, which is written after it.
                e.each(e.number(0), e.integer("columns" if self.vector else "vectors"), part)

            e.each(e.number(0), e.integer("rows"), row)

        e.each(e.part(0), e.part(1), plane)


def strided(e: KernelEmitter, pointer: ir.Value, stride: int) -> ir.Value:
    """Emits a vector of every `stride`-th element."""
    if stride == 1:
        return e.load_vector(pointer)
    if stride == 2:
        return e.every_other(e.load_vector(pointer), e.load_vector(pointer, e.lanes), 0)
    vector = ir.Constant(e.vector, ir.Undefined)
    for lane in range(e.lanes):
        x = e.element(pointer, e.number(lane * stride))
        vector = e.b.insert_element(vector, x, ir.Constant(ir.IntType(32), lane))
    return vector
