import dataclasses
import hashlib
import os
import struct
import subprocess
import sys

import numpy as np
import pytest

from tests.support import damaged_files, reference
from tests.support.networks import random_images, random_kernel, random_network, several_ends
from tfprune.runtime.errors import GraphError
from tfprune.runtime.format import file as file_module
from tfprune.runtime.format.file import FILE_VERSION, read_file, stored_types, write_file
from tfprune.runtime.graph import Conv, Flatten, Graph, Input, Quantize, Recurrent
from tfprune.runtime.sparse_array import SparseArray


def one_conv(kernel, **attributes):
    """A network of one convolution on an image of the kernel's size."""
    rows, columns, channels, filters = kernel.shape
    ones = np.ones(channels, np.float32)
    image = Input("image", (), (rows, columns, channels), ones, ones)
    return Graph((image, Conv("conv", (0,), kernel, np.zeros(filters, np.float32), **attributes)))


def round_trip(graph, path, weights):
    write_file(graph, path, weights)
    return read_file(path)


def assert_same(found, expected, tolerance=0.0):
    """Nodes of the same types and attributes; values within a share of a kernel's largest."""
    assert [type(node) for node in found.nodes] == [type(node) for node in expected.nodes]
    for left, right in zip(found.nodes, expected.nodes, strict=True):
        for field in dataclasses.fields(right):
            a, b = getattr(left, field.name), getattr(right, field.name)
            if not isinstance(b, np.ndarray):
                assert (type(a), a) == (type(b), b)
                continue
            assert a.dtype == np.float32 and a.shape == b.shape
            limit = tolerance * np.abs(b).max() if b.ndim == 4 else 0.0
            assert (np.abs(np.asarray(a) - b) <= limit).all()


def stored_kernels(path):
    header, _ = damaged_files.split(path.read_bytes())
    return [node["kernel"] for node in header["nodes"] if node["type"] == "Conv"]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.tfprune"


def test_float32_is_exact(path):
    for seed in range(30):
        graph = random_network(np.random.default_rng(seed))
        assert_same(round_trip(graph, path, "float32"), graph)


def test_float16_rounds_kernels_alone(path):
    for seed in range(30):
        graph = random_network(np.random.default_rng(seed))
        assert_same(round_trip(graph, path, "float16"), graph, tolerance=2.0**-10)
        assert {kernel["dtype"] for kernel in stored_kernels(path)} == {"float16"}


def test_a_read_graph_can_be_written_and_run(path):
    rng = np.random.default_rng(0)
    graph = random_network(rng)
    found = round_trip(graph, path, "float32")
    images = random_images(rng, graph, 2)
    np.testing.assert_array_equal(reference.run(found, images), reference.run(graph, images))
    assert_same(round_trip(found, path, "float32"), graph)


def test_equal_graphs_give_equal_bytes(path):
    graph = random_network(np.random.default_rng(0))
    contents = set()
    for _ in range(2):
        found = round_trip(graph, path, "float16")
        contents.add(path.read_bytes())
    kernel = np.ones((1, 1, 1, 1), np.float32)
    for costs in ({"sparse": 1.0, "dense": 2.0}, {"dense": np.float32(2), "sparse": 1}):
        write_file(one_conv(kernel, costs=costs), path)
        contents.add(path.read_bytes())
    assert len(contents) == 2
    # Kernels read back as sparse arrays of the rounded values are the same graph.
    write_file(found, path, "float16")
    assert path.read_bytes() in contents


def test_int8_rounds_each_channel_to_127_steps_of_its_largest(path):
    for seed in range(30):
        graph = random_network(np.random.default_rng(seed))
        found = round_trip(graph, path, "int8")
        assert {kernel["dtype"] for kernel in stored_kernels(path)} == {"int8"}
        assert stored_types(path) == {"int8", "float32"}
        for left, right in zip(found.nodes, graph.nodes, strict=True):
            if isinstance(right, Conv):
                np.testing.assert_array_equal(left.bias, right.bias)
                kernel, expected = np.asarray(left.kernel), np.asarray(right.kernel)
                step = np.abs(expected).max((0, 1, 2)) / 127
                errors = (kernel - expected) / np.where(step > 0, step, 1)
                assert (np.abs(errors) < 1).all() and (np.abs(errors.sum((0, 1, 2))) < 0.5001).all()
                assert not kernel[expected == 0].any()
        before = path.read_bytes()
        write_file(found, path, "int8")  # What was rounded stays.
        assert path.read_bytes() == before


