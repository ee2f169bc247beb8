"""Whole networks through the runtime, against NumPy: kernels, memory between the operations, threads."""

import copy
import dataclasses
import multiprocessing
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

from tests.support import reference
from tests.support.networks import random_images, random_kernel, random_network, several_ends
from tfprune import runtime
from tfprune.runtime import machine
from tfprune.runtime.graph import (
    ACTIVATIONS,
    Activation,
    Add,
    Concatenate,
    Conv,
    Flatten,
    Gather,
    GlobalPool,
    Graph,
    Input,
    MatMul,
    Multiply,
    Pool,
)
from tfprune.runtime.model import Model
from tfprune.runtime.sparse_array import SparseArray

HOST = machine.host()
TARGETS = {
    "this machine": HOST,
    "baseline": machine.machine(HOST.triple, "generic" if "aarch64" in HOST.triple else "x86-64"),
}
if HOST.lanes == 16:
    TARGETS["AVX2"] = machine.machine(HOST.triple, "haswell", "+avx,+avx2,+fma")
TOLERANCE = 1e-5  # of the largest value


def assert_agrees(graph, images, *, threads=1, target=None):
    logits = Model(graph, threads, target=target)(images)
    expected = reference.run(graph, images)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected, rtol=0, atol=TOLERANCE * max(1, np.abs(expected).max()))


def image_of(shape):
    channels = shape[2]
    scale = np.linspace(0.5, 1, channels, dtype=np.float32)
    return Input("image", (), shape, scale, np.linspace(-1, 1, channels, dtype=np.float32))


@pytest.mark.parametrize("target", TARGETS)
def test_copies_and_pickles_answer_the_same(target):
    rng = np.random.default_rng(0)
    graph = random_network(rng)
    model = Model(graph, threads=2, target=TARGETS[target])
    images = random_images(rng, graph, 3)
    expected = model(images)
    copies = [copy.copy(model), copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    copies.append(pickle.loads(pickle.dumps(Model.from_plan(model._binding.plan, threads=1))))
    for other in copies:
        np.testing.assert_array_equal(other(images), expected)
    assert [other.threads for other in copies] == [2, 2, 2, 1]
    assert copies[-1].graph is None


@pytest.mark.slow
def test_a_model_is_sent_to_another_process():
    rng = np.random.default_rng(0)
    graph = random_network(rng)
    model, images = Model(graph), random_images(rng, graph, 2)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        np.testing.assert_array_equal(pool.apply(model, (images,)), model(images))


def with_sums(*nodes):
    """A graph whose output is the sum of each quarter of the last node's value, so that places matter."""
    graph = Graph((*nodes, Flatten("flat", (len(nodes) - 1,))))
    size = graph.shapes()[-1][2]
    weights = np.random.default_rng(0).standard_normal((1, 1, size, 4)).astype(np.float32)
    head = Conv("head", (len(nodes),), weights, np.zeros(4, np.float32), path="dense")
    return Graph((*graph.nodes, head))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(24))
def test_random_networks(seed):
    rng = np.random.default_rng(seed)
    graph = random_network(rng, largest=9 + 4 * (seed % 4))
    target = list(TARGETS.values())[seed % len(TARGETS)]
    assert_agrees(graph, random_images(rng, graph, 3), threads=1 + seed % 2, target=target)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(40))
