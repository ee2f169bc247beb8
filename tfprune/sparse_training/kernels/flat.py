"""Loops over flat vectors, such as all parameters of a network, and their sum."""

import dataclasses
from collections.abc import Callable
from typing import ClassVar

from llvmlite import ir

from tfprune.runtime.kernels.emitter import F32, KernelEmitter
from tfprune.runtime.kernels.kernel import Kernel

PIECE = 4096


def each_number(
    e: KernelEmitter, start: ir.Value, stop: ir.Value, body: Callable[[ir.Value, "Width"], None]
) -> None:
    """Emits `body(index, width)` for the vectors of a range, and then for what is left, one by one."""
    b = e.b
    whole = b.sdiv(b.sub(stop, start), e.number(e.lanes))
    vectors = Width(e, e.lanes)
    e.each(e.number(0), whole, lambda i: body(e.multiply_add(i, e.number(e.lanes), start), vectors))
    rest = e.multiply_add(whole, e.number(e.lanes), start)
    e.each(rest, stop, lambda i: body(i, Width(e, 1)))


class Width:
    """Vectors, or single numbers, of one code."""

    def __init__(self, e: KernelEmitter, lanes: int) -> None:
        """Describes numbers.

        Args:
            e: The kernel.
            lanes: How many go together: those of a vector, or one.
        """
        self._e, self._lanes = e, lanes

    def load(self, pointer: ir.Value, index: ir.Value) -> ir.Value:
        """Loads from an array."""
        at = self._e.at(pointer, index)
        return self._e.load(at, F32) if self._lanes == 1 else self._e.load_vector(at)

    def store(self, value: ir.Value, pointer: ir.Value, index: ir.Value) -> None:
        """Stores to an array."""
        self._e.store(value, self._e.at(pointer, index))

    def all(self, scalar: ir.Value) -> ir.Value:
        """Returns a scalar in each place."""
        return scalar if self._lanes == 1 else self._e.splat(scalar)

    def root(self, value: ir.Value) -> ir.Value:
        """Emits square roots."""
        return self._e.call("llvm.sqrt", value)


@dataclasses.dataclass(frozen=True)
class Add(Kernel):
    """Adds one vector to another; a part: a range of pieces of `PIECE` numbers."""

    parameters: ClassVar = ("source", "target", "size")

    def write(self, e: KernelEmitter) -> None:
        """See `Kernel`."""
        source, target = e.pointer("source"), e.pointer("target")

        def number(index: ir.Value, width: Width) -> None:
            value = e.b.fadd(width.load(target, index), width.load(source, index))
            width.store(value, target, index)

        size = e.integer("size")
        start, stop = (e.b.mul(e.part(i), e.number(PIECE)) for i in range(2))
        each_number(e, start, e.b.select(e.b.icmp_signed("<", stop, size), stop, size), number)
