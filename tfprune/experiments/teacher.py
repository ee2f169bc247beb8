"""The network that `--distill_from` names: what a run learns from besides the labels."""

import keras

from tfprune import sparsity
from tfprune.errors import UserError
from tfprune.experiments.networks import load_model
from tfprune.runs.config import ExperimentConfig
from tfprune.runs.folder import find_round
from tfprune.runs.result import RoundResult
from tfprune.training.distillation import DistilledModel


def load_teacher(config: ExperimentConfig, classes: int) -> tuple[keras.Model | None, RoundResult | None]:
    """Returns the network that `--distill_from` names, without pruning wrappers, and its result; None if
    none.

    Args:
        config: The experiment.
        classes: How many the dataset has.

    Raises:
        UserError: If there is no such finished round, it is damaged, or it is of another dataset, image size
            or number of classes.
    """
    if not config.distill_from:
        return None, None
    run, found = find_round(config.output_dir, config.distill_from, "distill_from")
    theirs = run.read_config()
    for name in ("dataset", "image_size"):
        if getattr(theirs, name) != getattr(config, name):
            raise UserError(
                f"{config.flag('distill_from')}: must be a run with {config.flag(name)}; "
                f"it has {theirs.flag(name)}"
            )
    try:
        teacher = sparsity.strip_pruning(load_model(found))
    except UserError as error:
        raise UserError(f"{config.flag('distill_from')}: {error}") from error
    if teacher.output_shape[-1] != classes:
        raise UserError(
            f"{config.flag('distill_from')}: must be a run with {classes} classes; "
            f"it has {teacher.output_shape[-1]}"
        )
    return teacher, found.read_result()


def distilled(config: ExperimentConfig, student: keras.Model, teacher: keras.Model | None) -> keras.Model:
    """Returns what to fit: the compiled student itself, or under its teacher if there is one."""
    if teacher is None:
        return student
    return DistilledModel(
        student, teacher, weight=config.distill_weight, temperature=config.distill_temperature
    )
