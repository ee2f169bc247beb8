"""Experiments on data of one's own: in memory and as streams, resumed, read again, and what is refused."""

import dataclasses
import sys
import types

import numpy as np
import pytest

from tests.support import own_data
from tests.support.interrupted_runs import Interrupt, assert_same_rounds, run_until
from tfprune.data.splits import Dataset
from tfprune.errors import UserError
from tfprune.experiments import memory
from tfprune.experiments.batches import Batches, load_dataset
from tfprune.experiments.devices import ONE_DEVICE, Devices
from tfprune.experiments.evaluate import evaluate_round, load_run_data
from tfprune.experiments.run import run_experiment
from tfprune.runs.config import ExperimentConfig
from tfprune.runs.folder import RunFolder

HERE = "tests.support.own_data"


@pytest.fixture
def config(tmp_path):
    """A function that makes the config of a run of a network of two layers on data of this module."""

    def make(data, experiment="own", **flags):
        given = {"model": f"{HERE}:network", "batch_size": 16, "output_dir": str(tmp_path), "epochs": (2,)}
        return ExperimentConfig(experiment, dataset=f"{HERE}:{data}", **given | flags)

    return make


def run(config):
    lines = []
    run_experiment(config, log=lines.append)
    return RunFolder(config.folder), lines


PRUNED = {"regime": "one_shot", "target_sparsity": 0.5, "prune_layers": "first"}


@pytest.mark.slow
def test_a_run_on_arrays_that_was_stopped_ends_where_one_that_was_not_ends(config):
    whole, lines = run(config("signals", "whole", epochs=(3,)))
    assert any("60 training and 30 test examples of tests.support.own_data:signals" in line for line in lines)
    stopped = config("signals", "stopped", epochs=(3,))
    run_until(stopped, 0, Interrupt(epoch=2, step=3))
    assert_same_rounds(run(stopped)[0], whole, [0])


@pytest.mark.slow
def test_a_run_on_a_stream_that_was_stopped_goes_on_at_the_epoch(config):
    stopped = config("stream", epochs=(3,))
    run_until(stopped, 0, Interrupt(epoch=2, step=3))
    folder, lines = run(stopped)
    assert "own round 0: goes on after epoch 1" in lines
    result = folder.round(0).read_result()
    assert (result.epochs, result.steps) == (3, 12)
    assert (result.train_examples, result.test_examples) == (60, 30)


@pytest.mark.slow
@pytest.mark.parametrize("data", ["signals", "stream", "images", "image_stream"])
def test_what_pruning_measures_is_measured_on_each_kind_of_data(config, data):
    """Gradients rank the weights, BatchNorm is recalibrated, and the round is evaluated anew."""
    flags = {"image_size": 4} if "image" in data else {}
    folder, _ = run(
        config(
            data, score="taylor", gradient_batches=2, batchnorm_after_pruning="recalibrate", **PRUNED, **flags
        )
    )
    result = folder.round(1).read_result()
    assert result.sparsity == pytest.approx(0.5, abs=0.01)
    evaluation = evaluate_round(folder, folder.round(1), "")
    assert len(load_run_data(folder, "")[1].test) == 30
    assert evaluation.model.input_shape[1:] == ((4, 4, 3) if "image" in data else (6,))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (None, "expected to contain 4 elements but contained only 2"),
        (OSError("it is gone"), "OSError: it is gone"),
    ],
)
def test_data_that_fails_in_training_is_one_line(config, monkeypatch, error, reason):
    # One pass to look, one to see that there is another, two epochs.
    for name, value in (("passes", 0), ("last", 4), ("error", error)):
        monkeypatch.setattr(own_data.Passes, name, value)
    failing = config("changing")
    with pytest.raises(UserError, match=reason) as caught:
        run(failing)
    assert str(caught.value).startswith(f"--dataset={HERE}:changing: cannot be read any more: ")
    assert "\n" not in str(caught.value)
    assert not RunFolder(failing.folder).round(0).finished
    folder, lines = run(failing)  # Mended.
    assert "own round 0: goes on after epoch 1" in lines
    assert folder.round(0).finished


