"""Convolutions of whole numbers: NumPy's to the last bit, on processors with and without `vpdpbusd`."""

import itertools

import numpy as np
import pytest

from tests.support.networks import random_images, random_kernel, random_network
from tfprune import runtime
from tfprune.runtime import machine
from tfprune.runtime.graph import Concatenate, Conv, Flatten, GlobalPool, Graph, Input, Output, Quantize
from tfprune.runtime.integers import channel_scales, to_int8
from tfprune.runtime.kernels.integer_convolution import IntegerConvolution

pytestmark = pytest.mark.one_backend

HOST = machine.host()
WITHOUT = {
    "x86-64-v4": "+avx2,+fma,+avx512f,+avx512bw,+avx512vl,+avx512dq,+avx512cd",
    "x86-64-v3": "+avx2,+fma",
    "x86-64": "",
}
X86 = HOST.triple.startswith("x86_64")


def has(features: str) -> bool:
    return {name for name in features.split(",") if name} <= set(HOST.features.split(","))


# Each of this machine's ways to compute: the names of processors, the host's own first.
MACHINES = {"host": HOST} | {
    name: machine.machine(HOST.triple, name, features)
    for name, features in WITHOUT.items()
    if X86 and has(features)
}


def step_of(number: float) -> float:
    return float(np.float32(number))


def integers_of(kernel) -> np.ndarray:
    """The weights of a kernel in steps, int64 in its shape."""
    positions, integers, _ = to_int8(kernel)
    weights = np.zeros(kernel.size, np.int64)
    weights[positions] = integers
    return weights.reshape(kernel.shape)


def sums_of(steps: np.ndarray, node: Conv) -> np.ndarray:
    """The sums of a convolution of whole numbers, int64 `[rows, columns, channels]`."""
    kernel = np.asarray(node.kernel)
    weights = integers_of(kernel)
    top, bottom, left, right = node.padding
    padded = np.pad(steps.astype(np.int64), ((top, bottom), (left, right), (0, 0)))
    rows, columns, filters = node.output_shape([steps.shape])
    sums = np.zeros((rows, columns, filters), np.int64)
    inner, of_group = kernel.shape[2], filters // node.groups
    for row, column in itertools.product(*map(range, kernel.shape[:2])):
        y, x = row * node.dilation[0], column * node.dilation[1]
        seen = padded[y :: node.strides[0], x :: node.strides[1]][:rows, :columns]
        for group in range(node.groups):
            own = slice(group * of_group, (group + 1) * of_group)
            some = seen[:, :, group * inner : (group + 1) * inner]
            sums[:, :, own] += some @ weights[row, column][:, own]
    return sums


def computed(steps: np.ndarray, step: float, node: Conv, residual=None, to=None) -> np.ndarray:
    """A convolution's value in float32, or with `to`, a step, its steps.

    `residual` is an array of float32, or steps and their step. All arithmetic is in the kernels' order.
    """
    share = 1.0 if to is None else to
    scales = (channel_scales(node.kernel).astype(np.float64) * step / share).astype(np.float32)
    bias = (node.bias.astype(np.float64) / share).astype(np.float32)
    value = sums_of(steps, node).astype(np.float32) * scales + bias
    if isinstance(residual, tuple):
        value = value + residual[0].astype(np.float32) * np.float32(residual[1] / share)
    elif residual is not None:
        value = value + (residual if to is None else residual * np.float32(1 / to))
    if to is None:
        return np.maximum(value, 0) if node.activation == "relu" else value
    largest = np.float32(min(255, 6 / to)) if node.activation == "relu6" else np.float32(255)
    return np.rint(np.clip(value, np.float32(0), largest)).astype(np.uint8)


def conv(rng, name, inputs, shape, sparsity=0.5, **options) -> Conv:
    bias = rng.normal(0, 0.3, shape[-1]).astype(np.float32)
    return Conv(name, inputs, random_kernel(rng, shape, sparsity), bias, path="int8", **options)


