"""The processors that kernels are compiled for, this one and others."""

import struct

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
