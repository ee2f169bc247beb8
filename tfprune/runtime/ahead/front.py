"""The functions that a C program calls: they set the arena's header and hand on to a processor's module."""

from collections.abc import Sequence
from typing import NamedTuple

from llvmlite import ir

from tfprune.runtime.ahead.module import BEGIN, RUN_ALONE, TAKE, WORK, Entry
from tfprune.runtime.kernels.emitter import I32, I64, POINTER, Code, Emitter
from tfprune.runtime.kernels.planes import IMAGE_ADDRESS, IMAGE_IS_UINT8, IMAGE_WORDS, VARIANT, WAIT
from tfprune.runtime.kernels.program import text
from tfprune.runtime.machine import Machine


class _Bit(NamedTuple):
    """A bit that CPUID answers: the leaf (subleaf 0), the register (0 to 3: eax to edx), its number there."""

    leaf: int
    register: int
    number: int


# The instruction sets of x86-64's levels beyond the baseline, as the processors' manuals place them: FMA,
# MOVBE, OSXSAVE, AVX, F16C; BMI1, AVX2, BMI2; LZCNT. Then AVX-512's F, DQ, CD, BW and VL.
_V3 = (
    *(_Bit(1, 2, number) for number in (12, 22, 27, 28, 29)),
    *(_Bit(7, 1, number) for number in (3, 5, 8)),
    _Bit(0x80000001, 2, 5),
)
_V4 = (*_V3, *(_Bit(7, 1, number) for number in (16, 17, 28, 30, 31)))
# SHA, IFMA; VBMI, VBMI2, GFNI, VAES, VPCLMULQDQ, VNNI, BITALG, VPOPCNTDQ: all that LLVM may use for Ice Lake.
_ICE_LAKE = (
    *_V4,
    *(_Bit(7, 1, number) for number in (21, 29)),
    *(_Bit(7, 2, number) for number in (1, 6, 8, 9, 10, 11, 12, 14)),
)
# And the registers that the operating system must save for them, XGETBV's bits.
_LEVELS = {
    "x86-64-v3": (_V3, 0x06),
    "x86-64-v4": (_V4, 0xE6),
    "icelake-client": (_ICE_LAKE, 0xE6),
}


def front(
    name: str,
    variants: Sequence[tuple[str, Machine]],
    checksum: int,
    threads: bool,
    inputs: int,
    outputs: int,
) -> str:
    """Writes the module of the functions that a C program calls.

    With several processors, the first call with an arena chooses, and the arena remembers: nothing else is
    written to, and CPUID is slow on virtual machines.

    Args:
        name: The beginning of the functions' names.
        variants: The prefixes of the modules and their processors, the best first; the last runs anywhere.
        checksum: What `NAME_checksum` returns.
        threads: Whether there are functions for threads that share an example.
        inputs: How many inputs the network has, each a pointer to a function that begins an example.
        outputs: How many outputs, each a pointer to a function that ends one.

    Returns:
        LLVM assembly.
    """
    code = Code(4, ir.IntType(variants[0][1].word_bits))
    calls = {
        entry: [ir.Function(code, entry.type(code), f"{prefix}_{entry.name}") for prefix, _ in variants]
        for entry in _entries(threads)
    }
    for function in (function for functions in calls.values() for function in functions):
        function.attributes.add("nounwind")
    choose = _chooser(code, chooser_name(name), [machine.cpu for _, machine in variants])

    def hand_on(e: Emitter, entry: Entry, arena: ir.Value, *arguments: ir.Value) -> None:
        functions = calls[entry]
        if len(functions) == 1:
            e.b.call(functions[0], [arena, *arguments])
            return
        chosen = e.b.load(_slot(e, arena, VARIANT), align=8, typ=I64)
        e.call_one_of(functions, chosen, [arena, *arguments], first=1)

    def set_example(e: Emitter, arena: ir.Value, images: Sequence[ir.Value], is_uint8: bool) -> None:
        for index, image in enumerate(images):
            _set(e, arena, index * IMAGE_WORDS + IMAGE_ADDRESS, e.b.ptrtoint(image, I64))
            _set(e, arena, index * IMAGE_WORDS + IMAGE_IS_UINT8, ir.Constant(I64, int(is_uint8)))
        if choose is not None:
            known = e.b.load(_slot(e, arena, VARIANT), align=8, typ=I64)
            new = e.b.icmp_signed("==", known, ir.Constant(I64, 0))
            e.choose(new, lambda: _set(e, arena, VARIANT, e.b.call(choose, [])), lambda: None)

    def take(e: Emitter, arena: ir.Value, targets: Sequence[ir.Value]) -> None:
        for index, target in enumerate(targets):
            hand_on(e, TAKE, arena, target, e.number(index))

    nothing = ir.VoidType()
    for suffix, is_uint8 in (("", False), ("_uint8", True)):
        pointers = [POINTER] * (1 + inputs + outputs)
        e, arena, *arguments = _function(code, f"{name}_run{suffix}", nothing, pointers)
        set_example(e, arena, arguments[:inputs], is_uint8)
        hand_on(e, RUN_ALONE, arena)
        take(e, arena, arguments[inputs:])
        e.finish()
        if threads:
            e, arena, *images, wait = _function(
                code, f"{name}_begin{suffix}", nothing, [POINTER] * (2 + inputs)
            )
            set_example(e, arena, images, is_uint8)
            _set(e, arena, WAIT, e.b.ptrtoint(wait, I64))
            hand_on(e, BEGIN, arena)
            e.finish()
    if threads:
        e, arena, thread, count = _function(code, f"{name}_work", nothing, [POINTER, I32, I32])
        hand_on(e, WORK, arena, e.as_word(thread), e.as_word(count))
        e.finish()
        e, arena, *targets = _function(code, f"{name}_end", nothing, [POINTER] * (1 + outputs))
        take(e, arena, targets)
        e.finish()
    e, arena = _function(code, f"{name}_processor", I32, [POINTER])
    chosen = e.b.load(_slot(e, arena, VARIANT), align=8, typ=I64)
    e.b.ret(ir.Constant(I32, 0) if choose is None else e.b.sub(e.b.trunc(chosen, I32), ir.Constant(I32, 1)))
    (e,) = _function(code, f"{name}_checksum", I32, [])
    e.b.ret(ir.Constant(I32, checksum))
    return text(code, variants[-1][1])