# Of a part of each width, of several tiles, and of rows longer than a vector.
SIZES = [(4, 4), (5, 3), (8, 8), (16, 16), (19, 40)]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", MACHINES)
def test_a_chain_of_convolutions_equals_numpy_to_the_bit(name, size):
    """With all kinds of residuals and targets."""
    rng = np.random.default_rng(size)
    first, second, third, fourth = (step_of(step) for step in (1 / 255, 0.013, 0.021, 0.028))
    image = Input("image", (), (*size, 3), np.full(3, 1 / 255, np.float32), np.zeros(3, np.float32))
    a = conv(rng, "a", (1,), (3, 3, 3, 8), activation="relu", padding=(1, 1, 1, 1))
    b = conv(
        rng, "b", (3,), (3, 3, 4, 8), activation="relu6", padding=(2, 2, 2, 2), dilation=(2, 2), groups=2
    )
    c = conv(rng, "c", (5, 3), (1, 3, 8, 8), 0.9, activation="relu", padding=(0, 0, 1, 1))
    d = conv(rng, "d", (5, 6), (3, 3, 8, 8), activation="relu", padding=(1, 1, 1, 1))
    f = conv(rng, "f", (8, 6), (1, 1, 8, 8))
    steps = [
        Quantize(f"steps {source}", (source,), step)
        for source, step in ((0, first), (2, second), (4, third), (7, fourth))
    ]
    nodes = (image, steps[0], a, steps[1], b, steps[2], c, d, steps[3], f, Flatten("flat", (9,)))
    images = rng.integers(0, 256, (2, *size, 3), dtype=np.uint8)
    model = runtime.Model(Graph(nodes), 1, target=MACHINES[name])
    kernels = [kernel for kernel in model._binding.plan.kernels if isinstance(kernel, IntegerConvolution)]
    assert {kernel.dot for kernel in kernels} == {MACHINES[name].dot_products}
    assert {(kernel.target_bits, kernel.residual_bits) for kernel in kernels} == {
        (8, 0),
        (32, 8),
        (8, 32),
        (32, 32),
    }
    found = model(images)
    for pixels, output in zip(images, found, strict=True):
        of_a = computed(pixels, first, a, to=second)
        of_b = computed(of_a, second, b, to=third)
        of_c = computed(of_b, third, c, residual=(of_a, second))
        of_d = computed(of_b, third, d, residual=of_c, to=fourth)
        expected = computed(of_d, fourth, f, residual=of_c)
        assert min(len(np.unique(some)) for some in (of_a, of_b, of_d)) > 15
        np.testing.assert_array_equal(output.reshape(expected.shape), expected)
    if name == "host":
        np.testing.assert_array_equal(runtime.Model(Graph(nodes), 3)(images), found)


@pytest.mark.parametrize("strides", [(2, 2), (1, 2), (3, 1)], ids=str)
@pytest.mark.parametrize("name", MACHINES)
def test_strides_and_a_residual_of_steps(name, strides):
    """The phases of steps; the last convolution writes steps, to which it adds steps."""
    rng = np.random.default_rng(strides)
    first, second, third = step_of(1 / 255), step_of(0.02), step_of(0.03)
    image = Input("image", (), (11, 21, 3), np.full(3, 1 / 255, np.float32), np.zeros(3, np.float32))
    a = conv(rng, "a", (1,), (3, 3, 3, 6), activation="relu", padding=(1, 1, 1, 1), strides=strides)
    b = conv(rng, "b", (3, 3), (1, 1, 6, 6), activation="relu")
    c = conv(rng, "c", (5,), (2, 2, 6, 5), 0.3)
    nodes = (
        image,
        Quantize("steps", (0,), first),
        a,
        Quantize("steps of a", (2,), second),
        b,
        Quantize("steps of b", (4,), third),
        c,
        Flatten("flat", (6,)),
    )
    images = rng.integers(0, 256, (2, 11, 21, 3), dtype=np.uint8)
    found = runtime.Model(Graph(nodes), 1, target=MACHINES[name])(images)
    for pixels, output in zip(images, found, strict=True):
        of_a = computed(pixels, first, a, to=second)
        of_b = computed(of_a, second, b, residual=(of_a, second), to=third)
        expected = computed(of_b, third, c)
        np.testing.assert_array_equal(output.reshape(expected.shape), expected)


