"""The rows of a table that whole numbers name."""

import dataclasses
from typing import ClassVar

from llvmlite import ir

from tfprune.runtime.kernels.emitter import F32, I8, KernelEmitter
from tfprune.runtime.kernels.kernel import Kernel


@dataclasses.dataclass(frozen=True)
class Lookup(Kernel):
    """Makes planes of the rows of a table; a part: first and last row of the target.

    Attributes:
        scaled: Whether the values are int8, multiplied by scales.
    """

    parameters: ClassVar = (
        "source",
        "source_row",  # distance of the numbers of two rows of the target
        "source_column",
        "target",
        "plane",
        "pitch",
        "width",
        "channels",
        "entries",
        "values",  # float32 or int8 [entries, channels]
        "scales",  # float32 [channels], what int8 values are multiplied by
    )
    scaled: bool = False

    def write(self, e: KernelEmitter) -> None:
        """See `Kernel`."""
        b, zero = e.b, e.number(0)
        weight, none = I8 if self.scaled else F32, ir.Constant(F32, float("nan"))
        count = b.sitofp(e.integer("entries"), F32)

        def row(y: ir.Value) -> None:
            numbers = e.at(e.value("source"), b.mul(y, e.integer("source_row")))
            line = e.at(e.value("target"), b.mul(y, e.integer("pitch")))

            def column(x: ir.Value) -> None:
                number = e.element(numbers, b.mul(x, e.integer("source_column")))
                inside = b.and_(
                    b.fcmp_ordered(">=", number, b.fneg(count)), b.fcmp_ordered("<", number, count)
                )
                index = b.fptosi(b.select(inside, number, ir.Constant(F32, 0.0)), e.word)
                from_end = b.icmp_signed("<", index, zero)
                index = b.select(from_end, b.add(index, e.integer("entries")), index)
                entry = b.mul(index, e.integer("channels"))
                target = e.at(line, x)

                def channel(c: ir.Value) -> None:
                    value = e.load_weight(e.at(e.pointer("values"), b.add(entry, c), weight), weight)
                    if self.scaled:
                        value = b.fmul(value, e.element(e.pointer("scales"), c))
                    e.store(b.select(inside, value, none), e.at(target, b.mul(c, e.integer("plane"))))

                e.each(zero, e.integer("channels"), channel)

            e.each(zero, e.integer("width"), column)

        e.each(e.part(0), e.part(1), row)
