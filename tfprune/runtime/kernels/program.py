"""The loop over a network's steps, run by each thread, and the module that holds it and the kernels."""

import ctypes
import re
from collections.abc import Callable, Iterable

from llvmlite import ir

from tfprune.runtime.kernels.emitter import POINTER, Code, Emitter
from tfprune.runtime.kernels.kernel import Kernel
from tfprune.runtime.machine import Machine

RUN = "run_steps"
RUN_TYPE = ctypes.CFUNCTYPE(
    None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64
)
# The function of the C library that a waiting thread lets others run by.
GIVE_WAY = "sched_yield"
# Whole numbers of a step: its kernel, the places of its parameters and of its parts, and how many parts; and
# of a part.
STEP_WORDS = 4
PART_WORDS = 4
# Whole numbers that a counter takes, so that each has cache lines of its own. A step has one of the parts
# done and, for each thread, one of the parts begun of its own.
COUNTER_WORDS = 16
# A waiting thread looks this often before it lets others have its core.
_LOOKS = 1000


def assembly(kernels: Iterable[Kernel], lanes: int) -> str:
    """Writes the module of a network, for this process.

    Args:
        kernels: The kernels, none of them twice.
        lanes: float32 numbers in a vector.

    Returns:
        LLVM assembly with the kernels and `RUN`; see `emit_run`. A step's numbers are addresses.
    """
    code = Code(lanes)
    for kernel in kernels:
        kernel.emit(code)
    signature = ir.FunctionType(ir.VoidType(), [POINTER, POINTER, POINTER])
    give_way = ir.Function(code, ir.FunctionType(ir.IntType(32), []), GIVE_WAY)

    def call(e: Emitter, kernel: ir.Value, *arguments: ir.Value) -> None:
        e.b.call(e.b.inttoptr(kernel, signature.as_pointer()), arguments)

    emit_run(code, call, lambda e, _: e.b.call(give_way, []) and None)
    return text(code)


def text(code: Code, target: Machine | None = None) -> str:
    """Returns the LLVM assembly of a module.

    Args:
        code: The module.
        target: The processor of its functions, if modules for several are to be linked.
    """
    # LLVM would halve AVX-512 vectors for the sake of the clock of processors long past.
    written = re.sub(r"^(define [^\n]*\))( noinline)?$", r"\1\2 #0", str(code), flags=re.MULTILINE)
    bits = 32 * code.lanes
    widths = f'"prefer-vector-width"="{bits}" "min-legal-vector-width"="{bits}"'
    processor = f'"target-cpu"="{target.cpu}" "target-features"="{target.features}"' if target else ""
    return f"{written}\nattributes #0 = {{ nounwind {widths} {processor} }}\n"


def emit_run(
    code: Code,
    call: Callable[[Emitter, ir.Value, ir.Value, ir.Value, ir.Value], object],
    give_way: Callable[[Emitter, ir.Value], None],
) -> ir.Function:
    """Emits `RUN`, `void (steps, count, arena, counters, thread, threads)`.

    A step's parts are dealt to the threads, the same to the same thread in each step, because it then finds
    in its cache much of what it needs. A thread that has done its own takes from the others', and begins the
    next step when all are done: one that has lost its core holds up the others with at most the part that it
    was at. `counters`, zeros at the start, are whole numbers `[count, 1 + threads, COUNTER_WORDS]`; null
    for a thread that runs alone.

    Args:
        code: The module.
        call: Emits the call of a kernel: its number in the step, its parameters, a part and the arena.
        give_way: Emits what a waiting thread does now and then; it gets the arena.
    """
    word, bytes_of_word = code.word, code.word.width // 8
    signature = ir.FunctionType(ir.VoidType(), [POINTER, word, POINTER, POINTER, word, word])
    function = ir.Function(code, signature, RUN)
    steps, count, arena, counters, thread, threads = function.args
    e = Emitter(function)
    b = e.b
    alone = b.icmp_signed("==", b.ptrtoint(counters, word), e.number(0))

    def step(index: ir.Value) -> None:
        row = b.mul(index, e.number(STEP_WORDS))
        kernel, parameters, parts, total = (
            e.element(steps, b.add(row, e.number(i)), word) for i in range(STEP_WORDS)
        )
        counters_of_step = b.mul(b.mul(index, b.add(threads, e.number(1))), e.number(COUNTER_WORDS))
        done = e.at(counters, counters_of_step, word)

        def run(part: ir.Value) -> None:
            at = e.at(e.constant_at(parts), b.mul(part, e.number(PART_WORDS)), word)
            call(e, kernel, e.constant_at(parameters), at, arena)

        def take_parts() -> list[ir.Value]:
            def take_from(turn: ir.Value) -> None:
                owner = b.srem(b.add(thread, turn), threads)
                begun = e.at(done, b.mul(b.add(owner, e.number(1)), e.number(COUNTER_WORDS)), word)
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
                e.choose(tired, lambda: give_way(e, arena), lambda: None)
                return more

            def unfinished(_: ir.Value) -> ir.Value:
                return b.icmp_signed("<", b.load_atomic(done, "acquire", bytes_of_word, typ=word), total)

            e.repeat_while(e.number(0), unfinished, look)
            return []

        def run_all() -> list[ir.Value]:
            e.each(e.number(0), total, run)
            return []

        e.choose(alone, run_all, take_parts)

    e.each(e.number(0), count, step)
    e.finish()
    return function
