"""Warns of schedules that a fit does not bring to their target."""

import functools
import warnings
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras

from tfprune.sparsity.targets import Shortfall, late, shortfalls, target_of, target_step_of
from tfprune.sparsity.wrapper import PruneLowMagnitude


class FitReport:
    """The warnings of one fit: before it, of schedules that end later; after it, of all that is short.

    Args:
        layers: The wrappers of the model that is trained.
    """

    def __init__(self, layers: Sequence[PruneLowMagnitude]) -> None:
        self._layers = layers
        # The files that the fit saves, by their paths, the last one last: what was short of its target then.
        self._files: dict[str, list[Shortfall]] = {}

    def begin(self, model: keras.Model) -> None:
        """Begins to note the files that the model is saved to."""
        for name in ("save", "save_weights"):
            act_before(model, name, self._note_file)

    def end(
        self, model: keras.Model, steps: tuple[int, int], never_fired: Sequence[Any], at_once: bool
    ) -> None:
        """Warns, after all other callbacks, of what is not at its target.

        Args:
            model: The model.
            steps: The number of batches in the model's life before the fit, and after it.
            never_fired: The schedules that have not acted in the fit, though not over before it.
            at_once: Whether no `fit` makes the calls, so that no other callbacks follow.
        """
        for name in ("save", "save_weights"):
            vars(model).pop(name, None)
        record = getattr(model, "history", None)
        if at_once or not isinstance(record, keras.callbacks.History):
            self._warn_of_shortfalls(steps, never_fired)
            return

        # Callbacks that come later may put the best weights back. Keras's own record comes last.
        def on_train_end(logs: Any = None) -> None:
            vars(record).pop("on_train_end", None)
            self._warn_of_shortfalls(steps, never_fired)

        record.on_train_end = on_train_end

    def _note_file(self, filepath: Any, *args: Any, **kwargs: Any) -> None:
        self._files.pop(str(filepath), None)
        self._files[str(filepath)] = shortfalls(self._layers)

    def warn_of_the_end(self, last_step: int) -> None:
        """Warns of schedules that get to their target after the fit's last step."""
        for schedule in late(self._layers, last_step):
            warnings.warn(
                f"This fit ends at step {last_step}: {schedule!r} gets to {target_of(schedule):g} at "
                f"step {target_step_of(schedule)}. Train for longer, end the schedule earlier, or count "
                "in epochs: `ByEpoch(target_sparsity, epoch)`.",
                stacklevel=3,
            )

    def _warn_of_shortfalls(self, steps: tuple[int, int], never_fired: Sequence[Any]) -> None:
        before, after = steps
        missing = {id(short.schedule): short for short in shortfalls(self._layers)}
        left = {short.layers: short.sparsity for short in missing.values()}
        for schedule in never_fired:
            short = missing.pop(id(schedule), None)
            warnings.warn(
                f"{schedule!r} never pruned: none of its steps is among steps {before + 1} to "
                f"{after} of this fit." + (f" The fit leaves {short.place}." if short else ""),
                stacklevel=3,
            )
        step = self._layers[0].steps_taken
        if step < after:
            why = (
                f"step {after}, and the weights of step {step} were put back. Give the callback "
                "that does so to `UpdatePruningStep(at_target=[...])`"
            )
        else:
            why = f"step {step}. A further `fit` goes on from here"
        for short in missing.values():
            warnings.warn(f"The fit leaves {short.place}; {short.goal}. It ended at {why}.", stacklevel=3)
        # `BackupAndRestore` has removed its own by now.
        last = next((path for path in reversed(self._files) if Path(path).exists()), None)
        for short in self._files.get(last, ()):
            if short.sparsity < left.get(short.layers, 1.0):
                warnings.warn(
                    f"{last}, the last file that the fit saved, has {short.place}; {short.goal}. Give the "
                    "callback that saves it to `UpdatePruningStep(at_target=[...])`.",
                    stacklevel=3,
                )


def act_before(model: keras.Model, method: str, action: Callable) -> None:
    """Makes a model's method call `action` first, with its arguments, for as long as its object is there."""
    function, reference = getattr(model, method), weakref.WeakMethod(action)
    while hasattr(function, "acts_before"):  # Of a fit that an exception ended.
        function = function.acts_before

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if (act := reference()) is not None:  # An exception may have ended the fit.
            act(*args, **kwargs)
        return function(*args, **kwargs)

    wrapped.acts_before = function
    setattr(model, method, wrapped)
