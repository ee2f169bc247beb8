"""The fit of a round that was interrupted: what is on disk of it, checked against the experiment."""

from tfprune.reading import reading
from tfprune.runs.config import ExperimentConfig
from tfprune.runs.folder import RoundFolder
from tfprune.runs.metric import Metric
from tfprune.runs.result import RoundResult
from tfprune.settings import ABOVE_0, AT_LEAST_0, FRACTION, PERCENT
from tfprune.training.checkpoint import ADVICE, KIND, Checkpoint, read_checkpoint

NOTES = ("metric_before", "target_sparsity", "metric_after_pruning")
"""The fields of the round's result that are known before its fit begins, and kept in its checkpoint."""

ENGINE_NOTES = ("training_engines", "engine_speedup", "engine_reason")
"""The fields that say what trains, where that was noted when the fit began."""

# What a row of the history must have, and what it may have.
_FIGURES = {"train_seconds": AT_LEAST_0, "images_per_second": ABOVE_0}
_FURTHER = {"data_wait_percent": PERCENT}


def read_unfinished(
    config: ExperimentConfig, folder: RoundFolder, metric: Metric | None
) -> Checkpoint | None:
    """Returns the checkpoint of a round's unfinished fit, or None if there is none.

    Args:
        config: The experiment.
        folder: The round's.
        metric: By what the experiment is judged; None where it is not known yet, and not checked.

    Raises:
        FileError: If it is damaged, or the round cannot have left it.
    """
    found = read_checkpoint(folder.path)
    if found:
        with reading(found.path, KIND, ADVICE):
            _check(found, config.settings(folder.number).epochs, metric)
    return found


def _check(found: Checkpoint, epochs: int, metric: Metric | None) -> None:
    noted = [name for name in ENGINE_NOTES if name in found.notes]
    RoundResult.measured_of(found.notes, [*NOTES, *noted], metric)
    if found.notes["metric_before"] is None:
        raise ValueError("`metric_before` must be a number. Received: None")
    if found.notes.keys() != {*NOTES, *noted}:
        rule = f"must have {', '.join(NOTES)}, and may have {', '.join(ENGINE_NOTES)}"
        raise ValueError(f"`notes` {rule}. Received: {', '.join(found.notes)}")
    if found.epochs_done > epochs:
        rule = f"must be at most {epochs}, as the flags say"
        raise ValueError(f"`epochs_done` {rule}. Received: epochs_done={found.epochs_done}")
    rules = _FIGURES | _FURTHER
    on_test = f"val_{metric.name}" if metric else "val_loss"
    if found.epochs_done == epochs and on_test not in found.history[-1]:
        raise ValueError(f"`{on_test}` of the last epoch is missing")
    if metric and metric.in_percent:
        rules |= dict.fromkeys((metric.name, on_test), FRACTION)
    for row in found.history:
        if missing := _FIGURES.keys() - row.keys():
            raise ValueError(f"`{min(missing)}` of epoch {row['epoch']} is missing")
        for name, rule in rules.items():
            if name in row and not rule.holds(row[name]):
                raise ValueError(f"`{name}` must be {rule.text}. Received: {name}={row[name]}")
