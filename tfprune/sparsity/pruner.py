"""Prunes by schedule while a model trains: `Pruner` in loops of your own, `UpdatePruningStep` in `fit`."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from tfprune.network.fitting import bring_up_to_date
from tfprune.sparsity.apply import (
    Part,
    apply_masks,
    learn,
    learns,
    let_return,
    pruned_layers,
    pruned_together,
    regrow,
    set_sparsity,
)
from tfprune.sparsity.fit_report import FitReport, act_before
from tfprune.sparsity.gradients import GradientData, GradientMeter, first_batches
from tfprune.sparsity.schedules import ByEpoch, falls, last_due
from tfprune.sparsity.targets import shortfalls, target_of, warn_of_erased, warn_of_unlearned
from tfprune.sparsity.wrapper import PruneLowMagnitude


class Pruner:
    """Prunes by schedule in a training loop of your own: two calls, before and after each step.

    ```python
    pruner = Pruner(model, optimizer)
    for x, y in batches:
        pruner.before_step()
        train_step(x, y)
        pruner.after_step()
    ```

    In `fit`, `UpdatePruningStep` makes these calls. With `train_on_batch` the optimizer is the compiled one.

    There is one counter of steps: step t is the t-th training batch of the model's life, 1-based, over
    several loops and reloads. (What a model keeps for the next loop is at most 2**31 - 1.) Before batch t an
    update is due if any step that the schedule names lies in (last looked at, t], and uses the last such
    step's sparsity; before training, "last looked at" is -1, so that `begin_step=0` acts before the first
    batch.

    The weights and masks are read and written through the model's Keras variables. Where `update_due` says
    so, a stateless JAX loop hands its state to the variables before `before_step`, and takes it back after.

    Args:
        model: A built model with `PruneLowMagnitude` layers.
        optimizer: The Keras optimizer that trains the model; the optimizer's slots for removed weights become
            zero. Default: the compiled one. An optimizer that is not Keras's keeps its momentum for removed
            weights; their gradient is zero, and `after_step` sets to zero what still moved.
        gradient_data: For scores and growth that need gradients: batches of the form (x, y), or a function
            from the step to batches.
        gradient_batches: The number of batches that an update uses, from the start; None: all.

    Attributes:
        wrappers: The model's `PruneLowMagnitude` layers, in order.

    Raises:
        ValueError: If the model has no `PruneLowMagnitude` layers, is not built, or needs `gradient_data`.
    """

    def __init__(
        self,
        model: keras.layers.Layer,
        optimizer: Any = None,
        gradient_data: GradientData = None,
        gradient_batches: int | None = 1,
    ) -> None:
        if optimizer is not None and not hasattr(optimizer, "__dict__"):
            raise ValueError(f"`optimizer` must be an optimizer object. Received: optimizer={optimizer!r}")
        self._model, self._optimizer = model, optimizer
        self._moves_removed_weights = optimizer is not None and not isinstance(
            optimizer, keras.optimizers.Optimizer
        )
        self.wrappers = pruned_layers(model)
        if not self.wrappers:
            raise ValueError(
                "The model has no pruned layers: wrap it with `prune_low_magnitude` before training. "
                f"Received: model={model!r}"
            )
        if not all(layer.built for layer in self.wrappers):
            raise ValueError(
                "The model must be built before training: give it an `Input`, or call it on a batch first. "
                f"Received: model={model!r}"
            )
        self._group_layers()
        _check_gradient_data(self._groups, gradient_data, gradient_batches)
        _check_learning(self._groups, model)
        self._gradient_data, self._gradient_batches = gradient_data, gradient_batches
        self._meter: GradientMeter | None = None
        # In `fit` whether the callback saw the batch that comes, None in other loops.
        self._batch_seen: bool | None = None
        self._fired: set[str] = set()
        self._arrived: set[str] = set()
        self._take_up_step()
        for layer in self.wrappers:
            layer.updater = self
            layer.counts_calls = False
        self._guard_training()

    def _group_layers(self) -> None:
        """Finds the variables that are pruned together."""
        self._groups = pruned_together(self.wrappers)

    def _count_epochs(self, epoch: int, steps: int | None) -> None:
        """Turns schedules by epochs into schedules by steps.

        Args:
            epoch: The number of the epoch that comes next, from 0.
            steps: The number of batches of an epoch, None where it is not known.

        Raises:
            ValueError: If it is not known.
        """

        def in_steps(schedule: Any) -> Any:
            if not isinstance(schedule, ByEpoch):
                return schedule
            if not steps:
                raise ValueError(
                    f"{schedule!r} needs the number of batches of an epoch: give `steps_per_epoch` to `fit`. "
                    "Received: data of unknown length"
                )
            return schedule.in_steps(steps, self._step + 1 - epoch * steps)

        if any(isinstance(parts[0].rule.pruning_schedule, ByEpoch) for parts in self._groups.values()):
            for layer in self.wrappers:
                layer.reschedule(in_steps)
            self._group_layers()

    @property
    def steps_taken(self) -> int:
        """Returns the number of training batches in the model's life so far."""
        first = self.wrappers[0]
        return first.steps_taken if first.counts_calls else self._step

    @property
    def watches(self) -> bool:
        """Returns whether the training under way is the one that this object was made for.

        The callback outlives a fit that an exception ended; the model may then be compiled anew.
        """
        return self._batch_seen is None or isinstance(self._model.train_function, _GuardedTraining)

    @property
    def fits(self) -> bool:
        """Returns whether a `fit` is under way, in which the model's variables may lag behind."""
        return self._batch_seen is not None and self.watches

    def update_due(self, steps: int = 1) -> bool:
        """Returns whether `before_step(steps)` would update the masks."""
        return bool(self._due(self._step + _check_steps(steps)))

    def before_step(self, steps: int = 1) -> None:
        """Updates the masks, if an update is due before any of the next `steps` training batches."""
        self._look_at(self._step + _check_steps(steps))

    def after_step(self, steps: int = 1) -> None:
        """Counts `steps` training batches."""
        self._count_to(self._step + _check_steps(steps))
        if self._moves_removed_weights:
            self._zero_removed_weights()
        self.store_step()
        self._guard_training()

    def store_step(self) -> None:
        """Writes the count of steps to the model; `after_step` does so too."""
        self.store_step_in(self.wrappers[0])

    def store_step_in(self, layer: PruneLowMagnitude) -> None:
        """Writes the count of steps to one layer."""
        stored = layer.store_step(self.steps_taken)
        if layer is self.wrappers[0]:
            self._stored = stored

    def _is_put_back(self) -> bool:
        """Returns whether somebody else has written the count of steps, with the weights of that step."""
        return int(ops.convert_to_numpy(self.wrappers[0].pruning_step)) != self._stored

    def _store_step_everywhere(self) -> None:
        for layer in self.wrappers:
            self.store_step_in(layer)

    def _take_up_step(self) -> None:
        """Goes on from the model's own count of steps."""
        self._step = self.wrappers[0].steps_taken
        self._stored = int(ops.convert_to_numpy(self.wrappers[0].pruning_step))
        self._first_step = self._step
        self._looked_at = self._step or -1

    def _count_to(self, step: int) -> None:
        """Notes that `step` training batches are done."""
        self._step = step
        self.wrappers[0].counted = (self._stored, step)

    def _count_calls(self, counts: bool) -> None:
        """Lets the first layer's calls in training be the steps, or no longer."""
        first = self.wrappers[0]
        if counts and not first.counts_calls:
            self.store_step()  # The variable may lag behind, and counts from here.
        first.counts_calls = counts

    def _due(self, until: int) -> dict[str, float]:
        """Returns group -> sparsity, for the groups that are due an update at or before step `until`."""
        if until <= self._looked_at:
            return {}
        due = {
            key: last_due(parts[0].rule.pruning_schedule, self._looked_at, until)
            for key, parts in self._groups.items()
        }
        return {key: sparsity for key, sparsity in due.items() if sparsity is not None}

    def _look_at(self, until: int, prepare: Callable[[], Any] = lambda: None) -> None:
        """Updates the masks, if an update is due at or before step `until`, which comes next.

        Args:
            until: The step.
            prepare: Called before an update.
        """
        due = self._due(until)
        self._looked_at = max(self._looked_at, until)
        if not due:
            return
        prepare()
        gradients = None
        if any(self._groups[key][0].rule.needs_gradients for key in due):
            gradients = self._measure(until)
        for key, sparsity in due.items():
            parts = self._groups[key]
            rule = parts[0].rule
            learning = learns(parts)
            schedule = rule.pruning_schedule
            if learning and until < schedule.end_step:
                begin = schedule.begin_step
                learn(parts, sparsity, rule.scope, (until - begin) / (schedule.end_step - begin))
            elif rule.regrowth is not None:
                regrow(parts, sparsity, rule.scope, until, self._trainer(), gradients)
            else:
                if falls(schedule):
                    let_return(parts, sparsity)
                if learning:
                    warn_of_unlearned(parts, sparsity)
                set_sparsity(parts, sparsity, rule.scope, self._trainer(), gradients, model=self._model)
            if rule.scope == "global" and key not in self._arrived:
                target = target_of(schedule)
                if target is not None and sparsity >= target:
                    self._arrived.add(key)
                    warn_of_erased(parts)
            self._fired.add(key)

    def _measure(self, step: int) -> Any:
        if self._meter is None:
            self._meter = GradientMeter(self._model, self.wrappers)
        return self._meter.measure(first_batches(self._gradient_data, step, self._gradient_batches))

    def _trainer(self) -> Any:
        """Returns the optimizer whose slots are kept at zero for removed weights."""
        return self._optimizer if self._optimizer is not None else getattr(self._model, "optimizer", None)

    def _zero_removed_weights(self) -> None:
        apply_masks(self.wrappers, self._trainer())

    def _guard_training(self) -> None:
        """Makes what Keras compiled for training an error to use once nobody prunes any more."""
        function = getattr(self._model, "train_function", None)
        if self._groups and function is not None and not isinstance(function, _GuardedTraining):
            self._model.train_function = _GuardedTraining(function, self.wrappers)

    def _take_step(self) -> None:
        """Ends the watch if the callback did not see the batch: an exception has ended its fit."""
        if self._batch_seen is False:
            self._detach()
        elif self._batch_seen:
            self._batch_seen = False

    def _never_fired(self) -> list[Any]:
        """Returns the schedules that have not acted since this object was made, though not over yet."""
        schedules = {key: parts[0].rule.pruning_schedule for key, parts in self._groups.items()}
        return [
            schedule
            for key, schedule in schedules.items()
            if key not in self._fired and not 0 <= getattr(schedule, "end_step", -1) <= self._first_step
        ]

    def _detach(self) -> None:
        """Ends the watch: from now on training without a `Pruner` is an error again."""
        for layer in self.wrappers:
            layer.updater = None


