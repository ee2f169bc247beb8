"""The teacher of a run: the network that `--distill_from` names, from which it learns besides the labels."""

from dataclasses import dataclass

import keras

from tfprune import sparsity
from tfprune.errors import UserError, blame_flag
from tfprune.experiments.networks import load_model
from tfprune.runs.config import ExperimentConfig
from tfprune.runs.folder import find_round
from tfprune.runs.result import RoundResult
from tfprune.training.distillation import DistilledModel


@dataclass(frozen=True)
class Teacher:
    """A network that teaches, without pruning wrappers, and the result of its round."""

    network: keras.Model
    result: RoundResult


def load_teacher(config: ExperimentConfig, classes: int) -> Teacher | None:
    """Loads the network that `--distill_from` names; returns None if it names none.

    Args:
        config: The experiment.
        classes: Number of classes of the dataset.

    Raises:
        UserError: If there is no such finished round, it is damaged, or it is of another dataset, image size
            or number of classes.
    """
    if not config.distill_from:
        return None
    run, found = find_round(config.output_dir, config.distill_from, "distill_from")
    theirs = run.read_config()
    for name in ("dataset", "image_size"):
        if getattr(theirs, name) != getattr(config, name):
            raise UserError(
                f"{config.flag('distill_from')}: must be a run with {config.flag(name)}; "
                f"it has {theirs.flag(name)}"
            )
    with blame_flag("distill_from", config.distill_from):
        network = sparsity.strip_pruning(load_model(found))
    if network.output_shape[-1] != classes:
        raise UserError(
            f"{config.flag('distill_from')}: must be a run with {classes} classes; "
            f"it has {network.output_shape[-1]}"
        )
    return Teacher(network, found.read_result())


def distilled(config: ExperimentConfig, student: keras.Model, teacher: Teacher | None) -> keras.Model:
    """Returns the model to fit: the compiled student itself, or under its teacher if there is one."""
    if teacher is None:
        return student
    return DistilledModel(
        student, teacher.network, weight=config.distill_weight, temperature=config.distill_temperature
    )
