"""The loop over a network's steps, run by each thread, and the module that holds it and the kernels."""

import re
from collections.abc import Iterable

from llvmlite import ir

from tfprune.runtime.kernels.emitter import I64, POINTER, Emitter
from tfprune.runtime.kernels.kernel import Kernel

RUN = "run_steps"
# 64-bit numbers of a step: the kernel's address, its parameters', its parts' and how many parts; and of a
# part.
STEP_WORDS = 4
PART_WORDS = 4
# 64-bit numbers that a counter takes, so that each has cache lines of its own. A step has one of the parts
# done and, for each thread, one of the parts begun of its own.
COUNTER_WORDS = 16
# A waiting thread looks this often before it lets others have its core.
_LOOKS = 1000


def assembly(kernels: Iterable[Kernel], lanes: int) -> str:
    """Writes the module of a network.

    Args:
        kernels: The kernels, none of them twice.
        lanes: float32 numbers in a vector.

    Returns:
        LLVM assembly with the kernels and `RUN`: `void (steps, count, arena, counters, thread, threads)`. A
        step's parts are dealt to the threads, the same to the same thread in each step, because it then
        finds in its cache much of what it needs. A thread that has done its own takes from the others', and
        begins the next step when all are done: one that has lost its core holds up the others with at most
        the part that it was at. `counters`, zeros at the start, are `[count, 1 + threads, COUNTER_WORDS]`
        64-bit numbers; null for a thread that runs alone.
    """
    module = ir.Module("tfprune")
    for kernel in kernels:
        kernel.emit(module, lanes)
    _emit_run(module)
    # LLVM would halve AVX-512 vectors for the sake of the clock of processors long past.
    text = re.sub(r"^(define [^\n]*\))( noinline)?$", r"\1\2 #0", str(module), flags=re.MULTILINE)
    bits = 32 * lanes
    widths = f'"prefer-vector-width"="{bits}" "min-legal-vector-width"="{bits}"'
    return f"{text}\nattributes #0 = {{ nounwind {widths} }}\n"


def _emit_run(module: ir.Module) -> None:
    signature = ir.FunctionType(ir.VoidType(), [POINTER, I64, POINTER, POINTER, I64, I64])
    function = ir.Function(module, signature, RUN)
    steps, count, arena, counters, thread, threads = function.args
    give_way = ir.Function(module, ir.FunctionType(ir.IntType(32), []), "sched_yield")
    e = Emitter(function)
    b = e.b
    alone = b.icmp_signed("==", b.ptrtoint(counters, I64), e.number(0))
    kernel_type = ir.FunctionType(ir.VoidType(), [POINTER, POINTER, POINTER])

    def step(index: ir.Value) -> None:
        row = b.mul(index, e.number(STEP_WORDS))
        kernel, parameters, parts, total = (
            e.element(steps, b.add(row, e.number(i)), I64) for i in range(STEP_WORDS)
        )
        counters_of_step = b.mul(b.mul(index, b.add(threads, e.number(1))), e.number(COUNTER_WORDS))
        done = e.at(counters, counters_of_step, I64)

        def run(part: ir.Value) -> None:
            at = e.at(b.inttoptr(parts, POINTER), b.mul(part, e.number(PART_WORDS)), I64)
            called = b.inttoptr(kernel, kernel_type.as_pointer())
            b.call(called, [b.inttoptr(parameters, POINTER), at, arena])

        def take_parts() -> list[ir.Value]:
            def take_from(turn: ir.Value) -> None:
                owner = b.srem(b.add(thread, turn), threads)
                begun = e.at(done, b.mul(b.add(owner, e.number(1)), e.number(COUNTER_WORDS)), I64)
                first, last = (
                    b.sdiv(b.mul(total, edge), threads) for edge in (owner, b.add(owner, e.number(1)))
                )

                def take() -> ir.Value:
                    return b.add(first, b.atomic_rmw("add", begun, e.number(1), "acq_rel"))

                def run_and_take(part: ir.Value) -> ir.Value:
                    run(part)
                    b.atomic_rmw("add", done, e.number(1), "acq_rel")
                    return take()

                e.repeat_while(take(), lambda part: b.icmp_signed("<", part, last), run_and_take)

            e.each(e.number(0), threads, take_from)

            def look(looks: ir.Value) -> ir.Value:
                more = b.add(looks, e.number(1))
                tired = b.icmp_signed("==", b.srem(more, e.number(_LOOKS)), e.number(0))
                e.choose(tired, lambda: b.call(give_way, []) and [], lambda: [])
                return more

            def unfinished(_: ir.Value) -> ir.Value:
                return b.icmp_signed("<", b.load_atomic(done, "acquire", 8, typ=I64), total)

            e.repeat_while(e.number(0), unfinished, look)
            return []

        def run_all() -> list[ir.Value]:
            e.each(e.number(0), total, run)
            return []

        e.choose(alone, run_all, take_parts)

    e.each(e.number(0), count, step)
    e.finish()
