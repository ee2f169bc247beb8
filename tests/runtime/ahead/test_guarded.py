"""Kernels read and write nothing beyond image, output and arena: pages beside these end the process."""

import ctypes
import signal
import subprocess
import sys

import numpy as np
import pytest

from tests.support import guarded
from tests.support.networks import random_network
from tfprune import runtime
from tfprune.runtime import machine
from tfprune.runtime.ahead.targets import TARGETS, this_machines_target

HERE = this_machines_target()
pytestmark = [
    pytest.mark.one_backend,
    pytest.mark.slow,
    pytest.mark.skipif(HERE is None, reason="this machine is none of the targets"),
]


def run(*arguments):
    """Runs Python in a process of its own, which may end at once."""
    return subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True)


def processors():
    """Yields those that this machine can stand in for, as `cpu=` takes them."""
    has = set(machine.host().features.split(","))
    for cpu, features in (*TARGETS[HERE].integer_variants, *TARGETS[HERE].variants):
        if set(filter(None, features.split(","))) <= has:
            yield ",".join(filter(None, (cpu, features)))


@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_nothing_beyond_is_touched(weights, tmp_path):
    folders = []
    for number, cpu in enumerate(processors()):
        for seed, version in ((0, 2), (3, 3)):
            folders.append(tmp_path / f"{number}_{seed}")
            graph = random_network(np.random.default_rng(seed), version=version)
            runtime.compile_library(graph, folders[-1], HERE, cpu=cpu, weights=weights)
    done = run("-m", "tests.support.guarded", *folders)
    assert done.stdout.split() == list(map(str, folders)), done.stderr
    assert done.returncode == 0


@pytest.mark.parametrize("at_end, beyond", [(True, 100), (False, -1)])
def test_a_byte_beyond_ends_the_process(at_end, beyond):
    memory = guarded.Guarded(100, at_end=at_end)
    ctypes.memset(memory.address, 1, 100)
    assert memory.bytes.sum() == 100
    program = f"""
import ctypes
from tests.support.guarded import Guarded
memory = Guarded(100, at_end={at_end})
ctypes.memset(memory.address + {beyond}, 1, 1)
"""
    assert run("-c", program).returncode == -signal.SIGSEGV