@pytest.mark.parametrize("kernel", [
    np.zeros((1, 1, 2, 3)),
    np.full((1, 1, 2, 3), 1e-45),
    np.full((1, 1, 2, 3), np.finfo(np.float32).max),
    np.array([[1e-30, 1e30, -1.0], [0, 1e30, 0.001]])[None, None],
])  # fmt: skip
def test_int8_of_extreme_values(path, kernel):
    kernel = kernel.astype(np.float32)
    found = np.asarray(round_trip(one_conv(kernel), path, "int8").nodes[1].kernel)
    limit = np.abs(kernel).max((0, 1, 2)) / 254
    assert (np.abs(found - kernel) <= 1.001 * np.maximum(limit, 1e-44)).all()


def entropy(shares):
    """Returns the bytes that one of several takes at least."""
    return -sum(p * np.log2(p) for p in shares if p) / 8


@pytest.mark.parametrize("weights", ["int8", "float16", "float32"])
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9, 0.95, 0.98, 0.995])
def test_bytes(path, sparsity, weights):
    """A kernel takes its values, and for positions and values of 8 bits 2 % more than the entropy at most."""
    kernel = random_kernel(np.random.default_rng(0), (3, 3, 256, 256), sparsity)
    write_file(one_conv(np.zeros_like(kernel)), path, weights)
    without = path.stat().st_size
    found = round_trip(one_conv(kernel), path, weights).nodes[1].kernel
    assert isinstance(found, np.ndarray if sparsity == 0 else SparseArray)
    count = np.count_nonzero(found)  # A few of 8 bits were rounded to zero.
    assert count > 0.98 * np.count_nonzero(kernel)
    density = count / kernel.size
    positions = kernel.size * entropy([density, 1 - density])
    values = count * {"int8": 1, "float16": 2, "float32": 4}[weights]
    if weights == "int8":
        steps = np.asarray(found) / np.abs(found).max((0, 1, 2)) * 127
        _, counts = np.unique(np.rint(steps[steps != 0]), return_counts=True)
        values = count * entropy(counts / count)
    # The header's numbers have more digits, the section's end is aligned, and a code of values has its table.
    least, most = 0.99 * (values + positions), 1.02 * (values + positions) + 256
    assert least < path.stat().st_size - without < most
    # All besides: arrays of a channel's values each, and the header.
    assert without < (4 if weights == "int8" else 3) * 4 * 256 + 5 * 64 + 1024


def test_kernels_that_are_not_worth_it_are_dense(path):
    kernel = random_kernel(np.random.default_rng(0), (1, 1, 64, 64), 0.03)
    found = round_trip(one_conv(kernel), path, "float16")
    assert stored_kernels(path)[0]["encoding"] == "dense"
    assert_same(found, one_conv(kernel), tolerance=2.0**-10)


# The kernel's values in two output channels, and the type that float16 allows.
FLOAT16_CASES = {
    "ordinary": ([[0.1, 3.0], [2.0, 1e-3]], "float16"),
    "the largest": ([[65504.0, 1.0], [1.0, 1.0]], "float16"),
    "above the largest": ([[65505.0, 1.0], [1.0, 1.0]], "float32"),
    "infinite in float16": ([[-1e6, 1.0], [1.0, 1.0]], "float32"),
    "small beside large": ([[1.0, 1.0], [1e-9, 1.0]], "float16"),
    "a small channel": ([[1.0, 1.23e-6], [1.0, 0.0]], "float16"),
    "a small kernel": ([[1.0e-6, 1.23e-6], [1.0e-6, 0.0]], "float32"),
    "a kernel of exact small values": ([[2.0**-24, 2.0**-24], [0.0, 0.0]], "float16"),
    "a zero channel": ([[1.0, 0.0], [1.0, 0.0]], "float16"),
}


@pytest.mark.parametrize("case", FLOAT16_CASES)
def test_what_float16_cannot_hold_stays_float32(path, case):
    values, dtype = FLOAT16_CASES[case]
    kernel = np.array(values, np.float32).reshape(2, 1, 1, 2)
    found = round_trip(one_conv(kernel), path, "float16")
    assert stored_kernels(path)[0]["dtype"] == dtype
    assert_same(found, one_conv(kernel), tolerance=0 if dtype == "float32" else 2.0**-10)


def test_a_weight_that_rounds_to_zero_is_no_nonzero(path):
    kernel = np.zeros((3, 3, 4, 2), np.float32)
    kernel[0, 0, 0] = 1
    kernel[1, 1, 1] = 1e-9
    kernel[2, 2, 2] = -0.0
    found = round_trip(one_conv(kernel), path, "float16").nodes[1].kernel
    assert stored_kernels(path)[0]["count"] == len(found.values) == 2
    assert round_trip(one_conv(kernel), path, "float32").nodes[1].kernel.values.size == 4


