"""The engine beside float64 references made by the definitions."""

import dataclasses
import itertools
import os

import numpy as np
import pytest

from tests.support.sparse_graphs import Builder, resnet
from tests.support.sparse_reference import Reference, check, close, images_of
from tfprune.runtime import machine
from tfprune.runtime.crew import Crew
from tfprune.sparse_training.engine import Engine
from tfprune.sparse_training.graph import ACTIVATIONS, BatchNorm, Conv
from tfprune.sparse_training.plan import FORWARD, INPUT_GRADIENT, WEIGHTS_GRADIENT

pytestmark = pytest.mark.one_backend


def test_a_residual_network_is_the_references():
    check(resnet())


def after_conv(make, channels=6, side=6, density=0.5):
    """Returns a network: a convolution, what `make` adds, and a head."""
    b = Builder((side, side, 3), seed=3)
    x = b.conv(0, channels, density=density, bias=True)
    b.dense(make(b, x), 4)
    return b.graph


PARTS = {
    "activation of a normalization": lambda b, x: b.activation(b.norm(x), "relu6"),
    "normalization alone": lambda b, x: b.norm(x),
    "no gamma": lambda b, x: b.activation(b.norm(x, gamma=False)),
    "no beta": lambda b, x: b.activation(b.norm(x, beta=False)),
    "neither": lambda b, x: b.activation(b.norm(x, gamma=False, beta=False)),
    "frozen": lambda b, x: b.activation(b.norm(x, frozen=True, trainable=False)),
    "frozen, gamma learns": lambda b, x: b.activation(b.norm(x, frozen=True)),
    "vectors fixed": lambda b, x: b.activation(b.norm(x, trainable=False)),
    "constant": lambda b, x: b.activation(b.affine(x), "leaky_relu"),
    "affine of normalization": lambda b, x: b.activation(b.affine(b.norm(x))),
    "normalization behind activation": lambda b, x: b.norm(b.activation(x)),
    "two normalizations of a value": lambda b, x: b.sum(b.norm(x), b.norm(x)),
    "residual": lambda b, x: b.activation(b.sum(b.norm(b.conv(x, 6)), x)),
    "residual without norm": lambda b, x: b.activation(b.sum(x, b.conv(x, 6))),
    "relu of a convolution": lambda b, x: b.activation(
        b.conv(b.activation(b.conv(x, 5, bias=True)), 4), "relu6"
    ),
    "normalization of a relu": lambda b, x: b.norm(b.activation(b.conv(x, 5))),
    "sum with silu": lambda b, x: b.activation(b.sum(b.norm(b.conv(x, 6)), b.norm(x)), "silu"),
    "twice": lambda b, x: b.activation(b.sum(x, x)),
    "three times": lambda b, x: b.sum(x, b.norm(x), x, x),
    "sum of three": lambda b, x: b.activation(b.sum(b.conv(x, 6), x, b.norm(x)), "hard_silu"),
    "read inside": lambda b, x: b.sum(b.activation(n := b.norm(x)), n),
    "preactivation": lambda b, x: b.sum(x, b.conv(b.activation(b.norm(x)), 6)),
    "concatenation": lambda b, x: b.activation(b.concatenate(x, b.conv(x, 3), x)),
    "dense block": lambda b, x: b.norm(b.concatenate(x, b.activation(b.norm(b.conv(x, 4))))),
    "product": lambda b, x: b.product(b.conv(x, 6), b.activation(x, "sigmoid")),
    "square": lambda b, x: b.product(x, x),
    "squeeze and excite": lambda b, x: b.product(
        x, b.activation(b.dense(b.activation(b.dense(b.global_pool(x), 3)), 6), "sigmoid")
    ),
    "maximum": lambda b, x: b.pool(b.activation(x), size=3, padding=(1, 1, 1, 1)),
    "maximum with zeros": lambda b, x: b.pool(x, size=3, padding=(1, 0, 1, 0), counts=True),
    "overlapping maxima": lambda b, x: b.sum(b.pool(x, size=3, strides=1, padding=(1, 1, 1, 1)), x),
    "average": lambda b, x: b.pool(x, "average", size=3, padding=(0, 1, 0, 1)),
    "average with zeros": lambda b, x: b.pool(x, "average", size=3, padding=(1, 1, 1, 1), counts=True),
    "global maximum": lambda b, x: b.global_pool(x, "max"),
    "pad": lambda b, x: b.activation(b.norm(b.conv(b.pad(x, (1, 2, 0, 1)), 5, padding=(0,) * 4))),
    "stride": lambda b, x: b.activation(b.norm(b.conv(x, 8, strides=2))),
    "stride without window": lambda b, x: b.sum(b.conv(x, 5, 1, strides=2), b.conv(x, 5, strides=2)),
    "depthwise": lambda b, x: b.activation(b.norm(b.conv(b.activation(b.norm(x)), 6, groups=6)), "relu6"),
    "groups": lambda b, x: b.conv(x, 9, groups=3, strides=2),
    "dilation": lambda b, x: b.conv(x, 4, dilation=2, padding=(2,) * 4),
    "fixed kernel": lambda b, x: b.activation(b.norm(b.conv(x, 6, trainable=False))),
    "no dropout": lambda b, x: b.dropout(x, rate=0.0),
}


