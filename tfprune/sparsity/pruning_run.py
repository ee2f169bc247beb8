"""`PruningRun`: counts training steps and brings the schedules' sparsities to the masks."""

from typing import Any

import keras
from keras import ops

from tfprune.sparsity.apply import apply_masks, pruned_layers, regrow, set_sparsity
from tfprune.sparsity.gradients import GradientData, GradientMeter, first_batches
from tfprune.sparsity.schedules import last_due
from tfprune.sparsity.wrapper import PruneLowMagnitude


class PruningRun:
    """The state of pruning in one training: which step it is, what is due, what was done.

    `Pruner` and `UpdatePruningStep` say in their own terms where the training is.

    Args:
        model, optimizer, gradient_data, gradient_batches: As for `Pruner`.

    Raises:
        ValueError: As for `Pruner`.
    """

    def __init__(
        self,
        model: keras.layers.Layer,
        optimizer: Any = None,
        gradient_data: GradientData = None,
        gradient_batches: int | None = 1,
    ) -> None:
        self._model = model
        self._optimizer = optimizer
        if optimizer is not None and not hasattr(optimizer, "__dict__"):
            raise ValueError(f"`optimizer` must be an optimizer object. Received: optimizer={optimizer!r}")
        self._layers = pruned_layers(model)
        if not self._layers:
            raise ValueError(
                "The model has no pruned layers: wrap it with `prune_low_magnitude` before training. "
                f"Received: model={model!r}"
            )
        if not all(layer.built for layer in self._layers):
            raise ValueError(
                "The model must be built before training: give it an `Input`, or call it on a batch first. "
                f"Received: model={model!r}"
            )
        self._groups: dict[str, list[PruneLowMagnitude]] = {}
        for layer in self._layers:
            if layer.pruning_schedule is not None:
                self._groups.setdefault(layer.rule.key, []).append(layer)
        check_gradient_data(self._groups, gradient_data, gradient_batches)
        self._gradient_data, self._gradient_batches = gradient_data, gradient_batches
        self._meter: GradientMeter | None = None
        self._fired: set[str] = set()
        self.take_up_step()
        for layer in self._layers:
            layer.updater = self

    @property
    def steps_taken(self) -> int:
        """Number of training batches in the model's life so far."""
        return self._step

    @property
    def optimizer(self) -> Any:
        """The optimizer whose slots are kept at zero for removed weights."""
        return self._optimizer if self._optimizer is not None else getattr(self._model, "optimizer", None)

    def take_up_step(self) -> None:
        """Goes on from the model's own count of steps."""
        self._step = self._layers[0].steps_taken
        self._stored = int(ops.convert_to_numpy(self._layers[0].pruning_step))
        self._first_step = self._step
        self._looked_at = self._step or -1

    def count_to(self, step: int) -> None:
        """Says that `step` training batches are done."""
        self._step = step
        self._layers[0].counted = (self._stored, step)

    def is_due(self, until: int) -> bool:
        """Whether `look_at(until)` would update the masks."""
        return bool(self._due(until))

    def look_at(self, until: int) -> None:
        """Updates the masks, if an update is due at or before step `until`, which comes next."""
        due = self._due(until)
        self._looked_at = max(self._looked_at, until)
        gradients = None
        if any(self._groups[key][0].rule.needs_gradients for key in due):
            gradients = self._measure(until)
        for key, sparsity in due.items():
            layers = self._groups[key]
            rule = layers[0].rule
            if rule.regrowth is not None:
                regrow(layers, sparsity, rule.scope, until, self.optimizer, gradients)
            else:
                set_sparsity(layers, sparsity, rule.scope, self.optimizer, gradients)
            self._fired.add(key)

    def store_step(self, everywhere: bool = False) -> None:
        """Writes the count to the model: to the layer that is read first, or to all."""
        for layer in self._layers if everywhere else self._layers[:1]:
            self.store_step_in(layer)

    def store_step_in(self, layer: PruneLowMagnitude) -> None:
        """Writes the count to one layer."""
        layer.pruning_step.assign(self._step)
        layer.counted = None
        if layer is self._layers[0]:
            self._stored = self._step

    def zero_removed_weights(self) -> None:
        """Writes exact zeros to removed weights, and to the optimizer's slots for them."""
        apply_masks(self._layers, self.optimizer)

    def never_fired(self) -> list[Any]:
        """Returns the schedules that have not acted since this object was made, though not over yet."""
        schedules = {key: layers[0].pruning_schedule for key, layers in self._groups.items()}
        return [
            schedule
            for key, schedule in schedules.items()
            if key not in self._fired and not 0 <= getattr(schedule, "end_step", -1) <= self._first_step
        ]

    @property
    def first_step(self) -> int:
        """The count of steps when this object was made."""
        return self._first_step

    @property
    def has_schedules(self) -> bool:
        """Whether any layer has a schedule."""
        return bool(self._groups)

    def detach(self) -> None:
        """Ends the watch: from now on training without a `Pruner` is an error again."""
        for layer in self._layers:
            layer.updater = None

    def _due(self, until: int) -> dict[str, float]:
        """Group -> sparsity, for the groups that are due an update."""
        due = {
            key: last_due(layers[0].pruning_schedule, self._looked_at, until)
            for key, layers in self._groups.items()
        }
        return {key: sparsity for key, sparsity in due.items() if sparsity is not None}

    def _measure(self, step: int) -> Any:
        if self._meter is None:
            self._meter = GradientMeter(self._model, self._layers)
        return self._meter.measure(first_batches(self._gradient_data, step, self._gradient_batches))


def check_gradient_data(
    groups: dict[str, list[PruneLowMagnitude]], gradient_data: GradientData, gradient_batches: int | None
) -> None:
    """Checks that data is there where gradients will be needed, before any training.

    Raises:
        ValueError: If it is not.
    """
    if gradient_batches is not None and (gradient_batches != int(gradient_batches) or gradient_batches < 1):
        raise ValueError(
            "`gradient_batches` must be a whole number, at least 1, or None for all. "
            f"Received: gradient_batches={gradient_batches}"
        )
    if gradient_data is not None:
        return
    for layers in groups.values():
        if layers[0].rule.needs_gradients:
            rule = layers[0].rule
            raise ValueError(
                f"score={rule.score!r} with regrowth={rule.regrowth!r} needs batches to measure gradients "
                f"on. Received: gradient_data=None, for layer {layers[0].layer.name!r}"
            )