def public_names(name: str, threads: bool) -> list[str]:
    """Returns the names of the functions that `front` writes.

    Args:
        name: As of `front`.
        threads: As of `front`.
    """
    ends = ["run", "run_uint8", "processor", "checksum"]
    if threads:
        ends += ["begin", "begin_uint8", "work", "end"]
    return [f"{name}_{end}" for end in ends]


def chooser_name(name: str) -> str:
    """Returns the name of the function that chooses among processors, where there are several.

    Args:
        name: As of `front`.
    """
    return f"{name}_choose"


def entries(prefix: str, threads: bool) -> list[str]:
    """Returns the names of the functions of a processor's module that `front` calls.

    Args:
        prefix: The module's.
        threads: As of `front`.
    """
    return [f"{prefix}_{entry.name}" for entry in _entries(threads)]


def _entries(threads: bool) -> tuple[Entry, ...]:
    return (RUN_ALONE, TAKE, *((BEGIN, WORK) if threads else ()))


def _function(code: Code, name: str, returns: ir.Type, arguments: list[ir.Type]) -> tuple:
    function = ir.Function(code, ir.FunctionType(returns, arguments), name)
    return Emitter(function), *function.args


def _slot(e: Emitter, arena: ir.Value, index: int) -> ir.Value:
    return e.at(arena, e.number(index), I64)


def _set(e: Emitter, arena: ir.Value, index: int, value: ir.Value) -> None:
    e.b.store(value, _slot(e, arena, index), align=8)


def _chooser(code: Code, name: str, processors: Sequence[str]) -> ir.Function | None:
    """Emits the function that returns the number, from 1, of the first processor that this machine has."""
    if len(processors) == 1:
        return None
    function = ir.Function(code, ir.FunctionType(I64, []), name)
    e = Emitter(function)
    b = e.b
    number = lambda value: ir.Constant(I32, value)  # noqa: E731
    highest, *_ = _cpuid(e, 0)

    def has_all(bits: Sequence[_Bit]) -> ir.Value:
        answers = {leaf: _cpuid(e, leaf) for leaf in sorted({bit.leaf for bit in bits})}
        found = ir.Constant(ir.IntType(1), 1)
        for bit in bits:
            one = b.and_(b.lshr(answers[bit.leaf][bit.register], number(bit.number)), number(1))
            found = b.and_(found, b.trunc(one, ir.IntType(1)))
        return found

    def saves(registers: int) -> ir.Value:
        kind = ir.FunctionType(ir.LiteralStructType([I32, I32]), [I32])
        saved = b.extract_value(b.asm(kind, "xgetbv", "={ax},={dx},{cx}", [number(0)], True), 0)
        return b.icmp_unsigned("==", b.and_(saved, number(registers)), number(registers))

    no = ir.Constant(ir.IntType(1), 0)

    def can(processor: str) -> ir.Value:
        bits, registers = _LEVELS[processor]
        # Leaf 7 exists from that highest one on, and XGETBV where OSXSAVE is set.
        exists = b.icmp_unsigned(">=", highest, number(7))
        found = e.choose(exists, lambda: [has_all(bits)], lambda: [no])[0]
        return e.choose(found, lambda: [saves(registers)], lambda: [no])[0]

    def first(index: int) -> list[ir.Value]:
        this = [ir.Constant(I64, index + 1)]
        if index == len(processors) - 1:
            return this
        return e.choose(can(processors[index]), lambda: this, lambda: first(index + 1))

    e.b.ret(first(0)[0])
    return function


def _cpuid(e: Emitter, leaf: int) -> list[ir.Value]:
    """Emits CPUID; returns eax, ebx, ecx and edx."""
    kind = ir.FunctionType(ir.LiteralStructType([I32] * 4), [I32, I32])
    arguments = [ir.Constant(I32, leaf), ir.Constant(I32, 0)]
    answer = e.b.asm(kind, "cpuid", "={ax},={bx},={cx},={dx},{ax},{cx}", arguments, True)
    return [e.b.extract_value(answer, register) for register in range(4)]
