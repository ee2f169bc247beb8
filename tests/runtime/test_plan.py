"""Plans are data: they hold no address, and run wherever they are bound."""

import dataclasses
import io
import pickle
import subprocess
import sys

import numpy as np
import pytest

from tests.support.networks import random_images, random_network
from tfprune import runtime
from tfprune.runtime import machine
from tfprune.runtime.graph import Conv, GlobalPool, Graph, Input
from tfprune.runtime.model import Model
from tfprune.runtime.plan.binding import Binding
from tfprune.runtime.plan.layout import Tiles, cut
from tfprune.runtime.plan.lowering import make_plan
from tfprune.runtime.plan.parts import Even, TilesOrGroups
from tfprune.runtime.plan.plan import Constant

SEEDS = (0, 3, 6)
# Below every address of a process with 64-bit pointers.
LEAST_ADDRESS = 2**32
# Makes plans of files, and classifies with plans that another process made.
OTHER_PROCESS = """
import pickle, sys
import numpy as np
from tfprune import runtime
from tfprune.runtime import machine
from tfprune.runtime.plan.lowering import make_plan

other_memory = [np.ones(1000 + 16 * i, np.float32) for i in range(100)]
for seed in sys.argv[1:]:
    made = make_plan(runtime.read_file(f"{seed}.tfprune"), machine.host())
    with open(f"{seed}.there", "wb") as file:
        pickle.dump(made, file)
    with open(f"{seed}.here", "rb") as file:
        model = runtime.Model.from_plan(pickle.load(file), 2)
    np.save(f"{seed}.logits.npy", model(np.load(f"{seed}.images.npy")))
"""


class RecordingUnpickler(pickle.Unpickler):
    """Notes the modules of the classes and functions that a pickle names."""

    def __init__(self, stream):
        super().__init__(stream)
        self.modules = set()

    def find_class(self, module, name):
        self.modules.add(module)
        return super().find_class(module, name)


def as_plain(data):
    """Returns data as nested tuples of names and numbers, and refuses everything else."""
    if dataclasses.is_dataclass(data):
        fields = (as_plain(getattr(data, field.name)) for field in dataclasses.fields(data))
        return (type(data).__name__, *fields)
    if isinstance(data, np.ndarray):
        assert data.flags.c_contiguous and data.dtype in (np.float32, np.int32, np.int64)
        return (data.dtype.str, data.shape, data.tobytes())
    if isinstance(data, tuple):
        return (type(data).__name__, *map(as_plain, data))
    assert type(data) in (int, float, str, bool), data
    return data


def integers(data):
    """Returns all whole numbers in plain data, outside of the constants' bytes."""
    if isinstance(data, tuple):
        return [number for part in data for number in integers(part)]
    return [data] if type(data) is int else []


