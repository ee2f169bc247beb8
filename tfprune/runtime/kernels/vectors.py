"""Kernels on vectors: dense layers, sparse and dense, the softmax, and what makes a vector of planes."""

from llvmlite import ir

from tfprune.runtime.kernels.activations import activate, exponential
from tfprune.runtime.kernels.emitter import F32, I32, I64, KernelEmitter

DENSE_PARAMETERS = (
    "source",
    "target",
    "residual",
    "weights",  # float32 [inputs, width]
    "bias",  # float32 [width]
    "inputs",
    "width",  # outputs, rounded up to whole tiles
)
SPARSE_PARAMETERS = (
    "source",
    "target",
    "residual",
    "starts",  # int32 [outputs + 1]: an output's vectors of weights
    "indices",  # int32 [vectors, lanes]: the inputs
    "values",  # float32 [vectors, lanes]; zero where a list was filled up
    "bias",  # float32 [outputs]
)
SOFTMAX_PARAMETERS = ("source", "target", "count")
FLATTEN_PARAMETERS = (
    "source",
    "target",
    "plane",
    "pitch",
    "width",
    "channels",
)
GLOBAL_POOL_PARAMETERS = ("source", "target", "plane", "mask", "vectors", "scale")


def emit_dense(
    module: ir.Module, name: str, lanes: int, *, vectors: int, activation: str, residual: bool
) -> None:
    """Emits `target = activation(bias + weights^T source [+ residual])`; a part: first and last tile."""
    e = KernelEmitter(module, name, lanes, DENSE_PARAMETERS)
    b = e.b

    def tile(index: ir.Value) -> None:
        first = b.mul(index, e.number(vectors * lanes))
        bias = e.at(e.pointer("bias"), first)

        def one_input(i: ir.Value, sums: list[ir.Value]) -> list[ir.Value]:
            x = e.splat(e.element(e.value("source"), i))
            row = e.at(e.pointer("weights"), e.multiply_add(i, e.integer("width"), first))
            return [
                e.call("llvm.fmuladd", x, e.load_vector(row, part * lanes), total)
                for part, total in enumerate(sums)
            ]

        initial = [e.load_vector(bias, part * lanes) for part in range(vectors)]
        for part, x in enumerate(e.fold(e.number(0), e.integer("inputs"), initial, one_input)):
            if residual:
                x = b.fadd(x, e.load_vector(e.at(e.value("residual"), first), part * lanes))
            e.store(activate(e, activation, x), e.at(e.at(e.value("target"), first), e.number(part * lanes)))

    e.each(e.part(0), e.part(1), tile)
    e.finish()


def emit_sparse(module: ir.Module, name: str, lanes: int, *, activation: str, residual: bool) -> None:
    """Emits the same from lists of weights; a part: first and last output."""
    e = KernelEmitter(module, name, lanes, SPARSE_PARAMETERS)
    b = e.b
    indices_type = ir.VectorType(I32, lanes)

    def output(index: ir.Value) -> None:
        start = e.element(e.pointer("starts"), index, I32)
        stop = e.element(e.pointer("starts"), b.add(index, e.number(1)), I32)

        def weights(i: ir.Value, sums: list[ir.Value]) -> list[ir.Value]:
            at = b.mul(i, e.number(lanes))
            indices = b.load(e.at(e.pointer("indices"), at, I32), align=4, typ=indices_type)
            x = ir.Constant(e.vector, ir.Undefined)
            for lane in range(lanes):
                which = ir.Constant(I32, lane)
                picked = e.element(e.value("source"), b.sext(b.extract_element(indices, which), I64))
                x = b.insert_element(x, picked, which)
            return [e.call("llvm.fmuladd", x, e.load_vector(e.at(e.pointer("values"), at)), sums[0])]

        sums = e.fold(start, stop, [e.constant(0)], weights)
        total = b.fadd(e.horizontal(sums[0], b.fadd), e.element(e.pointer("bias"), index))
        if residual:
            total = b.fadd(total, e.element(e.value("residual"), index))
        # The activations are for vectors; one lane of this one is used.
        activated = activate(e, activation, e.splat(total))
        e.store(b.extract_element(activated, ir.Constant(I32, 0)), e.at(e.value("target"), index))

    e.each(e.part(0), e.part(1), output)
    e.finish()


def emit_softmax(module: ir.Module, name: str, lanes: int) -> None:
    """Emits the softmax of a vector."""
    e = KernelEmitter(module, name, lanes, SOFTMAX_PARAMETERS)
    b = e.b
    count = e.integer("count")

    def whole(_: ir.Value) -> None:
        def larger(i: ir.Value, best: list[ir.Value]) -> list[ir.Value]:
            x = e.element(e.value("source"), i)
            return [b.select(b.fcmp_ordered(">", x, best[0]), x, best[0])]

        largest = e.fold(e.number(0), count, [ir.Constant(F32, float("-inf"))], larger)[0]

        def exponentials(i: ir.Value, total: list[ir.Value]) -> list[ir.Value]:
            shifted = e.splat(b.fsub(e.element(e.value("source"), i), largest))
            x = b.extract_element(exponential(e, shifted), ir.Constant(I32, 0))
            e.store(x, e.at(e.value("target"), i))
            return [b.fadd(total[0], x)]

        total = e.fold(e.number(0), count, [ir.Constant(F32, 0.0)], exponentials)[0]

        def divide(i: ir.Value) -> None:
            at = e.at(e.value("target"), i)
            e.store(b.fdiv(e.load(at, F32), total), at)

        e.each(e.number(0), count, divide)

    e.each(e.part(0), e.part(1), whole)
    e.finish()


def emit_flatten(module: ir.Module, name: str, lanes: int) -> None:
    """Emits planes to a vector in the order rows, columns, channels; a part: first and last row."""
    e = KernelEmitter(module, name, lanes, FLATTEN_PARAMETERS)
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
    e.finish()


def emit_global_pool(module: ir.Module, name: str, lanes: int, *, kind: str) -> None:
    """Emits the average (`scale` is a float32's bits, 1 / pixels) or maximum of planes; a part: planes."""
    e = KernelEmitter(module, name, lanes, GLOBAL_POOL_PARAMETERS)
    b = e.b
    lowest = e.constant(float("-inf"))

    def plane(index: ir.Value) -> None:
        source = e.at(e.value("source"), b.mul(index, e.integer("plane")))

        def part(i: ir.Value, sums: list[ir.Value]) -> list[ir.Value]:
            x = e.load_vector(e.at(source, b.mul(i, e.number(lanes))))
            if kind == "average":  # what is not a pixel is zero
                return [b.fadd(sums[0], x)]
            mask = e.load_vector(e.at(e.pointer("mask"), b.mul(i, e.number(lanes))))
            bits = b.bitcast(mask, ir.VectorType(I32, lanes))
            is_pixel = b.icmp_signed("!=", bits, ir.Constant(bits.type, [0] * lanes))
            return [e.maximum(sums[0], b.select(is_pixel, x, lowest))]

        initial = [e.constant(0) if kind == "average" else lowest]
        sums = e.fold(e.number(0), e.integer("vectors"), initial, part)
        if kind == "average":
            scale = b.bitcast(b.trunc(e.integer("scale"), I32), F32)
            result = b.fmul(e.horizontal(sums[0], b.fadd), scale)
        else:
            result = e.horizontal(sums[0], e.maximum)
        e.store(result, e.at(e.value("target"), index))

    e.each(e.part(0), e.part(1), plane)
    e.finish()
