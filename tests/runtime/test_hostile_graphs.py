"""Whatever a file says, `load` answers in time in proportion to its size, and takes no memory it may not.

The files here are sound but for what they ask: sizes, sections and checksums are right.
"""

import json
import os
import pathlib
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.support import damaged_files, mutants
from tests.support.networks import random_network
from tfprune import runtime
from tfprune.runtime.graph import ACROSS_CHANNELS, ACTIVATIONS

ROOT = pathlib.Path(__file__).resolve().parents[2]
GIB = 2**30


class File:
    """A `model.tfprune` in the making."""

    def __init__(self, height: int = 1, width: int = 1, channels: int = 1):
        self.nodes, self.sections = [], bytearray()
        scale, shift = self.array(channels), self.array(channels)
        self.add("Input", shape=[height, width, channels], scale=scale, shift=shift)

    def array(self, *shape: int, empty: bool = False) -> dict:
        self.sections += bytes(-len(self.sections) % 64)
        count = 0 if empty else int(np.prod(shape))
        encoding, offset = ("sparse" if empty else "dense"), len(self.sections)
        self.sections += bytes(4 * count)
        place = {"remainder_bits": 0, "offset": offset, "length": 4 * count}
        return {"shape": shape, "dtype": "float32", "encoding": encoding, "count": count, **place}

    def add(self, type_: str, *inputs: int, **fields) -> int:
        self.nodes.append({"type": type_, "name": "", "inputs": inputs, **fields})
        return len(self.nodes) - 1

    def conv(self, source: int, *kernel: int, **fields) -> int:
        weights = {"kernel": self.array(*kernel, empty=True), "bias": self.array(kernel[3])}
        others = {"strides": [1, 1], "padding": [0] * 4, "dilation": [1, 1], "groups": 1}
        others |= {"activation": "relu", "path": "sparse", "costs": {}}
        return self.add("Conv", source, **weights, **(others | fields))

    def pool(self, source: int, *size: int, **fields) -> int:
        others = {"kind": "average", "strides": [1, 1], "padding": [0] * 4, "padding_counts": False}
        return self.add("Pool", source, size=size, **(others | fields))

    def content(self) -> bytes:
        """The file; a vector is at its end."""
        self.add("GlobalPool", len(self.nodes) - 1, kind="max")
        return damaged_files.join(json.dumps({"nodes": self.nodes}, separators=(",", ":")), self.sections)


def chain_of_flattens(times, *image):
    file = File(*image)
    for index in range(times):
        file.add("Flatten", index)
    return file


def one_input_again_and_again(kind, times, *image, **fields):
    file = File(*image)
    file.add(kind, *[0] * times, **fields)
    return file


def empty_kernels(times, path):
    file = File(3, 3)
    for index in range(times):
        file.conv(index, 128, 128, 1, 1, padding=[64, 63, 64, 63], path=path)
    return file


def doubling(times):
    file = File(1, 1, 2)
    for index in range(times):
        file.add("Concatenate", index, index)
    return file


