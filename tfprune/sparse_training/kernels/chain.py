"""Steps of a few tiles right after one another: what one writes is still in the cache for the next."""

import dataclasses
from typing import ClassVar

from llvmlite import ir

from tfprune.runtime.kernels.emitter import I64, POINTER, KernelEmitter
from tfprune.runtime.kernels.kernel import Kernel
from tfprune.runtime.kernels.program import PART_WORDS

# 64-bit numbers of a link: the address of its kernel, of its parameters and of its parts.
LINK_WORDS = 3


@dataclasses.dataclass(frozen=True)
class Chain(Kernel):
    """Calls kernels one after the other, each with its own part; a part: the index of theirs."""

    parameters: ClassVar = ("links", "count")  # int64 [count, LINK_WORDS]

    def write(self, e: KernelEmitter) -> None:
        """See `Kernel`."""
        b = e.b
        signature = ir.FunctionType(ir.VoidType(), [POINTER, POINTER, POINTER])

        def link(index: ir.Value) -> None:
            row = b.mul(index, e.number(LINK_WORDS))
            kernel, parameters, parts = (
                e.element(e.pointer("links"), b.add(row, e.number(i)), I64) for i in range(LINK_WORDS)
            )
            part = e.at(b.inttoptr(parts, POINTER), b.mul(e.part(0), e.number(PART_WORDS)), I64)
            called = b.inttoptr(kernel, signature.as_pointer())
            b.call(called, [b.inttoptr(parameters, POINTER), part, e.arena])

        e.each(e.number(0), e.integer("count"), link)