class _GuardedTraining:
    """A model's training function that is an error to call while no `Pruner` watches over its layers.

    Wrapped layers look for a `Pruner` themselves, but only when they are traced, and Keras keeps the compiled
    function from one `fit` to the next.

    Args:
        function: The training function.
        layers: The model's wrappers.
    """

    def __init__(self, function: Callable, layers: Sequence[PruneLowMagnitude]) -> None:
        self._function, self._layers = function, layers

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        for pruner in {layer.updater for layer in self._layers} - {None}:
            pruner._take_step()
        for layer in self._layers:
            layer.check_watched()
        return self._function(*args, **kwargs)


class UpdatePruningStep(keras.callbacks.Callback):
    """Prunes by schedule during `fit`; every fit of a model with schedules needs it.

    Steps are counted as in `Pruner`. With `steps_per_execution=k` the k steps of a group are looked at
    before the group.

    Removed weights are exactly zero from the update on, in every checkpoint, whatever the optimizer: its
    slots for removed weights are cleared with the weights. The order of this callback and one that saves does
    not matter.

    A fit that leaves the model, or the last file that it saved, below the target of a schedule warns of it.

    A loop of your own may make the calls as with tfmot's callback, with any `batch` and `epoch`: `set_model`,
    `on_train_begin`, then `on_train_batch_begin` before each batch and `on_epoch_end` after each epoch.
    Without `on_train_batch_begin` the calls of the model in training are counted, and the masks change at the
    ends of the epochs alone. (`Pruner` is the shorter way.)

    Where the model has no pruned layers there is a warning, and nothing else happens.

    Args:
        gradient_data: For scores and growth that need gradients: batches of the form (x, y), or a function
            from the step to batches. Give RigL a function, or a data set that shuffles, so that it does not
            see the same batch each time.
        gradient_batches: The number of batches that an update uses, from the start; None: all.
        at_target: Callbacks for which an epoch counts only if it ends with every schedule at its target,
            such as `EarlyStopping(restore_best_weights=True)` and `ModelCheckpoint(save_best_only=True)`:
            what they hold as best is then as sparse as was asked for. They belong here in the place of the
            callbacks of `fit`.

    Raises (when the fit begins):
        ValueError: If the model is not built, or needs `gradient_data`.
    """

    def __init__(
        self,
        *,
        gradient_data: GradientData = None,
        gradient_batches: int | None = 1,
        at_target: keras.callbacks.Callback | Sequence[keras.callbacks.Callback] = (),
    ) -> None:
        super().__init__()
        self._gradient_data, self._gradient_batches = gradient_data, gradient_batches
        waiting = list(at_target) if isinstance(at_target, (list, tuple)) else [at_target]
        for callback in waiting:
            if not isinstance(callback, keras.callbacks.Callback):
                raise ValueError(
                    "`at_target` must be a callback or a list of callbacks. "
                    f"Received: at_target={at_target!r}"
                )
        self._waiting = keras.callbacks.CallbackList(waiting)
        self._at_target = False
        self._pruner: Pruner | None = None
        self._by_hand = False

    @property
    def callbacks(self) -> list[keras.callbacks.Callback]:
        """Returns the callbacks that wait for the target."""
        return self._waiting.callbacks

    @property
    def steps_taken(self) -> int:
        """Returns the number of training batches in the model's life so far."""
        return 0 if self._pruner is None else self._pruner.steps_taken

    def set_model(self, model: keras.Model) -> None:
        """Takes the model that is trained."""
        super().set_model(model)
        self._waiting.set_model(model)

    def set_params(self, params: dict[str, Any]) -> None:
        """Takes the number of epochs and of batches in each."""
        super().set_params(params)
        self._waiting.set_params(params)

    def on_train_begin(self, logs: Any = None) -> None:
        """Finds the pruned layers and takes up their count of steps."""
        model = self.model
        self._pruner = None
        if not pruned_layers(model):
            warnings.warn(
                "`UpdatePruningStep` prunes nothing: the model has no pruned layers. "
                f"`prune_low_magnitude` returns the model to train. Received: model={model!r}",
                stacklevel=2,
            )
            self._at_target = True
            self._waiting.on_train_begin(logs)
            return
        self._at_target = False
        self._pruner = Pruner(
            model, gradient_data=self._gradient_data, gradient_batches=self._gradient_batches
        )
        self._report = FitReport(self._pruner.wrappers)
        self._epoch_start = self._pruner.steps_taken
        # `fit` tells its parameters, as a list of callbacks may do too, and makes its function before.
        told = "steps" in (self.params or {})
        self._by_hand = not told or getattr(model, "train_function", None) is None
        if self._by_hand:
            self._batches_begun = 0
            self._pruner._count_calls(True)
            self._waiting.on_train_begin(logs)
            return
        self._pruner._batch_seen = False
        # Kept, because on JAX each use of `self.model` in mid-fit copies the training state to the model.
        self._group_size = int(getattr(model, "steps_per_execution", 1) or 1)
        self._first_epoch = True
        if hasattr(model, "get_state_tree"):  # Not in Keras 3.5, which has no `OrbaxCheckpoint` either.
            # `OrbaxCheckpoint` reads the variables past `save_own_variables`.
            act_before(model, "get_state_tree", self._bring_up_to_date)
        self._report.begin(model)
        self._waiting.on_train_begin(logs)

    def on_epoch_begin(self, epoch: int = -1, logs: Any = None) -> None:
        """Notes at which step the epoch starts."""
        pruner = self._pruner
        if pruner is not None and not self._by_hand:
            if pruner.steps_taken == pruner._first_step:
                pruner._take_up_step()  # `BackupAndRestore` may have restored it since training began.
            self._epoch_start = pruner.steps_taken
            if self._first_epoch:
                self._first_epoch = False
                steps, epochs = self.params["steps"], self.params.get("epochs")
                pruner._count_epochs(epoch, steps)
                if steps and epochs:
                    self._report.warn_of_the_end(pruner.steps_taken + (epochs - epoch) * steps)
        self._waiting.on_epoch_begin(epoch, logs)

    def on_train_batch_begin(self, batch: int = -1, logs: Any = None) -> None:
        """Updates the masks if a scheduled step is due."""
        if self._pruner is None:
            self._waiting.on_train_batch_begin(batch, logs)
            return
        if self._by_hand:
            self._batches_begun += 1
            self._pruner._count_calls(False)
            self._pruner._count_to(self._epoch_start + self._batches_begun - 1)
            self._pruner._look_at(self._epoch_start + self._batches_begun)
            return
        until = self._epoch_start + self._within_epoch(batch + self._group_size)
        self._pruner._look_at(until, prepare=lambda: bring_up_to_date(self.model))
        self._pruner._batch_seen = True
        self._pruner._guard_training()
        if (self.params or {}).get("steps"):
            # Counted already: in `on_train_batch_end` another callback may save before it is our turn. Where
            # the epoch's length is not known, the batch that begins may be none.
            self._pruner._count_to(until)
        if self._at_target:
            self._waiting.on_train_batch_begin(batch, logs)

    def on_train_batch_end(self, batch: int = -1, logs: Any = None) -> None:
        """Makes the model ready to be saved, after the epoch's last batch."""
        if self._pruner is None:
            self._waiting.on_train_batch_end(batch, logs)
        if self._pruner is None or self._by_hand:
            return
        done = self._within_epoch(batch + 1)
        self._pruner._count_to(self._epoch_start + done)
        if done == (self.params or {}).get("steps"):
            self._finish_epoch()  # In `on_epoch_end` another callback may save before it is our turn.
        if self._at_target:
            self._waiting.on_train_batch_end(batch, logs)

    def on_epoch_end(self, epoch: int = -1, logs: Any = None, *, batch: int = -1) -> None:
        """Makes the model ready to be saved, where the epoch's length was not known before.

        In tfmot the epoch's argument has the name `batch`.
        """
        if self._pruner is None:
            self._waiting.on_epoch_end(epoch, logs)
            return
        if self._by_hand:
            self._end_epoch_by_hand()
        self._finish_epoch()
        if self._waiting.callbacks:
            self._at_target = self._at_target or not shortfalls(self._pruner.wrappers)
            if self._at_target:
                self._waiting.on_epoch_end(epoch, logs)

    def on_train_end(self, logs: Any = None) -> None:
        """Stores the count of steps; warns of schedules that did not get to their target."""
        pruner, model = self._pruner, self.model
        if pruner is None:
            self._waiting.on_train_end(logs)
            return
        if self._by_hand:
            self._end_epoch_by_hand()
            pruner._count_calls(False)
            pruner._zero_removed_weights()
        if self._by_hand or not pruner._is_put_back():
            pruner._store_step_everywhere()
        pruner._detach()
        self._waiting.on_train_end(logs)
        vars(model).pop("get_state_tree", None)
        self.params = None  # The next loop may be one's own.
        steps = pruner._first_step, pruner.steps_taken
        self._report.end(model, steps, pruner._never_fired(), at_once=self._by_hand)

    def _bring_up_to_date(self, *args: Any, **kwargs: Any) -> None:
        """Writes the zeros and the count of steps to the model's variables."""
        bring_up_to_date(self.model)
        # Optimizers whose update of one weight depends on others' (Muon) move weights without gradient.
        self._pruner._zero_removed_weights()
        self._pruner._store_step_everywhere()

    def _end_epoch_by_hand(self) -> None:
        """Counts the epoch's steps: the batches that began or, where none did, the calls in training."""
        pruner = self._pruner
        done = self._epoch_start + self._batches_begun if self._batches_begun else pruner.steps_taken
        pruner._look_at(done)
        pruner._count_calls(False)
        pruner._count_to(done)
        self._epoch_start, self._batches_begun = done, 0
        pruner._count_calls(True)

    def _finish_epoch(self) -> None:
        self._bring_up_to_date()

    def _within_epoch(self, batches: int) -> int:
        """Returns how many of the epoch's batches are done after `batches`.

        With `steps_per_execution` Keras names a group's last batch even where the epoch ends before.
        """
        steps = (self.params or {}).get("steps")
        return min(batches, steps) if steps else batches