@pytest.mark.slow
def test_data_that_is_gone_is_one_line(config, monkeypatch):
    module = types.ModuleType("data_of_mine")
    module.data = own_data.signals
    monkeypatch.setitem(sys.modules, "data_of_mine", module)
    folder, _ = run(dataclasses.replace(config("signals"), dataset="data_of_mine:data", epochs=(1,)))
    monkeypatch.delitem(sys.modules, "data_of_mine")
    with pytest.raises(UserError, match="^--dataset=data_of_mine:data: there is no module 'data_of_mine'"):
        evaluate_round(folder, folder.round(0), "")


@pytest.mark.slow
def test_a_folder_that_a_run_does_not_read_is_refused(runs, tmp_path):
    message = (
        f"^--data_dir={tmp_path}: has no effect on a run of digits, only with --dataset=cifar10, cifar100"
    )
    with pytest.raises(UserError, match=message):
        load_run_data(runs.dense, str(tmp_path))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            {"image_size": 32},
            r"^--image_size=32: has no effect on .*:signals, whose x is float32 \[n, 6\], not ",
        ),
        ({"autoaugment": "svhn"}, "^--autoaugment=svhn: has no effect on "),
        ({"data_dir": "/"}, "^--data_dir=/: .* takes no argument data_dir$"),
        ({"train_examples": 61}, "^--train_examples=61: .* must be at most 60"),
        ({"test_examples": 31}, "^--test_examples=31: .* must be at most 30"),
        (
            {"dataset": f"{HERE}:signal"},
            f"^--dataset={HERE}:signal: .* has no 'signal'; did you mean signals",
        ),
        ({"dataset": f"{HERE}:network"}, f"^--dataset={HERE}:network: .* Received: classes, input_shape$"),
    ],
)
def test_flags_that_do_not_fit_are_named_before_anything_is_made(config, flags, message):
    refused = dataclasses.replace(config("signals"), **flags)
    with pytest.raises(UserError, match=message):
        run(refused)
    assert not refused.folder.exists()


def test_settings_of_images_that_do_nothing_or_that_the_data_takes_are_no_error(config):
    assert not load_dataset(config("signals", image_size=0, autoaugment="none")).image_size
    assert load_dataset(config("sized", image_size=9)).spec.inputs.shape == (9,)


@pytest.mark.slow
def test_images_of_ones_own_are_resized_and_augmented_and_others_are_not(config):
    for data in ("images", "image_stream"):
        by_policy = []
        for policy in ("none", "cifar10"):
            resized = config(data, image_size=4, autoaugment=policy)
            batches = Batches(resized, load_dataset(resized))
            first = next(batches.of_round(0, 0, 1).as_numpy_iterator())[0]
            assert first.shape == (16, 4, 4, 3)
            again = next(batches.of_round(0, 0, 1).as_numpy_iterator())[0]
            np.testing.assert_array_equal(first, again)
            by_policy.append(first)
        assert not np.array_equal(*by_policy)
    as_they_are = config("images", image_size=0)
    inputs = next(Batches(as_they_are, load_dataset(as_they_are)).test.as_numpy_iterator())[0]
    np.testing.assert_array_equal(inputs, own_data.IMAGES[60:76])


class Processes(Devices):
    """Two processes that share each batch."""

    shard = (0, 2)
    count = 2


def test_processes_share_arrays_alone(config):
    Processes().check_experiment(config("signals"), load_dataset(config("signals")))
    with pytest.raises(UserError, match="^--dataset=.*:stream: must return arrays with --distributed"):
        Processes().check_experiment(config("stream"), load_dataset(config("stream")))


def test_a_batch_of_any_data_must_fit_into_memory(config, monkeypatch):
    dataset: Dataset = load_dataset(config("signals"))
    needed = 16 * 6 * 4
    monkeypatch.setattr(memory, "available_bytes", lambda: needed)
    memory.check_memory(config("signals"), dataset, ONE_DEVICE)
    monkeypatch.setattr(memory, "available_bytes", lambda: needed - 1)
    with pytest.raises(
        UserError, match="^--batch_size=16: .* 384 B of memory are needed for training with 16 exa"
    ):
        memory.check_memory(config("signals"), dataset, ONE_DEVICE)
