"""Kernels on planes: the image, the split for strides, pooling, and what is done value by value."""

from collections.abc import Callable

from llvmlite import ir

from tfprune.runtime.kernels.activations import activate
from tfprune.runtime.kernels.emitter import F32, I8, I64, KernelEmitter

# The arena's first 64-bit numbers: where the image is, and whether it is uint8.
IMAGE_ADDRESS, IMAGE_IS_UINT8 = 0, 1

IMAGE_PARAMETERS = (
    "target",
    "plane",
    "pitch",
    "row_step",  # elements of the image from one target row to the next
    "column_step",
    "table",  # int64 [planes, 3]: first element of the image, rows, columns
    "scales",  # float32 [planes]
    "shifts",  # float32 [planes]
)
SPLIT_PARAMETERS = (
    "source",
    "target",
    "plane",
    "pitch",
    "row_step",  # elements of the source from one target row to the next
    "vectors",  # in a target row
    "table",  # int64 [planes, 3]: first element of the source, rows, first element of its mask
    "masks",
)
POOL_PARAMETERS = (
    "source",  # where the first window starts
    "target",
    "source_plane",
    "source_pitch",
    "target_plane",
    "target_pitch",
    "rows",
    "vectors",  # in a target row
    "row_step",  # source rows from one target row to the next
    "weights",  # of a target plane: a mask for the maximum, 1 / count for the average
)
MAP_PARAMETERS = ("first", "second", "target", "plane", "mask", "vectors")
MAPS = ("add", "multiply", "multiply_by_channel", "copy")


def emit_image(module: ir.Module, name: str, lanes: int) -> None:
    """Emits image to planes, `pixel * scale + shift`; a part: first and last plane."""
    e = KernelEmitter(module, name, lanes, IMAGE_PARAMETERS)
    b = e.b
    image = b.inttoptr(e.element(e.arena, e.number(IMAGE_ADDRESS), I64), ir.PointerType())
    is_uint8 = b.icmp_signed("!=", e.element(e.arena, e.number(IMAGE_IS_UINT8), I64), e.number(0))

    def planes(of: ir.Type) -> None:
        def plane(index: ir.Value) -> None:
            first, rows, columns = (
                e.element(e.pointer("table"), e.multiply_add(index, e.number(3), e.number(i)), I64)
                for i in range(3)
            )
            scale, shift = e.element(e.pointer("scales"), index), e.element(e.pointer("shifts"), index)
            target = e.at(e.value("target"), b.mul(index, e.integer("plane")))

            def row(y: ir.Value) -> None:
                line = e.at(image, e.multiply_add(y, e.integer("row_step"), first), of)
                there = e.at(target, b.mul(y, e.integer("pitch")))

                def column(x: ir.Value) -> None:
                    pixel = e.element(line, b.mul(x, e.integer("column_step")), of)
                    if of == I8:
                        pixel = b.uitofp(pixel, F32)
                    e.store(b.fadd(b.fmul(pixel, scale), shift), e.at(there, x))

                e.each(e.number(0), columns, column)

            e.each(e.number(0), rows, row)

        e.each(e.part(0), e.part(1), plane)

    def nothing(of: ir.Type) -> Callable[[], list[ir.Value]]:
        return lambda: planes(of) or []

    e.choose(is_uint8, nothing(I8), nothing(F32))
    e.finish()


def emit_split(module: ir.Module, name: str, lanes: int, *, stride: int) -> None:
    """Emits every `stride`-th column of rows to planes of their own; a part: first and last target plane."""
    e = KernelEmitter(module, name, lanes, SPLIT_PARAMETERS)
    b = e.b

    def plane(index: ir.Value) -> None:
        first, rows, mask_at = (
            e.element(e.pointer("table"), e.multiply_add(index, e.number(3), e.number(i)), I64)
            for i in range(3)
        )
        source = e.at(e.value("source"), first)
        target = e.at(e.value("target"), b.mul(index, e.integer("plane")))
        mask = e.at(e.pointer("masks"), mask_at)

        def row(y: ir.Value) -> None:
            line = e.at(source, b.mul(y, e.integer("row_step")))
            there = e.at(target, b.mul(y, e.integer("pitch")))

            def part(i: ir.Value) -> None:
                x = b.mul(i, e.number(lanes))
                picked = strided(e, e.at(line, b.mul(x, e.number(stride))), stride)
                e.store(e.keep(picked, e.load_vector(e.at(mask, x))), e.at(there, x))

            e.each(e.number(0), e.integer("vectors"), part)

        e.each(e.number(0), rows, row)

    e.each(e.part(0), e.part(1), plane)
    e.finish()