def _check_steps(steps: int) -> int:
    if steps != int(steps) or steps < 1:
        raise ValueError(f"`steps` must be a whole number, at least 1. Received: steps={steps}")
    return int(steps)


def _check_learning(groups: dict[str, list[Part]], model: keras.layers.Layer) -> None:
    """Checks that what is to be learned is trained, and the weights too."""
    trained = {id(variable) for variable in model.trainable_variables}
    for parts in groups.values():
        for part in parts:
            if learns([part]) and not {id(part.variable), id(part.learned.parameter)} <= trained:
                raise ValueError(
                    "A layer whose mask is learned must be trainable: train it, or leave it out, as "
                    "`prune_low_magnitude(prune_frozen=False)` does. "
                    f"Received: trainable=False, for {part.name}"
                )


def _check_gradient_data(
    groups: dict[str, list[Part]], gradient_data: GradientData, gradient_batches: int | None
) -> None:
    """Checks that data is there where gradients will be needed, before any training."""
    if gradient_batches is not None and (gradient_batches != int(gradient_batches) or gradient_batches < 1):
        raise ValueError(
            "`gradient_batches` must be a whole number, at least 1, or None for all. "
            f"Received: gradient_batches={gradient_batches}"
        )
    if gradient_data is not None:
        return
    for parts in groups.values():
        rule = parts[0].rule
        if rule.needs_gradients:
            raise ValueError(
                f"score={rule.score!r} with regrowth={rule.regrowth!r} needs batches to measure gradients "
                f"on. Received: gradient_data=None, for {parts[0].name}"
            )
