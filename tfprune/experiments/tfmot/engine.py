"""`--pruning_engine=tfmot`: rounds pruned and trained by tfmot itself, on the same network in tf-keras.

The Keras 3 model stays the one that is evaluated, saved and exported. A round copies it to a tf-keras twin
whose layers tfmot's own `PruneLowMagnitude` wraps, and brings everything back: weights and BatchNorm
statistics, masks, tfmot's count of steps and the optimizer's state. So a checkpoint is the Keras 3 model
too, as with the other engine.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from tfprune import sparsity
from tfprune.errors import UserError
from tfprune.experiments.environment import legacy_keras_kept_apart
from tfprune.experiments.tfmot.resnet import TwinTorchAdam, build_twin
from tfprune.extras import extra
from tfprune.training.callbacks import StopOnNonFiniteLoss, Throughput
from tfprune.training.checkpoint import EpochCheckpoint
from tfprune.training.fit import TrainBatches
from tfprune.training.progress import Progress
from tfprune.training.rate import RecordLearningRate, make_schedule
from tfprune.training.settings import TrainingSettings

with legacy_keras_kept_apart():
    with extra("tfmot"):
        import tensorflow_model_optimization as tfmot
        import tf_keras


def check_start(model: keras.Model, schedule: Any) -> None:
    """Checks that tfmot's first update removes weights in every layer, beyond those that are zero.

    tfmot keeps every weight as large as the smallest one that it has to keep. Where that is a zero, it
    keeps the whole tensor, and removed weights return.

    Args:
        model: The wrapped network to start from.
        schedule: Of the first round.

    Raises:
        UserError: On a layer that has more zeros than the first update asks for.
    """
    level = np.float32(schedule(schedule.begin_step + schedule.frequency)[1])
    for wrapper in sparsity.pruned_layers(model):
        for variable in wrapper.prunable_variables:
            weights = ops.convert_to_numpy(variable)
            size, left = weights.size, np.count_nonzero(weights)
            if left < max(np.round(np.float32(size) * (1 - level)), 1):  # As tfmot computes it.
                raise UserError(
                    "--pruning_engine=tfmot: must be tfprune for this start, because its layer "
                    f"{wrapper.layer.name!r} has sparsity {1.0 - left / size:.4f}, more than the {level:.4f} "
                    "of the first update: tfmot keeps ties, and would let its removed weights return"
                )


def prune(model: keras.Model, schedule: Any) -> None:
    """Prunes a compiled, wrapped Keras 3 model by tfmot's own code to the schedule's sparsity at step 0."""
    twin = _Twin(model, schedule)
    twin.load()
    for wrapper in twin.wrappers:
        wrapper.pruning_step.assign(0)
        wrapper.pruning_obj.conditional_mask_update()
        wrapper.pruning_obj.weight_mask_op()
    twin.store()


def fit(
    model: keras.Model,
    settings: TrainingSettings,
    *,
    schedule: Any,
    folder: Path,
    train_images: int,
    train_batches: TrainBatches,
    test_batches: Any,
    history: list[dict[str, float]],
    notes: dict[str, Any],
    progress: Progress,
    waited: Callable[[], float],
) -> list[dict[str, float]]:
    """Trains the twin with tfmot's wrappers and callback, as `tfprune.training.fit.fit` trains a network.

    Args:
        model: Compiled by `compile_for_training`, wrapped, or loaded from a checkpoint. Receives the
            result after each epoch; at the end its masks keep what is not zero.
        settings: The numbers of the fit.
        schedule: A `tfprune.sparsity` schedule that tfmot has too.
        folder: As for the other `fit`, like all that follow.
        train_images: Examples an epoch.
        train_batches: Makes the batches of the epochs still to come.
        test_batches: Evaluated after `settings.evaluated_epochs`.
        history: Rows of the epochs already done.
        notes: Kept in the checkpoint.
        progress: Reports the progress.
        waited: Returns the seconds waited for `train_batches` up to now.

    Returns:
        One row an epoch, as the other `fit`.

    Raises:
        NonFiniteLossError: Where the loss becomes NaN or infinite; the last epoch's checkpoint stays.
    """
    first_epoch = len(history)
    if first_epoch < settings.epochs:
        twin = _Twin(model, schedule)
        twin.load()
        steps_per_epoch = math.ceil(train_images / settings.batch_size)
        rates = make_schedule(settings, steps_per_epoch)
        watching = [
            StopOnNonFiniteLoss(),
            RecordLearningRate(rates, steps_per_epoch),
            Throughput(train_images, settings.batch_size, waited),
        ]
        try:
            twin.model.fit(
                train_batches(first_epoch, settings.epochs),
                epochs=settings.epochs,
                initial_epoch=first_epoch,
                steps_per_epoch=steps_per_epoch,
                validation_data=test_batches,
                validation_freq=settings.evaluated_epochs,
                shuffle=False,
                verbose=0,
                callbacks=[
                    tfmot.sparsity.keras.UpdatePruningStep(),
                    _Exchange(twin, lambda epoch: rates.rate_at(epoch * steps_per_epoch)),
                    *(_Keras3Callback(callback, model) for callback in watching),
                    tf_keras.callbacks.TensorBoard(folder / "tensorboard", write_graph=False),
                    _Keras3Callback(EpochCheckpoint(folder, history, notes), model),
                    _Keras3Callback(progress, model),
                ],
            )
        finally:
            progress.close()
        stripped = tfmot.sparsity.keras.strip_pruning(twin.model)
        for name, layer in _layers(model).items():
            layer.set_weights([weights + 0.0 for weights in stripped.get_layer(name).get_weights()])
    for wrapper in sparsity.pruned_layers(model):
        for kernel, mask in wrapper.pruned:
            mask.assign(ops.not_equal(kernel.variable, 0.0))
    return history


def _layers(model: keras.Model) -> dict[str, keras.layers.Layer]:
    """Returns the layers of a Keras 3 model, without wrappers, by name."""
    wrapper = sparsity.PruneLowMagnitude
    bare = (layer.layer if isinstance(layer, wrapper) else layer for layer in model.layers)
    return {layer.name: layer for layer in bare}


class _Twin:
    """A compiled Keras 3 model in tf-keras, wrapped by tfmot where it is wrapped by us.

    Attributes:
        model: The tf-keras model, compiled with the equal of the Keras 3 model's optimizer.
        wrappers: tfmot's.
    """

    def __init__(self, ours: keras.Model, schedule: Any) -> None:
        theirs = getattr(tfmot.sparsity.keras, type(schedule).__name__)(**schedule.get_config())
        self.wrappers: list[Any] = []

        def wrap(layer: tf_keras.layers.Layer) -> Any:
            self.wrappers.append(tfmot.sparsity.keras.prune_low_magnitude(layer, theirs))
            return self.wrappers[-1]

        self.model = build_twin(ours, wrap)
        self.model.compile(
            optimizer=TwinTorchAdam(ours.optimizer),
            loss=tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
        self._pairs = [*self._pair_layers(ours), *self._pair_optimizers(ours)]

    def load(self) -> None:
        """Copies the Keras 3 model's state to the twin."""
        for ours, theirs in self._pairs:
            theirs.assign(ops.convert_to_numpy(ours).astype(theirs.dtype.as_numpy_dtype))

    def store(self) -> None:
        """Copies the twin's state to the Keras 3 model."""
        for ours, theirs in self._pairs:
            # `+ 0` because a removed negative weight is -0.0 with tfmot, its product with the mask.
            ours.assign((theirs.numpy() + 0).astype(ours.dtype))

    def _pair_layers(self, ours: keras.Model) -> list[tuple[keras.Variable, Any]]:
        their_wrappers = {wrapper.layer.name: wrapper for wrapper in self.wrappers}
        pairs: list[tuple[keras.Variable, Any]] = []
        for wrapper in sparsity.pruned_layers(ours):
            their_wrapper = their_wrappers[wrapper.layer.name]
            pairs.append((wrapper.pruning_step, their_wrapper.pruning_step))
            their_masks = [mask for _, mask, _ in their_wrapper.pruning_vars]
            pairs += zip(wrapper.masks, their_masks, strict=True)
        for name, layer in _layers(ours).items():
            their_layer = their_wrappers[name].layer if name in their_wrappers else self.model.get_layer(name)
            pairs += zip(layer.weights, their_layer.weights, strict=True)
        return pairs

    def _pair_optimizers(self, ours: keras.Model) -> list[tuple[keras.Variable, Any]]:
        """Pairs what the optimizers keep for each trainable variable, the variables in one order for both."""
        twin_of = {id(our): their for our, their in self._pair_layers(ours)}
        optimizer, twin = ours.optimizer, self.model.optimizer
        if not optimizer.built:
            optimizer.build(ours.trainable_variables)
        twin.build([twin_of[id(variable)] for variable in ours.trainable_variables])
        return [
            (optimizer.iterations, twin.iterations),
            *zip(optimizer._momentums, twin._momentums, strict=True),
            *zip(optimizer._velocities, twin._velocities, strict=True),
        ]


class _Exchange(tf_keras.callbacks.Callback):
    """Brings each epoch's learning rate to the twin, and its outcome to the Keras 3 model."""

    def __init__(self, twin: _Twin, rate_in: Callable[[int], float]) -> None:
        super().__init__()
        self._twin, self._rate_in = twin, rate_in

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.model.optimizer.learning_rate = self._rate_in(epoch)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._twin.store()
        figures = dict(sorted(logs.items()))  # Keras 3's order, for `history.csv`.
        logs.clear()
        logs.update(figures)


class _Keras3Callback(tf_keras.callbacks.Callback):
    """Lets a Keras 3 callback follow a tf-keras fit; its model is the Keras 3 one."""

    def __init__(self, callback: keras.callbacks.Callback, model: keras.Model) -> None:
        super().__init__()
        callback.set_model(model)
        self._callback = callback

    def set_params(self, params: dict[str, Any]) -> None:
        super().set_params(params)
        self._callback.set_params(params)

    def on_train_begin(self, logs: Any = None) -> None:
        self._callback.on_train_begin(logs)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._callback.on_epoch_begin(epoch, logs)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._callback.on_train_batch_end(batch, logs)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._callback.on_epoch_end(epoch, logs)