@pytest.mark.parametrize("name", PARTS)
def test_an_operation_is_the_references(name):
    check(after_conv(PARTS[name]), count=7, batch_size=20)


@pytest.mark.parametrize("function", ACTIVATIONS)
def test_an_activation_is_the_references(function):
    check(after_conv(lambda b, x: b.activation(b.norm(x), function)), count=5)


@pytest.mark.parametrize("name", PARTS)
def test_the_reference_has_the_slopes_of_the_loss(name):
    """The gradients that the engine is compared with, beside differences of the loss, in float64."""
    graph = after_conv(PARTS[name])
    reference, images, rng = Reference(graph), np.float64(images_of(graph, 3)), np.random.default_rng(1)
    output = reference.forward(images, training=True)
    gradient = rng.normal(size=output.shape)
    moving = {name: list(pair) for name, pair in Reference(graph).moving.items()}
    reference.backward(gradient)
    gradients = reference.gradients
    way = {name: rng.normal(size=gradients[name].shape) for name in gradients}
    slope = sum(np.sum(gradients[name] * way[name]) for name in gradients)

    def loss(step):
        moved = Reference(graph)
        moved.moving = {name: list(pair) for name, pair in moving.items()}
        for name, direction in way.items():
            moved.values[name] = moved.values[name] + step * direction
        return np.sum(moved.forward(images, training=True) * gradient)

    step = 1e-6
    found = (loss(step) - loss(-step)) / (2 * step)
    assert found == pytest.approx(slope, rel=1e-4, abs=1e-4)


def test_a_kernel_that_is_used_twice_learns_from_both():
    b = Builder((5, 5, 3))
    x = b.activation(b.conv(0, 4, density=0.5))
    y = b.conv(x, 4, density=0.5, bias=True)
    twice = dataclasses.replace(b.nodes[y], name="again", inputs=(y,))
    b.nodes.append(twice)
    b.dense(b.sum(len(b.nodes) - 1, x), 3)
    check(b.graph)


@pytest.mark.parametrize("mean", [0.0, 1000.0])
def test_a_variance_beside_a_large_mean_does_not_cancel(mean):
    b = Builder((8, 8, 1))
    b.nodes[0] = dataclasses.replace(b.nodes[0], scale=np.ones(1, np.float32), shift=np.float32([mean]))
    x = b.norm(0)
    moving = np.float32([mean * 0.99])
    b.nodes[x] = dataclasses.replace(b.nodes[x], moving_mean=moving, moving_variance=np.ones(1, np.float32))
    b.dense(x, 2)
    check(b.graph, count=32, tolerance=5e-4)


def far_from_moving_means():
    """Returns a network whose normalizations see channels 1000 deviations away, and a constant one."""
    b = Builder((5, 5, 3))
    b.nodes[0] = dataclasses.replace(b.nodes[0], shift=np.float32([1000, -5, 0.1]))
    x = b.activation(b.norm(b.conv(b.norm(0), 5, bias=True)), "tanh")
    x = b.activation(b.norm(b.conv(x, 4, density=0.5, bias=True)), "tanh")
    b.dense(b.global_pool(x), 3)
    for node in b.nodes:
        if isinstance(node, Conv) and node.kernel.shape[0] == 3:
            node.bias.values[:3] = 1000, -2000, 1000.1
            written = np.arange(node.kernel.size) if node.kernel.positions is None else node.kernel.positions
            node.kernel.values[written % node.kernel.shape[3] == 2] = 0
    return b.graph