def test_random_convolutions(seed):
    """Sizes, strides, paddings, dilations, groups and sparsities at random; another convolution after it."""
    rng = np.random.default_rng([seed, 1])
    groups = int(rng.choice([1, 1, 1, 2]))
    channels, filters = groups * int(rng.integers(1, 9)), groups * int(rng.integers(1, 9))
    window = tuple(int(size) for size in rng.integers(1, 6, 2))
    dilation = tuple(int(size) for size in rng.integers(1, 3, 2))
    reach = [(size - 1) * step for size, step in zip(window, dilation, strict=True)]
    shape = (*(int(rng.integers(extent + 2, extent + 35)) for extent in reach), channels)
    sparsity = float(rng.choice([0.0, 0.3, 0.9, 0.99, 1.0]))
    kernel = random_kernel(rng, (*window, channels // groups, filters), sparsity)
    conv = Conv(
        "conv",
        (0,),
        kernel,
        rng.standard_normal(filters).astype(np.float32),
        strides=tuple(int(step) for step in rng.integers(1, 4, 2)),
        padding=tuple(int(rng.integers(0, 3)) for _ in range(4)),
        dilation=dilation,
        groups=groups,
        activation=str(rng.choice(["linear", "relu", "relu6"])),
        path=str(rng.choice(["sparse", "dense"])),
    )
    last = Conv("last", (1,), random_kernel(rng, (1, 1, filters, 5), 0.5), np.zeros(5, np.float32))
    graph = with_sums(image_of(shape), conv, last)
    images = random_images(rng, graph, 2)
    assert_agrees(graph, images, threads=1 + seed % 2, target=list(TARGETS.values())[seed % len(TARGETS)])


@pytest.mark.slow
@pytest.mark.parametrize("size", [7, 8, 9, 15])
@pytest.mark.parametrize("padding", [(1, 1, 1, 1), (0, 1, 0, 1), (0, 0, 0, 0)])
def test_an_image_leaves_nothing_to_the_next(size, padding):
    """Strides over odd sizes: the phases that lack a last row or column share their place with full ones."""
    rng = np.random.default_rng(size)

    def conv(name, source, strides, path="sparse"):
        kernel = random_kernel(rng, (3, 3, 4, 4), 0.3)
        bias = np.ones(4, np.float32)
        return Conv(name, (source,), kernel, bias, strides=strides, padding=padding, path=path)

    nodes = [image_of((4 * size, 4 * size, 4))]
    nodes += [conv("first", 0, (2, 2)), conv("second", 1, (2, 2), "dense")]
    nodes += [Conv("third", (2,), random_kernel(rng, (1, 1, 4, 4), 0.3), np.ones(4, np.float32))]
    graph = with_sums(*nodes)
    images = random_images(rng, graph, 5)
    assert_agrees(graph, images)
    model = Model(graph, 1)
    alone = np.concatenate([Model(graph, 1)(images[i : i + 1]) for i in range(5)])
    np.testing.assert_array_equal(model(images), alone)
    np.testing.assert_array_equal(model(images[::-1]), alone[::-1])


# Settings besides the defaults.
SETTINGS = {
    "leaky_relu": [(0.01,), (-0.5,), (3.0,)],
    "elu": [(0.3,)],
    "celu": [(2.5,)],
    "general_relu": [(0.25, 4.0, 0.0), (0.0, 5.0, 1.5), (0.1, 3e38, 2.0)],
    "clip": [(0.0, 1.0), (-3.0, 6.5)],
    "hard_shrink": [(2.0,)],
    "soft_shrink": [(2.0,)],
    "squareplus": [(0.5,)],
    "threshold": [(1.0, -2.0)],
}


@pytest.mark.slow
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("target", TARGETS)
def test_activations(activation, target):
    kernel = np.eye(37, dtype=np.float32).reshape(1, 1, 37, 37)
    values = np.concatenate([np.linspace(-9, 9, 31), [0, -0.0, 1e-6, -1e-6, 95, -95]]).astype(np.float32)
    if activation in ("log", "sqrt", "rsqrt", "reciprocal"):
        values = np.abs(values) + np.float32(1e-3)
    elif activation == "exponential":
        values = values[:31]
    ones, zeros = np.ones(37, np.float32), np.zeros(37, np.float32)
    kernel, ones, zeros = kernel[..., : len(values), : len(values)], ones[: len(values)], zeros[: len(values)]
    image = Input("image", (), (1, 1, len(values)), ones, zeros)
    for settings in [(), *SETTINGS.get(activation, [])]:
        graphs = [Graph((image, Activation("act", (0,), activation, settings)))]
        for path in ("sparse", "dense"):
            conv = Conv("conv", (0,), kernel, zeros, activation=activation, path=path, settings=settings)
            graphs.append(Graph((image, conv)))
        for graph in graphs:
            assert_agrees(graph, values.reshape(1, 1, 1, -1), target=TARGETS[target])


def test_logarithms_and_roots_of_all_numbers():
    values = np.float32([0, -1, np.inf, 1e-30, 2e-38, 1, 1.5, 0.7, 2, 1e30, 3e38])
    ones, zeros = np.ones(len(values), np.float32), np.zeros(len(values), np.float32)
    image = Input("image", (), (1, 1, len(values)), ones, zeros)
    for activation in ("log", "sqrt", "rsqrt"):
        graph = Graph((image, Activation("act", (0,), activation)))
        found = Model(graph, 1)(values.reshape(1, 1, 1, -1))
        expected = reference.run(graph, values.reshape(1, 1, 1, -1))
        np.testing.assert_allclose(found, expected, rtol=3e-7, atol=1e-7)


@pytest.mark.parametrize("kind", ["max", "average"])
@pytest.mark.parametrize("padding_counts", [True, False])
@pytest.mark.parametrize("size, strides, padding", [
    ((3, 3), (2, 2), (1, 1, 1, 1)),
    ((2, 2), (2, 2), (0, 0, 0, 0)),
    ((3, 2), (1, 1), (1, 2, 0, 1)),
    ((2, 3), (1, 3), (0, 1, 1, 1)),
    ((7, 6), (3, 2), (2, 3, 1, 1)),
    ((13, 17), (1, 1), (0, 0, 0, 0)),
])  # fmt: skip
def test_pools(kind, padding_counts, size, strides, padding):
    rng = np.random.default_rng(0)
    pool = Pool("pool", (0,), kind, size, strides, padding, padding_counts)
    for nodes in ([pool], [Activation("act", (0,), "relu"), dataclasses.replace(pool, inputs=(1,))]):
        graph = with_sums(image_of((13, 17, 5)), *nodes)
        assert_agrees(graph, random_images(rng, graph, 2))


@pytest.mark.parametrize("kind", ["max", "average"])
def test_global_pools_and_what_follows(kind):
    rng = np.random.default_rng(1)
    nodes = [image_of((6, 7, 5)), GlobalPool("pool", (0,), kind), Multiply("scaled", (0, 1))]
    nodes += [Multiply("square", (2, 2)), Concatenate("both", (2, 3)), Add("twice", (4, 4, 4), "silu")]
    graph = with_sums(*nodes)
    assert_agrees(graph, random_images(rng, graph, 3), threads=2)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("shape", [(3, 37, 5), (2, 16, 3), (4, 1, 3), (1, 1, 7)])
def test_products_of_rows(shape, target):
    rng = np.random.default_rng(3)
    height, width, channels = shape
    columns = tuple(int(place) * channels for place in rng.integers(width, size=6))
    rows = tuple(range(0, height * width * channels, width * channels))
    nodes = [image_of(shape), Gather("second", (0,), rows, columns, tuple(range(channels)))]
    nodes += [MatMul("matmul", (0, 1)), MatMul("again", (1, 0)), Activation("shares", (3,), "softmax")]
    graph = Graph((*nodes, Flatten("flat", (2,)), Flatten("other", (4,)), Concatenate("both", (5, 6))))
    for threads in (1, 2):
        images = rng.normal(size=(2, *shape)).astype(np.float32)
        assert_agrees(graph, images, threads=threads, target=TARGETS[target])


@pytest.mark.parametrize("size, activation", [((9, 11), "relu"), ((7, 7), "gelu")])
def test_a_residual_on_both_paths(size, activation):
    """Of AVX-512 the last vector of 7x7 is a half."""
    rng = np.random.default_rng(2)
    for path in ("sparse", "dense"):
        convs = [
            Conv(name, inputs, random_kernel(rng, (3, 3, 4, 4), 0.5), np.ones(4, np.float32),
                 padding=(1, 1, 1, 1), activation=activation, path=path)
            for name, inputs in (("a", (0,)), ("b", (1, 0)), ("c", (2, 1)))
        ]  # fmt: skip
        graph = with_sums(image_of((*size, 4)), *convs)
        assert_agrees(graph, random_images(rng, graph, 2))


@pytest.mark.slow
@pytest.mark.parametrize("images", [1, 2, 3, 7])
def test_threads_change_no_bit(images):
    rng = np.random.default_rng(3)
    graph = random_network(rng, largest=30)
    batch = random_images(rng, graph, images)
    alone = Model(graph, 1)(batch)
    for threads in (2, 3, 5):
        model = Model(graph, threads)
        for _ in range(3):
            np.testing.assert_array_equal(model(batch), alone)


def test_pixels_may_be_uint8():
    rng = np.random.default_rng(4)
    graph = random_network(rng, largest=40)
    pixels = rng.integers(0, 256, (3, *graph.nodes[0].shape), dtype=np.uint8)
    model = Model(graph)
    np.testing.assert_array_equal(model(pixels), model(pixels.astype(np.float32)))
    np.testing.assert_array_equal(model(pixels[:, ::-1]), model(np.ascontiguousarray(pixels[:, ::-1])))
    assert model(pixels[:0]).shape == (0, graph.shapes()[-1][2])


def test_several_inputs_and_outputs():
    rng = np.random.default_rng(4)
    graph = several_ends(rng)
    images, signals = rng.normal(size=(5, 5, 6, 3)), rng.normal(size=(5, 6, 3))
    images, signals = images.astype(np.float32), signals.astype(np.float32)
    expected = reference.run_all(graph, [images, signals])
    for threads in (1, 2):
        model = Model(graph, threads)
        assert model.inputs == {"image": (5, 6, 3), "signal": (6, 3)}
        assert model.outputs == {"kind": (4,), "signal": (6, 3), "shares": (5, 6, 4)}
        for given in ([images, signals], {"signal": signals, "image": images}):
            found = model(given)
            assert list(found) == list(expected)
            for name, array in found.items():
                np.testing.assert_allclose(array, expected[name], rtol=0, atol=1e-5)
        assert max(model.time_nodes([images, signals], 1)) > 0
    signals[2, 3, 1] = np.nan
    reached = {name: np.isnan(array) for name, array in model([images, signals]).items()}
    wanted = {name: np.isnan(array) for name, array in reference.run_all(graph, [images, signals]).items()}
    for name, array in reached.items():
        np.testing.assert_array_equal(array, wanted[name])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros((1, 5, 6, 3), np.float32), "a list of 2 inputs. Received: 1"),
        ([np.zeros((1, 5, 6, 3), np.float32)] * 3, "a list of 2 inputs. Received: 3"),
        ({"image": np.zeros((1, 5, 6, 3), np.float32)}, "by the names 'image', 'signal'"),
        ([np.zeros((1, 5, 6, 3), np.uint8), np.zeros((2, 6, 3), np.uint8)], "as many of each"),
        ([np.zeros((1, 5, 6, 3), np.uint8), np.zeros((1, 3, 6), np.uint8)], r"\[n, 6, 3\]"),
    ],
)
def test_wrong_lists_of_inputs_are_refused(given, message):
    with pytest.raises(ValueError, match=f"`images` must be.*{message}"):
        Model(several_ends(np.random.default_rng(4)), 1)(given)


