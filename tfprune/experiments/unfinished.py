"""The fit of a round that was interrupted: what is on disk of it, checked against the experiment."""

from tfprune.reading import reading
from tfprune.runs.config import ExperimentConfig
from tfprune.runs.folder import RoundFolder
from tfprune.runs.result import RoundResult
from tfprune.settings import ABOVE_0, AT_LEAST_0, FRACTION, PERCENT
from tfprune.training.checkpoint import ADVICE, KIND, Checkpoint, read_checkpoint

NOTES = ("accuracy_before_percent", "target_sparsity", "accuracy_after_pruning_percent")
"""The fields of the round's result that are known before its fit begins, and kept in its checkpoint."""

# What a row of the history must have, and what it may have.
_FIGURES = {"train_seconds": AT_LEAST_0, "images_per_second": ABOVE_0}
_FURTHER = {"accuracy": FRACTION, "val_accuracy": FRACTION, "data_wait_percent": PERCENT}


def read_unfinished(config: ExperimentConfig, folder: RoundFolder) -> Checkpoint | None:
    """Returns the checkpoint of a round's unfinished fit, or None if there is none.

    Raises:
        FileError: If it is damaged, or the round cannot have left it.
    """
    found = read_checkpoint(folder.path)
    if found:
        with reading(found.path, KIND, ADVICE):
            _check(found, config.settings(folder.number).epochs)
    return found


def _check(found: Checkpoint, epochs: int) -> None:
    RoundResult.measured_of(found.notes, NOTES)
    if found.notes["accuracy_before_percent"] is None:
        raise ValueError("`accuracy_before_percent` must be a number. Received: None")
    if found.notes.keys() != set(NOTES):
        raise ValueError(f"`notes` must have {', '.join(NOTES)} alone. Received: {', '.join(found.notes)}")
    if found.epochs_done > epochs:
        rule = f"must be at most {epochs}, as the flags say"
        raise ValueError(f"`epochs_done` {rule}. Received: epochs_done={found.epochs_done}")
    if found.epochs_done == epochs and "val_accuracy" not in found.history[-1]:
        raise ValueError("`val_accuracy` of the last epoch is missing")
    for row in found.history:
        if missing := _FIGURES.keys() - row.keys():
            raise ValueError(f"`{min(missing)}` of epoch {row['epoch']} is missing")
        for name, rule in (_FIGURES | _FURTHER).items():
            if name in row and not rule.holds(row[name]):
                raise ValueError(f"`{name}` must be {rule.text}. Received: {name}={row[name]}")
