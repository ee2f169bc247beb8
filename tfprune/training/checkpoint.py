"""The state of an unfinished fit on disk, from which it continues as if it had not stopped."""

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from tfprune.files import discarding, remove, replacing, write_json, write_text
from tfprune.network.batch_norm import batch_norm_synchronized
from tfprune.network.saved import load_network
from tfprune.reading import json_of, reading

_STATE = "checkpoint.json"
# What `reading` says of a damaged one.
KIND, ADVICE = "state of an unfinished fit", "remove the folder of its round to run the round anew"


@dataclass(frozen=True)
class Checkpoint:
    """A fit after some whole epochs.

    Attributes:
        path: The file of its state, which names the model.
        model_path: The compiled model with its optimizer's state, a `.keras` file.
        epochs_done: How many epochs it has seen.
        history: One row an epoch, as in `history.csv`.
        notes: What the caller had put there, plain types.
    """

    path: Path
    model_path: Path
    epochs_done: int
    history: list[dict[str, float]]
    notes: dict[str, Any]

    def load_model(self) -> keras.Model:
        """Returns the model, compiled, its optimizer where it stopped.

        Raises:
            FileError: As `load_network`.
        """
        return load_network(self.model_path, ADVICE, compile=True)


def read_checkpoint(folder: Path) -> Checkpoint | None:
    """Returns the checkpoint of the unfinished fit in `folder`, or None if there is none.

    Raises:
        FileError: If the state is damaged, or none that `write_checkpoint` writes.
    """
    path = folder / _STATE
    if not path.exists():
        return None
    with reading(path, KIND, ADVICE):
        state = json_of(path)
        epochs, history, notes = state["epochs_done"], state["history"], state["notes"]
        if type(epochs) is not int or epochs < 1:
            raise ValueError(f"`epochs_done` must be a whole number of at least 1. Received: {epochs!r}")
        if state["model"] != _model_name(epochs):
            raise ValueError(f"`model` must be {_model_name(epochs)}. Received: model={state['model']!r}")
        if not isinstance(history, list) or not all(map(_is_row, history)):
            raise ValueError("`history` must be a list of objects of numbers")
        if [row.get("epoch") for row in history] != [*range(1, len(history) + 1)] or len(history) != epochs:
            raise ValueError(f"`history` must have a row for each of the {epochs} epochs")
        if not isinstance(notes, dict):
            raise ValueError(f"`notes` must be an object. Received: notes={notes!r}")
    return Checkpoint(path, folder / state["model"], epochs, history, notes)


def _is_row(value: Any) -> bool:
    return isinstance(value, dict) and all(type(figure) in (int, float) for figure in value.values())


def _model_name(epochs_done: int) -> str:
    return f"checkpoint_{epochs_done:04d}.keras"


def write_checkpoint(
    folder: Path,
    model: keras.Model,
    history: list[dict[str, float]],
    notes: dict[str, Any],
    keep: bool = True,
) -> None:
    """Writes the model, then the state that names it; a reader sees the old pair or the new one.

    `history.csv` comes between the two, because a fit whose state says that it is done writes no more.

    Args:
        folder: Where to write.
        model: Compiled.
        history: One row an epoch done.
        notes: Plain types to keep with it.
        keep: False in a process that only takes part: nothing is left in `folder`.
    """
    epochs_done = len(history)
    path = folder / _model_name(epochs_done)
    with (replacing if keep else discarding)(path) as temporary, batch_norm_synchronized(model, False):
        model.save(temporary)
    if not keep:
        return
    write_history(folder, history)
    state = {"model": path.name, "epochs_done": epochs_done, "history": history, "notes": notes}
    write_json(folder / _STATE, state)
    for old in _model_files(folder):
        if old != path:
            old.unlink()


def remove_checkpoint(folder: Path) -> None:
    """Removes what `write_checkpoint` left, the state first."""
    remove(folder / _STATE)
    for path in _model_files(folder):
        path.unlink(missing_ok=True)


def _model_files(folder: Path) -> list[Path]:
    return list(folder.glob("checkpoint_*.keras"))


def write_history(folder: Path, history: list[dict[str, float]]) -> None:
    """Writes `history.csv`, one row an epoch."""
    if not history:
        return
    text = io.StringIO()
    # Rows of epochs without an evaluation have fewer columns.
    writer = csv.DictWriter(text, list(max(history, key=len)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    write_text(folder / "history.csv", text.getvalue())


class EpochCheckpoint(keras.callbacks.Callback):
    """Writes a checkpoint after each epoch, and adds the epoch's figures to `history`.

    Unlike `keras.callbacks.BackupAndRestore`, whose weights and epoch number are two files replaced one
    after the other, a kill at any moment leaves a model and an epoch number that belong together.

    Args:
        folder: Where to write.
        history: Rows of the epochs already done; extended in place.
        notes: Plain types to keep with it.
        keep: As for `write_checkpoint`.
    """

    def __init__(
        self, folder: Path, history: list[dict[str, float]], notes: dict[str, Any], keep: bool = True
    ) -> None:
        super().__init__()
        self._folder, self._history, self._notes, self._keep = folder, history, notes, keep

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Writes the checkpoint."""
        figures = {name: float(value) for name, value in (logs or {}).items()}
        self._history.append({"epoch": epoch + 1, **figures})
        write_checkpoint(self._folder, self.model, self._history, self._notes, self._keep)
