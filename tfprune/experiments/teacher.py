"""The teacher of a run: the network that `--distill_from` names, from which it learns besides the labels."""

from dataclasses import dataclass

import keras

from tfprune import sparsity
from tfprune.errors import UserError, blame_flag
from tfprune.experiments.networks import load_model
from tfprune.experiments.task import Task
from tfprune.runs.config import ExperimentConfig
from tfprune.runs.folder import find_round
from tfprune.runs.result import RoundResult
from tfprune.training.distillation import DistilledModel


@dataclass(frozen=True)
class Teacher:
    """A network that teaches, without pruning wrappers, and the result of its round."""

    network: keras.Model
    result: RoundResult


def load_teacher(config: ExperimentConfig) -> Teacher | None:
    """Loads the network that `--distill_from` names; returns None if it names none.

    Raises:
        UserError: If there is no such finished round, it is damaged, or it is of another dataset or image
            size.
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
    return Teacher(network, found.read_result())


def check_teacher(config: ExperimentConfig, teacher: Teacher | None, task: Task) -> None:
    """Checks that the student's outputs can be learned from the teacher's.

    Raises:
        UserError: If the student does not say one of several classes, or the teacher one of as many.
    """
    if teacher is None:
        return
    student = task.classes
    if student is None:
        config.refuse(
            "distill_from",
            "must be empty: what can be learned from another network are the classes of one output, and "
            f"{config.flag('model')} has {'; '.join(map(str, task.outputs))}",
        )
    theirs = getattr(teacher.network, "output_shape", None)
    if isinstance(theirs, tuple) and theirs[-1] != student.size:
        config.refuse("distill_from", f"must be a run with {student.size} classes; it has {theirs[-1]}")


def distilled(config: ExperimentConfig, student: keras.Model, teacher: Teacher | None) -> keras.Model:
    """Returns the model to fit: the compiled student itself, or under its teacher if there is one."""
    if teacher is None:
        return student
    return DistilledModel(
        student, teacher.network, weight=config.distill_weight, temperature=config.distill_temperature
    )