@pytest.mark.parametrize("dtype", ["float64", "float16", "int64", "int8", "bool", "uint16"])
def test_numbers_that_float32_holds_are_converted(dtype):
    rng = np.random.default_rng(4)
    graph = random_network(rng, largest=40)
    pixels = rng.integers(0, 2 if dtype == "bool" else 100, (3, *graph.nodes[0].shape)).astype(dtype)
    model = Model(graph, 1)
    np.testing.assert_array_equal(model(pixels), model(pixels.astype(np.float32)))
    if dtype in ("float64", "float16"):
        pixels[1, 0, 0, 0] = np.nan
        np.testing.assert_array_equal(model(pixels), model(pixels.astype(np.float32)))


@pytest.mark.parametrize(
    "number", [np.float64(0.1), np.float64(1e300), np.int64(2**24 + 1), np.uint64(2**63 + 1)]
)
def test_numbers_that_float32_does_not_hold_are_refused(number):
    graph = random_network(np.random.default_rng(5))
    pixels = np.full((1, *graph.nodes[0].shape), number)
    with pytest.raises(ValueError, match=r"numbers that float32 holds.*astype\(np.float32\)"):
        Model(graph, 1)(pixels)


@pytest.mark.parametrize("wrong", ["complex", "rows", "one image", "objects"])
def test_wrong_images_are_refused(wrong):
    graph = random_network(np.random.default_rng(5))
    shape = graph.nodes[0].shape
    images = {
        "complex": np.zeros((1, *shape), np.complex64),
        "rows": np.zeros((1, shape[0] + 1, *shape[1:]), np.float32),
        "one image": np.zeros(shape, np.float32),
        "objects": np.array([None]),
    }[wrong]
    with pytest.raises(ValueError, match=r"`images` must be float32 or uint8 \[n, "):
        Model(graph)(images)


