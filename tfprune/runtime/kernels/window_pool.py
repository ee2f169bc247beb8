"""Pooling by plain loops, for every window, stride and padding that `planes.emit_pool` is not made for."""

from llvmlite import ir

from tfprune.runtime.kernels.emitter import F32, KernelEmitter

PARAMETERS = (
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


def emit(module: ir.Module, name: str, lanes: int, *, kind: str, padding_counts: bool) -> None:
    """Emits the kernel; a part: first and last plane."""
    e = KernelEmitter(module, name, lanes, PARAMETERS)
    b = e.b
    zero = e.number(0)
    area = b.mul(e.integer("window_height"), e.integer("window_width"))

    def window(out: ir.Value, stride: str, before: str, size: str, extent: str) -> tuple[ir.Value, ir.Value]:
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
                if kind == "max":
                    start = ir.Constant(F32, float("-inf"))
                    if padding_counts:
                        cut = b.icmp_signed("<", count, area)
                        start = b.select(cut, ir.Constant(F32, 0.0), start)

                def line(y: ir.Value, totals: list[ir.Value]) -> list[ir.Value]:
                    pixels = e.at(source, b.mul(y, e.integer("source_pitch")))

                    def pixel(x: ir.Value, totals: list[ir.Value]) -> list[ir.Value]:
                        value = e.element(pixels, x)
                        return [
                            b.fadd(totals[0], value) if kind == "average" else e.maximum(value, totals[0])
                        ]

                    return e.fold(left, right, totals, pixel)

                total = e.fold(top, bottom, [start], line)[0]
                if kind == "average":
                    total = b.fdiv(total, b.sitofp(area if padding_counts else count, F32))
                e.store(total, e.at(target, e.multiply_add(out_y, e.integer("target_pitch"), out_x)))

            e.each(zero, e.integer("target_width"), column)

        e.each(zero, e.integer("target_height"), row)

    e.each(e.part(0), e.part(1), plane)
    e.finish()