@pytest.mark.parametrize("name", MACHINES)
def test_steps_that_others_read_as_well(name):
    """What reads a rounded value in float32 reads the steps' products, of images and of vectors."""
    rng, step = np.random.default_rng(0), step_of(0.0125)
    image = Input("image", (), (7, 5, 3), np.full(3, 1 / 50, np.float32), np.full(3, -1, np.float32))
    whole = conv(rng, "whole", (1,), (3, 3, 3, 4), padding=(1, 1, 1, 1), activation="relu")
    nodes = (
        image,
        Quantize("steps", (0,), step),
        whole,
        Quantize("steps of it", (2,), step),
        Concatenate("both", (1, 3)),
        GlobalPool("largest", (4,), "max"),
        Quantize("steps of a vector", (5,), 2 * step),
        Flatten("flat", (4,)),
    )
    graph = Graph(nodes, (Output("pooled", 6, (7,)), Output("flat", 7, (7, 5, 7))))
    pixels = rng.integers(0, 256, (7, 5, 3), dtype=np.uint8)
    found = runtime.Model(graph, 1, target=MACHINES[name])(pixels[None])

    def rounded(x, step):
        steps = np.rint(np.clip(x * np.float32(1 / step), 0, 255))
        return steps.astype(np.uint8), steps.astype(np.float32) * np.float32(step)

    steps, values = rounded(pixels * np.float32(1 / 50) + np.float32(-1), step)
    _, others = rounded(computed(steps, step, whole), step)
    both = np.concatenate([values, others], axis=2)
    assert {0, 255} < set(steps.reshape(-1).tolist())
    np.testing.assert_array_equal(found["flat"][0], both)
    np.testing.assert_array_equal(found["pooled"][0], rounded(both.max((0, 1)), 2 * step)[1])


@pytest.mark.parametrize("seed", range(3))
def test_a_file_keeps_the_weights_that_are_computed_with(seed, tmp_path):
    """Of any type: those of 8 bits are what multiplies."""
    rng, results = np.random.default_rng(seed), []
    graph = random_network(rng, version=3)
    images = random_images(rng, graph, 2)
    expected = runtime.Model(graph, 1)(images)
    for weights in ("float32", "float16"):
        path = tmp_path / weights
        runtime.write_file(graph, path, weights)
        read = runtime.read_file(path)
        for node, own in zip(read.nodes, graph.nodes, strict=True):
            if getattr(own, "path", "") == "int8":
                np.testing.assert_array_equal(*(integers_of(each.kernel) for each in (node, own)))
                np.testing.assert_array_equal(*(channel_scales(each.kernel) for each in (node, own)))
        results.append(runtime.load(path, threads=1)(images))
    np.testing.assert_array_equal(results[0], expected)
    assert any(getattr(node, "path", "") == "int8" for node in graph.nodes)


def test_a_nan_reaches_the_outputs():
    rng = np.random.default_rng(0)
    image = Input("image", (), (6, 6, 2), np.full(2, 1 / 255, np.float32), np.zeros(2, np.float32))
    whole = conv(rng, "whole", (1,), (3, 3, 2, 3), 0.9, activation="relu")
    graph = Graph((image, Quantize("steps", (0,), 2.0**-8), whole, Flatten("flat", (2,))))
    images = np.ones((2, 6, 6, 2), np.float32)
    images[1, 1, 1, 0] = np.nan
    found = runtime.Model(graph, 1)(images).reshape(2, 4, 4, 3)
    assert np.isfinite(found[0]).all()
    assert np.isnan(found[1, :2, :2]).all() and np.isfinite(found[1, 2:]).all()


def test_factors_beyond_float32_are_refused():
    ones = np.ones(2, np.float32)
    image = Input("image", (), (6, 6, 2), ones, 0 * ones)
    kernel = np.full((1, 1, 2, 2), 3e38, np.float32)
    whole = Conv("whole", (1,), kernel, ones, path="int8")
    graph = Graph((image, Quantize("steps", (0,), 1024.0), whole, Flatten("flat", (2,))))
    with pytest.raises(runtime.GraphError, match="Conv 'whole': its factors must be float32 numbers"):
        runtime.Model(graph)
