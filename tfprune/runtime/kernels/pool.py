"""Pooling: rows of vectors where that is possible, and plain loops for all else."""

import dataclasses
from typing import ClassVar

from llvmlite import ir

from tfprune.runtime.kernels.emitter import F32, KernelEmitter
from tfprune.runtime.kernels.kernel import Kernel


@dataclasses.dataclass(frozen=True)
class RowPool(Kernel):
    """Pools planes padded with zeros, by the maximum or the average; a part: first and last plane."""

    parameters: ClassVar = (
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
    kind: str
    rows: int
    columns: int
    stride: int

    def write(self, e: KernelEmitter) -> None:
        """See `Kernel`."""
        b = e.b
        combine = b.fadd if self.kind == "average" else e.largest

        def plane(index: ir.Value) -> None:
            source = e.at(e.value("source"), b.mul(index, e.integer("source_plane")))
            target = e.at(e.value("target"), b.mul(index, e.integer("target_plane")))

            def row(y: ir.Value) -> None:
                line = e.at(source, b.mul(b.mul(y, e.integer("row_step")), e.integer("source_pitch")))
                start = b.mul(y, e.integer("target_pitch"))

                def part(i: ir.Value) -> None:
                    x = b.mul(i, e.number(e.lanes))
                    window = e.at(line, b.mul(x, e.number(self.stride)))

                    def column_of(offset: int) -> ir.Value:
                        """Emits one vector of the window's rows, combined."""
                        at, total = window, None
                        for _ in range(self.rows):
                            loaded = e.load_vector(at, offset)
                            total = loaded if total is None else combine(total, loaded)
                            at = e.at(at, e.integer("source_pitch"))
                        return total

                    total, known = None, {}
                    for column in range(self.columns):
                        base, odd = (column, 0) if self.stride == 1 else (column - column % 2, column % 2)
                        if base not in known:
                            known[base] = [column_of(base + half * e.lanes) for half in range(self.stride)]
                        picked = known[base][0] if self.stride == 1 else e.every_other(*known[base], odd)
                        total = picked if total is None else combine(total, picked)
                    weights = e.load_vector(e.at(e.pointer("weights"), b.add(start, x)))
                    if self.kind == "average":
                        # Not only multiplied: a NaN times zero would stay in the halo.
                        is_pixel = b.fcmp_ordered(">", weights, e.constant(0))
                        total = b.select(is_pixel, b.fmul(total, weights), e.constant(0))
                    else:
                        total = e.keep(total, weights)
                    e.store(total, e.at(target, b.add(start, x)))

                e.each(e.number(0), e.integer("vectors"), part)

            e.each(e.number(0), e.integer("rows"), row)

        e.each(e.part(0), e.part(1), plane)


@dataclasses.dataclass(frozen=True)
class WindowPool(Kernel):
    """Pools by plain loops, with any window, stride and padding; a part: first and last plane."""

    parameters: ClassVar = (
        "source",
        "target",
        "source_plane",
        "source_pitch",
        "target_plane",
        "target_pitch",
        "height",
        "width",
        "target_height",
        "target_width",
        "window_height",
        "window_width",
        "stride_y",
        "stride_x",
        "top",
        "left",
    )
    kind: str
    padding_counts: bool

    def write(self, e: KernelEmitter) -> None:
        """See `Kernel`."""
        b = e.b
        average = self.kind == "average"
        zero = e.number(0)
        area = b.mul(e.integer("window_height"), e.integer("window_width"))

        def window(
            out: ir.Value, stride: str, before: str, size: str, extent: str
        ) -> tuple[ir.Value, ir.Value]:
            start = b.sub(b.mul(out, e.integer(stride)), e.integer(before))
            stop = b.add(start, e.integer(size))
            inside = b.icmp_signed("<", stop, e.integer(extent))
            return (
                b.select(b.icmp_signed(">", start, zero), start, zero),
                b.select(inside, stop, e.integer(extent)),
            )

        def plane(index: ir.Value) -> None:
            source = e.at(e.value("source"), b.mul(index, e.integer("source_plane")))
            target = e.at(e.value("target"), b.mul(index, e.integer("target_plane")))

            def row(out_y: ir.Value) -> None:
                top, bottom = window(out_y, "stride_y", "top", "window_height", "height")

                def column(out_x: ir.Value) -> None:
                    left, right = window(out_x, "stride_x", "left", "window_width", "width")
                    count = b.mul(b.sub(bottom, top), b.sub(right, left))
                    start = ir.Constant(F32, 0.0)
                    if self.kind == "max":
                        start = ir.Constant(F32, float("-inf"))
                        if self.padding_counts:
                            cut = b.icmp_signed("<", count, area)
                            start = b.select(cut, ir.Constant(F32, 0.0), start)

                    def line(y: ir.Value, totals: list[ir.Value]) -> list[ir.Value]:
                        pixels = e.at(source, b.mul(y, e.integer("source_pitch")))

                        def pixel(x: ir.Value, totals: list[ir.Value]) -> list[ir.Value]:
                            value = e.element(pixels, x)
                            return [b.fadd(totals[0], value) if average else e.largest(value, totals[0])]

                        return e.fold(left, right, totals, pixel)

                    total = e.fold(top, bottom, [start], line)[0]
                    if average:
                        total = b.fdiv(total, b.sitofp(area if self.padding_counts else count, F32))
                    e.store(total, e.at(target, e.multiply_add(out_y, e.integer("target_pitch"), out_x)))

                e.each(zero, e.integer("target_width"), column)

            e.each(zero, e.integer("target_height"), row)

        e.each(e.part(0), e.part(1), plane)