@pytest.mark.parametrize("count", [1, 21])
def test_a_mean_far_from_the_moving_one_costs_no_digits(count):
    """By the float64 reference; and the sums depend on neither threads nor batches before."""
    graph = far_from_moving_means()
    check(graph, count, batch_size=40, tolerance=2e-3)
    found = []
    norms = [node for node in graph.nodes if isinstance(node, BatchNorm)]
    for threads in (1, 3):
        engine = Engine(graph, 40, threads)
        if threads > 1:
            engine.forward(images_of(graph, 40, seed=9), training=True)
            for node in norms:
                moving = engine.moving(node.moving_name)
                moving.mean[:], moving.variance[:] = node.moving_mean, node.moving_variance
        outputs = engine.forward(images_of(graph, count), training=True)
        engine.backward(outputs)
        moving = [part for node in norms for part in engine.moving(node.moving_name)]
        found.append((outputs, engine.gradients.copy(), *moving))
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_smaller_batch_is_the_same_in_a_larger_engine():
    """A batch that fills some of the tiles, and one of them in part."""
    graph = resnet()
    images = images_of(graph, 21)
    found = []
    for size in (21, 50):
        engine = Engine(graph, size, 2)
        engine.forward(images_of(graph, size, seed=7), training=False)  # Leaves numbers in all tiles.
        outputs = engine.forward(images, training=True)
        engine.backward(np.ones_like(outputs))
        found.append((outputs, engine.gradients.copy()))
    for one, other in zip(*found, strict=True):
        close(one, other, 1e-5)


def test_chains_of_tiles_change_no_bit():
    """One thread does the steps of some tiles one after the other; four, each with few tiles, do not."""
    graph = resnet()
    images = images_of(graph, 110)
    found = []
    for threads in (1, 2, 3, 4):
        engine = Engine(graph, 110, threads)
        outputs = engine.forward(images, training=True)
        engine.backward(outputs)
        found.append((outputs, engine.gradients.copy(), engine.forward(images)))
    for other in found[1:]:
        for one, another in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(one, another)


def test_a_machine_with_short_vectors_computes_the_same():
    host = machine.host()
    graph = resnet(blocks=(1,), side=4)
    found = []
    for target in (host, machine.machine(host.triple, "generic")):
        engine = Engine(graph, 20, 1, target=target)
        outputs = engine.forward(images_of(graph, 20), training=True)
        engine.backward(outputs)
        found.append((outputs, engine.gradients))
    for one, other in zip(*found, strict=True):
        close(one, other, 1e-4)


def test_pixels_of_bytes_are_those_of_floats():
    graph = resnet()
    images = np.random.default_rng(0).integers(0, 256, (5, *graph.shapes()[0]), dtype=np.uint8)
    engine = Engine(graph, 8, 1)
    np.testing.assert_array_equal(engine.forward(images), engine.forward(np.float32(images)))