def different_kernels(times):
    file = File(3, 3)
    wide = [file.conv(0, 1, 1, 1, 1, padding=[0, vectors, 0, 13]) for vectors in range(13)]
    activations = [name for name in ACTIVATIONS if name not in ACROSS_CHANNELS]
    for index in range(times):
        activation, path = activations[index // 13 % 11], ("dense", "sparse")[index // 143]
        file.conv(wide[index % 13], 1, 1, 1, 1, activation=activation, path=path)
    return file


def different_pools(times):
    file = File(60, 60)
    windows = [(rows, columns) for rows in range(25, 0, -1) for columns in range(25 // rows, 0, -1)]
    for index in range(times):
        kind, (rows, columns) = ("max", "average")[index % 2], windows[index // 4]
        file.pool(0, rows, columns, kind=kind, strides=[1, 1 + index // 2 % 2])
    return file


def wide_strides(times, stride):
    file = File(4, 4)
    for index in range(times):
        file.conv(0, 1, 1, 1, 1, strides=[stride - index, stride], padding=[2000] * 4)
    return file


def averages_of_planes(times, side, window):
    file = File(side, side)
    for index in range(times):
        file.pool(index, window, window)
    return file


def values_side_by_side(times):
    file = File(2, 2)
    for _ in range(times):
        file.add("Activation", 0, activation="relu")
    last = file.add("Add", *range(times), activation="relu")
    for index in range(times):
        last = file.add("Add", index % 7, last, activation="linear")
    return file


def dense_matrix(**fields):
    file = File(1, 1, 2**13)
    file.conv(0, 1, 1, 2**13, 2**15, path="dense")
    return file


def one_pixel_of_many(times, side):
    file = File(side, side)
    for _ in range(times):
        file.conv(0, 1, 1, 1, 1, strides=[65535, 65535], path="dense")
    return file


def gathers(times, length):
    file = File(1, 1, length)
    for index in range(times):
        file.add("Gather", index, rows=[0], columns=[0], channels=list(range(length))[::-1])
    return file


def wide_gather(rows, columns):
    file = File(3, 3)
    file.add("Gather", 0, rows=[0] * rows, columns=[0] * columns, channels=[0])
    return file


def many_images(times):
    file = File(3, 3)
    for index in range(times):
        arrays = {"scale": file.array(1), "shift": file.array(1)}
        file.nodes.append({"type": "Input", "name": str(index), "inputs": [], "shape": [3, 3, 1], **arrays})
    file.add("Add", *range(times + 1), activation="relu")
    return file


def different_settings(times):
    file = File(3, 3)
    for index in range(times):
        file.add("Activation", index, activation="elu", settings=[1.0 + index])
    return file


def normalizations(times, channels):
    file = File(2, 2, channels)
    for index in range(times):
        scale, shift = file.array(channels), file.array(channels)
        options = {"groups": (1, channels)[index % 2], "centered": index % 3 == 0, "epsilon": 1e-3}
        file.add(
            "Normalize", index, over=("pixel", "image")[index // 2 % 2], scale=scale, shift=shift, **options
        )
    return file


def table(rows, channels):
    file = File()
    file.add("Embedding", 0, kernel=file.array(1, 1, rows, channels, empty=True))
    return file


def cells(times, kind, gates, units, length=1, masked=False):
    """Without weights, from a signal that doubles to its length; with a mask of its own, perhaps."""
    file = File(1, 1, gates * units)
    while length > 1:
        last = len(file.nodes) - 1
        file.add("Concatenate", last, last, axis=1)
        length //= 2
    last = len(file.nodes) - 1
    for index in range(times):
        kernel, bias = file.array(1, 1, units, gates * units, empty=True), file.array(gates * units)
        functions = {"activation": "tanh", "gate_activation": "sigmoid", "settings": [], "gate_settings": []}
        others = {"memory": False, "path": ("dense", "sparse")[index % 2], "costs": {}}
        inputs = [last]
        if masked:
            others["masked"] = True
            inputs.append(file.add("Flatten", last))
        file.add("Recurrent", *inputs, cell=kind, kernel=kernel, bias=bias, **functions, **others)
    return file


LOADED = {
    "a table of a gigabyte": lambda: table(2**14, 2**14),
    "2,000 cells": lambda: cells(2000, "lstm", 4, 1),
    "500 cells, each with a mask": lambda: cells(500, "simple", 1, 1, 64, masked=True),
    "a cell of a gigabyte": lambda: cells(1, "lstm", 4, 2**13),
    "a cell of 4 million steps": lambda: cells(2, "simple", 1, 1, 2**22),
    "10,000 gathers": lambda: gathers(10_000, 1),
    "10 gathers of 20,000": lambda: gathers(10, 20_000),
    "a gather of 25 million": lambda: wide_gather(5000, 5000),
    "3,000 images": lambda: many_images(3000),
    "2,000 normalizations": lambda: normalizations(2000, 4),
    "90 settings": lambda: different_settings(90),
    "12,000 Flattens": lambda: chain_of_flattens(12_000),
    "16,000 Flattens of 4 M values": lambda: chain_of_flattens(16_000, 2000, 2000),
    "30,000 inputs of an Add": lambda: one_input_again_and_again("Add", 30_000, 3, 3, activation="gelu"),
    "30,000 inputs of a Concatenate": lambda: one_input_again_and_again("Concatenate", 30_000),
    "1,900 empty kernels, sparse": lambda: empty_kernels(1900, "sparse"),
    "1,900 empty kernels, dense": lambda: empty_kernels(1900, "dense"),
    "25 doublings": lambda: doubling(25),
    "90 kernels": lambda: different_kernels(90),
    "90 pools": lambda: different_pools(90),
    "a million phases": lambda: wide_strides(1, 1000),
    "12,000 averages of a million pixels": lambda: averages_of_planes(12_000, 1000, 1),
    "a plane of 25 million pixels": lambda: averages_of_planes(1, 5000, 1),
    "5,000 values at a time": lambda: values_side_by_side(5000),
    "a matrix of a gigabyte": dense_matrix,
    "1,500 layers on one pixel of a million": lambda: one_pixel_of_many(1500, 1000),
}
REFUSED = {
    "cells of a gigabyte each": (
        lambda: cells(2, "lstm", 4, 2**13),
        "sparse arrays may have 268435456 values",
    ),
    "a cell of 256 million steps": (lambda: cells(1, "simple", 1, 1, 2**28), "GB of memory"),
    "a gather of 4 GB": (lambda: wide_gather(30_000, 35_000), "GB of memory"),
    "a gather of 10,000,000,000": (lambda: wide_gather(100_000, 100_000), "more than 2147483647 numbers"),
    "200 settings": (lambda: different_settings(200), "a network may need 96 different kernels"),
    "20,000 nodes": (lambda: chain_of_flattens(20_000), "1? ?to? ?16384 nodes|may have 16384 nodes"),
    "2,000,000 inputs of an Add": (
        lambda: one_input_again_and_again("Add", 2_000_000, activation="linear"),
        "may have 32768 inputs in all. Received: 2000001",
    ),
    "2,000,000 inputs of a Concatenate": (
        lambda: one_input_again_and_again("Concatenate", 2_000_000),
        "may have 32768 inputs in all",
    ),
    "29 doublings": (lambda: doubling(29), r"Concatenate '': the network needs .* GB of memory and may have"),
    "30 doublings": (lambda: doubling(30), "has more than 2147483647 numbers"),
    "280 kernels": (lambda: different_kernels(280), "Conv '': a network may need 96 different kernels"),
    "millions of phases": (
        lambda: wide_strides(20, 1000),
        "strided convolutions read.* may be 1048576 in all",
    ),
    "planes of many sizes": (lambda: averages_of_planes(100, 1000, 2), "numbers in all"),
    "a plane of 4 GB": (lambda: averages_of_planes(1, 30_000, 1), "GB of memory|numbers in all"),
}


@pytest.fixture(autouse=True)
def guards():
    """4 GiB above what is mapped now; a use of the processor beyond what the test sets is an error."""

    def late(signum, frame):
        raise AssertionError("it took longer than its size allows")

    mapped = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit, alarm = resource.getrlimit(resource.RLIMIT_AS), signal.signal(signal.SIGPROF, late)
    resource.setrlimit(resource.RLIMIT_AS, (mapped + 4 * GIB, limit[1]))
    yield
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.signal(signal.SIGPROF, alarm)
    resource.setrlimit(resource.RLIMIT_AS, limit)


def load(path, content, **arguments):
    """Loads a file within the time that its size allows."""
    path.write_bytes(content)
    runtime.Model(random_network(np.random.default_rng(0)), 1)  # LLVM starts once.
    signal.setitimer(signal.ITIMER_PROF, mutants.SECONDS_PER_MEGABYTE * max(1.0, len(content) / 1e6))
    try:
        return runtime.load(path, 1, **arguments)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


@pytest.mark.slow
@pytest.mark.parametrize("case", LOADED)
def test_graphs_that_are_made_to_cost_much_load_at_once(tmp_path, case):
    content = LOADED[case]().content()
    assert len(content) < 1_600_000
    assert load(tmp_path / "model.tfprune", content).memory_bytes < 4 * GIB


@pytest.mark.slow
@pytest.mark.parametrize("case", REFUSED)
def test_graphs_that_ask_too_much_are_refused(tmp_path, case):
    make, message = REFUSED[case]
    path = tmp_path / "model.tfprune"
    with pytest.raises(runtime.FileFormatError, match=message) as error:
        load(path, make().content())
    assert str(error.value).startswith(f"{path}: ") and len(str(error.value)) < 1000


@pytest.mark.slow
@pytest.mark.parametrize(
    "make", [chain_of_flattens, values_side_by_side, lambda n: empty_kernels(n // 8, "sparse")]
)
def test_time_grows_with_the_size(tmp_path, make):
    """Four times as large a graph takes about four times as long."""

    def seconds(times):
        content = make(times).content()
        before = time.process_time()
        load(tmp_path / "model.tfprune", content)
        return time.process_time() - before

    seconds(100)
    small, large = (min(seconds(times) for _ in range(2)) for times in (1000, 4000))
    assert large < 8 * small + 0.1


@pytest.mark.parametrize("share, loads", [(1.0, True), (0.99, False)])
@pytest.mark.parametrize("threads", [1, 3])
def test_the_limit_that_a_caller_passes(tmp_path, share, loads, threads):
    """It counts what `memory_bytes` says when all threads are at work."""
    path = tmp_path / "model.tfprune"
    graph = random_network(np.random.default_rng(3), largest=40)
    runtime.write_file(graph, path)
    model = runtime.load(path, threads)
    model(np.zeros((threads, *graph.nodes[0].shape), np.float32))
    limit = int(share * model.memory_bytes)
    if loads:
        assert runtime.load(path, threads, memory_limit=limit).threads == threads
    else:
        with pytest.raises(runtime.FileFormatError, match=r"the network needs .* and may have"):
            runtime.load(path, threads, memory_limit=limit)


@pytest.mark.parametrize("limit", [0, -1, float("nan"), "1 GB", True])
def test_a_limit_that_is_none_is_the_callers_mistake(tmp_path, limit):
    path = tmp_path / "model.tfprune"
    runtime.write_file(random_network(np.random.default_rng(3)), path)
    with pytest.raises(ValueError, match="`memory_limit` must be a number of bytes above 0") as error:
        runtime.load(path, memory_limit=limit)
    assert not isinstance(error.value, runtime.FileFormatError)


def test_the_limit_of_the_process_is_asked_before_memory_is(tmp_path):
    path = tmp_path / "model.tfprune"
    with pytest.raises(runtime.FileFormatError, match=r"the network needs .* GB of memory and may have"):
        load(path, chain_of_flattens(1, 10_000, 20_000).content())


@pytest.mark.slow
def test_however_little_memory_the_process_has_it_lives(tmp_path):
    """Also where the memory is enough for all but LLVM, which knows no exception."""
    path = tmp_path / "model.tfprune"
    runtime.write_file(random_network(np.random.default_rng(5), extra=5), path)
    code = """
import resource, sys
from tfprune import runtime
from tfprune.runtime.plan import binding
refused = loaded = 0
for quarters in range(8, 168, 8):
    mapped = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + quarters * 2**18, -1))
    try:
        runtime.load(sys.argv[1], 1)
        loaded += 1
    except runtime.FileFormatError as error:
        refused += 1
    resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
    binding._compiled.cache_clear()
assert refused and loaded, (refused, loaded)
"""
    done = subprocess.run([sys.executable, "-c", code, path], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_dense_layer_of_few_weights_is_a_short_list(tmp_path):
    """A matrix of 1,000 groups would be 1,000 times the kernel."""
    file = File(3, 3, 1000)
    file.conv(0, 3, 3, 1, 1000, groups=1000, path="dense")
    assert load(tmp_path / "model.tfprune", file.content()).memory_bytes < 1_000_000


def test_what_is_no_file_is_refused_at_once(tmp_path):
    pipe = tmp_path / "model.tfprune"
    os.mkfifo(pipe)
    for path in (pipe, tmp_path):
        with pytest.raises(runtime.FileFormatError, match="not even a file"):
            runtime.load(path)


def test_an_error_names_the_file_once(tmp_path):
    path = tmp_path / "model.tfprune"
    for content in (b"no network", cells(1, "simple", 1, 1, 1, masked=True).content()[:-1]):
        with pytest.raises(runtime.FileFormatError) as error:
            load(path, content)
        assert str(error.value).count(str(path)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_mutants(tmp_path, seed):
    """Each is refused or loads, within its time and memory; a small one is called, too."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.mutants", str(tmp_path), str(seed), "150"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    outcomes = json.loads(done.stdout)
    assert outcomes["refused"] > 20 and outcomes["called"] > 15
