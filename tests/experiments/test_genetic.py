"""Masks as genes: individuals that are trained by themselves, the best of which the network becomes."""

from unittest import mock

import keras
import numpy as np
import pytest
from keras import layers

from tests.support.interrupted_runs import assert_same_rounds
from tfprune.errors import FileError
from tfprune.experiments.genetic import PopulationFile, evolve_masks
from tfprune.experiments.run import run_experiment
from tfprune.sparsity import masks_of, prune_low_magnitude, prune_to

QUICK = {"children": 3, "population": 3, "steps": 2, "batch_size": 8}


def problem():
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(40, 6)).astype("float32")
    return inputs, (inputs[:, 0] + inputs[:, 1] > 0).astype("int32")


def network():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((6,)), layers.Dense(8, "tanh", name="hidden"), layers.Dense(2, name="head")]
    )
    model = prune_low_magnitude(model, None)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def values(model):
    return [np.array(keras.ops.convert_to_numpy(weight)) for weight in model.weights]


@pytest.mark.slow
def test_the_network_becomes_the_best_individual_whose_removed_weights_are_zero():
    inputs, labels = problem()
    data = (inputs[:30], labels[:30]), (inputs[30:], labels[30:])
    model, lines = network(), []
    alive = evolve_masks(model, *data, **QUICK, log=lines.append)
    assert len(alive) == 3 and len(lines) == 6
    assert [one.cost for one in alive] == sorted(one.cost for one in alive)
    best, masks = alive[0], masks_of(model)
    assert best.cost == pytest.approx(best.loss + 1 - best.sparsity)
    assert all(np.array_equal(masks[name], mask) for name, mask in best.masks.items())
    kernels = [value for value in values(model) if value.shape in ((6, 8), (8, 2)) and value.dtype != bool]
    removed = sum(np.count_nonzero(~mask) for mask in masks.values())
    assert removed == round(best.sparsity * 64) > 0
    assert sum(np.count_nonzero(kernel == 0) for kernel in kernels if kernel.dtype.kind == "f") == removed
    assert model.evaluate(*data[1], verbose=0) == pytest.approx(best.loss, rel=1e-5)
    again = evolve_masks(network(), *data, **QUICK)
    assert [one.cost for one in again] == pytest.approx([one.cost for one in alive], rel=1e-5)


@pytest.mark.slow
def test_the_network_stays_as_it_is_where_a_training_fails():
    inputs, labels = problem()
    model = network()
    before = values(model)

    def stop(line):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evolve_masks(model, (inputs, labels), (inputs, labels), **QUICK, log=stop)
    assert all(np.array_equal(a, b) for a, b in zip(values(model), before, strict=True))


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"population": 1}, "`population` must be a whole number, at least 2"),
        ({"steps": 0}, "`steps` must be a whole number, at least 1"),
        ({"price": -1.0}, "`price` must be at least 0"),
    ],
)
def test_a_bad_number_is_an_error(changed, message):
    with pytest.raises(ValueError, match=message):
        evolve_masks(network(), problem(), problem(), **{**QUICK, **changed})


def stopped_after(count):
    def log(line):
        if line.startswith(f"copy {count} "):
            raise KeyboardInterrupt

    return log


def test_a_search_goes_on_from_its_file_and_ends_as_one_that_was_not_stopped(tmp_path):
    inputs, labels = problem()
    data = (inputs[:30], labels[:30]), (inputs[30:], labels[30:])
    whole = evolve_masks(network(), *data, **QUICK)
    path = tmp_path / "population.npz"
    for count in (2, 5):
        with pytest.raises(KeyboardInterrupt):
            evolve_masks(network(), *data, **QUICK, path=path, log=stopped_after(count))
    lines = []
    alive = evolve_masks(network(), *data, **QUICK, path=path, log=lines.append)
    assert [line.split(":")[0] for line in lines] == ["copy 6 of 6"]
    for ours, theirs in zip(alive, whole, strict=True):
        assert ours.cost == theirs.cost
        assert all(np.array_equal(a, b) for a, b in zip(ours.weights, theirs.weights, strict=True))
    assert evolve_masks(network(), *data, **QUICK, path=path, log=lines.append)[0].cost == alive[0].cost
    assert len(lines) == 1


@pytest.mark.parametrize("changed", [{"seed": 1}, {"steps": 3}])
def test_a_file_of_another_search_is_an_error(tmp_path, changed):
    data, path = problem(), tmp_path / "population.npz"
    evolve_masks(network(), data, data, **{**QUICK, "children": 0}, path=path)
    with pytest.raises(FileError, match=f"of another search: {next(iter(changed))} was not the same"):
        evolve_masks(network(), data, data, **{**QUICK, "children": 0, **changed}, path=path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(FileError, match="population.npz: not a readable population of a genetic search"):
        evolve_masks(network(), data, data, **{**QUICK, "children": 0}, path=path)


def test_weights_that_are_gone_at_the_start_stay_so_and_examples_have_weights():
    inputs, labels = problem()
    given = keras.Input((6,), name="inputs")
    model = keras.Model({"inputs": given}, network()(given))
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    prune_to(model, 0.4)
    gone = {name: ~mask for name, mask in masks_of(model).items()}
    data = {"inputs": inputs}, labels, np.linspace(0, 2, 40, dtype=np.float32)
    for one in evolve_masks(model, data, data, **QUICK):
        assert one.sparsity > 0.4
        assert all(not (one.masks[name] & mask).any() for name, mask in gone.items())


@pytest.mark.slow
def test_a_run_by_flags_that_was_stopped_ends_as_one_that_was_not(runs):
    flags = {**runs.one_shot_flags, "regime": "genetic", "population": 2, "children": 1, "copy_steps": 1}
    del flags["target_sparsity"]
    run = runs.run("genetic", **flags)
    result = run.round(1).read_result()
    assert 0.25 < result.sparsity < 0.95 and result.target_sparsity == pytest.approx(result.sparsity)
    config = runs.config("genetic_stopped", **flags)
    with pytest.raises(KeyboardInterrupt), mock.patch.object(PopulationFile, "write", stopping(2)):
        run_experiment(config, log=lambda line: None)
    assert_same_rounds(runs.run("genetic_stopped", **flags), run, (0, 1))


def stopping(count):
    write = PopulationFile.write

    def stop(self, born, alive):
        write(self, born, alive)
        if born == count:
            raise KeyboardInterrupt

    return stop
