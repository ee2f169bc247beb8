"""The module of a network for one processor: kernels, constants, and the entries that the front calls.

All functions and tables are in read-only memory, and no address is in a table: a step names its kernel by a
number, and its constants by their places.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
from llvmlite import ir

from tfprune.runtime.ahead.constants import Constants, add_plan, add_rows
from tfprune.runtime.kernels.emitter import F32, I8, I64, POINTER, Code, Emitter
from tfprune.runtime.kernels.planes import WAIT
from tfprune.runtime.kernels.program import COUNTER_WORDS, emit_run, text
from tfprune.runtime.plan.plan import Frame, Plan

_NOTHING = ir.VoidType()
_PLACEHOLDER = "zeroinitializer"
_ESCAPED = np.array([f"\\{byte:02x}".encode() for byte in range(256)])


class Entry(NamedTuple):
    """A function of each processor's module.

    Attributes:
        name: What follows the module's prefix.
        arguments: LLVM's types of its arguments; `None` stands for a whole number.
        returns: The type of what it returns.
    """

    name: str
    arguments: tuple[ir.Type | None, ...]
    returns: ir.Type = _NOTHING

    def type(self, code: Code) -> ir.FunctionType:
        """Returns the type of the function in a module."""
        types = [argument or code.word for argument in self.arguments]
        return ir.FunctionType(self.returns, types)


# Runs a whole example alone: arena.
RUN_ALONE = Entry("run", (POINTER,))
# Takes an output of the network out of the arena: arena, where to, the output's number.
TAKE = Entry("take", (POINTER, POINTER, None))
# Begins an example that threads share, and works on it.
BEGIN = Entry("begin", (POINTER,))
WORK = Entry("work", (POINTER, None, None))
# For who loads the object file: the steps cut for a number of threads, and the loop over them, `program.RUN`.
ROWS = Entry("rows", (None,), POINTER)
STEPS = Entry("steps", (POINTER, None, POINTER, POINTER, None, None))


@dataclasses.dataclass(frozen=True)
class Variant:
    """A network's module for one processor.

    Attributes:
        assembly: LLVM assembly.
        arena_bytes: The bytes of the values between the operations, with the threads' counters.
        bytes_of: Bytes of the constants by what they hold; see `Constants`.
        frame: The facts about the plan that its caller needs.
    """

    assembly: str
    arena_bytes: int
    bytes_of: dict[str, int]
    frame: Frame


def variant(plan: Plan, prefix: str, threads: int) -> Variant:
    """Writes the module of a network.

    Args:
        plan: The network's steps on the processor.
        prefix: The beginning of the entries' names, different for each processor of a library.
        threads: The most threads that may share an image; 0 for a machine without.

    Returns:
        The module, with `RUN_ALONE` and `TAKE` and, for threads, `BEGIN`, `WORK`, `ROWS` and `STEPS`.

    Raises:
        OverflowError: The network has a number that the machine's words cannot hold.
    """
    code = Code(plan.target.lanes, ir.IntType(plan.target.word_bits))
    constants = Constants(plan.target)
    kernels = plan.kernels
    steps = add_plan(constants, plan)
    alone = add_rows(constants, steps, kernels, 1)
    shares = _shares(threads)
    together = [add_rows(constants, steps, kernels, count) for count in shares]
    data = constants.data()

    memory = ir.GlobalVariable(code, ir.ArrayType(I8, len(data)), "constants")
    memory.linkage, memory.global_constant, memory.align = "internal", True, constants.alignment
    memory.unnamed_addr = True
    memory.initializer = ir.Constant(memory.value_type, None)
    code.constants = memory
    for kernel in kernels:
        kernel.emit(code)
    functions = [code.globals[kernel.name] for kernel in kernels]

    def call(e: Emitter, kernel: ir.Value, *arguments: ir.Value) -> None:
        e.call_one_of(functions, kernel, arguments)

    run = emit_run(code, call, _call_wait)
    for function in [*functions, run]:
        function.linkage = "internal"

    def rows_for(e: Emitter, count: ir.Value) -> ir.Value:
        place = e.number(together[-1])
        for most, smaller in zip(reversed([1, *shares[:-1]]), reversed([alone, *together[:-1]]), strict=True):
            fits = e.b.icmp_signed("<=", count, e.number(most))
            place = e.b.select(fits, e.number(smaller), place)
        return e.at(memory, place, I8)

    counters = 4 * plan.arena_size
    counter_words = len(steps) * (1 + threads) * COUNTER_WORDS if threads else 0
    e, arena = _entry(code, prefix, RUN_ALONE)
    null = ir.Constant(POINTER, None)
    e.b.call(run, [_at(e, memory, alone), e.number(len(steps)), arena, null, e.number(0), e.number(1)])
    e.finish()
    e, arena, target, output = _entry(code, prefix, TAKE)
    _take(e, plan, arena, target, output)
    e.finish()
    if threads:
        e, arena = _entry(code, prefix, BEGIN)
        table = _at(e, arena, counters)
        e.each(
            e.number(0),
            e.number(counter_words),
            lambda i: e.b.store(e.number(0), e.at(table, i, code.word), align=code.word.width // 8),
        )
        e.finish()
        e, arena, thread, count = _entry(code, prefix, WORK)
        # The arena has counters for `threads`: those beyond leave the work to the others.
        count = e.b.select(e.b.icmp_signed("<", count, e.number(threads)), count, e.number(threads))
        takes_part = e.b.and_(e.b.icmp_signed(">=", thread, e.number(0)), e.b.icmp_signed("<", thread, count))

        def work() -> None:
            rows, table = rows_for(e, count), _at(e, arena, counters)
            e.b.call(run, [rows, e.number(len(steps)), arena, table, thread, count])

        e.choose(takes_part, work, lambda: None)
        e.finish()
        e, count = _entry(code, prefix, ROWS)
        e.b.ret(rows_for(e, count))
        e, *arguments = _entry(code, prefix, STEPS)
        e.b.call(run, arguments)
        e.finish()
    assembly = _with_data(text(code, plan.target), data)
    return Variant(assembly, counters + counter_words * code.word.width // 8, constants.bytes_of, plan.frame)


def _shares(threads: int) -> list[int]:
    """Returns the numbers of threads that steps are cut for: more parts than are needed cost time."""
    return [count for count in (2, 4, 8, 16, 32) if count < threads] + ([threads] if threads else [])


def _entry(code: Code, prefix: str, entry: Entry) -> tuple:
    function = ir.Function(code, entry.type(code), f"{prefix}_{entry.name}")
    return Emitter(function), *function.args


def _at(e: Emitter, base: ir.Value, place: int) -> ir.Value:
    return e.at(base, e.number(place), I8)


def _take(e: Emitter, plan: Plan, arena: ir.Value, target: ir.Value, output: ir.Value) -> None:
    place, size = e.number(plan.outputs[0].place), e.number(plan.outputs[0].size)
    for index, port in enumerate(plan.outputs[1:], start=1):
        this = e.b.icmp_signed("==", output, e.number(index))
        place, size = (
            e.b.select(this, e.number(port.place), place),
            e.b.select(this, e.number(port.size), size),
        )
    source = e.at(arena, place)
    e.each(e.number(0), size, lambda i: e.store(e.load(e.at(source, i), F32), e.at(target, i)))


def _call_wait(e: Emitter, arena: ir.Value) -> None:
    """Calls the function that the caller gave for waiting threads, if any."""
    address = e.load(e.at(arena, e.number(WAIT), I64), I64)
    given = e.b.icmp_signed("!=", address, ir.Constant(I64, 0))
    kind = ir.FunctionType(_NOTHING, [])
    e.choose(given, lambda: e.b.call(e.b.inttoptr(address, kind.as_pointer()), []) and None, lambda: None)


def _with_data(assembly: str, data: bytes) -> str:
    """Puts the constants' bytes into a module's text: llvmlite would escape them one by one."""
    escaped = _ESCAPED[np.frombuffer(data, np.uint8)].tobytes().decode("ascii")
    head, placeholder, tail = assembly.partition(_PLACEHOLDER)
    if not placeholder:
        raise RuntimeError("the module has no constants to fill in")
    return f'{head}c"{escaped}"{tail}'
