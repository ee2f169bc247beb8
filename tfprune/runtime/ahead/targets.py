"""The kinds of machines that libraries are made for, by the names that people give them."""

import dataclasses
import re
from collections.abc import Sequence

from tfprune.runtime.machine import Machine, check_processor, host, machine


@dataclasses.dataclass(frozen=True)
class Target:
    """A kind of machine.

    Attributes:
        name: Of the target, as users write it.
        title: For people.
        triple: LLVM's target triple.
        variants: The processors that the library has code for unless another is asked for, each LLVM's name
            and its instruction sets; the best first. With several, the library chooses at the first call.
        integer_variants: Better ones, for networks whose convolutions multiply whole numbers.
        macros: The condition by which a C compiler for the target is known.
        threads: Whether several threads can share an image.
        tight: Whether memory for values is scarcer than time.
        weights: How weights are stored unless it is said: `"float32"` or `"int8"`.
        position_independent: Whether the code may be linked into a shared library.
    """

    name: str
    title: str
    triple: str
    variants: tuple[tuple[str, str], ...]
    macros: str
    threads: bool = True
    tight: bool = False
    weights: str = "float32"
    position_independent: bool = True
    integer_variants: tuple[tuple[str, str], ...] = ()

    def machines(self, cpu: str | None = None, integers: bool = False) -> list[Machine]:
        """Returns the machines that the library has code for, the best first.

        Args:
            cpu: A processor by LLVM's name, perhaps with instruction sets behind a comma, such as
                `"cortex-a53"` or `"generic,+dotprod"`; None for the target's own variants.
            integers: Whether convolutions of the network multiply whole numbers.

        Raises:
            ValueError: `cpu` is not written so.
        """
        variants = self.variants if cpu is None else (_split(cpu),)
        if cpu is None and integers:
            variants = (*self.integer_variants, *variants)
        return [machine(self.triple, name, features) for name, features in variants]


_CPU = re.compile(r"[A-Za-z0-9._-]+(,[+-][A-Za-z0-9._-]+)*")
_X86_64 = (
    ("x86-64-v4", "+avx2,+fma,+avx512f,+avx512vl"),
    ("x86-64-v3", "+avx2,+fma"),
    ("x86-64", ""),
)
_X86_64_INTEGERS = (("icelake-client", "+avx2,+fma,+avx512f,+avx512vl,+avx512bw,+avx512vbmi,+avx512vnni"),)
_ARM_64 = (("generic", "+neon"),)
_IS_X86_64, _IS_ARM_64 = "defined(__x86_64__)", "defined(__aarch64__)"
TARGETS = {
    target.name: target
    for target in (
        Target(
            "x86_64-linux",
            "Linux on x86-64",
            "x86_64-unknown-linux-gnu",
            _X86_64,
            _IS_X86_64,
            integer_variants=_X86_64_INTEGERS,
        ),
        Target(
            "x86_64-apple",
            "macOS on x86-64",
            "x86_64-apple-macosx11.0.0",
            _X86_64,
            _IS_X86_64,
            integer_variants=_X86_64_INTEGERS,
        ),
        Target(
            "aarch64-linux",
            "Linux on 64-bit Arm",
            "aarch64-unknown-linux-gnu",
            _ARM_64,
            _IS_ARM_64,
        ),
        Target(
            "aarch64-linux-android",
            "Android on 64-bit Arm",
            "aarch64-unknown-linux-android",
            _ARM_64,
            _IS_ARM_64,
        ),
        Target(
            "arm64-apple",
            "macOS on Apple's processors",
            "arm64-apple-macosx11.0.0",
            _ARM_64,
            _IS_ARM_64,
        ),
        Target(
            "armv7-linux",
            "Linux on 32-bit Arm with Neon",
            "armv7-unknown-linux-gnueabihf",
            (("cortex-a7", "+neon,+vfp4"),),
            "defined(__arm__) && !defined(__ARM_ARCH_7EM__)",
        ),
        Target(
            "riscv64-linux",
            "Linux on 64-bit RISC-V",
            "riscv64-unknown-linux-gnu",
            (("generic-rv64", "+m,+a,+f,+d,+c"),),
            "defined(__riscv) && __riscv_xlen == 64",
        ),
        Target(
            "thumbv7em",
            "Arm Cortex-M4 and M7 with a floating point unit",
            "thumbv7em-none-unknown-eabihf",
            (("cortex-m4", ""),),
            "defined(__ARM_ARCH_7EM__)",
            threads=False,
            tight=True,
            weights="int8",
            position_independent=False,
        ),
        Target(
            "wasm32",
            "WebAssembly with SIMD",
            "wasm32-unknown-unknown",
            (("generic", "+simd128"),),
            "defined(__wasm__)",
            threads=False,
            position_independent=False,
        ),
    )
}


def find_targets(names: Sequence[str]) -> list[Target]:
    """Returns targets by their names.

    Args:
        names: Some of `TARGETS`.

    Raises:
        ValueError: There is none, one is unknown, or one stands twice.
    """
    if not names or set(names) - set(TARGETS) or len(set(names)) < len(names):
        raise ValueError(
            f"`targets` must name some of {', '.join(TARGETS)}, each once. Received: targets={list(names)}"
        )
    return [TARGETS[name] for name in names]


def check_targets(names: Sequence[str], cpu: str | None) -> list[Target]:
    """Returns targets by their names, for which a processor can be chosen.

    Args:
        names: Some of `TARGETS`.
        cpu: As of `compile_library`.

    Raises:
        ValueError: As of `find_targets`; a processor is given for several targets, is not written as one, or
            `check_processor` refuses it; a library for several processors of x86-64 is asked for on another
            kind of machine.
    """
    targets = find_targets(names)
    if cpu is not None and len(targets) > 1:
        raise ValueError(f"`cpu` is for a single target. Received: cpu={cpu!r}, targets={list(names)}")
    for target in targets:
        machines = target.machines(cpu)
        if cpu is not None:
            check_processor(machines[0])
        if len(machines) > 1 and not host().triple.startswith("x86_64"):
            raise ValueError(
                f"{target.name}: a library that chooses among processors is compiled on x86-64 alone; give"
                ' `cpu`, such as "x86-64-v3,+avx2,+fma"'
            )
    return targets


def this_machines_target() -> str | None:
    """Returns the name of the target whose code this process can run; None if there is none."""
    return next((name for name in TARGETS if _runs_here(name)), None)


def _runs_here(target: str) -> bool:
    theirs, own = TARGETS[target].triple.split("-"), host().triple.split("-")
    alike = {"arm64": "aarch64", "amd64": "x86_64"}
    system = "apple" if "apple" in own else "linux" if "linux" in own else own[-1]
    return alike.get(theirs[0], theirs[0]) == alike.get(own[0], own[0]) and system in theirs


def _split(cpu: str) -> tuple[str, str]:
    if not isinstance(cpu, str) or not _CPU.fullmatch(cpu):
        raise ValueError(
            "`cpu` must be a processor, and instruction sets behind commas with + or - before each, such as"
            f' "generic,+dotprod". Received: cpu={cpu!r}'
        )
    name, _, features = cpu.partition(",")
    return name, features
