"""The learning rate of each step: a warm-up, then steps down or a cosine to zero."""

import math
from typing import Any

import keras
from keras import ops

from tfprune.training.settings import TrainingSettings


@keras.saving.register_keras_serializable(package="tfprune")
class RoundSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """The rate of a fit as a function of the optimizer's updates so far.

    At update `t` = 0, 1, ..., with a warm-up of `w` steps, the rate is `base * warm(t) * decay(t)`:

    ```
    warm(t)  = min((t + 1) / w, 1)                           (1 without a warm-up)
    decay(t) = lr_factor ** (number of boundaries <= t)      kind "step"
    decay(t) = 1                                             kind "cosine", t < w
    decay(t) = (1 + cos(pi * (t - w) / (steps - w))) / 2     kind "cosine", t >= w
    ```

    These are PyTorch's `LinearLR(start_factor=1 / w, total_iters=w - 1)`, `MultiStepLR` and
    `CosineAnnealingLR(T_max=steps - w)`, stepped at every update. The counter is the optimizer's own, which
    a checkpoint holds, so that a fit that resumes goes on at the rate at which it stopped. With float16 the
    optimizer skips a step whose gradients overflow, and does not count it.

    Args:
        base: The full rate.
        kind: "step" or "cosine".
        steps: Updates in the whole fit.
        warmup_steps: `w`.
        boundaries: Rising numbers of updates, for "step".
        factor: `lr_factor`.
        first: The updates of the fit before the optimizer's first: `t` is counted from there.

    Source: arXiv:1706.02677 (warm-up), arXiv:1608.03983 (cosine, without restarts).
    """

    def __init__(
        self,
        base: float,
        kind: str = "step",
        *,
        steps: int,
        warmup_steps: int = 0,
        boundaries: tuple[int, ...] = (),
        factor: float = 0.1,
        first: int = 0,
    ) -> None:
        self.base, self.kind, self.steps, self.warmup_steps = base, kind, steps, warmup_steps
        self.boundaries, self.factor, self.first = tuple(boundaries), factor, first

    def __call__(self, step: Any) -> Any:
        """Returns the rate of an update of the optimizer, counted from 0, as a float32 tensor."""
        step = ops.cast(step, "float32") + self.first
        if self.kind == "cosine":
            passed = ops.maximum(step - self.warmup_steps, 0.0) / (self.steps - self.warmup_steps)
            rate = self.base * (0.5 + 0.5 * ops.cos(math.pi * passed))
        else:
            rate = ops.convert_to_tensor(self.base, "float32")
            for passed, boundary in enumerate(self.boundaries, start=1):
                # Each rate a constant, rounded once.
                reduced = ops.convert_to_tensor(self.base * self.factor**passed, "float32")
                rate = ops.where(step >= boundary, reduced, rate)
        if self.warmup_steps:
            rate = rate * ops.minimum((step + 1.0) / self.warmup_steps, 1.0)
        return rate

    def rate_at(self, step: int) -> float:
        """Returns the rate of an update of the fit, counted from 0, rounded to float32."""
        return float(ops.convert_to_numpy(self(step - self.first)))

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that rebuild the schedule."""
        return {
            "base": self.base,
            "kind": self.kind,
            "steps": self.steps,
            "warmup_steps": self.warmup_steps,
            "boundaries": list(self.boundaries),
            "factor": self.factor,
            "first": self.first,
        }


def make_schedule(settings: TrainingSettings, steps_per_epoch: int, first_epoch: int = 0) -> RoundSchedule:
    """Returns the schedule of a fit; a warm-up of a fraction of an epoch is rounded to whole steps.

    At least the last step has the full rate.

    Args:
        settings: The numbers of the fit.
        steps_per_epoch: Steps an epoch.
        first_epoch: That of the optimizer's first update, counted from 0.
    """
    steps = settings.epochs * steps_per_epoch
    return RoundSchedule(
        settings.learning_rate,
        settings.lr_schedule,
        steps=steps,
        warmup_steps=min(round(settings.warmup_epochs * steps_per_epoch), steps - 1),
        boundaries=tuple(epochs * steps_per_epoch for epochs in settings.lr_boundaries_epochs),
        factor=settings.lr_factor,
        first=first_epoch * steps_per_epoch,
    )


class RecordLearningRate(keras.callbacks.Callback):
    """Adds `learning_rate` to each epoch's logs: the rate of the epoch's first step.

    Args:
        schedule: Of the fit.
        steps_per_epoch: Steps an epoch.
    """

    def __init__(self, schedule: RoundSchedule, steps_per_epoch: int) -> None:
        super().__init__()
        self._schedule, self._steps_per_epoch = schedule, steps_per_epoch

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Adds the rate."""
        if logs is not None:
            logs["learning_rate"] = self._schedule.rate_at(epoch * self._steps_per_epoch)
