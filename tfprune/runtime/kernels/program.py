"""The loop over a network's steps, run by each thread, and the module that holds it and the kernels."""

import re
from collections.abc import Callable, Iterable

from llvmlite import ir

from tfprune.runtime.kernels.emitter import I64, POINTER

RUN = "run_steps"
# 64-bit numbers of a step: the kernel's address, its parameters', the first thread's work's, and a thread's
# work.
STEP_WORDS = 4
# A waiting thread looks this often before it lets others have its core.
_LOOKS = 4000

Emit = Callable[[ir.Module, str, int], None]


def assembly(kernels: Iterable[tuple[str, Emit]], lanes: int) -> str:
    """Writes the module of a network.

    Args:
        kernels: Each one's name and the function that emits it, given module, name and lanes.
        lanes: float32 numbers in a vector.

    Returns:
        LLVM assembly with the kernels and `RUN`: `void (steps, count, thread, threads, arena, counter)`. A
        thread waits after each step until all have done it; `counter` is a 64-bit zero at the start.
    """
    module = ir.Module("tfprune")
    for name, emit in kernels:
        emit(module, name, lanes)
    _emit_run(module)
    # LLVM would halve AVX-512 vectors for the sake of the clock of processors long past.
    text = re.sub(r'^(define void @"[^"]+"\([^)]*\))$', r"\1 #0", str(module), flags=re.MULTILINE)
    bits = 32 * lanes
    widths = f'"prefer-vector-width"="{bits}" "min-legal-vector-width"="{bits}"'
    return f"{text}\nattributes #0 = {{ nounwind {widths} }}\n"


def _emit_run(module: ir.Module) -> None:
    signature = ir.FunctionType(ir.VoidType(), [POINTER, I64, I64, I64, POINTER, POINTER])
    function = ir.Function(module, signature, RUN)
    give_way = ir.Function(module, ir.FunctionType(ir.IntType(32), []), "sched_yield")
    steps, count, thread, threads, arena, counter = function.args
    names = ("entry", "head", "step", "arrive", "wait", "look", "tired", "next", "done")
    blocks = {name: function.append_basic_block(name) for name in names}
    b = ir.IRBuilder(blocks["entry"])
    together = b.icmp_signed(">", threads, ir.Constant(I64, 1))
    b.branch(blocks["head"])

    b.position_at_end(blocks["head"])
    index = b.phi(I64)
    index.add_incoming(ir.Constant(I64, 0), blocks["entry"])
    b.cbranch(b.icmp_signed("<", index, count), blocks["step"], blocks["done"])

    b.position_at_end(blocks["step"])
    row = b.mul(index, ir.Constant(I64, STEP_WORDS))
    kernel, parameters, work, work_bytes = (
        b.load(b.gep(steps, [b.add(row, ir.Constant(I64, i))], source_etype=I64), align=8, typ=I64)
        for i in range(STEP_WORDS)
    )
    mine = b.inttoptr(b.add(work, b.mul(thread, work_bytes)), POINTER)
    kernel_type = ir.FunctionType(ir.VoidType(), [POINTER, POINTER, POINTER])
    b.call(b.inttoptr(kernel, kernel_type.as_pointer()), [b.inttoptr(parameters, POINTER), mine, arena])
    next_index = b.add(index, ir.Constant(I64, 1))
    b.cbranch(together, blocks["arrive"], blocks["next"])

    b.position_at_end(blocks["arrive"])
    b.atomic_rmw("add", counter, ir.Constant(I64, 1), "acq_rel")
    all_arrived = b.mul(next_index, threads)
    b.branch(blocks["wait"])

    b.position_at_end(blocks["wait"])
    b.branch(blocks["look"])
    b.position_at_end(blocks["look"])
    looks = b.phi(I64)
    looks.add_incoming(ir.Constant(I64, 0), blocks["wait"])
    arrived = b.load_atomic(counter, "acquire", 8, typ=I64)
    more = b.add(looks, ir.Constant(I64, 1))
    looks.add_incoming(more, blocks["tired"])
    b.cbranch(b.icmp_signed(">=", arrived, all_arrived), blocks["next"], blocks["tired"])
    b.position_at_end(blocks["tired"])
    yield_now = function.append_basic_block("yield")
    b.cbranch(b.icmp_signed("<", more, ir.Constant(I64, _LOOKS)), blocks["look"], yield_now)
    b.position_at_end(yield_now)
    b.call(give_way, [])
    b.branch(blocks["wait"])

    b.position_at_end(blocks["next"])
    index.add_incoming(next_index, blocks["next"])
    b.branch(blocks["head"])
    b.position_at_end(blocks["done"])
    b.ret_void()
