"""A run that was stopped ends where one that was not ends, weight by weight."""

import json
import shutil
import signal

import pytest

from tests.support.interrupted_runs import (
    Interrupt,
    InterruptAtOnce,
    assert_same_rounds,
    left_over,
    loss_history,
    run_until,
    train,
    train_killed,
    without_rounds,
)
from tests.support.small_experiments import no_training
from tfprune.errors import UserError
from tfprune.experiments.run import run_experiment
from tfprune.experiments.unfinished import NOTES
from tfprune.runs.folder import RunFolder
from tfprune.training.checkpoint import read_checkpoint

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "name, number, step",
    [
        ("iterative", 3, 3),
        ("gradual", 1, 2),  # two steps, and an update, after the checkpoint of step 4
    ],
)
def test_an_exception_in_the_second_epoch(runs, name, number, step):
    uninterrupted = getattr(runs, name)
    config = without_rounds(runs, uninterrupted, f"{name}_interrupted", number)
    run_until(config, number, Interrupt(epoch=2, step=step))
    run = RunFolder(config.folder)
    assert not run.round(number).finished
    assert read_checkpoint(run.round(number).path).epochs_done == 1
    finished = {path: path.stat().st_mtime_ns for k in range(number) for path in run.round(k).path.rglob("*")}
    assert finished

    lines = []
    run_experiment(config, log=lines.append)
    assert f"{config.experiment} round {number}: goes on after epoch 1" in lines
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert_same_rounds(run, uninterrupted, range(config.last_round + 1))
    assert loss_history(run.round(number)) == loss_history(uninterrupted.round(number))
    assert not left_over(run)


def test_an_exception_before_the_first_checkpoint(runs):
    """The round is pruned anew, from the file of the round before."""
    config = without_rounds(runs, runs.one_shot, "one_shot_interrupted", 1)
    run_until(config, 1, InterruptAtOnce())
    run = RunFolder(config.folder)
    assert run.round(0).finished
    assert read_checkpoint(run.round(1).path) is None
    run_experiment(config, log=lambda line: None)
    assert_same_rounds(run, runs.one_shot, (0, 1))


def test_a_killed_process(runs, tmp_path):
    """SIGKILL in the second epoch of a round of the train binary; the same command again."""
    assert runs.continued.round(2).finished
    config = runs.config("killed", **runs.continued_flags)
    process = train_killed(config, "1,2,3", tmp_path / "stopped")
    assert process.returncode == -signal.SIGKILL
    run = RunFolder(config.folder)
    assert read_checkpoint(run.round(1).path).epochs_done == 1
    assert not run.round(1).finished

    process = train(config)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert "killed round 0: finished already" in output
    assert "killed round 1: goes on after epoch 1" in output
    assert_same_rounds(run, runs.continued, (0, 1, 2))
    assert not left_over(run)


def test_a_kill_after_the_last_result_leaves_nothing(runs):
    """The result is there, its checkpoint not yet removed."""
    config = runs.copy(runs.one_shot, "killed_late")
    folder = RunFolder(config.folder).round(1)
    shutil.copy(folder.path / "model.keras", folder.path / "checkpoint_0002.keras")
    (folder.path / "checkpoint.json").write_text("{}")
    assert left_over(RunFolder(config.folder))
    with no_training():
        run_experiment(config, log=lambda line: None)
    assert not left_over(RunFolder(config.folder))
    assert folder.finished


def fake_interruption(runs, name):
    """A copy of a run whose last round has a checkpoint and no result."""
    config = runs.copy(runs.one_shot, name)
    folder = config.folder / "round_01"
    done = json.loads((folder / "result.json").read_text())
    (folder / "result.json").unlink()
    (folder / "model.keras").rename(folder / "checkpoint_0001.keras")
    row = {"epoch": 1, "train_seconds": 1.0, "images_per_second": 9.0, "val_accuracy": 0.5}
    notes = {name: done[name] for name in NOTES}
    state = {"model": "checkpoint_0001.keras", "epochs_done": 1, "history": [row], "notes": notes}
    (folder / "checkpoint.json").write_text(json.dumps(state))
    return folder, config


@pytest.mark.parametrize("damage", ["cut model", "missing model", "cut state"])
def test_a_damaged_checkpoint_is_one_clear_line(runs, damage):
    folder, config = fake_interruption(runs, "damaged_" + damage.replace(" ", "_"))
    model, state = folder / "checkpoint_0001.keras", folder / "checkpoint.json"
    if damage == "cut model":
        model.write_bytes(model.read_bytes()[:1000])
    elif damage == "missing model":
        model.unlink()
    else:
        state.write_text(state.read_text()[:20])
    with no_training(), pytest.raises(UserError) as caught:
        run_experiment(config, log=lambda line: None)
    message = str(caught.value)
    kind = "state of an unfinished fit" if damage == "cut state" else "Keras model"
    assert message.startswith(f"{state if damage == 'cut state' else model}: not a readable {kind}: ")
    assert message.endswith("; remove the folder of its round to run the round anew")
    assert "\n" not in message
