"""Schedules: functions from a training step to `(should_prune, sparsity)`.

Steps are counted from 1: step t is the t-th training batch. A schedule is asked about each step before
that step's forward pass. Where several steps go by at once, `last_due` says which answer counts.
"""

import abc
import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from tfprune.arguments import real_number

# The last step that a model can count: its counter is an int32, because JAX has no wider integers.
LAST_STEP = 2**31 - 1


def check_sparsity(name: str, value: float) -> float:
    """Returns `value` as a float if it is a sparsity, a fraction of zeros in [0, 1).

    Raises:
        ValueError: If it is not.
    """
    sparsity = real_number(value)
    if sparsity is None:
        raise ValueError(f"`{name}` must be a number in [0, 1). Received: {name}={value!r}")
    if not 0.0 <= sparsity < 1.0:
        raise ValueError(f"`{name}` must be in [0, 1). Received: {name}={sparsity}")
    return sparsity


def check_steps(begin_step: int, end_step: int, frequency: int, endless: bool) -> None:
    """Checks the first step of a schedule, its last, and the number of steps from one update to the next.

    Raises:
        ValueError: On one out of range. `end_step` may be -1 if the schedule may be `endless`.
    """
    for name, value in (("begin_step", begin_step), ("end_step", end_step), ("frequency", frequency)):
        if not _is_whole(value):
            raise ValueError(f"`{name}` must be a whole number. Received: {name}={value}")
    if not 0 <= begin_step <= LAST_STEP:
        raise ValueError(f"`begin_step` must be from 0 to {LAST_STEP}. Received: begin_step={begin_step}")
    if not (endless and end_step == -1) and end_step < begin_step:
        alternative = ", or -1 for no end" if endless else ""
        raise ValueError(
            f"`end_step` must be at least `begin_step`{alternative}. "
            f"Received: begin_step={begin_step}, end_step={end_step}"
        )
    if not endless and end_step > LAST_STEP:
        raise ValueError(f"`end_step` must be at most {LAST_STEP}. Received: end_step={end_step}")
    if frequency < 1:
        raise ValueError(f"`frequency` must be at least 1. Received: frequency={frequency}")


