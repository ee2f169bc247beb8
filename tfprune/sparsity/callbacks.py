"""`UpdatePruningStep`: counts training steps and brings the schedules' sparsities to the masks."""

import json
import warnings
from typing import Any

import keras
from keras import ops

from tfprune.sparsity.apply import apply_masks, pruned_layers, set_sparsity
from tfprune.sparsity.schedules import last_due
from tfprune.sparsity.wrapper import PruneLowMagnitude


class UpdatePruningStep(keras.callbacks.Callback):
    """Prunes by schedule during `fit`; every fit of a model with schedules needs it.

    There is one counter of steps: step t is the t-th training batch of the model's life, 1-based, over
    several fits and reloads. Before batch t an update is due if any step that the schedule names lies in
    (last looked at, t], and uses the last such step's sparsity; before training, "last looked at" is -1,
    so that `begin_step=0` acts before the first batch. With `steps_per_execution=k` the k steps of a
    group are looked at before the group.

    Removed weights are exactly zero from the update on, in every checkpoint, whatever the optimizer:
    its slots for them are cleared with them. The order of this callback and a `ModelCheckpoint` does not
    matter at epoch ends; for one that saves in mid-epoch put this one first, lest the saved count of
    steps lack the last batch.

    Raises (when the fit begins):
        ValueError: If the model has no `PruneLowMagnitude` layers, or is not built.
    """

    def __init__(self) -> None:
        super().__init__()
        self._layers: list[PruneLowMagnitude] = []
        self._step = 0

    @property
    def steps_taken(self) -> int:
        """Number of training batches in the model's life so far."""
        return self._step

    def on_train_begin(self, logs: Any = None) -> None:
        """Finds the pruned layers and takes up their count of steps."""
        model = self.model
        self._layers = pruned_layers(model)
        if not self._layers:
            raise ValueError(
                "The model has no pruned layers: wrap it with `prune_low_magnitude` before `fit`. "
                f"Received: model={model!r}"
            )
        if not all(layer.built for layer in self._layers):
            raise ValueError(
                "The model must be built before `fit`: give it an `Input`, or call it on a batch first. "
                f"Received: model={model!r}"
            )
        self._groups = _groups(self._layers)
        # Kept, because on JAX each use of `self.model` in mid-fit copies the training state to the model.
        self._group_size = int(getattr(model, "steps_per_execution", 1) or 1)
        self._fired: set[str] = set()
        self._take_up_step()
        for layer in self._layers:
            layer.updater = self

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Notes at which step the epoch starts."""
        if self._step == self._first_step:
            self._take_up_step()  # `BackupAndRestore` may have restored it since training began.
        self._epoch_start = self._step

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Updates the masks if a scheduled step is due."""
        until = self._epoch_start + self._within_epoch(batch + self._group_size)
        due = []
        for key, layers in self._groups.items():
            sparsity = last_due(layers[0].pruning_schedule, self._looked_at, until)
            if sparsity is not None:
                due.append((key, layers, sparsity))
        self._looked_at = until
        if not due:
            return
        optimizer = self.model.optimizer
        for key, layers, sparsity in due:
            set_sparsity(layers, sparsity, layers[0].scope, optimizer)
            self._fired.add(key)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Counts the batches of the epoch so far."""
        self._step = self._epoch_start + self._within_epoch(batch + 1)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Stores the count of steps in the model."""
        # Optimizers whose update of one weight depends on others' (Muon) move weights without gradient.
        apply_masks(self._layers, self.model.optimizer)
        self._store_step()

    def on_train_end(self, logs: Any = None) -> None:
        """Stores the count of steps; warns of schedules that never acted."""
        self._store_step()
        for layer in self._layers:
            layer.updater = None
        if not self._groups:
            return
        # Makes the next fit trace anew, so that a missing callback is noticed there too.
        self.model.train_function = None
        for key, layers in self._groups.items():
            end_step = getattr(layers[0].pruning_schedule, "end_step", -1)
            if key not in self._fired and not 0 <= end_step <= self._first_step:
                warnings.warn(
                    f"{layers[0].pruning_schedule!r} never pruned: none of its steps is among steps "
                    f"{self._first_step + 1} to {self._step} of this fit.",
                    stacklevel=2,
                )

    def _take_up_step(self) -> None:
        self._step = int(ops.convert_to_numpy(self._layers[0].pruning_step))
        self._first_step = self._epoch_start = self._step
        self._looked_at = self._step or -1

    def _store_step(self) -> None:
        for layer in self._layers:
            layer.pruning_step.assign(self._step)

    def _within_epoch(self, batches: int) -> int:
        """With `steps_per_execution` Keras names a group's last batch even where the epoch ends before."""
        steps = (self.params or {}).get("steps")
        return min(batches, steps) if steps else batches


def _groups(layers: list[PruneLowMagnitude]) -> dict[str, list[PruneLowMagnitude]]:
    """Groups the layers that have a schedule by schedule and scope, keyed by both as text."""
    groups: dict[str, list[PruneLowMagnitude]] = {}
    for layer in layers:
        schedule = layer.pruning_schedule
        if schedule is None:
            continue
        if hasattr(schedule, "get_config"):
            # Layers read from a file have equal schedules, not the same one.
            schedule_key = keras.saving.serialize_keras_object(schedule)
        else:
            schedule_key = id(schedule)
        key = json.dumps([schedule_key, layer.scope], sort_keys=True, default=str)
        groups.setdefault(key, []).append(layer)
    return groups
