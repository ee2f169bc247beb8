"""One fit and one evaluation. Nothing here knows of pruning, which comes in as a callback."""

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras

from tfprune.network.batch_norm import batch_norm_synchronized, over_replicas
from tfprune.network.ending import head_layers
from tfprune.training.callbacks import (
    DeviceCallbackList,
    EpochTensorBoard,
    StopOnNonFiniteLoss,
    Throughput,
)
from tfprune.training.checkpoint import EpochCheckpoint
from tfprune.training.engine import KERAS, Engine
from tfprune.training.goal import CLASSIFY, Goal
from tfprune.training.optimizer import TorchAdam
from tfprune.training.progress import Progress
from tfprune.training.rate import RecordLearningRate, make_schedule
from tfprune.training.settings import TrainingSettings

# Makes batches of whole epochs: (first_epoch, epochs) -> a tf.data.Dataset of epochs first_epoch to epochs.
TrainBatches = Callable[[int, int], Any]


def compile_for_training(model: keras.Model, settings: TrainingSettings, goal: Goal = CLASSIFY) -> None:
    """Compiles a model with the loss and metrics of its goal and a fresh optimizer.

    The optimizer is Adam with PyTorch's L2 and epsilon; the variables of the model's head learn at
    `settings.head_factor` times the rate.
    """
    model.compile(
        optimizer=TorchAdam(
            settings.learning_rate,
            weight_decay=settings.weight_decay,
            learning_rate_multipliers=_head_multiplier(model, settings.head_factor),
        ),
        loss=goal.loss(),
        metrics=goal.metrics(),
        jit_compile=False if _on_tensorflow_cpu() else "auto",
        **goal.options,
    )


def _head_multiplier(model: keras.Model, factor: float) -> dict[str, float]:
    """Returns the multiplier of the head's learning rate, by a regular expression of its variables."""
    head = head_layers(model)
    if [layer.name for layer in head] == ["head"]:
        return {"(.*/)?head/.*": factor}
    paths = [re.escape(variable.path) for layer in head for variable in layer.trainable_variables]
    # A file's optimizer looks for the paths anew: none need be found where there is nothing to multiply.
    return {"|".join(paths): factor} if paths and factor != 1.0 else {}


def _on_tensorflow_cpu() -> bool:
    """Returns whether XLA is better left out: ResNet-34 takes longer to compile, and no step is faster."""
    return keras.backend.backend() == "tensorflow" and not keras.distribution.list_devices("gpu")


def fit(
    model: keras.Model,
    settings: TrainingSettings,
    *,
    folder: Path,
    train_images: int,
    train_batches: TrainBatches,
    test_batches: Any,
    history: list[dict[str, float]],
    notes: dict[str, Any],
    callbacks: Sequence[keras.callbacks.Callback] = (),
    progress: Progress | None = None,
    waited: Callable[[], float] | None = None,
    writes: bool = True,
    part: range | None = None,
    engine: Engine = KERAS,
) -> list[dict[str, float]]:
    """Trains a compiled model up to `settings.epochs` epochs, with a checkpoint after each.

    A fit can be in parts, each with an optimizer of its own: the rate goes on from one to the next.

    Args:
        model: Compiled by `compile_for_training`, or loaded from a checkpoint.
        settings: The numbers of the fit.
        folder: Receives `checkpoint*`, `history.csv` and `tensorboard/`.
        train_images: Examples an epoch.
        train_batches: Makes the batches of the epochs still to come.
        test_batches: Evaluated after `settings.evaluated_epochs`.
        history: Rows of the epochs already done, from the checkpoint; empty at the start.
        notes: Kept in the checkpoint.
        callbacks: Run before this function's own. A batch's figures reach them as tensors.
        progress: Reports the progress; None: nothing does.
        waited: Returns the seconds waited for `train_batches` up to now; None: not recorded.
        writes: False in a process that shares the fit with another, which writes the files.
        part: The epochs, counted from 0, of the model's optimizer, after which the fit stops; None: all.
        engine: What trains, or chooses what does.

    Returns:
        One row an epoch: epoch (from 1), the loss and the metrics in training, the same with `val_` before
        their names on the test batches (not in epochs without), learning_rate, train_seconds,
        images_per_second, data_wait_percent.

    Raises:
        NonFiniteLossError: Where the loss becomes NaN or infinite; the last epoch's checkpoint stays.
    """
    first_epoch, part = len(history), part or range(settings.epochs)
    if first_epoch >= part.stop:
        return history
    steps_per_epoch = math.ceil(train_images / settings.batch_size)
    schedule = make_schedule(settings, steps_per_epoch, part.start)
    model.optimizer.learning_rate = schedule
    watching = [
        *callbacks,
        StopOnNonFiniteLoss(),
        RecordLearningRate(schedule, steps_per_epoch),
        Throughput(train_images, settings.batch_size, waited),
        *([EpochTensorBoard(folder / "tensorboard")] if writes else []),
        EpochCheckpoint(folder, history, notes, keep=writes),
        *([progress] if progress else []),
    ]
    batches = train_batches(first_epoch, part.stop)
    try:
        with batch_norm_synchronized(model, over_replicas(model)):
            engine = engine.chosen(model, batches, goes_on=first_epoch > part.start)
            params = {
                "epochs": settings.epochs,
                "steps": steps_per_epoch,
                "verbose": 0,
                "engine": engine.name,
            }
            engine.fit(
                model,
                batches,
                epochs=part.stop,
                initial_epoch=first_epoch,
                steps_per_epoch=steps_per_epoch,
                validation_data=test_batches,
                validation_freq=settings.evaluated_epochs,
                shuffle=False,  # The pipeline has done it.
                verbose=0,
                callbacks=DeviceCallbackList(watching, model=model, **params),
            )
    finally:
        if progress:
            progress.close()
    return history


def evaluate(model: keras.Model, test_batches: Any) -> dict[str, float]:
    """Returns the loss and the metrics of a compiled model on the test batches, by Keras's names."""
    figures = model.evaluate(test_batches, verbose=0, return_dict=True)
    return {name: float(value) for name, value in figures.items()}


def percent(fraction: float) -> float:
    """Returns a float32 fraction in percent, without the digits that float32 does not have."""
    return round(100.0 * float(fraction), 4)
