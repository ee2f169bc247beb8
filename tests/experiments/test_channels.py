"""Runs that cut channels out: smaller networks, which stop, resume and pass on as others do."""

import csv
import dataclasses
import json

import keras
import numpy as np
import pytest

from tests.support.interrupted_runs import (
    Interrupt,
    assert_same_rounds,
    left_over,
    loss_history,
    run_until,
    without_rounds,
)
from tests.support.small_experiments import Runs
from tfprune import sparsity
from tfprune.errors import UserError
from tfprune.experiments.batches import Batches, load_dataset
from tfprune.experiments.channels import cut, plan_cut, size_of
from tfprune.experiments.networks import load_model
from tfprune.experiments.pruning import masks_sparsity
from tfprune.experiments.run import run_experiment
from tfprune.experiments.start import build_network, build_start, find_start, whole_size
from tfprune.runs.config import ExperimentConfig
from tfprune.runs.folder import RunFolder
from tfprune.runs.result import RoundResult
from tfprune.training.fit import compile_for_training

pytestmark = pytest.mark.slow

MODEL = "tests.support.own_networks:residual"
CUT = {"model": MODEL, "init_from": "wide", "prune": "channels"}
ROUNDS = {**CUT, "regime": "iterative", "schedule": "geometric", "rounds": 2, "epochs": (1,)}
GRADUAL = {**CUT, "regime": "gradual", "schedule": "polynomial", "epochs": (3,), "ramp_fraction": 0.7}


class Quick(Runs):
    """Runs on a network of one block, and of few examples."""

    def config(self, experiment, **flags):
        own = {"model": MODEL, "train_examples": 64, "batch_size": 16, "test_examples": 32}
        config = super().config(experiment, **{**own, **flags})
        of_resnets = {name: getattr(ExperimentConfig, name) for name in ("width", "stem", "weights")}
        return dataclasses.replace(config, **of_resnets)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return Quick(tmp_path_factory.mktemp("cut"))


@pytest.fixture(scope="module")
def wide(runs):
    return runs.run("wide", epochs=(1,))


@pytest.fixture(scope="module")
def in_rounds(runs, wide):
    return runs.run("cut_in_rounds", **ROUNDS, target_macs=0.36)


@pytest.fixture(scope="module")
def gradual(runs, wide):
    flags = {"target_params": 0.4, "lr_boundaries_epochs": (1, 2), "lr_factor": 0.5}
    return runs.run("cut_gradually", **GRADUAL, **flags)


def history(round_folder):
    with open(round_folder.path / "history.csv") as file:
        return list(csv.DictReader(file))


def widths(model):
    """The number of channels that each convolution makes."""
    return {layer.name: layer.filters for layer in model.layers if isinstance(layer, keras.layers.Conv2D)}


def test_each_round_leaves_what_the_schedule_says(wide, in_rounds):
    whole = size_of(load_model(wide.round(0)))
    before = in_rounds.round(0).read_result()
    assert before.size == before.whole == whole and before.target_left is None and not before.is_cut
    for number, left in ((1, 0.6), (2, 0.36)):
        result, model = in_rounds.round(number).read_result(), load_model(in_rounds.round(number))
        assert result.target_left == pytest.approx(left)
        assert result.whole == whole and result.size == size_of(model)
        assert 0.7 * left <= result.size.macs / whole.macs <= left
        assert result.is_cut and result.sparsity == 0.0 and result.target_sparsity is None
        assert result.metric_after_pruning is not None and result.epochs == 1


def test_the_network_is_a_plain_one_of_the_widths_in_its_result(wide, in_rounds):
    whole = widths(load_model(wide.round(0)))
    model, result = load_model(in_rounds.round(2)), in_rounds.round(2).read_result()
    assert not sparsity.pruned_layers(model)
    made = {layer: group for group in result.channels for layer in group.layers}
    assert made.keys() == whole.keys() == widths(model).keys()
    for layer, width in widths(model).items():
        assert (made[layer].kept, made[layer].of) == (width, whole[layer])
    assert all(width < whole[layer] for layer, width in widths(model).items())