def emit_pool(
    module: ir.Module, name: str, lanes: int, *, kind: str, rows: int, columns: int, stride: int
) -> None:
    """Emits max or average pooling of planes padded with zeros; a part: first and last plane."""
    e = KernelEmitter(module, name, lanes, POOL_PARAMETERS)
    b = e.b
    combine = b.fadd if kind == "average" else e.maximum

    def plane(index: ir.Value) -> None:
        source = e.at(e.value("source"), b.mul(index, e.integer("source_plane")))
        target = e.at(e.value("target"), b.mul(index, e.integer("target_plane")))

        def row(y: ir.Value) -> None:
            line = e.at(source, b.mul(b.mul(y, e.integer("row_step")), e.integer("source_pitch")))
            start = b.mul(y, e.integer("target_pitch"))

            def part(i: ir.Value) -> None:
                x = b.mul(i, e.number(lanes))
                window = e.at(line, b.mul(x, e.number(stride)))

                def column_of(offset: int) -> ir.Value:
                    """One vector of the window's rows, combined."""
                    at, total = window, None
                    for _ in range(rows):
                        loaded = e.load_vector(at, offset)
                        total = loaded if total is None else combine(total, loaded)
                        at = e.at(at, e.integer("source_pitch"))
                    return total

                total, known = None, {}
                for column in range(columns):
                    base, odd = (column, 0) if stride == 1 else (column - column % 2, column % 2)
                    if base not in known:
                        known[base] = [column_of(base + half * lanes) for half in range(stride)]
                    picked = known[base][0] if stride == 1 else e.every_other(*known[base], odd)
                    total = picked if total is None else combine(total, picked)
                weights = e.load_vector(e.at(e.pointer("weights"), b.add(start, x)))
                if kind == "average":
                    # Not only multiplied: a NaN times zero would stay in the halo.
                    is_pixel = b.fcmp_ordered(">", weights, e.constant(0))
                    total = b.select(is_pixel, b.fmul(total, weights), e.constant(0))
                else:
                    total = e.keep(total, weights)
                e.store(total, e.at(target, b.add(start, x)))

            e.each(e.number(0), e.integer("vectors"), part)

        e.each(e.number(0), e.integer("rows"), row)

    e.each(e.part(0), e.part(1), plane)
    e.finish()


def emit_map(module: ir.Module, name: str, lanes: int, *, operation: str, activation: str) -> None:
    """Emits `activation(first operation second)` value by value; a part: first and last plane.

    `operation` is one of `MAPS`; `"multiply_by_channel"` takes the second as a vector.
    """
    e = KernelEmitter(module, name, lanes, MAP_PARAMETERS)
    b = e.b

    def plane(index: ir.Value) -> None:
        start = b.mul(index, e.integer("plane"))
        factor = e.splat(e.element(e.value("second"), index)) if operation == "multiply_by_channel" else None

        def part(i: ir.Value) -> None:
            x = b.mul(i, e.number(lanes))
            at = b.add(start, x)
            value = e.load_vector(e.at(e.value("first"), at))
            if operation in ("add", "multiply"):
                second = e.load_vector(e.at(e.value("second"), at))
                value = b.fadd(value, second) if operation == "add" else b.fmul(value, second)
            elif factor is not None:
                value = b.fmul(value, factor)
            value = activate(e, activation, value)
            e.store(e.keep(value, e.load_vector(e.at(e.pointer("mask"), x))), e.at(e.value("target"), at))

        e.each(e.number(0), e.integer("vectors"), part)

    e.each(e.part(0), e.part(1), plane)
    e.finish()


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