@pytest.mark.parametrize("threads", [0, -1, 1.5, True, "2", 1025])
def test_wrong_threads_are_refused(threads):
    with pytest.raises(ValueError, match="`threads` must be a whole number from 1 to 1024"):
        Model(random_network(np.random.default_rng(5)), threads)


def test_a_pixel_that_padding_enlarges_is_refused():
    kernel, bias = np.ones((3, 3, 1, 1), np.float32), np.zeros(1, np.float32)
    conv = Conv("conv", (0,), kernel, bias, padding=(2, 2, 2, 2))
    with pytest.raises(runtime.GraphError, match="Conv 'conv': an image of one pixel"):
        Model(with_sums(image_of((1, 1, 1)), conv))


def test_more_memory_than_there_is_is_refused(monkeypatch):
    graph = random_network(np.random.default_rng(5))
    monkeypatch.setattr("tfprune.runtime.limits.available_bytes", lambda: 100)
    with pytest.raises(runtime.GraphError, match="of memory and may have 100 B"):
        Model(graph)


@pytest.mark.parametrize("images, rounds", [(0, 1), (1, 0)])
def test_timing_needs_an_image_and_a_round(images, rounds):
    graph = random_network(np.random.default_rng(5))
    with pytest.raises(ValueError, match="needs an image and a round"):
        Model(graph).time_nodes(np.zeros((images, *graph.nodes[0].shape), np.float32), rounds)


