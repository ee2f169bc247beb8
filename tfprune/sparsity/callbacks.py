"""`UpdatePruningStep`: pruning by schedule in `fit`."""

import warnings
import weakref
from typing import Any

import keras

from tfprune.sparsity.gradients import GradientData
from tfprune.sparsity.pruning_run import PruningRun


class UpdatePruningStep(keras.callbacks.Callback):
    """Prunes by schedule during `fit`; every fit of a model with schedules needs it.

    Steps are counted as in `Pruner`. With `steps_per_execution=k` the k steps of a group are looked at
    before the group.

    Removed weights are exactly zero from the update on, in every checkpoint, whatever the optimizer: its
    slots for them are cleared with them. The order of this callback and one that saves does not matter.

    Args:
        gradient_data: For scores and growth that need gradients: batches of the form (x, y), or a function
            from the step to batches. Give RigL a function, or a data set that shuffles, so that it does not
            see the same batch each time.
        gradient_batches: How many of them an update uses, from the start; None: all.

    Raises (when the fit begins):
        ValueError: If the model has no `PruneLowMagnitude` layers, is not built, or needs `gradient_data`.
    """

    def __init__(self, *, gradient_data: GradientData = None, gradient_batches: int | None = 1) -> None:
        super().__init__()
        self._gradient_data, self._gradient_batches = gradient_data, gradient_batches
        self._run: PruningRun | None = None

    @property
    def steps_taken(self) -> int:
        """Number of training batches in the model's life so far."""
        return self._run.steps_taken

    def on_train_begin(self, logs: Any = None) -> None:
        """Finds the pruned layers and takes up their count of steps."""
        model = self.model
        self._run = PruningRun(
            model, gradient_data=self._gradient_data, gradient_batches=self._gradient_batches
        )
        self._epoch_start = self._run.steps_taken
        # Kept, because on JAX each use of `self.model` in mid-fit copies the training state to the model.
        self._group_size = int(getattr(model, "steps_per_execution", 1) or 1)
        self._reads_are_free = keras.backend.backend() != "jax"
        # `OrbaxCheckpoint` reads the variables past `save_own_variables`.
        run_of, state_tree = weakref.ref(self._run), type(model).get_state_tree

        def get_state_tree(*args: Any, **kwargs: Any) -> Any:
            if (run := run_of()) is not None:  # An exception may have ended the fit.
                run.zero_removed_weights()
                run.store_step(everywhere=True)
            return state_tree(model, *args, **kwargs)

        model.get_state_tree = get_state_tree

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Notes at which step the epoch starts."""
        if self._run.steps_taken == self._run.first_step:
            self._run.take_up_step()  # `BackupAndRestore` may have restored it since training began.
        self._epoch_start = self._run.steps_taken

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Updates the masks if a scheduled step is due."""
        until = self._epoch_start + self._within_epoch(batch + self._group_size)
        if self._run.is_due(until):
            self.model  # noqa: B018  (On JAX: brings the training state to the model.)
        self._run.look_at(until)
        if (self.params or {}).get("steps"):
            # Counted already: in `on_train_batch_end` another callback may save before it is our turn. Where
            # the epoch's length is not known, the batch that begins may be none.
            self._run.count_to(until)
            if self._reads_are_free:
                self._run.store_step()  # An exception may end the fit without a further word.

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """After the epoch's last batch, makes the model ready to be saved."""
        done = self._within_epoch(batch + 1)
        self._run.count_to(self._epoch_start + done)
        if done == (self.params or {}).get("steps"):
            self._finish_epoch()  # In `on_epoch_end` another callback may save before it is our turn.

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Makes the model ready to be saved, where the epoch's length was not known before."""
        self._finish_epoch()

    def on_train_end(self, logs: Any = None) -> None:
        """Stores the count of steps; warns of schedules that never acted."""
        run = self._run
        run.store_step(everywhere=True)
        run.detach()
        vars(self.model).pop("get_state_tree", None)
        if not run.has_schedules:
            return
        # Makes the next fit trace anew, so that a missing callback is noticed there too.
        self.model.train_function = None
        for schedule in run.never_fired():
            warnings.warn(
                f"{schedule!r} never pruned: none of its steps is among steps {run.first_step + 1} to "
                f"{run.steps_taken} of this fit.",
                stacklevel=2,
            )

    def _finish_epoch(self) -> None:
        self.model  # noqa: B018  (On JAX: brings the training state to the model.)
        # Optimizers whose update of one weight depends on others' (Muon) move weights without gradient.
        self._run.zero_removed_weights()
        self._run.store_step(everywhere=True)

    def _within_epoch(self, batches: int) -> int:
        """With `steps_per_execution` Keras names a group's last batch even where the epoch ends before."""
        steps = (self.params or {}).get("steps")
        return min(batches, steps) if steps else batches