class PruningSchedule(abc.ABC):
    """A function from a training step to `(should_prune, sparsity)`.

    Subclasses implement `__call__` and `get_config`, and are registered with
    `keras.saving.register_keras_serializable` to survive a save. A schedule of `tfmot.sparsity.keras` is
    accepted in the place of one, and is replaced by its equal here. Any other object needs `__call__` alone;
    its `end_step` is used if it has one.

    Attributes:
        falls: Whether removed weights return where the sparsity falls. Otherwise masks only shrink.
    """

    falls = False

    @abc.abstractmethod
    def __call__(self, step: int) -> tuple[bool, float]:
        """Returns whether to prune before training step `step` (counted from 1), and the sparsity then."""

    @abc.abstractmethod
    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of `__init__`."""

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "PruningSchedule":
        """Returns a schedule with the arguments of `get_config`."""
        return cls(**config)

    def __repr__(self) -> str:
        arguments = ", ".join(f"{k}={v!r}" for k, v in _arguments(self.get_config()).items())
        return f"{type(self).__name__}({arguments})"

    # What schedules written for tfmot use of its base class.

    def _should_prune_in_step(self, step: int, begin_step: int, end_step: int, frequency: int) -> bool:
        """Returns whether `step` is from `begin_step` to `end_step`, and a whole number of intervals on."""
        ended = 0 <= end_step < step
        return bool(step >= begin_step and not ended and (step - begin_step) % frequency == 0)

    def _validate_step(self, begin_step: int, end_step: int, frequency: int, allow_negative_1: bool) -> None:
        """Checks the steps of a schedule; `allow_negative_1` is whether it may be without an end.

        Raises:
            ValueError: On a step or an interval out of range.
        """
        check_steps(begin_step, end_step, frequency, endless=allow_negative_1)

    def _validate_sparsity(self, sparsity: float, variable_name: str) -> None:
        """Checks that a sparsity is in [0, 1).

        Raises:
            ValueError: If it is not; the message has the name.
        """
        check_sparsity(variable_name, sparsity)


class _PeriodicSchedule(PruningSchedule):
    """A schedule that fires every `frequency` steps from `begin_step` to `end_step`, and at `end_step`."""

    def __init__(self, begin_step: int, end_step: int, frequency: int, endless: bool) -> None:
        check_steps(begin_step, end_step, frequency, endless)
        self.begin_step = int(begin_step)
        self.end_step = int(end_step)
        self.frequency = int(frequency)

    def _fires(self, step: int) -> bool:
        if step == self.end_step:
            return True
        return self._should_prune_in_step(step, self.begin_step, self.end_step, self.frequency)

    def _progress(self, step: int) -> float:
        """Returns the fraction of the way from `begin_step` to `end_step`, in [0, 1]."""
        if step >= self.end_step:
            return 1.0
        if step <= self.begin_step:
            return 0.0
        return (step - self.begin_step) / (self.end_step - self.begin_step)


def _is_whole(value: Any) -> bool:
    try:
        return value == int(value)
    except (TypeError, ValueError, OverflowError):  # Of what is no number, NaN and infinity.
        return False


@keras.saving.register_keras_serializable("tfprune")
class ConstantSparsity(_PeriodicSchedule):
    """A schedule of one sparsity for every update.

    Differs from `tfmot.sparsity.keras.ConstantSparsity` at `end_step`, which always fires. Removed weights
    never return, so that after the first update the later ones change nothing.

    Args:
        target_sparsity: The fraction of the weights that become zero, in [0, 1).
        begin_step: The first step at which to prune; 0 is before the first training batch.
        end_step: The last step at which to prune. -1: no end.
        frequency: The number of steps from one update to the next.

    Raises:
        ValueError: On a value outside these ranges.
    """

    def __init__(
        self, target_sparsity: float, begin_step: int, end_step: int = -1, frequency: int = 100
    ) -> None:
        super().__init__(begin_step, end_step, frequency, endless=True)
        self.target_sparsity = check_sparsity("target_sparsity", target_sparsity)

    def __call__(self, step: int) -> tuple[bool, float]:
        return self._fires(int(step)), self.target_sparsity

    def get_config(self) -> dict[str, Any]:
        return {
            "target_sparsity": self.target_sparsity,
            "begin_step": self.begin_step,
            "end_step": self.end_step,
            "frequency": self.frequency,
        }


class _Ramp(_PeriodicSchedule):
    """A schedule whose sparsity rises from `begin_step` to `end_step`."""

    def __init__(
        self,
        initial_sparsity: float,
        final_sparsity: float,
        begin_step: int,
        end_step: int,
        frequency: int,
    ) -> None:
        super().__init__(begin_step, end_step, frequency, endless=False)
        self.initial_sparsity = check_sparsity("initial_sparsity", initial_sparsity)
        self.final_sparsity = check_sparsity("final_sparsity", final_sparsity)
        if self.final_sparsity < self.initial_sparsity:
            raise ValueError(
                "`final_sparsity` must be at least `initial_sparsity`, because removed weights never "
                f"return. Received: initial_sparsity={initial_sparsity}, "
                f"final_sparsity={final_sparsity}"
            )

    def get_config(self) -> dict[str, Any]:
        return {
            "initial_sparsity": self.initial_sparsity,
            "final_sparsity": self.final_sparsity,
            "begin_step": self.begin_step,
            "end_step": self.end_step,
            "frequency": self.frequency,
        }


@keras.saving.register_keras_serializable("tfprune")
class PolynomialDecay(_Ramp):
    """A schedule that prunes fast at first, then slower: that of Zhu and Gupta (arXiv:1710.01878).

    With p the fraction of the way from `begin_step` to `end_step`,
    `sparsity = final + (initial - final) * (1 - p) ** power`.

    Differs from `tfmot.sparsity.keras.PolynomialDecay` in two points: `end_step` always fires, whether or
    not `frequency` meets it, and a falling sparsity is an error.

    Args:
        initial_sparsity: The sparsity at `begin_step`, in [0, 1).
        final_sparsity: The sparsity at `end_step`, in [0, 1), at least `initial_sparsity`.
        begin_step: The first step at which to prune; 0 is before the first training batch.
        end_step: The last step at which to prune.
        power: The exponent; 3 in the paper.
        frequency: The number of steps from one update to the next.

    Raises:
        ValueError: On a value outside these ranges.
    """

    def __init__(
        self,
        initial_sparsity: float,
        final_sparsity: float,
        begin_step: int,
        end_step: int,
        power: float = 3,
        frequency: int = 100,
    ) -> None:
        super().__init__(initial_sparsity, final_sparsity, begin_step, end_step, frequency)
        if not power > 0:
            raise ValueError(f"`power` must be above 0. Received: power={power}")
        self.power = power

    def __call__(self, step: int) -> tuple[bool, float]:
        step = int(step)
        rest = (1.0 - self._progress(step)) ** self.power
        sparsity = self.final_sparsity + (self.initial_sparsity - self.final_sparsity) * rest
        return self._fires(step), sparsity

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "power": self.power}


@keras.saving.register_keras_serializable("tfprune")
class GeometricDecay(_Ramp):
    """A schedule whose density shrinks by the same factor at every step.

    With p the fraction of the way from `begin_step` to `end_step`,
    `1 - sparsity = (1 - initial) * ((1 - final) / (1 - initial)) ** p`: each update removes the same
    share of the weights still there, as iterative magnitude pruning does (arXiv:1803.03635).

    Args:
        initial_sparsity: The sparsity at `begin_step`, in [0, 1).
        final_sparsity: The sparsity at `end_step`, in [0, 1), at least `initial_sparsity`.
        begin_step: The first step at which to prune; 0 is before the first training batch.
        end_step: The last step at which to prune; always fires.
        frequency: The number of steps from one update to the next.

    Raises:
        ValueError: On a value outside these ranges.
    """

    def __init__(
        self,
        initial_sparsity: float,
        final_sparsity: float,
        begin_step: int,
        end_step: int,
        frequency: int = 100,
    ) -> None:
        super().__init__(initial_sparsity, final_sparsity, begin_step, end_step, frequency)

    def __call__(self, step: int) -> tuple[bool, float]:
        step = int(step)
        progress = self._progress(step)
        if progress == 1.0:  # Exactly the target, without the rounding of the logarithms.
            return self._fires(step), self.final_sparsity
        start, end = math.log1p(-self.initial_sparsity), math.log1p(-self.final_sparsity)
        return self._fires(step), -math.expm1(start + (end - start) * progress)


@keras.saving.register_keras_serializable("tfprune")
class AlternatingSparsity(_PeriodicSchedule):
    """A schedule that goes up and down: AC/DC (Peste et al., arXiv:2106.12379).

    From `begin_step` on, phases of `frequency` steps alternate: one at `final_sparsity`, one without
    masks, in which the removed weights return, from zero, and train. From `end_step` on the network stays at
    `final_sparsity`. So removed weights are exactly zero in the phases with masks and after `end_step`.

    Args:
        final_sparsity: The sparsity of the phases with masks, and from `end_step` on, in [0, 1).
        begin_step: The first step of the first phase with masks; before it the network trains as it is.
        end_step: The first step of the last one.
        frequency: The number of steps of a phase.

    Raises:
        ValueError: On a value outside these ranges.
    """

    falls = True

    def __init__(self, final_sparsity: float, begin_step: int, end_step: int, frequency: int) -> None:
        super().__init__(begin_step, end_step, frequency, endless=False)
        self.final_sparsity = check_sparsity("final_sparsity", final_sparsity)

    def __call__(self, step: int) -> tuple[bool, float]:
        step = int(step)
        phase = (step - self.begin_step) // self.frequency
        dense = self.begin_step <= step < self.end_step and phase % 2 == 1
        return self._fires(step), 0.0 if dense else self.final_sparsity

    def get_config(self) -> dict[str, Any]:
        return {
            "final_sparsity": self.final_sparsity,
            "begin_step": self.begin_step,
            "end_step": self.end_step,
            "frequency": self.frequency,
        }


@keras.saving.register_keras_serializable("tfprune")
class ByEpoch(PruningSchedule):
    """A target, and the epoch of `fit` by which it is reached.

    When a fit begins, `UpdatePruningStep` puts a `PolynomialDecay` in its place, by the number of batches of
    an epoch. Epochs are numbered as `fit` prints them, from 1.

    ```python
    model = prune_low_magnitude(model, ByEpoch(0.9, 8))
    model.fit(..., epochs=10, callbacks=[UpdatePruningStep()])  # Epochs 8, 9 and 10 train at 0.9.
    ```

    Args:
        target_sparsity: The sparsity from the first batch of `epoch` on, in [0, 1).
        epoch: The epoch that begins at the target.
        begin_epoch: The epoch that begins with the first update.
        initial_sparsity: The sparsity of the first update, in [0, 1), at most `target_sparsity`.
        power: The exponent of `PolynomialDecay`.
        updates_per_epoch: The number of updates in an epoch; at most one a batch.

    Raises:
        ValueError: On a value outside these ranges.
    """

    def __init__(
        self,
        target_sparsity: float,
        epoch: int,
        begin_epoch: int = 1,
        initial_sparsity: float = 0.0,
        power: float = 3,
        updates_per_epoch: int = 10,
    ) -> None:
        self.target_sparsity, self.initial_sparsity = target_sparsity, initial_sparsity
        self.epoch, self.begin_epoch = epoch, begin_epoch
        self.power, self.updates_per_epoch = power, updates_per_epoch
        for name in ("epoch", "begin_epoch", "updates_per_epoch"):
            value = getattr(self, name)
            if not _is_whole(value) or value < 1:
                raise ValueError(f"`{name}` must be a whole number, at least 1. Received: {name}={value}")
        if epoch < begin_epoch:
            raise ValueError(
                f"`epoch` must be at least `begin_epoch`. Received: epoch={epoch}, begin_epoch={begin_epoch}"
            )
        check_sparsity("target_sparsity", target_sparsity)
        check_sparsity("initial_sparsity", initial_sparsity)
        if target_sparsity < initial_sparsity:
            raise ValueError(
                "`target_sparsity` must be at least `initial_sparsity`, because removed weights never "
                f"return. Received: target_sparsity={target_sparsity}, initial_sparsity={initial_sparsity}"
            )
        self.in_steps(1)

    def in_steps(self, steps_per_epoch: int, first_step: int = 1) -> PolynomialDecay:
        """Returns the schedule counted in steps.

        Args:
            steps_per_epoch: The number of batches of an epoch.
            first_step: The step that is the first batch of epoch 1, in the model's count; below 1 where the
                model began to count in a later epoch.
        """
        begin_step = first_step + (int(self.begin_epoch) - 1) * steps_per_epoch
        end_step = first_step + (int(self.epoch) - 1) * steps_per_epoch
        return PolynomialDecay(
            self.initial_sparsity,
            self.target_sparsity,
            begin_step=max(begin_step, 0),
            end_step=max(end_step, 0),
            power=self.power,
            frequency=max(steps_per_epoch // int(self.updates_per_epoch), 1),
        )

    def __call__(self, step: int) -> tuple[bool, float]:
        raise ValueError(
            f"{self!r} counts in epochs of `fit`. In a loop of your own, prune by the schedule that "
            "`in_steps(steps_per_epoch)` returns"
        )

    def get_config(self) -> dict[str, Any]:
        return {
            "target_sparsity": self.target_sparsity,
            "epoch": self.epoch,
            "begin_epoch": self.begin_epoch,
            "initial_sparsity": self.initial_sparsity,
            "power": self.power,
            "updates_per_epoch": self.updates_per_epoch,
        }


def adopt(schedule: Any) -> Any:
    """Returns the equal here of one of tfmot's own schedules, any other schedule as it is.

    Keras 3 writes tfmot's schedules to a file but cannot read them back.
    """
    if type(schedule).__module__.split(".")[0] == "tensorflow_model_optimization":
        ours = {cls.__name__: cls for cls in (ConstantSparsity, PolynomialDecay)}.get(type(schedule).__name__)
        if ours is not None:
            return ours(**_arguments(schedule.get_config()))
    return schedule


def serialize_schedule(schedule: Any) -> Any:
    """Returns a schedule as Keras writes it to a file; one written for tfmot too."""
    written = keras.saving.serialize_keras_object(schedule)
    if isinstance(written, dict) and isinstance(written.get("config"), dict):
        written["config"] = _arguments(written["config"])
    return written


def _arguments(config: dict[str, Any]) -> dict[str, Any]:
    """Returns the arguments in an answer of `get_config`: tfmot's schedules put the class's name around."""
    return config["config"] if config.keys() == {"class_name", "config"} else config


def falls(schedule: Any) -> bool:
    """Returns whether removed weights return where a schedule's sparsity falls."""
    return bool(getattr(schedule, "falls", False))


def last_due(schedule: Callable, after: int, until: int) -> float | None:
    """Returns the sparsity of the last scheduled step in (after, until], or None if there is none.

    `end_step`, where the schedule has one, counts as scheduled even if its frequency misses it.

    Args:
        schedule: A `PruningSchedule`, or any function from a step to `(should_prune, sparsity)`.
        after: The last step that was asked about before; -1 before training, so that step 0 counts.
        until: The last of the steps about to be trained.

    Raises:
        ValueError: If the schedule's sparsity is not in [0, 1).
    """
    end_step = getattr(schedule, "end_step", None)
    for step in range(until, after, -1):
        should_prune, sparsity = schedule(step)
        # Schedules written for tfmot answer with tensors.
        if bool(np.asarray(should_prune)) or (step == end_step and step >= 0):
            return check_sparsity(f"{schedule!r}({step})", float(np.asarray(sparsity)))
    return None
