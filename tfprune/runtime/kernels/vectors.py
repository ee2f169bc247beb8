"""Kernels on vectors: dense layers, sparse and dense, the softmax, and what makes a vector of planes."""

import dataclasses
from typing import ClassVar

from llvmlite import ir

from tfprune.runtime.kernels.activations import activate, exponential
from tfprune.runtime.kernels.emitter import F32, I8, I32, KernelEmitter
from tfprune.runtime.kernels.kernel import Kernel


@dataclasses.dataclass(frozen=True)
class DenseLayer(Kernel):
    """Computes `activation(bias + weights^T source [+ residual])`; a part: first and last tile."""

    parameters: ClassVar = (
        "source",
        "target",
        "residual",
        "weights",  # float32 or int8 [inputs, width]
        "bias",  # float32 [width]
        "scales",  # float32 [width], what int8 weights are multiplied by
        "inputs",
        "width",  # outputs, rounded up to whole tiles
    )
    vectors: int
    activation: str
    residual: bool
    scaled: bool = False
    settings: tuple[float, ...] = ()

    def write(self, e: KernelEmitter) -> None:
        """See `Kernel`."""
        b = e.b
        weight = I8 if self.scaled else F32

        def tile(index: ir.Value) -> None:
            first = b.mul(index, e.number(self.vectors * e.lanes))
            bias = e.at(e.pointer("bias"), first)

            def one_input(i: ir.Value, sums: list[ir.Value]) -> list[ir.Value]:
                x = e.splat(e.element(e.value("source"), i))
                row = e.at(e.pointer("weights"), e.multiply_add(i, e.integer("width"), first), weight)
                return [
                    e.call(
                        "llvm.fmuladd",
                        x,
                        e.load_weights(e.at(row, e.number(part * e.lanes), weight), weight),
                        total,
                    )
                    for part, total in enumerate(sums)
                ]

            parts = range(self.vectors)
            initial = [
                e.constant(0) if self.scaled else e.load_vector(bias, part * e.lanes) for part in parts
            ]
            for part, x in enumerate(e.fold(e.number(0), e.integer("inputs"), initial, one_input)):
                if self.scaled:
                    scales = e.load_vector(e.at(e.pointer("scales"), first), part * e.lanes)
                    x = e.call("llvm.fmuladd", x, scales, e.load_vector(bias, part * e.lanes))
                if self.residual:
                    x = b.fadd(x, e.load_vector(e.at(e.value("residual"), first), part * e.lanes))
                e.store(
                    activate(e, self.activation, x, self.settings),
                    e.at(e.at(e.value("target"), first), e.number(part * e.lanes)),
                )

        e.each(e.part(0), e.part(1), tile)


@dataclasses.dataclass(frozen=True)
class SparseLayer(Kernel):
    """Computes a dense layer from lists of weights; a part: first and last output."""

    parameters: ClassVar = (
        "source",
        "target",
        "residual",
        "starts",  # int32 [outputs + 1]: an output's vectors of weights
        "indices",  # int32 or int16 [vectors, lanes]: the inputs
        "values",  # float32 or int8 [vectors, lanes]; zero where a list was filled up
        "bias",  # float32 [outputs]
        "scales",  # float32 [outputs], what int8 values are multiplied by
    )
    activation: str
    residual: bool
    index_bits: int = 32
    scaled: bool = False
    settings: tuple[float, ...] = ()

    def write(self, e: KernelEmitter) -> None:
        """See `Kernel`."""
        b, weight = e.b, I8 if self.scaled else F32

        def output(out: ir.Value) -> None:
            start = e.element(e.pointer("starts"), out, I32)
            stop = e.element(e.pointer("starts"), b.add(out, e.number(1)), I32)

            def weights(i: ir.Value, sums: list[ir.Value]) -> list[ir.Value]:
                return [e.multiply_picked(e.value("source"), i, self.index_bits, weight, sums[0])]

            sums = e.fold(start, stop, [e.constant(0)], weights)
            total = e.horizontal(sums[0], b.fadd)
            if self.scaled:
                total = b.fmul(total, e.element(e.pointer("scales"), out))
            total = b.fadd(total, e.element(e.pointer("bias"), out))
            if self.residual:
                total = b.fadd(total, e.element(e.value("residual"), out))
            # The activations are for vectors; one lane of this one is used.
            activated = activate(e, self.activation, e.splat(total), self.settings)
            e.store(b.extract_element(activated, ir.Constant(I32, 0)), e.at(e.value("target"), out))

        e.each(e.part(0), e.part(1), output)