@pytest.mark.slow
def test_nodes_are_timed():
    rng = np.random.default_rng(6)
    graph = random_network(rng)
    model = Model(graph)
    batch = random_images(rng, graph, 1)
    before = model(batch)
    microseconds = model.time_nodes(batch, rounds=2)
    assert len(microseconds) == len(graph.nodes) and min(microseconds) >= 0 and max(microseconds) > 0
    np.testing.assert_array_equal(model(batch), before)


def test_memory_is_counted():
    rng = np.random.default_rng(7)
    kernel = random_kernel(rng, (3, 3, 64, 64), 0.9)
    graph = with_sums(image_of((8, 8, 64)), Conv("conv", (0,), kernel, np.zeros(64, np.float32)))
    model = Model(graph, 2)
    weights = 8 * np.count_nonzero(kernel)
    before = model.memory_bytes
    assert before >= weights + 4 * (2 * 8 * 8 * 64)
    model(random_images(rng, graph, 2))
    assert before < model.memory_bytes < 2 * before + weights


@pytest.mark.slow
def test_a_process_without_keras_and_tensorflow_loads_and_runs(tmp_path):
    rng = np.random.default_rng(8)
    graph = random_network(rng)
    images = random_images(rng, graph, 2)
    runtime.write_file(graph, tmp_path / "model.tfprune", "float32")
    np.save(tmp_path / "images.npy", images)
    code = (
        "import sys, numpy as np; from tfprune import runtime\n"
        "logits = runtime.load('model.tfprune')(np.load('images.npy')); np.save('logits.npy', logits)\n"
        "print(*sorted({name.split('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert {"tfprune", "numpy", "llvmlite"} <= loaded
    assert not loaded & {"keras", "tensorflow", "jax", "torch", "ai_edge_litert", "absl"}
    np.testing.assert_array_equal(np.load(tmp_path / "logits.npy"), Model(graph)(images))


def test_an_image_without_sense_leaves_nothing_to_the_next():
    """NaN in an image: in its logits, and in no later ones'."""
    rng = np.random.default_rng(9)
    for width in (17, 18, 33):
        nodes = [image_of((9, width, 3))]
        kernels = [random_kernel(rng, (3, 3, channels, 4), 0.0) for channels in (3, 4)]
        for index, kernel in enumerate(kernels):
            conv = Conv(f"conv{index}", (index,), kernel, np.ones(4, np.float32), padding=(1, 1, 1, 1))
            nodes.append(dataclasses.replace(conv, activation="relu"))
        nodes.append(Pool("pool", (2,), "average", (3, 3), (1, 1), (1, 1, 1, 1)))
        nodes.append(Add("add", (2, 3)))
        graph = with_sums(*nodes)
        images = random_images(rng, graph, 2)
        for threads in (1, 2):
            model = Model(graph, threads)
            expected = model(images)
            assert np.isnan(model(np.full_like(images, np.nan))).all()
            np.testing.assert_array_equal(model(images), expected)


@pytest.mark.parametrize("shape, strides", [((1, 64, 2), (4, 4)), ((2, 64, 2), (8, 8)), ((3, 5, 2), (2, 7))])
def test_strides_beyond_the_image(shape, strides):
    """Some phases have no rows at all."""
    rng = np.random.default_rng(10)
    first = Conv("first", (0,), random_kernel(rng, (1, 1, 2, 3), 0.0), np.ones(3, np.float32))
    second = Conv(
        "second", (1,), random_kernel(rng, (1, 1, 3, 4), 0.0), np.ones(4, np.float32), strides=strides
    )
    graph = with_sums(image_of(shape), first, second)
    assert_agrees(graph, random_images(rng, graph, 2))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")
def test_a_forked_process_can_go_on_with_a_model(tmp_path):
    code = (
        "import os, sys, numpy as np; from tfprune import runtime; from tfprune.runtime.graph import *\n"
        "one = np.ones(2, np.float32)\n"
        "nodes = (Input('image', (), (4, 4, 2), one, one), GlobalPool('pool', (0,), 'max'))\n"
        "model = runtime.Model(Graph(nodes), 2); images = np.ones((5, 4, 4, 2), np.float32)\n"
        "model(images); child = os.fork()\n"
        "if not child: os._exit(0 if (model(images) == 2).all() else 1)\n"
        "sys.exit(os.waitpid(child, 0)[1] != 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def hostile_graphs():
    one = np.ones(1, np.float32)
    empty = SparseArray((1, 1, 1, 1), np.zeros(0, np.int64), np.zeros(0, np.float32))
    phases = Conv("conv", (0,), empty, np.zeros(1, np.float32), strides=(65535, 30000))
    yield "strides of", (Input("image", (), (1, 40000, 1), one, one), phases)
    many = [Input("image", (), (1, 1, 1), one, one)]
    many += [Multiply(f"times{i}", (i, i)) for i in range(2000)]
    yield "", (*many, Pool("pool", (2000,), "max", (1, 1), (1, 1)))
    wide = SparseArray((1, 1, 2**13, 2**15), np.zeros(0, np.int64), np.zeros(0, np.float32))
    image = Input("image", (), (1, 1, 2**13), np.ones(2**13, np.float32), np.ones(2**13, np.float32))
    dense = Conv("dense", (0,), wide, np.zeros(2**15, np.float32), path="dense")
    yield "of memory", (image, dense)


@pytest.mark.slow
@pytest.mark.parametrize("index", range(3))
def test_graphs_made_to_exhaust_the_machine(index, monkeypatch):
    """Each is small on disk; it runs, or is refused, at once."""
    message, nodes = list(hostile_graphs())[index]
    monkeypatch.setattr("tfprune.runtime.limits.available_bytes", lambda: 2**29)
    if message:
        with pytest.raises(runtime.GraphError, match=message):
            Model(Graph(nodes))
    else:
        assert Model(Graph(nodes), 1)(np.ones((1, *nodes[0].shape), np.float32)).shape == (1, 1)


def test_an_empty_call_that_is_slow_hides_no_operation(monkeypatch):
    graph = random_network(np.random.default_rng(12))
    model = Model(graph, 1)
    empty = iter([1.0] + [1e-6] * 100)
    monkeypatch.setattr(model, "_seconds", lambda span, arena: next(empty) if span == (0, 0) else 3e-6)
    images = np.zeros((1, *graph.nodes[0].shape), np.float32)
    np.testing.assert_allclose(model.time_nodes(images, 2), 2.0)
