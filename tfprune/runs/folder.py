"""Finds what runs leave on disk, and reads their results without Keras and TensorFlow.

`saved_models/<experiment>/flags.txt`, then a folder a round: `round_00/` with `model.keras` (pruning
wrappers and masks inside), `history.csv`, `tensorboard/`, `search.json` and `search.png` where sparsities
were searched, `population.npz` where masks were evolved, and `result.json`, which is written last: a round is
finished if and only if it is there and the network is the one that it is of.
"""

import contextlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tfprune.errors import UserError, blame_flag
from tfprune.files import digest, make_folder, write_text
from tfprune.reading import reading, text_of
from tfprune.runs.config import NAME, ExperimentConfig
from tfprune.runs.result import RoundResult, read_result, write_result
from tfprune.settings import to_text
from tfprune.text import did_you_mean

MODEL = "model.keras"
RESULT = "result.json"
SEARCH, SEARCH_PICTURE = "search.json", "search.png"
POPULATION = "population.npz"
_FLAGS_ADVICE = "write it again, one --name=value a line, as `config` in a round's result.json has them"


@dataclass(frozen=True)
class RoundFolder:
    """One round of a run, finished or not."""

    path: Path
    number: int

    @property
    def finished(self) -> bool:
        """Whether the round's result is there; whether it is true, `read_result` and `check_network` tell."""
        return (self.path / RESULT).exists()

    @property
    def model_path(self) -> Path:
        """The file of the round's network, pruning wrappers and masks inside."""
        return self.path / MODEL

    def read_result(self, *, alone: bool = False) -> RoundResult:
        """Returns the round's result, if a network of its size is there; no network is read for it.

        Args:
            alone: Whether a result is taken, too, that no network lies beside: results that were copied
                without their networks can be compared.

        Raises:
            FileError: If the result is damaged or of another format, or the network is not its own.
        """
        result = read_result(self.path / RESULT, self.number)
        if alone and not os.path.lexists(self.model_path):
            return result
        with self._reading_network():
            size = self.model_path.stat().st_size
            if size != result.network.bytes:
                raise ValueError(
                    f"it has {size:,} bytes, and {RESULT} is of one with {result.network.bytes:,}"
                )
        return result

    def check_network(self) -> RoundResult:
        """Returns the round's result, if the network that it is of is there; the network is read for it.

        Raises:
            FileError: As `read_result`, or if the network is damaged or another one.
        """
        result = self.read_result()
        with self._reading_network():
            if digest(self.model_path) != result.network:
                raise ValueError(f"its checksum is not that of the network that {RESULT} is of")
        return result

    def _reading_network(self) -> contextlib.AbstractContextManager[None]:
        advice = "put the network back, or remove the round's folder to run the round anew"
        return reading(self.model_path, "network of the result beside it", advice)

    def write_result(self, result: RoundResult) -> None:
        """Writes the result, which finishes the round."""
        write_result(self.path / RESULT, result)


@dataclass(frozen=True)
class RunFolder:
    """The folder of one experiment."""

    path: Path

    def round(self, number: int) -> RoundFolder:
        """Returns the folder of a round, whether or not it exists."""
        return RoundFolder(self.path / f"round_{number:02d}", number)

    def export_folder(self, number: int) -> Path:
        """Returns a round's folder for exports: `export/`, or `export_round_KK/` if not the last."""
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
        with reading(path, "flagfile of a run", _FLAGS_ADVICE):
            config = ExperimentConfig.from_flags(text_of(path))
            config.check_recorded()
        return config

    def check_claim(self, config: ExperimentConfig) -> bool:
        """Returns whether the folder is this experiment's already; writes nothing.

        Raises:
            UserError: If it was made with other flags; the message lists them.
        """
        if not (self.path / "flags.txt").exists():
            return False
        before = self.read_config()
        differences = [
            f"{config.flag(name)} (was {to_text(getattr(before, name))})" for name in config.differing(before)
        ]
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
            make_folder(self.path)
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
        UserError: If the experiment or round does not exist or is unfinished, or its result is damaged or
            not of the network beside it, as `RoundFolder.read_result` tells.
    """
    name, _, round_name = reference.partition("/")
    root = Path(os.path.expanduser(output_dir))
    run = RunFolder(root / name)
    if not NAME.holds(name) or not (run.path / "flags.txt").exists():
        present = sorted(path.parent.name for path in root.glob("*/flags.txt"))
        raise UserError(
            f"--{flag}={reference}: there is no experiment of that name in {root}; "
            f"it has: {', '.join(present) or 'none'}{did_you_mean(name, present)}"
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
    with blame_flag(flag, reference):
        found.read_result()
    return run, found


@dataclass(frozen=True)
class Run:
    """The results of a run folder.

    Attributes:
        experiment: The folder's name, which `--init_from` refers to.
        folder: Where it is.
        rounds: The finished rounds, in order.
        unfinished_rounds: The numbers of the rounds that were started, or are to come, but have no result.
    """

    experiment: str
    folder: Path
    rounds: tuple[RoundResult, ...]
    unfinished_rounds: tuple[int, ...]

    @property
    def finished(self) -> bool:
        """Whether every round has a result."""
        return bool(self.rounds) and not self.unfinished_rounds


def read_runs(output_dir: str | Path, experiments: Sequence[str] | None = None) -> list[Run]:
    """Reads the run folders of a directory.

    A run folder is a folder with `flags.txt` or with `round_KK` folders inside. Others are left alone.

    Args:
        output_dir: What `--output_dir` was for training.
        experiments: Names of run folders; None or empty for all of them.

    Returns:
        The runs in the order of `experiments`, else sorted by name; unfinished ones too.

    Raises:
        UserError: If the directory does not exist, has no run folder or not the ones named, or if a
            `result.json` is damaged or of another format.
    """
    output_dir = Path(output_dir)
    present = list_experiments(output_dir)
    if not present:
        raise UserError(f"--output_dir={output_dir}: there is no run folder in it to compare.")
    for experiment in experiments or ():
        if experiment not in present:
            raise UserError(
                f"--experiments={experiment}: there is no such run folder in {output_dir}. "
                f"There are: {', '.join(present)}{did_you_mean(experiment, present)}"
            )
    return [read_run(output_dir / name) for name in dict.fromkeys(experiments or present)]


def list_experiments(output_dir: str | Path) -> list[str]:
    """Returns the names of the run folders in a directory, sorted.

    Raises:
        UserError: If the directory does not exist or cannot be read.
    """
    try:
        return sorted(folder.name for folder in Path(output_dir).iterdir() if _is_run(folder))
    except OSError as error:
        raise UserError(f"--output_dir={output_dir}: {error.strerror or error}") from error


def read_run(folder: Path) -> Run:
    """Reads one run folder to compare it; raises as `read_runs`."""
    numbers = _round_numbers(folder)
    finished = [RoundFolder(path, number) for number, path in numbers.items()]
    rounds = [one.read_result(alone=True) for one in finished if one.finished]
    last = rounds[-1].rounds if rounds else 0
    unfinished = sorted({*numbers, *range(last + 1)} - {result.round for result in rounds})
    return Run(folder.name, folder, tuple(rounds), tuple(unfinished))


def _round_numbers(folder: Path) -> dict[int, Path]:
    matches = ((re.fullmatch(r"round_(\d{2,})", path.name), path) for path in folder.iterdir())
    found = {int(match[1]): path for match, path in matches if match and path.is_dir()}
    return dict(sorted(found.items()))


def _is_run(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    return (folder / "flags.txt").exists() or bool(_round_numbers(folder))