def test_a_result_with_widths_is_read_as_it_was_written(in_rounds):
    result = in_rounds.round(2).read_result()
    content = json.loads(json.dumps(result.to_json()))
    assert RoundResult.from_json(content) == result
    content["channels"][0]["kept"] = 0
    with pytest.raises(ValueError, match=r"`channels` must be a list of \{layers, kept, of\}"):
        RoundResult.from_json(content)


def test_gradual_cuts_between_epochs_and_goes_on_at_the_rate(gradual):
    """Two cuts, at the start of the first two epochs: (1 - k / 2) ** 3 of the way are left after k."""
    result = gradual.round(1).read_result()
    assert result.target_left == 0.4 and 0.25 <= result.size.parameters / result.whole.parameters <= 0.4
    assert result.epochs == 3 and result.metric_after_pruning is None
    rates = [float(row["learning_rate"]) for row in history(gradual.round(1))]
    assert rates == pytest.approx([3e-3, 1.5e-3, 0.75e-3])


@pytest.mark.parametrize(
    "name, number, epoch, last_of_all",
    [
        ("in_rounds", 2, 1, 2),  # after the second cut, which begins from the first one's network
        ("gradual", 1, 2, 1),  # after the second cut, which no checkpoint has seen
    ],
)
def test_an_interrupted_run_ends_where_another_ends(runs, request, name, number, epoch, last_of_all):
    uninterrupted = request.getfixturevalue(name)
    config = without_rounds(runs, uninterrupted, f"{name}_interrupted_{epoch}", number)
    run_until(config, number, Interrupt(epoch=epoch, step=2))
    run = RunFolder(config.folder)
    assert not run.round(number).finished
    run_experiment(config, log=lambda line: None)
    assert_same_rounds(run, uninterrupted, range(last_of_all + 1))
    assert loss_history(run.round(number)) == loss_history(uninterrupted.round(number))
    assert not left_over(run)


def test_a_cut_network_goes_to_another_dataset_with_a_new_head(runs, in_rounds):
    """Digits by another name, and larger: widths and weights stay, inputs and statistics are the data's."""
    source = load_model(in_rounds.round(2))
    config = runs.config("start", init_from="cut_in_rounds", dataset="image_folder", image_size=16)
    dataset = load_dataset(dataclasses.replace(config, dataset="digits"))
    dataset = dataclasses.replace(dataset, mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.0))
    start = find_start(config)
    network = build_start(config, dataset, start)
    assert network.input_shape == (None, 16, 16, 3) and network.output_shape == (None, 10)
    assert widths(network) == widths(source)
    assert np.ravel(network.get_layer("normalization").mean).tolist() == [1.0, 2.0, 3.0]
    for layer in source.layers:
        same = [
            np.array_equal(*map(keras.ops.convert_to_numpy, pair))
            for pair in zip(layer.weights, network.get_layer(layer.name).weights, strict=True)
        ]
        assert all(same) or layer.name == "head"
    kernel, bias = network.get_layer("head").get_weights()
    assert not np.array_equal(kernel, source.get_layer("head").get_weights()[0]) and not bias.any()
    whole = build_network(config, dataset)
    assert whole_size(config, dataset, start, size_of(network)) == size_of(whole) != size_of(network)


def test_runs_that_start_from_a_cut_network(runs, in_rounds):
    """Pruned to zeros, and then cut again, with the masks, which stay."""
    first = in_rounds.round(2).read_result()
    further = {"epochs": (1,), "regime": "one_shot"}
    sparse = runs.run("cut_then_sparse", init_from="cut_in_rounds", target_sparsity=0.5, **further)
    result = sparse.round(1).read_result()
    assert (result.size, result.whole, result.channels) == (first.size, first.whole, first.channels)
    assert result.sparsity == pytest.approx(0.5, abs=0.01)
    config = runs.config("both", **{**CUT, **further, "init_from": "cut_then_sparse", "target_macs": 0.1})
    batches = Batches(config, load_dataset(config))
    start = build_start(config, batches.dataset, find_start(config))
    smaller = cut(config, start, 0.5, batches, 1)
    assert size_of(smaller).macs <= 0.5 * first.size.macs
    masked = {wrapper.layer.name: wrapper.masks[0] for wrapper in sparsity.pruned_layers(smaller)}
    assert masked.keys() == {"stem", "wide", "narrow", "head"}
    assert 0.1 < masks_sparsity(smaller) < 0.9


