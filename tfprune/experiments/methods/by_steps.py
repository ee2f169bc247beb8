"""`--regime=gradual` and `sparse`: the masks change between the steps of one fit."""

from typing import Any, ClassVar

import keras

from tfprune import sparsity
from tfprune.experiments.methods.method import Begun, Method, Round
from tfprune.experiments.pruning import check_method, rising, rule_options, selection
from tfprune.runs.config import LEARNING_METHODS
from tfprune.sparsity import ConstantSparsity, PruningSchedule
from tfprune.sparsity.regrowth import METHODS
from tfprune.sparsity.schedules import LAST_STEP
from tfprune.training.fit import compile_for_training


class Gradual(Method):
    """Pruning in training: a schedule in steps, from the starting sparsity at step 0.

    The schedule is at the target from `ramp_fraction` of the round's steps on.
    """

    schedules: ClassVar[tuple[str, ...]] = ("polynomial", "geometric")

    def check(self) -> None:
        """Checks that the settings go together."""
        super().check()
        check_method(self.config, "score", *LEARNING_METHODS)

    def check_start(self, model: keras.Model, first: Round) -> None:
        """Checks the target and that there can be such a schedule."""
        super().check_start(model, first)
        self.schedule(first.start, first.steps)

    def schedule(self, start: float, steps: int) -> PruningSchedule | dict[str, PruningSchedule]:
        """Returns the schedule of a round of so many steps, or one for each of `--layer_sparsity`.

        Raises:
            UserError: If there can be no such schedule.
        """
        if not self.config.layer_sparsity:
            return self.ramp(start, self.config.target_sparsity, self.ramp_steps(steps))
        return {
            pattern: self.ramp(min(start, target), target, self.ramp_steps(steps))
            for pattern, target in self.config.layer_targets().items()
        }

    def ramp_steps(self, steps: int) -> int:
        """Returns the number of a round's steps in which the masks change.

        Raises:
            UserError: If a schedule cannot count so many.
        """
        if steps > LAST_STEP:
            self.config.refuse("epochs", f"must be fewer: they are {steps:,} steps, beyond {LAST_STEP:,}")
        return max(1, round(self.config.ramp_fraction * steps))

    def begin(self, model: keras.Model, current: Round) -> Begun:
        """Gives the pruned layers their schedule; masks stay."""
        schedule = self.schedule(current.start, current.steps)
        model = sparsity.prune_low_magnitude(
            model,
            schedule,
            **selection(self.config),
            regrowth=self._regrowth(),
            learning=self._learning(),
            **rule_options(self.config),
        )
        compile_for_training(model, current.settings, current.task.goal)
        return Begun(model, self.config.target_sparsity, f"{schedule} in {current.steps} steps")

    def ramp(self, start: float, target: float, end_step: int) -> PruningSchedule:
        """Returns the schedule from `start` at step 0 to the target at a step."""
        return rising(self.config, start, target, end_step, self.config.frequency)

    def _regrowth(self) -> sparsity.Regrowth | None:
        return None

    def _learning(self) -> sparsity.Learning | None:
        return None


class Sparse(Gradual):
    """Sparse training: random masks at the target from the first step, whose weights move.

    The moves end at `ramp_fraction` of the round's steps. Source: arXiv:1707.04780 (SET), arXiv:1911.11134
    (RigL).
    """

    schedules: ClassVar[tuple[str, ...]] = ("constant",)

    def check(self) -> None:
        """Checks that the settings go together, and that a method of regrowth is named."""
        if self.config.regrowth not in METHODS:
            self.config.refuse("regrowth", f"must be {' or '.join(METHODS)} for --regime=sparse")
        super().check()

    def ramp_steps(self, steps: int) -> int:
        """Returns the number of a round's steps in which the weights move.

        Raises:
            UserError: If the masks would not move.
        """
        end = super().ramp_steps(steps)
        if end <= self.config.frequency:
            self.config.refuse("frequency", f"must be below {end}, the steps in which the masks move")
        return end

    def ramp(self, start: float, target: float, end_step: int) -> PruningSchedule:
        """Returns the schedule that is at the target until a step, where the moves end."""
        return ConstantSparsity(target, begin_step=0, end_step=end_step, frequency=self.config.frequency)

    def _regrowth(self) -> Any:
        return METHODS[self.config.regrowth](self.config.drop_fraction)
