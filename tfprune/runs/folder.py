"""What a run leaves on disk, and where.

`saved_models/<experiment>/flags.txt`, then a folder a round: `round_00/` with `model.keras` (pruning
wrappers and masks inside), `history.csv`, `tensorboard/`, and `result.json`, which is written last: a round
is finished if and only if it is there.
"""

import contextlib
import errno
import json
import os
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from tfprune.errors import UserError
from tfprune.files import discarding, replacing, write_json, write_text
from tfprune.runs.config import ExperimentConfig

MODEL = "model.keras"
RESULT = "result.json"


@contextlib.contextmanager
def blame_file(path: Path, what: str) -> Iterator[None]:
    """Turns what Keras and JSON raise on a damaged file into a `UserError` that names it.

    Args:
        path: The file read inside.
        what: What is wrong with it, for the message.

    Raises:
        UserError: `path: what: <the first line of the original message>`.
    """
    try:
        yield
    except (OSError, ValueError, TypeError, KeyError, zipfile.BadZipFile) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{path}: {what}: {reason}") from error


# What a write fails with on a full or failing disk, over a quota, or without permission.
_DISK_ERRORS = {
    getattr(errno, name)
    for name in "ENOSPC EDQUOT EFBIG EACCES EPERM EROFS EIO ENOTDIR ENAMETOOLONG".split()
    if hasattr(errno, name)
}


@contextlib.contextmanager
def blame_disk(folder: Path) -> Iterator[None]:
    """Turns what writing into a run folder raises into a `UserError`; other errors pass.

    Raises:
        UserError: With the file, where it is known, and the reason.
    """
    try:
        yield
    except (OSError, tf.errors.OpError) as error:
        if getattr(error, "errno", None) not in _DISK_ERRORS and not _tells_of_disk(str(error)):
            raise
        path = getattr(error, "filename", None) or folder
        reason = getattr(error, "strerror", None) or str(error).strip().splitlines()[0]
        raise UserError(
            f"{path}: cannot be written: {reason}. Finished rounds and epochs are intact; once it can, the "
            "same command goes on from there"
        ) from error


def _tells_of_disk(message: str) -> bool:
    """HDF5 and TensorFlow raise errors of their own, with the system's words in the message."""
    return any(os.strerror(number) in message for number in _DISK_ERRORS)


@dataclass(frozen=True)
class RoundFolder:
    """One round of a run, finished or not."""

    path: Path
    number: int

    @property
    def finished(self) -> bool:
        """Whether the round's result is there."""
        return (self.path / RESULT).exists()

    def read_result(self) -> dict[str, Any]:
        """Returns the round's result.

        Raises:
            UserError: If the file is damaged.
        """
        path = self.path / RESULT
        with blame_file(path, "cannot be read"):
            result = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(result, dict):
                raise ValueError("not a JSON object")
            return result

    def load_model(self) -> keras.Model:
        """Returns the round's network, pruning wrappers included, not compiled.

        Raises:
            UserError: If the file is missing, cut short or not a Keras model.
        """
        path = self.path / MODEL
        if not path.exists():
            raise UserError(f"{path}: no such file, though the round has a result")
        with blame_file(path, "not a whole Keras model file"):
            if not zipfile.is_zipfile(path):  # Keras would say that there is no such file.
                raise ValueError("the end of the file is missing")
            return keras.models.load_model(path, compile=False)

    def save_model(self, model: keras.Model, keep: bool = True) -> None:
        """Writes the network without its optimizer: the next round starts a fresh one.

        Args:
            model: The network.
            keep: False in a process that only takes part: no file is left.
        """
        bare = keras.Model(model.inputs, model.outputs, name=model.name)
        with (replacing if keep else discarding)(self.path / MODEL) as temporary:
            bare.save(temporary)

    def write_result(self, result: dict[str, Any]) -> None:
        """Writes the result, which finishes the round."""
        write_json(self.path / RESULT, result)


@dataclass(frozen=True)
class RunFolder:
    """The folder of one experiment."""

    path: Path

    def round(self, number: int) -> RoundFolder:
        """Returns the folder of a round, whether or not it exists."""
        return RoundFolder(self.path / f"round_{number:02d}", number)

    def export_folder(self, number: int) -> Path:
        """Where a round's exports go: `export/` for the last round, `export_round_KK/` for the others."""
        if number == self.read_config().last_round:
            return self.path / "export"
        return self.path / f"export_{self.round(number).path.name}"

    def read_config(self) -> ExperimentConfig:
        """Returns the experiment's config, from `flags.txt`.

        Raises:
            UserError: If there is none or it cannot be read.
        """
        path = self.path / "flags.txt"
        if not path.exists():
            raise UserError(f"{path}: no such file: not a run folder")
        try:
            return ExperimentConfig.from_flags(path.read_text(encoding="utf-8"))
        except (UserError, TypeError) as error:
            raise UserError(f"{path}: {error}") from error

    def check_claim(self, config: ExperimentConfig) -> bool:
        """Returns whether the folder is this experiment's already; writes nothing.

        Raises:
            UserError: If it was made with other flags; the message lists them.
        """
        if not (self.path / "flags.txt").exists():
            return False
        differences = config.differences(self.read_config())
        if differences:
            raise UserError(
                f"--experiment={config.experiment}: {self.path} was made with other flags: "
                f"{'; '.join(differences)}. Choose another --experiment or --output_dir, or remove the folder"
            )
        return True

    def make(self, config: ExperimentConfig) -> None:
        """Makes the folder if it is not there.

        Raises:
            UserError: If it cannot be made.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--output_dir={config.output_dir}: cannot be written: {error}") from error

    def claim(self, config: ExperimentConfig) -> None:
        """Makes the folder the experiment's, by its flags; for the process that holds it.

        Raises:
            UserError: As `check_claim`.
        """
        if not self.check_claim(config):
            write_text(self.path / "flags.txt", config.to_flags())


def find_round(output_dir: str, reference: str, flag: str) -> tuple[RunFolder, RoundFolder]:
    """Returns the finished round that `EXPERIMENT` or `EXPERIMENT/round_KK` names.

    Without a round it is the experiment's last, and the experiment must be finished.

    Args:
        output_dir: Where the run folders are.
        reference: What the user gave.
        flag: The flag's name, for errors.

    Raises:
        UserError: If the experiment or round does not exist or is unfinished.
    """
    name, _, round_name = reference.partition("/")
    root = Path(output_dir).expanduser()
    run = RunFolder(root / name)
    if not name or not (run.path / "flags.txt").exists():
        present = sorted(path.parent.name for path in root.glob("*/flags.txt"))
        raise UserError(
            f"--{flag}={reference}: there is no experiment of that name in {root}; "
            f"it has: {', '.join(present) or 'none'}"
        )
    if round_name and not re.fullmatch(r"round_(\d\d|[1-9]\d{2,})", round_name):
        raise UserError(f"--{flag}={reference}: must be EXPERIMENT or EXPERIMENT/round_KK, KK two digits")
    last = run.read_config().last_round
    number = int(round_name.removeprefix("round_")) if round_name else last
    if number > last:
        raise UserError(f"--{flag}={reference}: the experiment's last round is round_{last:02d}")
    found = run.round(number)
    if not found.finished:
        what = round_name or f"the experiment (round_{number:02d} has no {RESULT})"
        raise UserError(f"--{flag}={reference}: {what} is unfinished; run it to its end first")
    return run, found
