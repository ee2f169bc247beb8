"""Models, losses and metrics of the user's own: known before a file needs them, tried before a run trains."""

import tempfile
from dataclasses import asdict
from pathlib import Path

import keras

from tfprune.errors import UserError, blame_flag
from tfprune.experiments.batches import Batches
from tfprune.experiments.task import Compiled, Task
from tfprune.files import write_json
from tfprune.models.catalog import OWN_CLASSES, File, source_of
from tfprune.named import is_named
from tfprune.network.saved import compiled_with, load_network
from tfprune.reading import json_of, reading, reason_of
from tfprune.runs.config import ExperimentConfig
from tfprune.runs.folder import RunFolder
from tfprune.training.by_name import make_known
from tfprune.training.fit import compile_for_training

_RECORD = "compiled.json"


def know_own(config: ExperimentConfig) -> None:
    """Makes known to Keras what the files of a run may have of the user's own.

    Raises:
        UserError: If the module of `--model` cannot be imported any more.
    """
    with blame_flag("model", config.model):
        source_of(config.model).prepare()
    for entry in (*config.loss, *config.metrics):
        make_known(entry)


def is_own(config: ExperimentConfig) -> bool:
    """Returns whether something of the user's own is in the network, its loss or its metrics."""
    return source_of(config.model).own or any(map(is_named, (*config.loss, *config.metrics)))


def compiled_of(config: ExperimentConfig, run: RunFolder) -> Compiled | None:
    """Returns what the file that a run starts from was compiled with; None without such a file.

    The run keeps it, because the file may change or go.

    Raises:
        FileError: If the record is damaged.
    """
    path = run.path / _RECORD
    if path.exists():
        with reading(path, "record of what a network was compiled with", "remove the run's folder"):
            content = json_of(path)
            return None if content is None else Compiled(**content)
    source = source_of(config.model)
    if not isinstance(source, File) or config.new_head or not source.path.exists():
        return None
    found = compiled_with(source.path)
    if not found or found.get("loss") is None:
        return None
    return Compiled(**{name: found.get(name) for name in ("loss", "metrics", "loss_weights")})


def keep_compiled(config: ExperimentConfig, run: RunFolder, compiled: Compiled | None) -> None:
    """Writes what `compiled_of` returned into the run's folder, if the run starts from a file."""
    if isinstance(source_of(config.model), File):
        write_json(run.path / _RECORD, asdict(compiled) if compiled else None)


def try_out(config: ExperimentConfig, model: keras.Model, task: Task, batches: Batches) -> None:
    """Evaluates a batch, then saves the network and loads it again: what a run does after hours otherwise.

    Raises:
        UserError: If one of these fails.
    """
    compile_for_training(model, config.settings(0), task.goal)
    flags = " ".join(config.flag(name) for name in ("model", "loss", "metrics") if getattr(config, name))
    try:
        model.evaluate(batches.test.take(1), verbose=0)
    except Exception as error:
        raise UserError(
            f"{flags}: cannot be evaluated on {config.flag('dataset')}: {reason_of(error)}"
        ) from error
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        try:
            model.optimizer.build(model.trainable_variables)
            model.save(path)
            again = load_network(path, OWN_CLASSES, compile=True)
        except Exception as error:
            reason = reason_of(error).removeprefix(f"{path}: not a readable Keras model: ")
            raise UserError(
                f"{flags}: cannot be saved and loaded again, as a run must: {_with_advice(reason)}"
            ) from error
    if _shapes(again) != _shapes(model):
        raise UserError(f"{flags}: has other weights when it was saved and loaded again")


def _with_advice(reason: str) -> str:
    return reason if OWN_CLASSES in reason else f"{reason}; {OWN_CLASSES}"


def _shapes(model: keras.Model) -> list[tuple[int, ...]]:
    return [tuple(weight.shape) for weight in model.weights]
