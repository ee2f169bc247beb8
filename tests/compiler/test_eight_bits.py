"""Values of 8 bits in compiled networks: where they are, how they are calibrated, and when they are taken."""

import keras
import numpy as np
import pytest
from keras import layers

from tfprune import runtime
from tfprune.compiler import paths
from tfprune.compiler.compile import compile_model
from tfprune.compiler.eight_bits import _step, with_steps, without_steps
from tfprune.errors import UserError
from tfprune.export import export_sparse
from tfprune.runtime.graph import Conv, Quantize
from tfprune.sparsity import prune_low_magnitude, prune_to, strip_pruning

pytestmark = pytest.mark.one_backend


def block(x, filters, strides=1):
    y = layers.Conv2D(filters, 3, strides, "same", activation="relu")(x)
    y = layers.Conv2D(filters, 3, padding="same")(y)
    if strides > 1:
        x = layers.Conv2D(filters, 1, strides)(x)
    return layers.ReLU()(layers.Add()([x, y]))


@pytest.fixture(scope="module")
def network():
    """A small residual network, pruned to a half."""
    keras.utils.set_random_seed(0)
    image = keras.Input((12, 12, 3))
    x = layers.Rescaling(1 / 127.5, -1)(image)
    x = layers.Conv2D(8, 3, padding="same", activation="relu")(x)
    x = block(block(block(x, 8), 16, 2), 16)
    x = layers.GlobalAveragePooling2D()(x)
    model = prune_low_magnitude(keras.Model(image, layers.Dense(5)(x)), None)
    prune_to(model, 0.5)
    return strip_pruning(model)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (32, 12, 12, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def graph(network, images):
    return compile_model(network, values="int8", calibration=images)


def of(graph, kind):
    return [node for node in graph.nodes if isinstance(node, kind)]


def test_convolutions_behind_relu_multiply_whole_numbers(graph, network, images):
    by_path = {}
    for node in of(graph, Conv):
        by_path.setdefault(node.path, []).append(node.name)
    assert (
        len(by_path["int8"]) == 7 and len(by_path["sparse"]) == 2
    )  # All but the first, and the dense layer.
    for node in of(graph, Quantize):
        (readers,) = [[each for each in graph.nodes if graph.nodes.index(node) in each.inputs]]
        assert readers and all(each.path == "int8" for each in readers)
    # The sum of the first block is read in 8 bits by a convolution and as a residual.
    assert any(isinstance(graph.nodes[node.inputs[-1]], Quantize) for node in of(graph, Conv)[1:3])
    plain = compile_model(network)
    exact, found = (runtime.Model(each, 1)(images) for each in (plain, graph))
    assert 0 < np.abs(found - exact).max() < 0.03 * np.abs(exact).max()
    again, steps, convolutions = without_steps(graph)
    assert [node.name for node in again.nodes] == [node.name for node in plain.nodes]
    np.testing.assert_array_equal(runtime.Model(again, 1)(images), exact)
    assert len(steps) == len(of(graph, Quantize)) and len(convolutions) == 7


def test_some_convolutions_only(graph, images):
    """A value that others read in float32 is there in both forms."""
    plain, steps, convolutions = without_steps(graph)
    exact = runtime.Model(plain, 1)(images)
    for some in (convolutions[:1], convolutions[1:2], convolutions[2:]):
        mixed, places = with_steps(plain, steps, some)
        assert [graph.name for graph in plain.nodes] == [mixed.nodes[place].name for place in places]
        assert [mixed.nodes[place].path for place in map(places.__getitem__, some)] == ["int8"] * len(some)
        found = runtime.Model(mixed, 1)(images)
        assert 0 < np.abs(found - exact).max() < 0.03 * np.abs(exact).max()


def test_the_step_has_the_smallest_error():
    rng = np.random.default_rng(0)
    sample = np.abs(rng.normal(size=20_000)).astype(np.float32)
    outlier = np.append(sample, np.float32(40))

    def error(step):
        return np.square(np.clip(np.rint(outlier / step), 0, 255) * step - outlier).mean()

    step = _step(outlier, 40.0)
    assert step == float(np.float32(step))
    assert error(step) <= 1.0001 * min(error(40 / 255 * share) for share in np.linspace(0.01, 1, 100))
    assert 0.9 < _step(sample, float(sample.max())) / (sample.max() / 255) <= 1
    assert _step(np.zeros(10, np.float32), 0.0) is None


def test_values_that_are_zero_stay_in_float32(network):
    black = keras.models.clone_model(network)
    for weight in black.weights:
        weight.assign(-np.abs(weight))
    graph = compile_model(black, values="int8", calibration=np.full((2, 12, 12, 3), 255, np.uint8))
    assert not of(graph, Quantize) and {node.path for node in of(graph, Conv)} == {"sparse"}


CHOICES = {
    "all whole numbers": ({"int8": 1.0}, [3, 2, 1], {"int8", "sparse"}),
    "the network is slower with them": ({"int8": 1.0}, [1, 2, 3], {"sparse"}),
    "each is slower, and all together faster": ({"int8": 3.0}, [3, 2], {"int8", "sparse"}),
    "none, and dense": ({"int8": 9.0, "dense": 0.5}, [2, 3], {"dense"}),
}


@pytest.mark.parametrize("case", CHOICES)
def test_the_fastest_is_taken(case, graph, monkeypatch):
    costs, totals, expected = CHOICES[case]
    calls = []

    def measured(graphs, rounds):
        calls.append(len(graphs))
        if len(calls) > 1:
            return [[total] for total in totals[: len(graphs)]]
        paths_of = [{node.path for node in of(each, Conv)} for each in graphs]
        names = ["int8" if "int8" in found else next(iter(found)) for found in paths_of]
        return [[costs.get(name, 2.0)] * len(each.nodes) for name, each in zip(names, graphs, strict=True)]

    monkeypatch.setattr(paths, "_node_times", measured)
    chosen = paths.choose_paths(graph)
    assert {node.path for node in of(chosen, Conv)} == expected
    assert bool(of(chosen, Quantize)) == ("int8" in expected)
    for node in of(chosen, Conv)[1:-1]:
        assert node.costs.keys() == {"sparse", "dense", "int8"}
    assert calls[0] == 3


def test_the_file_has_what_was_chosen(network, images, tmp_path):
    path = tmp_path / "model.tfprune"
    export_sparse(network, path, values="int8", calibration=images)
    read = runtime.read_file(path)
    whole = [node for node in of(read, Conv) if node.path == "int8"]
    assert path.read_bytes()[8] == (3 if whole else 1)
    assert all({"sparse", "dense", "int8"} == node.costs.keys() for node in of(read, Conv)[1:-1])
    exact = runtime.Model(compile_model(network), 1)(images)
    assert np.abs(runtime.load(path)(images) - exact).max() < 0.03 * np.abs(exact).max()


WRONG = {
    "no images": ({"values": "int8"}, ValueError, '`calibration` must be images for values="int8"'),
    "images for float32": ({"calibration": np.ones(1)}, ValueError, 'None for values="float32"'),
    "other values": ({"values": "int4"}, ValueError, "`values` must be one of float32, int8.*'int4'"),
    "none": ({"values": "int8", "calibration": np.ones((0, 12, 12, 3))}, UserError, "at least one image"),
    "other shape": ({"values": "int8", "calibration": np.ones((2, 9, 9, 3))}, UserError, "does not fit"),
    "not finite": (
        {"values": "int8", "calibration": np.full((2, 12, 12, 3), np.nan)},
        UserError,
        "not finite on the `calibration` images",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments(case, network):
    arguments, kind, message = WRONG[case]
    with pytest.raises(kind, match=message):
        compile_model(network, **arguments)


def test_several_inputs_are_refused(images):
    a, b = keras.Input((4, 4, 3)), keras.Input((4, 4, 3))
    both = layers.Flatten()(layers.Conv2D(2, 2)(layers.ReLU()(layers.Add()([a, b]))))
    with pytest.raises(UserError, match="networks of one input. Received: 2"):
        compile_model(keras.Model([a, b], both), values="int8", calibration=images)