@dataclasses.dataclass(frozen=True)
class Softmax(Kernel):
    """Computes the softmax of a vector; the only part is the whole.

    Attributes:
        logarithm: Whether its logarithm is computed.
    """

    parameters: ClassVar = ("source", "target", "count")
    logarithm: bool

    def write(self, e: KernelEmitter) -> None:
        """See `Kernel`."""
        b = e.b
        count, first = e.integer("count"), ir.Constant(I32, 0)

        def whole(_: ir.Value) -> None:
            def larger(i: ir.Value, best: list[ir.Value]) -> list[ir.Value]:
                x = e.element(e.value("source"), i)
                return [b.select(b.fcmp_ordered(">", x, best[0]), x, best[0])]

            largest = e.fold(e.number(0), count, [ir.Constant(F32, float("-inf"))], larger)[0]

            def exponentials(i: ir.Value, total: list[ir.Value]) -> list[ir.Value]:
                shifted = e.splat(b.fsub(e.element(e.value("source"), i), largest))
                x = b.extract_element(exponential(e, shifted), first)
                made = b.extract_element(shifted, first) if self.logarithm else x
                e.store(made, e.at(e.value("target"), i))
                return [b.fadd(total[0], x)]

            total = e.fold(e.number(0), count, [ir.Constant(F32, 0.0)], exponentials)[0]
            if self.logarithm:
                total = b.extract_element(activate(e, "log", e.splat(total)), first)
            combine = b.fsub if self.logarithm else b.fdiv

            def finish(i: ir.Value) -> None:
                at = e.at(e.value("target"), i)
                e.store(combine(e.load(at, F32), total), at)

            e.each(e.number(0), count, finish)

        e.each(e.part(0), e.part(1), whole)


@dataclasses.dataclass(frozen=True)
class Flatten(Kernel):
    """Makes a vector of planes in the order rows, columns, channels; a part: first and last row."""

    parameters: ClassVar = (
        "source",
        "target",
        "plane",
        "pitch",
        "width",
        "channels",
    )

    def write(self, e: KernelEmitter) -> None:
        """See `Kernel`."""
        width, channels = e.integer("width"), e.integer("channels")

        def row(y: ir.Value) -> None:
            def column(x: ir.Value) -> None:
                source = e.at(e.value("source"), e.multiply_add(y, e.integer("pitch"), x))
                target = e.at(e.value("target"), e.b.mul(e.multiply_add(y, width, x), channels))

                def channel(c: ir.Value) -> None:
                    e.store(e.element(source, e.b.mul(c, e.integer("plane"))), e.at(target, c))

                e.each(e.number(0), channels, channel)

            e.each(e.number(0), width, column)

        e.each(e.part(0), e.part(1), row)


@dataclasses.dataclass(frozen=True)
class GlobalPool(Kernel):
    """Computes the average or the maximum of each plane; a part: first and last plane."""

    parameters: ClassVar = (
        "source",
        "target",
        "plane",
        "mask",
        "vectors",
        "scale",  # the bits of a float32, 1 / pixels; for the average
    )
    kind: str

    def write(self, e: KernelEmitter) -> None:
        """See `Kernel`."""
        b = e.b
        lowest = e.constant(float("-inf"))

        def plane(index: ir.Value) -> None:
            source = e.at(e.value("source"), b.mul(index, e.integer("plane")))

            def part(i: ir.Value, sums: list[ir.Value]) -> list[ir.Value]:
                x = e.load_vector(e.at(source, b.mul(i, e.number(e.lanes))))
                if self.kind == "average":  # what is not a pixel is zero
                    return [b.fadd(sums[0], x)]
                mask = e.load_vector(e.at(e.pointer("mask"), b.mul(i, e.number(e.lanes))))
                bits = b.bitcast(mask, ir.VectorType(I32, e.lanes))
                is_pixel = b.icmp_signed("!=", bits, ir.Constant(bits.type, [0] * e.lanes))
                return [e.largest(b.select(is_pixel, x, lowest), sums[0])]

            initial = [e.constant(0) if self.kind == "average" else lowest]
            sums = e.fold(e.number(0), e.integer("vectors"), initial, part)
            if self.kind == "average":
                scale = e.float_bits("scale")
                result = b.fmul(e.horizontal(sums[0], b.fadd), scale)
            else:
                result = e.horizontal(sums[0], e.largest)
            e.store(result, e.at(e.value("target"), index))

        e.each(e.part(0), e.part(1), plane)
