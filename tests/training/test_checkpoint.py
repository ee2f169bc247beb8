"""What is on disk at every moment of a fit is a model and an epoch that belong together."""

import csv

import keras
import numpy as np
import pytest

from tfprune.training import checkpoint as checkpoints
from tfprune.training.checkpoint import (
    EpochCheckpoint,
    read_checkpoint,
    remove_checkpoint,
    write_checkpoint,
    write_history,
)


def make_model(value):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name="dense")])
    model.layers[0].kernel.assign(np.full((2, 1), value))
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    return model


def value_of(checkpoint):
    return float(checkpoint.load_model().get_layer("dense").kernel[0, 0])


def rows(count):
    return [{"epoch": epoch, "loss": 1.0 / epoch} for epoch in range(1, count + 1)]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_is_written_is_read(tmp_path):
    write_checkpoint(tmp_path, make_model(1.5), rows(3), {"target_sparsity": 0.5, "nothing": None})
    found = read_checkpoint(tmp_path)
    assert found.epochs_done == 3
    assert found.history == rows(3)
    assert found.notes == {"target_sparsity": 0.5, "nothing": None}
    assert found.model_path == tmp_path / "checkpoint_0003.keras"
    assert value_of(found) == 1.5


def test_there_may_be_none(tmp_path):
    assert read_checkpoint(tmp_path) is None
    assert read_checkpoint(tmp_path / "nowhere") is None


def test_the_optimizer_is_kept(tmp_path):
    model = make_model(0.0)
    model.fit(np.ones((4, 2)), np.ones((4, 1)), epochs=3, batch_size=4, verbose=0)
    write_checkpoint(tmp_path, model, rows(3), {})
    again = read_checkpoint(tmp_path).load_model()
    assert int(again.optimizer.iterations) == 3
    ours, theirs = again.optimizer.variables, model.optimizer.variables
    for kept, original in zip(ours, theirs, strict=True):
        assert np.array_equal(kept, original), original.path
    assert any(np.any(np.asarray(variable) != 0) for variable in again.optimizer.variables[2:])


def test_the_next_one_replaces_it(tmp_path):
    for epoch in (1, 2):
        write_checkpoint(tmp_path, make_model(float(epoch)), rows(epoch), {})
    assert names(tmp_path) == ["checkpoint.json", "checkpoint_0002.keras", "history.csv"]
    assert value_of(read_checkpoint(tmp_path)) == 2.0


@pytest.mark.parametrize("stopped_in", ["save", "write_history", "write_json"])
def test_stopped_while_writing_the_old_pair_is_still_there(tmp_path, monkeypatch, stopped_in):
    write_checkpoint(tmp_path, make_model(1.0), rows(1), {})

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    model = make_model(2.0)
    if stopped_in == "save":
        # The file is half written when it stops.
        def save(path):
            path.write_bytes(b"half")
            stop()

        monkeypatch.setattr(model, "save", save)
    else:
        monkeypatch.setattr(checkpoints, stopped_in, stop)
    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(tmp_path, model, rows(2), {})
    found = read_checkpoint(tmp_path)
    assert (found.epochs_done, value_of(found)) == (1, 1.0)
    assert not [name for name in names(tmp_path) if name.startswith(".")]

    monkeypatch.undo()
    write_checkpoint(tmp_path, make_model(2.0), rows(2), {})
    assert value_of(read_checkpoint(tmp_path)) == 2.0
    assert names(tmp_path) == ["checkpoint.json", "checkpoint_0002.keras", "history.csv"]


def test_the_history_is_never_behind_the_state(tmp_path, monkeypatch):
    """A fit that is found done writes no history any more."""
    order = []
    monkeypatch.setattr(checkpoints, "write_history", lambda *args: order.append("history"))
    monkeypatch.setattr(checkpoints, "write_json", lambda *args: order.append("state"))
    write_checkpoint(tmp_path, make_model(1.0), rows(1), {})
    assert order == ["history", "state"]


def test_removing_leaves_the_history(tmp_path):
    write_checkpoint(tmp_path, make_model(1.0), rows(2), {})
    remove_checkpoint(tmp_path)
    assert names(tmp_path) == ["history.csv"]
    assert read_checkpoint(tmp_path) is None
    remove_checkpoint(tmp_path)


def test_the_history_is_one_row_an_epoch(tmp_path):
    write_history(tmp_path, rows(3))
    with open(tmp_path / "history.csv", newline="") as file:
        read = list(csv.DictReader(file))
    assert [row["epoch"] for row in read] == ["1", "2", "3"]
    assert [float(row["loss"]) for row in read] == [1.0, 0.5, 1 / 3]
    write_history(tmp_path / "nowhere", [])


def test_the_callback_adds_the_epoch(tmp_path):
    history, notes = rows(1), {"why": "test"}
    model = make_model(3.0)
    model.fit(
        np.ones((4, 2)),
        np.ones((4, 1)),
        initial_epoch=1,
        epochs=3,
        verbose=0,
        callbacks=[EpochCheckpoint(tmp_path, history, notes)],
    )
    assert [row["epoch"] for row in history] == [1, 2, 3]
    found = read_checkpoint(tmp_path)
    assert found.epochs_done == 3
    assert found.notes == notes
    assert found.history == history
    assert all(type(value) in (int, float) for row in found.history for value in row.values())
    assert int(found.load_model().optimizer.iterations) == 2
