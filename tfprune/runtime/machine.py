"""The processor that the kernels are compiled for, at load, by LLVM.

Why LLVM through llvmlite, and neither a C extension nor Numba: the same loop in C (GCC 12, vector
extensions) takes 1.01 to 1.02 times as long, and in Numba 1.5 times (ResNet-34's 3x3 layers, sparsity 0.95
to 0.995, AVX-512; `benchmarks/sparse_kernels.py`). An extension needs a compiler or a wheel for each
platform, and must bring each set of vector instructions; llvmlite is an ordinary wheel for Linux, macOS and
Windows, on x86 and Arm, and compiles for the machine that it runs on in a tenth of a second. In Numba a
tile of accumulators cannot be kept in registers, and compiling takes seconds.
"""

import ctypes
import dataclasses
import functools
import os
import re
import subprocess
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm

_DEFAULT_L1_BYTES = 32 * 1024
# The beginnings of triples.
_OF_32_BITS = ("thumb", "arm-", "armv7", "riscv32", "wasm32", "i686")
_ABI = {"riscv64": "lp64d"}
_RISC_V, _HALF_REGISTERS = "riscv", ("armv7", "arm-", "wasm32")
# Compiles an addition for a triple, processor, instruction sets and ABI, and prints the assembly language;
# what Python itself has said on stderr comes before the mark.
_BEGINS = "--- LLVM\n"
_TRY = f"""
import sys
import llvmlite.binding as llvm

triple, cpu, features, abi = sys.argv[1:]
llvm.initialize_all_targets()
llvm.initialize_all_asmprinters()
module = llvm.parse_assembly("define float @f(float %x) {{ %y = fadd float %x, %x\\n ret float %y }}")
module.triple = triple
print({_BEGINS!r}, end="", file=sys.stderr, flush=True)
machine = llvm.Target.from_triple(triple).create_target_machine(cpu=cpu, features=features, abiname=abi)
print(machine.emit_assembly(module))
"""
_SOFTWARE_ADDITION = re.compile("__addsf3|__aeabi_fadd")


@dataclasses.dataclass(frozen=True)
class Machine:
    """The facts of a processor that the kernels depend on.

    Attributes:
        triple: LLVM's target triple.
        cpu: LLVM's name of the processor.
        features: LLVM's list of instruction sets, `"+avx2,-avx512f,..."`.
        lanes: float32 numbers in a vector register.
        registers: Vector registers.
        l1_bytes: First-level data cache of a core.
    """

    triple: str
    cpu: str
    features: str
    lanes: int
    registers: int
    l1_bytes: int = _DEFAULT_L1_BYTES

    @property
    def dot_products(self) -> bool:
        """Returns whether one instruction multiplies 64 pairs of 8 bits and adds four neighbours each."""
        return self.lanes == 16 and "+avx512vnni" in self.features.split(",")

    @property
    def word_bits(self) -> int:
        """Returns the bits of an address, which whole numbers in registers have as well."""
        return 32 if self.triple.startswith(_OF_32_BITS) else 64


@functools.cache
def host() -> Machine:
    """Returns the machine that this process runs on."""
    _start_llvm()
    features = llvm.get_host_cpu_features()
    return machine(
        llvm.get_process_triple(), llvm.get_host_cpu_name(), features.flatten(), l1_bytes=_l1_bytes()
    )


def machine(triple: str, cpu: str, features: str = "", *, l1_bytes: int = _DEFAULT_L1_BYTES) -> Machine:
    """Describes a machine by LLVM's names.

    Args:
        triple: Target triple, such as `"x86_64-unknown-linux-gnu"` or `"aarch64-unknown-linux-gnu"`.
        cpu: Processor, such as `"generic"` or `"haswell"`.
        features: Instruction sets beyond the baseline, `"+avx,+avx2,+fma"`.
        l1_bytes: First-level data cache of a core.

    Returns:
        The machine: 16 lanes with AVX-512, 8 with AVX2, 1 without vector registers (microcontrollers, RISC-V
        without its extension V), 4 otherwise (SSE2, Neon, WebAssembly).
    """
    has = {name[1:] for name in features.split(",") if name.startswith("+")}
    x86 = triple.startswith(("x86_64", "i686", "amd64"))
    if x86 and {"avx512f", "avx512vl"} <= has:
        lanes, registers = 16, 32
    elif x86 and {"avx2", "fma"} <= has:
        lanes, registers = 8, 16
    elif triple.startswith("thumb") or (triple.startswith(_RISC_V) and "v" not in has):
        lanes, registers = 1, 32
    else:
        lanes, registers = 4, 16 if x86 or triple.startswith(_HALF_REGISTERS) else 32
    return Machine(triple, cpu, features, lanes, registers, l1_bytes)


class Compiled:
    """Machine code in this process; it lives as long as this object."""

    def __init__(self, assembly: str, target: Machine) -> None:
        """Compiles LLVM assembly for the machine that runs it.

        Args:
            assembly: The module.
            target: The machine.
        """
        module, target_machine = _parsed(assembly, target, codemodel="jitdefault", jit=True)
        self._engine = llvm.create_mcjit_compiler(module, target_machine)
        self._engine.finalize_object()

    def address(self, name: str) -> int:
        """Returns the address of a function of the module."""
        return self._engine.get_function_address(name)


