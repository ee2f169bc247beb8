"""`PruningSummaries`: the sparsity and the threshold of each kernel over the steps, in TensorBoard."""

import os
from typing import Any

import keras
import numpy as np
from keras import ops

from tfprune.sparsity.apply import pruned_layers
from tfprune.sparsity.schedules import ByEpoch, last_due
from tfprune.sparsity.wrapper import PruneLowMagnitude, threshold


class PruningSummaries(keras.callbacks.TensorBoard):
    """Writes the state of pruning for TensorBoard, at each epoch's start and at the end of training.

    Writes all that `keras.callbacks.TensorBoard` writes; and in `log_dir/metrics`, for each prunable
    variable by its path:

    - `<path>/sparsity`: the fraction of the weights that are masked out;
    - `<path>/threshold`: the smallest magnitude among the weights that are left;
    - `<path>/schedule`: the sparsity at the last step at which the schedule was due, once one was. With
      `scope="layer"` the layer's sparsity follows it up to rounding; with other scopes only that of all
      layers together does.

    Of a model without pruned layers the losses and metrics are written alone. In a loop of your own
    `set_model` and, before each epoch, `on_epoch_begin` are enough.

    The steps are training batches, counted by `UpdatePruningStep`; or by the optimizer in a model without
    schedules, whose masks do not change in training.

    Differs from `tfmot.sparsity.keras.PruningSummaries` in the names, and in the end of the last epoch,
    which tfmot leaves out. Needs TensorFlow to write, as Keras's callback does, on whichever backend.

    Args:
        log_dir: The folder for the logs.
        update_freq: The interval at which losses and metrics are written: "epoch", "batch" or a number of
            batches. The state of pruning is written once an epoch.
        **kwargs: For `keras.callbacks.TensorBoard`.

    Raises:
        ValueError: If `log_dir` is empty or no path; or, when `fit` begins, if the model is not built.
    """

    def __init__(self, log_dir: str | os.PathLike, update_freq: str | int = "epoch", **kwargs: Any) -> None:
        if not isinstance(log_dir, str | os.PathLike) or not str(log_dir):
            raise ValueError(f"`log_dir` must be a non-empty string or path. Received: log_dir={log_dir!r}")
        super().__init__(log_dir=log_dir, update_freq=update_freq, **kwargs)
        self._layers: list[PruneLowMagnitude] = []
        self._due: dict[int, float] = {}
        self._looked_at = -1
        self._trains = False

    def set_model(self, model: keras.Model) -> None:
        """Finds the pruned layers."""
        super().set_model(model)
        self._layers = pruned_layers(model)
        self._due, self._looked_at = {}, -1

    def on_train_begin(self, logs: Any = None) -> None:
        """Checks that the model is built."""
        super().on_train_begin(logs)
        self._trains = True
        if not all(layer.built for layer in self._layers):
            raise ValueError(
                "The model must be built before training: give it an `Input`, or call it on a batch first. "
                f"Received: model={self.model!r}"
            )

    def on_epoch_begin(self, epoch: int = -1, logs: Any = None) -> None:
        """Writes the state of pruning before the epoch."""
        if self._trains:  # A loop of one's own may make this call alone, as with tfmot's callback.
            super().on_epoch_begin(epoch, logs)
        self._write_pruning()

    def on_train_end(self, logs: Any = None) -> None:
        """Writes the state of pruning after the last epoch."""
        self._write_pruning()
        self._trains = False
        super().on_train_end(logs)

    def _write_pruning(self) -> None:
        if not self._layers:
            return
        model = self.model  # On JAX this brings the training state to the model.
        step = self._step(model)
        if "pruning" not in self._writers:  # Keras closes what is in there when training ends.
            self._writers["pruning"] = self.summary.create_file_writer(os.path.join(self.log_dir, "metrics"))
        writer = self._writers["pruning"]
        with writer.as_default():
            for tag, value in self._scalars(step).items():
                self.summary.scalar(tag, value, step=step)
        writer.flush()

    def _step(self, model: keras.Model) -> int:
        counted = any(layer.pruning_schedule is not None for layer in self._layers)
        step = self._layers[0].pruning_step if counted else model.optimizer.iterations
        return int(ops.convert_to_numpy(step))

    def _scalars(self, step: int) -> dict[str, float]:
        self._look_at(step)
        scalars: dict[str, float] = {}
        for layer in self._layers:
            for (kernel, mask), rule in zip(layer.pruned, layer.rule_of_each, strict=True):
                due = self._due.get(id(rule.pruning_schedule))
                variable = kernel.variable
                name, copies = variable.path, 1
                while f"{name}/sparsity" in scalars:  # Nested models may have layers of the same name.
                    copies += 1
                    name = f"{variable.path}_{copies}"
                stays = np.asarray(ops.convert_to_numpy(mask))
                scalars[f"{name}/sparsity"] = 1.0 - float(np.mean(stays))
                scalars[f"{name}/threshold"] = float(threshold(variable, mask))
                if due is not None:
                    scalars[f"{name}/schedule"] = due
        return scalars

    def _look_at(self, step: int) -> None:
        """Asks the schedules about the steps since the last call."""
        rules = [rule for layer in self._layers for rule in layer.rules]
        schedules = {id(rule.pruning_schedule): rule.pruning_schedule for rule in rules}
        for schedule in schedules.values():
            if schedule is None or isinstance(schedule, ByEpoch):  # Not counted in steps yet.
                continue
            due = last_due(schedule, self._looked_at, step)
            if due is not None:
                self._due[id(schedule)] = due
        self._looked_at = step