@pytest.fixture(scope="module")
def exchanged(tmp_path_factory):
    """For each seed: a graph, images, the plan made here, and what another process made of each."""
    folder = tmp_path_factory.mktemp("plans")
    made = {}
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        runtime.write_file(random_network(rng, largest=30), folder / f"{seed}.tfprune", "float32")
        graph = runtime.read_file(folder / f"{seed}.tfprune")
        images, plan = random_images(rng, graph, 3), make_plan(graph, machine.host())
        np.save(folder / f"{seed}.images.npy", images)
        (folder / f"{seed}.here").write_bytes(pickle.dumps(plan))
        made[seed] = (graph, images, plan)
    command = [sys.executable, "-c", OTHER_PROCESS, *map(str, SEEDS)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {
        seed: (*made[seed], (folder / f"{seed}.there").read_bytes(), np.load(folder / f"{seed}.logits.npy"))
        for seed in SEEDS
    }


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_a_plan_gives_the_same_bits_in_any_process(exchanged, seed):
    graph, images, _, from_there, logits_there = exchanged[seed]
    expected = Model(graph, 1)(images)
    np.testing.assert_array_equal(logits_there, expected)
    for threads in (1, 2):
        model = Model.from_plan(pickle.loads(from_there), threads)
        assert model.memory_bytes == Model(graph, threads).memory_bytes
        np.testing.assert_array_equal(model(images), expected)
        assert len(model.time_nodes(images, 1)) == len(graph.nodes)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_plan_is_plain_data_without_addresses(exchanged, seed):
    graph, _, plan, from_there, _ = exchanged[seed]
    unpickler = RecordingUnpickler(io.BytesIO(from_there))
    there = unpickler.load()
    assert all(
        module.split(".")[0] == "numpy" or "tfprune.runtime." in module for module in unpickler.modules
    )
    # Made in different processes with different memory, and twice in one.
    assert as_plain(there) == as_plain(plan) == as_plain(make_plan(graph, machine.host()))
    found = integers(as_plain(plan))
    assert len(found) > 100 and all(-LEAST_ADDRESS < number < LEAST_ADDRESS for number in found)


def test_binding_changes_no_plan(exchanged):
    _, images, plan, _, _ = exchanged[SEEDS[0]]
    before = as_plain(plan)
    Model.from_plan(plan, 2)(images)
    assert as_plain(plan) == before


def test_bindings_of_one_plan_are_independent(exchanged):
    graph, images, plan, _, _ = exchanged[SEEDS[0]]
    expected = Model(graph, 1)(images)
    first, second = Model.from_plan(plan, 1), Model.from_plan(plan, 2)
    for image in range(len(images)):
        for model in (first, second):
            here = slice(image, image + 1)
            np.testing.assert_array_equal(model(images[here]), expected[here])
    del first, model
    np.testing.assert_array_equal(second(images), expected)


def test_bindings_have_addresses_of_their_own_steps_and_the_same_constants(exchanged):
    _, _, plan, _, _ = exchanged[SEEDS[0]]
    first, second = Binding(plan), Binding(plan)
    assert first.steps(1).address(0) != second.steps(1).address(0)
    for step, ours, theirs in zip(plan.steps, first._arguments, second._arguments, strict=True):
        np.testing.assert_array_equal(ours, theirs)
        for argument, number in zip(step.arguments, ours, strict=True):
            constant = isinstance(argument, Constant)
            assert number == (plan.constants[argument.index].ctypes.data if constant else argument)


def test_arrays_that_are_not_contiguous_become_constants_that_are():
    ones, kernel = np.ones(4, np.float32), np.eye(4, dtype=np.float32).reshape(1, 1, 4, 4)
    bias = np.arange(8, dtype=np.float32)[::2]
    nodes = (Input("image", (), (1, 1, 4), ones, ones), Conv("conv", (0,), kernel, bias))
    np.testing.assert_array_equal(Model(Graph(nodes), 1)(np.ones((1, 1, 1, 4), np.float32)), [2 + bias])


@pytest.mark.parametrize("total", [1, 3, 40])
@pytest.mark.parametrize("threads", [1, 2, 7])
def test_parts_cover_a_step_once(total, threads):
    covered = [i for start, stop in Even(total).cut(threads) for i in range(start, stop)]
    assert covered == list(range(total))
    costs = tuple(range(1, 12))
    cells = [
        (tile, group)
        for first_tile, last_tile, first_group, last_group in TilesOrGroups(total, costs).cut(threads)
        for tile in range(first_tile, last_tile)
        for group in range(first_group, last_group)
    ]
    assert sorted(cells) == [(tile, group) for tile in range(total) for group in range(len(costs))]


@pytest.mark.parametrize("path", ["sparse", "dense"])
@pytest.mark.parametrize("size", [1, 3])
def test_lists_that_32_bits_cannot_count_are_refused(monkeypatch, path, size):
    """On planes and on a vector; the limit is lowered to the numbers of a small network."""
    ones = np.ones(4, np.float32)
    kernel = np.ones((size, size, 4, 4), np.float32)
    image = Input("image", (), (2 * size - 1, 2 * size - 1, 4), ones, ones)
    nodes = (image, Conv("conv", (0,), kernel, ones, path=path), GlobalPool("pool", (1,), "max"))
    make_plan(Graph(nodes), machine.host())
    monkeypatch.setattr("tfprune.runtime.plan.packing.MAX_VALUES", 3)
    if (path, size) == ("dense", 1):
        make_plan(Graph(nodes), machine.host())  # A matrix, no list.
        return
    with pytest.raises(
        runtime.GraphError, match="Conv 'conv': its weights are more, or farther apart, than 3"
    ):
        make_plan(Graph(nodes), machine.host())


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("target", ["host", "microcontroller"])
def test_a_tight_arena_is_smaller_and_changes_nothing(seed, target):
    """Places are used again by other values, images after images."""
    rng = np.random.default_rng(300 + seed)
    graph = random_network(rng, extra=8)
    where = machine.host()
    if target == "microcontroller":  # One number to a vector, as without vector registers.
        where = dataclasses.replace(where, lanes=1)
    loose, tight = (make_plan(graph, where, tight=tight) for tight in (False, True))
    assert tight.arena_size < loose.arena_size
    images = random_images(rng, graph, 3)
    expected = Model.from_plan(loose, 1)(images)
    for threads in (1, 2):
        model = Model.from_plan(tight, threads)
        for _ in range(2):
            np.testing.assert_array_equal(model(images), expected)


@pytest.mark.parametrize("lanes, registers, height, rows", [
    (16, 32, 1203, 51),
    (8, 16, 603, 27),
    (4, 32, 303, 15),
    (1, 32, 216, 6),
])  # fmt: skip
def test_whole_tiles_of_a_smaller_target_reach_far_beyond_a_narrow_image(lanes, registers, height, rows):
    """The target's tiles compute more in vain than the source's, whose rows are short."""
    where = dataclasses.replace(machine.host(), lanes=lanes, registers=registers)
    ones = np.ones(1, np.float32)
    conv = Conv("conv", (0,), np.ones((rows, 1, 1, 1), np.float32), ones, path="sparse")
    image = Input("image", (), (height, 1, 1), ones, 0 * ones)
    make_plan(Graph((image, conv, GlobalPool("pool", (1,), "average"))), where)


@pytest.mark.parametrize("positions, lanes, tiles", [
    (55, 16, Tiles(4, 1, half=True)),
    (57, 16, Tiles(4, 1)),
    (55, 8, Tiles(7, 1)),
    (16 * 20, 16, Tiles(10, 2)),
    (16 * 20 - 8, 16, Tiles(10, 2)),
])  # fmt: skip
def test_half_a_vector_is_saved_at_the_end_of_the_only_tile(positions, lanes, tiles):
    assert cut(positions, lanes, 13) == tiles
