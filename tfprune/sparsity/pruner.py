"""`Pruner`: pruning by schedule in a training loop of your own."""

from typing import Any

import keras

from tfprune.sparsity.gradients import GradientData
from tfprune.sparsity.pruning_run import PruningRun


class Pruner:
    """Prunes by schedule in a training loop of your own: two calls, before and after each step.

    ```python
    pruner = Pruner(model, optimizer)
    for x, y in batches:
        pruner.before_step()
        train_step(x, y)
        pruner.after_step()
    ```

    In `fit`, `UpdatePruningStep` does it. With `train_on_batch` the optimizer is the compiled one.

    There is one counter of steps: step t is the t-th training batch of the model's life, 1-based, over
    several loops and reloads. Before batch t an update is due if any step that the schedule names lies in
    (last looked at, t], and uses the last such step's sparsity; before training, "last looked at" is -1,
    so that `begin_step=0` acts before the first batch.

    The weights and masks are read and written through the model's Keras variables. A stateless JAX loop
    hands its state to them before `before_step`, and takes it from them after, where `update_due` says so.

    Args:
        model: A built model with `PruneLowMagnitude` layers.
        optimizer: The Keras optimizer that trains it; its slots for removed weights become zero. Default:
            the compiled one. An optimizer that is not Keras's keeps its momentum for removed weights; their
            gradient is zero, and `after_step` sets to zero what still moved.
        gradient_data: For scores and growth that need gradients: batches of the form (x, y), or a function
            from the step to batches.
        gradient_batches: How many of them an update uses, from the start; None: all.

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
        self._run = PruningRun(model, optimizer, gradient_data, gradient_batches)
        self._moves_removed_weights = optimizer is not None and not isinstance(
            optimizer, keras.optimizers.Optimizer
        )

    @property
    def steps_taken(self) -> int:
        """Number of training batches in the model's life so far."""
        return self._run.steps_taken

    def update_due(self, steps: int = 1) -> bool:
        """Whether `before_step(steps)` would update the masks."""
        return self._run.is_due(self.steps_taken + _check_steps(steps))

    def before_step(self, steps: int = 1) -> None:
        """Updates the masks, if an update is due before any of the next `steps` training batches."""
        self._run.look_at(self.steps_taken + _check_steps(steps))

    def after_step(self, steps: int = 1) -> None:
        """Counts `steps` training batches."""
        self._run.count_to(self.steps_taken + _check_steps(steps))
        if self._moves_removed_weights:
            self._run.zero_removed_weights()
        self.store_step()

    def store_step(self) -> None:
        """Writes the count of steps to the model; `after_step` does it too."""
        self._run.store_step()


def _check_steps(steps: int) -> int:
    if steps != int(steps) or steps < 1:
        raise ValueError(f"`steps` must be a whole number, at least 1. Received: steps={steps}")
    return int(steps)
