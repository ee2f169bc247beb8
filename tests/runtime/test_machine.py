"""The processors that kernels are compiled for, this one and others."""

import struct
import subprocess
import sys

import llvmlite.binding as llvm
import numpy as np
import pytest

from tests.support.networks import random_network
from tfprune.runtime import machine
from tfprune.runtime.kernels import program
from tfprune.runtime.plan.lowering import make_plan

X86, ARM = "x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"
ELF_MACHINES = {X86: 62, ARM: 183}


@pytest.mark.parametrize(
    "triple, cpu, features, lanes, registers",
    [
        (X86, "x86-64", "", 4, 16),
        (X86, "haswell", "+sse2,+avx,+avx2,+fma,-avx512f", 8, 16),
        (X86, "ivybridge", "+avx,-avx2,-fma", 4, 16),
        (X86, "skylake-avx512", "+avx2,+fma,+avx512f,+avx512vl", 16, 32),
        (ARM, "generic", "+neon", 4, 32),
        ("arm64-apple-darwin", "apple-m1", "+neon", 4, 32),
    ],
)
def test_lanes_and_registers(triple, cpu, features, lanes, registers):
    found = machine.machine(triple, cpu, features)
    assert (found.lanes, found.registers) == (lanes, registers)


def test_this_machine():
    host = machine.host()
    assert host is machine.host()
    assert host.cpu == llvm.get_host_cpu_name()
    assert 8 * 1024 <= host.l1_bytes <= 1024 * 1024
    assert machine.available_cores() >= 1


@pytest.mark.parametrize("triple, cpu, features, wanted, unwanted", [
    (X86, "x86-64", "", "xmm", "ymm"),
    (X86, "haswell", "+avx,+avx2,+fma", "ymm", "zmm"),
    (X86, "skylake-avx512", "+avx,+avx2,+fma,+avx512f,+avx512vl", "zmm", None),
    (ARM, "generic", "+neon", "fmla", "xmm"),
])  # fmt: skip
def test_kernels_use_the_vectors_of_any_machine(triple, cpu, features, wanted, unwanted):
    target = machine.machine(triple, cpu, features)
    plan = make_plan(random_network(np.random.default_rng(0)), target)
    text = program.assembly(plan.kernels, target.lanes)
    code = machine.object_code(text, target)
    assert code[:4] == b"\x7fELF"
    assert struct.unpack("<H", code[18:20])[0] == ELF_MACHINES[triple]
    assembly = machine.machine_assembly(text, target)
    assert wanted in assembly
    assert unwanted is None or unwanted not in assembly


def test_a_function_that_the_c_library_lacks_is_an_error():
    with pytest.raises(OSError, match="has no no_such_function"):
        machine.provide("no_such_function")


# Takes 12 GB of addresses but for room for code: constants have none beside it.
FAR_APART = r"""
import ctypes
from tfprune.runtime import machine

text = (
    '@c = internal constant [4194304 x i8] c"' + r"\07" * 4194304 + '"\n'
    "define i8 @f(i64 %i) { %p = getelementptr i8, ptr @c, i64 %i\n %x = load i8, ptr %p\n ret i8 %x }"
)
code = machine.object_code(text, machine.host())
c = ctypes.CDLL(None)
c.mmap.restype = ctypes.c_void_p
c.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
c.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
size, hole = 12 * 2**30, 2**16
nothing_private_anonymous_unreserved = 0, 0x4022
taken = c.mmap(None, size, *nothing_private_anonymous_unreserved, -1, 0)
assert c.munmap(taken + size - hole, hole) == 0
loaded = machine.Loaded(code)
print(ctypes.CFUNCTYPE(ctypes.c_int8, ctypes.c_int64)(loaded.address("f"))(4194303))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the numbers are Linux's")
def test_an_object_file_is_loaded_where_memory_is_far_apart():
    done = subprocess.run([sys.executable, "-c", FAR_APART], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "7\n"), done.stderr