class Loaded:
    """The functions of an object file in this process; they live as long as this object."""

    def __init__(self, code: bytes) -> None:
        """Loads an object file.

        Args:
            code: What `object_code` returned, for this machine.
        """
        module, target_machine = _parsed("", host(), codemodel="jitdefault", jit=True)
        # Code reaches its constants by 32 bits: llvmlite's memory manager puts them side by side; LLVM's own
        # puts them where there is room, and ends the process where that is too far away.
        self._engine = llvm.create_mcjit_compiler(module, target_machine, use_lmm=True)
        self._engine.add_object_file(llvm.ObjectFileRef.from_data(code))
        self._engine.finalize_object()

    def address(self, name: str) -> int:
        """Returns the address of a function of the file."""
        return self._engine.get_function_address(name)


def object_code(
    assembly: str | Sequence[str],
    target: Machine,
    *,
    position_independent: bool = True,
    internal: Collection[str] = (),
    hidden: Collection[str] = (),
) -> bytes:
    """Compiles LLVM assembly for any machine, without loading it.

    Args:
        assembly: The module, or modules that become one file.
        target: The machine, not necessarily this one, of names that `check_processor` lets pass.
        position_independent: Whether the code may become part of a shared library.
        internal: The functions that only others of the modules call; no linker sees them.
        hidden: The functions that are found by who loads the file, and not by what is linked with it.

    Returns:
        An object file, ELF, Mach-O or WebAssembly by the target's triple.
    """
    first, *others = [assembly] if isinstance(assembly, str) else assembly
    module, target_machine = _for_any(first, target, "pic" if position_independent else "static")
    for other in others:
        further = llvm.parse_assembly(other)
        further.triple, further.data_layout = module.triple, module.data_layout
        further.verify()
        module.link_in(further)
    for name in internal:
        module.get_function(name).linkage = llvm.Linkage.internal
    for name in hidden:
        module.get_function(name).visibility = llvm.Visibility.hidden
    return target_machine.emit_object(module)


def instruction_bytes(code: bytes) -> int:
    """Returns the bytes of an object file that are instructions.

    Args:
        code: What `object_code` returned.
    """
    return sum(
        section.size() for section in llvm.ObjectFileRef.from_data(code).sections() if section.is_text()
    )


def machine_assembly(assembly: str, target: Machine) -> str:
    """Returns the text of the code that `object_code` compiles, in the machine's own assembly language.

    Args:
        assembly: The module.
        target: The machine, not necessarily this one.
    """
    module, target_machine = _for_any(assembly, target, "pic")
    return target_machine.emit_assembly(module)


def provide(name: str) -> None:
    """Makes a function of the C library known to compiled code.

    Args:
        name: Such as `"sched_yield"`.

    Raises:
        OSError: The process has no such function.
    """
    llvm.add_symbol(name, c_function(name))


def c_function(name: str) -> int:
    """Returns the address of a function of the C library.

    Args:
        name: Such as `"sched_yield"`.

    Raises:
        OSError: The process has no such function.
    """
    try:
        if os.name == "nt" and name == "sched_yield":
            function = ctypes.windll.kernel32.SwitchToThread
        else:
            function = getattr(_c_library(), name)
    except AttributeError as error:
        raise OSError(f"the C library of this machine has no {name}") from error
    return ctypes.cast(function, ctypes.c_void_p).value


def available_cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _for_any(assembly: str, target: Machine, reloc: str) -> tuple[llvm.ModuleRef, llvm.TargetMachine]:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    return _parsed(assembly, target, codemodel=_code_model(target), reloc=reloc, abiname=_abi(target))


def check_processor(target: Machine) -> None:
    """Refuses a processor that LLVM does not know or that has no floating point unit.

    It is tried in another process: LLVM ends the process at some names, and at others complains on stderr.

    Args:
        target: The machine.

    Raises:
        ValueError: The processor is refused.
    """
    names = [target.triple, target.cpu, target.features, _abi(target)]
    tried = subprocess.run([sys.executable, "-c", _TRY, *names], capture_output=True, text=True)
    complaint = tried.stderr.rpartition(_BEGINS)[2].strip()
    if tried.returncode or complaint:
        reason = complaint.splitlines()[0] if complaint else f"LLVM ended with status {tried.returncode}"
    elif _SOFTWARE_ADDITION.search(tried.stdout):
        reason = "it has no floating point unit"
    else:
        return
    raise ValueError(
        f"the processor must be one that LLVM knows for {target.triple}, with a floating point unit."
        f" Received: cpu={target.cpu!r}, features={target.features!r}: {reason}"
    )


def _abi(target: Machine) -> str:
    return _ABI.get(target.triple[:7], "")


def _code_model(target: Machine) -> str:
    return "medium" if target.triple.startswith(_RISC_V) else "small"


def _parsed(assembly: str, target: Machine, **options: Any) -> tuple[llvm.ModuleRef, llvm.TargetMachine]:
    _start_llvm()
    module = llvm.parse_assembly(assembly)
    module.triple = target.triple
    module.verify()
    # The kernels are written as they should run: LLVM's passes over modules took longer and won nothing.
    target_machine = llvm.Target.from_triple(target.triple).create_target_machine(
        cpu=target.cpu, features=target.features, opt=3, **options
    )
    module.data_layout = str(target_machine.target_data)
    return module, target_machine


@functools.cache
def _start_llvm() -> None:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    llvm.initialize_native_asmparser()


@functools.cache
def _c_library() -> ctypes.CDLL:
    return ctypes.CDLL("ucrtbase") if os.name == "nt" else ctypes.CDLL(None)


def _l1_bytes() -> int:
    """Returns the size that Linux states, such as 48K; elsewhere the least of most processors."""
    try:
        size = Path("/sys/devices/system/cpu/cpu0/cache/index0/size").read_text(encoding="ascii").strip()
    except OSError:
        return _DEFAULT_L1_BYTES
    return int(size[:-1]) * 1024 if size.endswith("K") and size[:-1].isdigit() else _DEFAULT_L1_BYTES