@pytest.mark.parametrize("whole_channels", [False, True])
def test_dropout_draws_by_seed_and_step(whole_channels):
    b = Builder((6, 6, 2))
    b.nodes[0] = dataclasses.replace(b.nodes[0], scale=np.ones(2, np.float32), shift=np.ones(2, np.float32))
    b.dropout(b.conv(0, 200, size=1, bias=True), 0.3, whole_channels)
    graph, images = b.graph, np.zeros((33, 6, 6, 2), np.float32)
    engine = Engine(graph, 40, 2, seed=4)
    kept = engine.forward(images)
    first, second = (engine.forward(images, training=True) for _ in range(2))
    assert engine.step == 2
    dropped = first == 0
    assert not np.array_equal(dropped, second == 0)
    np.testing.assert_allclose(first[~dropped], kept[~dropped] / 0.7, rtol=1e-6)
    shares = dropped.mean((1, 2)) if whole_channels else dropped
    assert np.isin(shares, (0, 1)).all()
    assert dropped.mean() == pytest.approx(0.3, abs=0.02)
    # Neighbours, in each direction, do not know of one another.
    for axis in (0, 3):
        moved = np.roll(dropped, 1, axis)
        assert (moved & dropped).mean() == pytest.approx(0.09, abs=0.02)
    engine.backward(np.ones_like(second))
    bias = engine.gradients[engine.slice_of(graph.parameters[1].name)]
    np.testing.assert_allclose(bias, (second != 0).sum((0, 1, 2)) / 0.7, rtol=1e-5)
    for seed, threads, same in ((4, 1, True), (5, 2, False)):
        other = Engine(graph, 40, threads, seed=seed)
        assert np.array_equal(other.forward(images, training=True), first) == same
        other.step = 1
        assert np.array_equal(other.forward(images, training=True), second) == same


def test_dropout_of_whole_images():
    b = Builder((3, 3, 1))
    b.dropout(b.conv(0, 4, size=1, bias=True), 0.3)
    b.nodes[-1] = dataclasses.replace(b.nodes[-1], whole_images=True)
    engine = Engine(b.graph, 400, 2)
    images = np.zeros((400, 3, 3, 1), np.float32)
    dropped = engine.forward(images, training=True) == 0
    assert np.isin(dropped.mean((1, 2, 3)), (0, 1)).all()
    assert dropped.mean() == pytest.approx(0.3, abs=0.08)


def test_a_number_that_is_none_reaches_the_output():
    graph = resnet()
    for number in (np.nan, np.inf):
        engine = Engine(graph, 8, 2)
        engine.values[3] = number
        engine.refresh()
        outputs = engine.forward(images_of(graph, 8), training=True)
        assert not np.isfinite(outputs).any()
        engine.backward(outputs)
        assert np.isnan(engine.gradients).any()


def test_nothing_below_the_lowest_that_learns_has_a_gradient():
    b = Builder((6, 6, 2))
    x = b.activation(b.norm(b.conv(0, 4, trainable=False), frozen=True, trainable=False))
    x = b.activation(b.conv(x, 4, trainable=False))
    b.dense(x, 3)
    engine = check(b.graph)
    assert {step.kind for step in engine.plan.backward} == {WEIGHTS_GRADIENT, "sums and activations"}


def test_a_network_that_learns_nothing_has_outputs():
    b = Builder((4, 4, 2))
    b.dense(b.conv(0, 3, trainable=False), 2, trainable=False)
    engine = Engine(b.graph, 4, 1)
    outputs = engine.forward(images_of(b.graph, 4), training=True)
    engine.backward(outputs)
    assert outputs.shape == (4, 2) and not len(engine.gradients)


def test_a_map_can_be_the_output():
    b = Builder((4, 6, 2))
    b.conv(0, 3)
    engine = check(b.graph, 5)
    assert engine.forward(images_of(b.graph, 5)).shape == (5, 4, 6, 3)


def test_a_residual_block_takes_as_few_passes_as_it_can():
    """A convolution's sums come with it; a gradient's relu and sums come with the convolution behind."""
    graph = resnet(blocks=(3,))
    kinds = [step.kind for step in Engine(graph, 16, 1).plan.training]
    assert kinds.count("sums and activations") == 1 + 2 * 3
    assert kinds.count("normalization") == 1 + 2 * 3  # A small step each: no pass of its own.
    backward = [step.kind for step in Engine(graph, 16, 1).plan.backward]
    # The head's bias, and the last block's relu, behind which there is no convolution.
    assert backward.count("sums and activations") == 2
    assert backward.count("copies") == 0


