"""The library beside a `model.tfprune`: used where it fits, and said where it does not."""

import copy
import dataclasses
import json
import pickle
import warnings

import numpy as np
import pytest

from tests.support.networks import random_images, random_network
from tfprune import runtime
from tfprune.runtime.ahead.loaded import LoadedLibrary
from tfprune.runtime.ahead.targets import this_machines_target
from tfprune.runtime.graph import Conv, Graph

HERE = this_machines_target()
pytestmark = [
    pytest.mark.one_backend,
    pytest.mark.skipif(HERE is None, reason="this machine is none of the targets"),
]


@pytest.fixture
def path(tmp_path):
    runtime.write_file(random_network(np.random.default_rng(3)), tmp_path / "model.tfprune")
    return tmp_path / "model.tfprune"


def description(path):
    return path.with_name("model.tfprune.c") / "model.json"


def object_file(path):
    return description(path).parent / HERE / "model.o"


def objects_of_another(path):
    """The object file of a network whose values have the same shapes."""
    graph = runtime.read_file(path)
    at = next(index for index, node in enumerate(graph.nodes) if isinstance(node, Conv))
    other = dataclasses.replace(graph.nodes[at], kernel=-np.asarray(graph.nodes[at].kernel))
    nodes = (*graph.nodes[:at], other, *graph.nodes[at + 1 :])
    runtime.compile_library(Graph(nodes, graph.outputs), path.parent / "other", HERE)
    return (path.parent / "other" / HERE / "model.o").read_bytes()


def change(path, **entries):
    description(path).write_text(json.dumps(json.loads(description(path).read_text()) | entries))


def first_built(path):
    return json.loads(description(path).read_text())["built"][0]


def with_frames_of(path, frame):
    built = first_built(path)
    return built | {"frames": [frame for _ in built["processors"]]}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("threads", [1, 2, 3, 20])
def test_it_is_used_and_changes_nothing(tmp_path, seed, threads):
    rng = np.random.default_rng(400 + seed)
    graph = random_network(rng)
    path = tmp_path / "model.tfprune"
    runtime.write_file(graph, path)
    library = runtime.compile_library(path, targets=HERE)
    assert library.folder == tmp_path / "model.tfprune.c"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = runtime.load(path, threads)
        own = runtime.load(path, threads, use_library=False)
    assert model.compiled_ahead and not own.compiled_ahead
    for dtype in ("uint8", "float32"):
        images = random_images(rng, graph, 5, dtype)
        expected = own(images)
        for found in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            np.testing.assert_array_equal(found(images), expected)
    images[1, 0, 0, 0] = np.nan
    np.testing.assert_array_equal(model(images), own(images))
    assert len(model.time_nodes(images, rounds=1)) == len(graph.nodes)
    assert (model.inputs, model.outputs) == (own.inputs, own.outputs)
    assert model.memory_bytes > 0 and model.graph is not None


def test_the_graph_is_that_of_the_file_it_was_loaded_from(path):
    """It is read when it is asked for, and the file may be another one by then."""
    runtime.compile_library(path, targets=HERE)
    before = runtime.read_file(path)
    model = runtime.load(path)
    runtime.write_file(random_network(np.random.default_rng(4)), path)
    assert [node.name for node in model.graph.nodes] == [node.name for node in before.nodes]
    assert model.graph is model.graph


def test_a_damaged_file_is_refused_with_a_library_too(path):
    runtime.compile_library(path, targets=HERE)
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    with (
        pytest.warns(UserWarning, match="another file"),
        pytest.raises(runtime.FileFormatError, match="checksum"),
    ):
        runtime.load(path)


def test_without_one_nothing_is_said(path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not runtime.load(path).compiled_ahead


@pytest.mark.parametrize("damage, reason", [
    (lambda path: change(path, version="0.0.1"), "tfprune 0.0.1 made it, and this is "),
    (lambda path: change(path, source="0" * 64), "it was made of another file"),
    (lambda path: change(path, built=[]), "a target must be this machine"),
    (lambda path: description(path).write_text("{"), "Expecting property name"),
    (lambda path: description(path).write_text("[]"), "must have an object. Received: list"),
    (lambda path: description(path).write_text('{"version": "0.0.1"}'), "that of 0.0.1 differs in built, "),
    (lambda path: change(path, built=[{"target": HERE}]), "must be made anew, .* differs in arena_bytes, "),
    (lambda path: change(path, built=[first_built(path) | {"frames": []}]), "a frame. Received: 0 frames"),
    (lambda path: change(path, built=[with_frames_of(path, {"nodes": 3})]), "have the fields of tfprune"),
    (lambda path: object_file(path).unlink(), "No such file"),
    (lambda path: object_file(path).write_bytes(object_file(path).read_bytes()[:-9]), "model.json describes"),
    (lambda path: object_file(path).write_bytes(b""), "model.json describes: it is damaged or another's"),
    (lambda path: object_file(path).write_bytes(objects_of_another(path)), "model.json describes"),
    (lambda path: runtime.write_file(random_network(np.random.default_rng(4)), path), "made of another file"),
    (lambda path: runtime.compile_library(path, targets="thumbv7em"), "a target must be this machine"),
    (lambda path: runtime.compile_library(path, targets=HERE, weights="int8"), "with int8 weights"),
])  # fmt: skip
def test_one_that_does_not_fit_is_said(path, damage, reason):
    runtime.compile_library(path, targets=HERE)
    damage(path)
    with pytest.warns(UserWarning, match=f"model.tfprune.c is not used, .* anew: .*{reason}"):
        model = runtime.load(path)
    assert not model.compiled_ahead


def test_a_limit_of_memory_holds_for_it(path):
    runtime.compile_library(path, targets=HERE)
    needed = runtime.load(path, 1).memory_bytes
    assert runtime.load(path, 1, memory_limit=needed).compiled_ahead
    with pytest.raises(runtime.FileFormatError, match="memory"):
        runtime.load(path, 1, memory_limit=needed - 1)


def test_a_graph_has_no_place_beside_a_file():
    with pytest.raises(ValueError, match="`folder` must be given"):
        runtime.compile_library(random_network(np.random.default_rng(0)))


def test_a_description_of_other_fields_is_refused(path):
    folder = runtime.compile_library(path, targets=HERE).folder
    change(path, version="0.0.1", built=[{"target": HERE}])
    with pytest.raises(ValueError, match="must be made anew, by tfprune .*: that of 0.0.1 differs in arena"):
        LoadedLibrary(folder)
