"""Runs with a teacher, a cosine and new BatchNorm statistics: results, resumption, errors."""

import numpy as np
import pytest

from tests.support.interrupted_runs import (
    Interrupt,
    assert_same_rounds,
    loss_history,
    run_until,
    without_rounds,
)
from tests.support.small_experiments import Runs, no_training, small_resnet18, state_of
from tfprune.data import datasets
from tfprune.errors import UserError
from tfprune.experiments.networks import load_model
from tfprune.experiments.run import run_experiment
from tfprune.runs.config import AFTER_PRUNING
from tfprune.runs.folder import RunFolder

pytestmark = pytest.mark.slow

COSINE = {"lr_schedule": "cosine", "warmup_epochs": 0.5}
TAUGHT = {
    **COSINE,
    "init_from": "dense",
    "distill_from": "dense",
    "distill_weight": 0.4,
    "distill_temperature": 3.0,
    "regime": "iterative",
    "schedule": "geometric",
    "target_sparsity": 0.9,
    "rounds": 2,
    "epochs": (3,),
    "batchnorm_after_pruning": "recalibrate",
    "batchnorm_batches": 6,  # More than the 4 of an epoch.
}


@pytest.fixture(scope="module")
def taught(runs):
    with small_resnet18():
        assert runs.dense
        return runs.run("taught", **TAUGHT)


def test_the_result_has_the_flags(taught):
    result = taught.round(2).read_result()
    for name in (*COSINE, "distill_from", "distill_weight", "distill_temperature", "batchnorm_after_pruning"):
        assert getattr(result.config, name) == TAUGHT[name]
    config = result.config
    assert (config.lr_factor, config.lr_boundaries_epochs, config.evaluate_every) == (0.1, (), 1)


def test_only_the_student_is_written(runs, taught):
    student, alone = (state_of(run.round(1)) for run in (taught, runs.iterative))
    assert student.keys() == alone.keys()
    assert not list(taught.path.rglob("checkpoint*"))


def test_the_test_loss_is_the_cross_entropy(taught):
    """What `history.csv` has for the last epoch is what the saved network has."""
    model = load_model(taught.round(2))
    test = datasets.load("digits", test_examples=100).test
    logits = model.predict(test.inputs, verbose=0).astype("float64")
    logits -= logits.max(axis=1, keepdims=True)
    own = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(100), test.labels]
    names, *_, last = loss_history(taught.round(2))
    row = dict(zip(names, last, strict=True))
    assert float(row["val_loss"]) == pytest.approx(own.mean(), rel=1e-4)


def test_an_interrupted_run_ends_where_one_without_ends(runs, taught):
    """In the second of three epochs of each round: after the warm-up, on the cosine."""
    config = without_rounds(runs, taught, "taught_interrupted", 1)
    run = RunFolder(config.folder)
    for number in (1, 2):
        run_until(config, number, Interrupt(epoch=2, step=2))
        assert not run.round(number).finished
    run_experiment(config, log=lambda line: None)
    assert_same_rounds(run, taught, (0, 1, 2))
    for number in (1, 2):
        assert loss_history(run.round(number)) == loss_history(taught.round(number))


def test_batchnorm_after_pruning_reaches_the_round(runs):
    """At a sparsity at which filters lose all their weights; the masks are the same."""
    variances, betas = {}, {}
    for choice in AFTER_PRUNING:
        flags = {**runs.one_shot_flags, "target_sparsity": 0.97, "epochs": (1,)}
        run = runs.run(f"batchnorm_{choice}", **flags, batchnorm_after_pruning=choice)
        result, state = run.round(1).read_result(), state_of(run.round(1))
        assert result.sparsity == pytest.approx(0.97, abs=1e-3)
        variances[choice], betas[choice] = (
            np.concatenate([value for name, value in state.items() if name.endswith(end)])
            for end in ("/moving_variance", "/beta")
        )
    # All else is the same.
    assert not np.array_equal(variances["recalibrate"], variances["keep"])
    # Four steps of Adam move a beta little: from 0, or from where the dense network had it.
    moved = np.abs(betas["reset_removed"] - betas["keep"]) > 0.05
    assert 0 < moved.sum() < moved.size
    assert np.all(np.abs(betas["reset_removed"][moved]) < np.abs(betas["keep"][moved]))


def error_of(config):
    with no_training(), pytest.raises(UserError) as caught:
        run_experiment(config, log=lambda line: None)
    assert not config.folder.exists()
    return str(caught.value)


@pytest.mark.parametrize(
    "flags, parts",
    [
        ({"distill_from": "dense/round_01"}, ["--distill_from=dense/round_01", "last round is round_00"]),
        ({"distill_from": "dense", "image_size": 9}, ["--distill_from=dense", "--image_size=9"]),
    ],
)
def test_a_teacher_that_cannot_be(runs, flags, parts):
    assert runs.dense
    message = error_of(runs.config(**{"experiment": "bad_input", "epochs": (1,), **flags}))
    assert message.startswith(parts[0])
    for part in parts:
        assert part in message


def test_a_teacher_that_is_unfinished(runs, tmp_path):
    here = Runs(tmp_path)
    copy = here.copy(runs.one_shot, "unfinished")
    (copy.folder / "round_01" / "result.json").unlink()
    message = error_of(here.config("bad_teacher", distill_from="unfinished"))
    assert message.startswith("--distill_from=unfinished: ")
    assert "is unfinished; run it to its end first" in message


def test_a_teacher_of_another_dataset(runs, tmp_path):
    here = Runs(tmp_path)
    copy = here.copy(runs.dense, "other")
    flags = copy.folder / "flags.txt"
    flags.write_text(flags.read_text().replace("--dataset=digits", "--dataset=cifar10"))
    message = error_of(here.config("bad_teacher", distill_from="other"))
    assert message == "--distill_from=other: must be a run with --dataset=digits; it has --dataset=cifar10"


def test_a_teacher_whose_file_is_cut(runs, tmp_path):
    here = Runs(tmp_path)
    path = here.copy(runs.dense, "cut").folder / "round_00" / "model.keras"
    path.write_bytes(path.read_bytes()[:1000])
    message = error_of(here.config("bad_teacher", distill_from="cut"))
    assert message.startswith(f"--distill_from=cut: {path}: not a readable network of the result beside it: ")


def test_a_pruned_teacher_will_do(runs):
    """Its wrappers are no layers of the network in training."""
    assert runs.one_shot
    run = runs.run("taught_by_pruned", **{**TAUGHT, "rounds": 1, "epochs": (1,), "distill_from": "one_shot"})
    assert run.round(1).read_result().sparsity == pytest.approx(0.9, abs=1e-3)