def test_wrong_requests_are_refused():
    graph = resnet()
    engine = Engine(graph, 4, 1)
    shape = graph.shapes()[0]
    for images in (
        np.zeros((5, *shape), np.float32),
        np.zeros((0, *shape), np.float32),
        np.zeros((2, *shape)),
    ):
        with pytest.raises(ValueError, match="`images` must be float32 or uint8"):
            engine.forward(images)
    outputs = engine.forward(np.zeros((3, *shape), np.float32), training=True)
    with pytest.raises(ValueError, match=r"`output_gradients` must be \[3, 5\]. Received: \[4, 5\]"):
        engine.backward(np.zeros((4, 5)))
    engine.backward(outputs)
    with pytest.raises(RuntimeError, match="must follow a `forward` in training"):
        engine.backward(outputs)
    engine.forward(np.zeros((3, *shape), np.float32), training=True)
    engine.forward(np.zeros((3, *shape), np.float32))
    with pytest.raises(RuntimeError, match="must follow a `forward` in training"):
        engine.backward(outputs)
    for name, number in (("batch_size", 0), ("batch_size", 1.5), ("threads", 0), ("threads", 2000)):
        with pytest.raises(ValueError, match=f"`{name}` must be a whole number .* Received: {name}={number}"):
            Engine(graph, **{"batch_size": 4, "threads": 1, name: number})


def test_memory_is_asked_for_before_it_is_taken():
    graph = resnet()
    needed = Engine(graph, 64, 1).memory_bytes
    with pytest.raises(ValueError, match="needs .* of memory and may have"):
        Engine(graph, 64, 1, memory_limit=needed - 1)
    Engine(graph, 64, 1, memory_limit=needed)


def test_the_profile_says_what_each_kind_takes():
    graph = resnet()
    engine = Engine(graph, 16, 2)
    with pytest.raises(RuntimeError, match="must follow a `forward`"):
        engine.profile()
    engine.forward(images_of(graph, 9))
    names = [node.moving_name for node in graph.nodes if isinstance(node, BatchNorm)]
    before = [engine.moving(name).mean.copy() for name in names]
    shares = {share.kind: share for share in engine.profile(rounds=1)}
    assert engine.step == 0
    for name, mean in zip(names, before, strict=True):
        np.testing.assert_array_equal(engine.moving(name).mean, mean)
    # By hand: weights that stay x positions x images of whole tiles.
    positions = {}
    for node, shape in zip(graph.nodes, graph.shapes(), strict=True):
        if isinstance(node, Conv):
            positions[node.name] = len(node.kernel.values) * shape.height * shape.width * 16
    assert shares[FORWARD].multiply_adds == shares[WEIGHTS_GRADIENT].multiply_adds == sum(positions.values())
    first = next(node.name for node in graph.nodes if isinstance(node, Conv))
    assert shares[INPUT_GRADIENT].multiply_adds == sum(positions.values()) - positions[first]
    assert all(share.seconds > 0 for share in shares.values())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")
def test_a_forked_process_can_go_on(tmp_path):
    graph = resnet()
    images = images_of(graph, 8)
    engine = Engine(graph, 8, 3)
    expected = engine.forward(images)
    child = os.fork()
    if not child:
        try:
            np.save(tmp_path / "outputs.npy", engine.forward(images))
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    np.testing.assert_array_equal(np.load(tmp_path / "outputs.npy"), expected)


@pytest.mark.parametrize("moment", range(6))
def test_an_interrupted_call_leaves_the_next_one_in_order(moment):
    """An exception before the others are told, after some are, or after the caller's share."""
    graph = resnet()
    images = images_of(graph, 40)
    expected = Engine(graph, 40, 1)
    expected.backward(expected.forward(images, training=True))
    engine = Engine(graph, 40, 3)
    told = itertools.count()

    class Interrupted(Crew):
        def run(self, work):
            if next(told) != moment // 3:
                return super().run(work)
            if moment % 3 > 0:
                self._tasks[1].put(work)
            if moment % 3 > 1:
                super().run(work)
            raise KeyboardInterrupt

    engine._runner._crew = Interrupted(2)
    with pytest.raises(KeyboardInterrupt):
        engine.backward(engine.forward(images, training=True))
    names = [node.moving_name for node in graph.nodes if isinstance(node, BatchNorm)]
    for name, node in zip(names, [n for n in graph.nodes if isinstance(n, BatchNorm)], strict=True):
        engine.moving(name).mean[:] = node.moving_mean
        engine.moving(name).variance[:] = node.moving_variance
    engine.backward(engine.forward(images, training=True))
    np.testing.assert_array_equal(engine.gradients, expected.gradients)