def test_what_is_cut_is_repaired_on_plain_training_examples(runs, wide):
    """Right after the cut, before any training, on the examples that the round draws."""
    config = runs.config("repaired", **{**CUT, "regime": "one_shot", "target_macs": 0.5, "repair": "ridge"})
    config = dataclasses.replace(config, repair_images=48)
    batches, model = Batches(config, load_dataset(config)), load_model(wide.round(0))
    examples = batches.plain_inputs(1, 48)
    assert examples.shape == (48, 8, 8, 3) and np.array_equal(examples, batches.plain_inputs(1, 48))
    held = {image.tobytes() for image in batches.dataset.train.inputs}
    assert all(image.tobytes() in held for image in examples)
    assert len(batches.plain_inputs(2, 1000)) == 64  # all there are
    expected = plan_cut(config, model, 0.5).apply(repair="ridge", images=examples)
    found = cut(config, model, 0.5, batches, 1)
    assert all(map(np.array_equal, found.get_weights(), expected.get_weights()))
    plain = cut(dataclasses.replace(config, repair="none", repair_images=512), model, 0.5, batches, 1)
    assert not np.array_equal(found.get_weights()[-2], plain.get_weights()[-2])


@pytest.mark.parametrize("score", ["taylor", "variance"])
def test_a_score_is_measured_on_training_batches(runs, wide, score):
    flags = {**CUT, "regime": "one_shot", "target_macs": 0.5, "channel_score": score, "gradient_batches": 2}
    config = runs.config("scored", **flags)
    model, batches = load_model(wide.round(0)), Batches(config, load_dataset(config))
    compile_for_training(model, config.settings(1))
    smaller = cut(config, model, 0.5, batches, 1)
    assert size_of(smaller).macs <= 0.5 * size_of(model).macs


@pytest.mark.parametrize(
    "flags, message",
    [
        ({}, "--prune=channels: needs either --target_macs or --target_params. Received: neither"),
        (
            {"target_macs": 0.5, "target_params": 0.5},
            "--prune=channels: needs either --target_macs or --target_params. Received: --target_macs=0.5 "
            "--target_params=0.5",
        ),
        (
            {"target_macs": 0.5, "batchnorm_after_pruning": "reset_removed"},
            "--batchnorm_after_pruning=reset_removed: must be keep or recalibrate with --prune=channels",
        ),
        (
            {"target_macs": 0.5, "schedule": "geometric"},
            "--schedule=geometric: must be constant for --regime=one_shot",
        ),
        (
            {"target_macs": 0.5, "regime": "gradual", "schedule": "geometric", "epochs": (4,), "cuts": 3},
            "--cuts=3: must be at most 2, the epochs of --ramp_fraction that begin with one",
        ),
        ({"target_macs": 0.5, "keep_layers": ("stam",)}, "--keep_layers=stam: `keep` must name layers"),
        ({"target_macs": 0.001}, "--target_macs=0.001: `macs` must be at least"),
        (
            {"target_macs": 0.5, "init_from": "cut_in_rounds"},
            "--target_macs=0.5: must be at most 0.",
        ),
        (
            {
                "target_macs": 0.1,
                "init_from": "cut_in_rounds",
                "model": "tests.support.own_networks:sequence",
            },
            f"--init_from=cut_in_rounds: was cut from another network: --model={MODEL}, unlike --model=tests",
        ),
    ],
)
def test_what_cannot_be_cut_is_said_before_anything_is_written(runs, in_rounds, flags, message):
    config = runs.config("not_cut", **{**CUT, "regime": "one_shot", **flags})
    with pytest.raises(UserError) as caught:
        run_experiment(config, log=lambda line: None)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)
    assert not config.folder.exists()