def test_the_layout_is_the_documented_one(path):
    graph = random_network(np.random.default_rng(5), version=3)
    write_file(graph, path)
    content = path.read_bytes()
    assert struct.unpack("<8sIIQ", content[:24])[1] == FILE_VERSION == 4
    assert content[24:56] == hashlib.sha256(content[:24] + content[56:]).digest()
    header, sections = damaged_files.split(content)
    packed = content[56 : 56 + struct.unpack("<I", content[12:16])[0]]
    assert damaged_files.join(packed, sections, version=4) == content
    arrays = [item for node in header["nodes"] for item in node.values() if isinstance(item, dict)]
    arrays = [item for item in arrays if "offset" in item]
    end = 0
    for array in arrays:
        assert array["offset"] % 64 == 0 and 0 <= array["offset"] - end < 64
        end = array["offset"] + array["length"]
    assert end == len(sections)
    # Values from the mapped file, without the reader.
    bias = next(node["bias"] for node in header["nodes"] if node["type"] == "Conv")
    start = len(content) - len(sections) + bias["offset"]
    mapped = np.memmap(path, "<f4", "r", start, tuple(bias["shape"]))
    expected = next(node.bias for node in graph.nodes if isinstance(node, Conv))
    np.testing.assert_array_equal(mapped, expected)


def test_a_graph_of_version_1_is_written_as_such(path):
    """So that older runtimes can read it; any node, activation or setting that they do not know needs 2."""

    def version_of(graph, weights="float16"):
        write_file(graph, path, weights)
        header, _ = damaged_files.split(path.read_bytes())
        first = [node for node in header["nodes"] if node["type"] != "Recurrent"]
        assert all("settings" not in node or node["settings"] for node in first)
        return path.read_bytes()[8]

    for seed in range(5):
        assert version_of(random_network(np.random.default_rng(seed), version=1)) == 1
    kernel = np.ones((1, 1, 1, 1), np.float32)
    assert version_of(one_conv(kernel, activation="leaky_relu")) == 1
    assert version_of(one_conv(kernel, activation="leaky_relu", settings=(0.1,))) == 2
    assert version_of(one_conv(kernel, activation="mish")) == 2
    assert version_of(one_conv(kernel), "int8") == 2
    assert version_of(one_conv(kernel, activation="nonzero")) == 4
    cell = Recurrent("cell", (0,), "simple", kernel, kernel[0, 0, 0])
    image = Input("image", (), (1, 1, 1), kernel[0, 0, 0], kernel[0, 0, 0])
    assert version_of(Graph((image, cell))) == 2
    assert version_of(Graph((image, dataclasses.replace(cell, inputs=(0, 0), masked=True)))) == 4
    step = Quantize("steps", (0,), 1.0)
    assert version_of(Graph((image, step, Flatten("flat", (1,))))) == 3


def test_several_inputs_and_outputs_are_kept(path):
    graph = several_ends(np.random.default_rng(0))
    found = round_trip(graph, path, "float32")
    assert_same(found, graph)
    assert found.outputs == graph.outputs and path.read_bytes()[8] == 2


def test_the_file_is_mapped_and_not_read(path, monkeypatch):
    graph = random_network(np.random.default_rng(0))
    write_file(graph, path, "float32")
    opened = []

    class NoReads:
        def __init__(self, *arguments):
            self.file = open(*arguments)
            opened.append(self.file)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def fileno(self):
            return self.file.fileno()

    monkeypatch.setattr(file_module, "open", NoReads, raising=False)
    found = read_file(path)
    assert len(opened) == 1 and opened[0].closed
    # The graph holds copies: the file may go.
    path.write_bytes(b"")
    assert_same(found, graph)


def test_writing_is_whole_or_not_at_all(path, monkeypatch):
    graph = random_network(np.random.default_rng(0))
    write_file(graph, path)
    before = path.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_file(random_network(np.random.default_rng(1)), path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_only_sound_graphs_are_written(path):
    graph = one_conv(np.ones((2, 2, 1, 1), np.float32))
    with pytest.raises(GraphError, match="must give a vector"):
        write_file(Graph(graph.nodes[:1]), path)
    with pytest.raises(ValueError, match=r"`weights` must be one of float32, float16, int8. .*'int4'"):
        write_file(graph, path, weights="int4")
    many = tuple(Flatten("x" * 1000, (index,)) for index in range(1, 4300))
    with pytest.raises(ValueError, match="header may have 4194304 bytes"):
        write_file(Graph((*graph.nodes, *many)), path)
    assert not path.exists()


def test_a_missing_file_is_just_that(path):
    with pytest.raises(FileNotFoundError):
        read_file(path)


def test_reading_imports_neither_keras_nor_tensorflow(path):
    write_file(random_network(np.random.default_rng(0)), path)
    program = (
        "import sys; from tfprune.runtime.format.file import read_file; read_file(sys.argv[1]).shapes();"
        "print(sorted(sys.modules.keys() & {'keras', 'tensorflow', 'pickle', 'jax', 'torch'}))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    found = subprocess.run(
        [sys.executable, "-c", program, str(path)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "keras" not in found.stdout and "tensorflow" not in found.stdout and found.stdout.startswith("[")
