"""`--regime=gradual` by `--method=dst`, `cs` and `acdc`: which weights stay is found by training."""

from typing import ClassVar

from tfprune import sparsity
from tfprune.experiments.methods.by_steps import Gradual
from tfprune.settings import to_text
from tfprune.sparsity import AlternatingSparsity, PruningSchedule

METHODS: dict[str, sparsity.Learning] = {"dst": sparsity.DST("weight"), "cs": sparsity.CS()}
"""The methods that learn masks, by their names as a `--method`."""


class Learned(Gradual):
    """Pruning by masks that are learned until the schedule's last step, and fixed there."""

    needs_all_weights: ClassVar[str] = "learns its masks, by steps that need all weights"

    def check(self) -> None:
        """Checks that the settings go together: single weights are ranked, by what is learned."""
        super().check()
        defaults = type(self.config)(self.config.experiment)
        for name in ("score", "granularity", "block_size", "sparsity_m_by_n"):
            default = getattr(defaults, name)
            if getattr(self.config, name) != default:
                given = self.config.flag("method")
                self.config.refuse(name, f"must be {to_text(default) or 'empty'} with {given}")

    def _learning(self) -> sparsity.Learning:
        return METHODS[self.config.method]


class Alternating(Gradual):
    """Pruning by phases of `--frequency` steps, with masks at the target and without in turn.

    They end at `ramp_fraction` of the round's steps, the last of them without masks. What is left before the
    first is one phase without masks or more.
    """

    schedules: ClassVar[tuple[str, ...]] = ("constant",)

    def _check_schedule(self) -> None:
        if self.config.schedule not in self.schedules:
            self.config.refuse("schedule", f"must be constant with {self.config.flag('method')}")

    def ramp(self, start: float, target: float, end_step: int) -> PruningSchedule:
        """Returns the schedule whose phases end at a step.

        Raises:
            UserError: If there is no time for three phases.
        """
        length = self.config.frequency
        turns = (end_step // length - 1) // 2
        if turns < 1:
            self.config.refuse(
                "frequency", f"must be at most {end_step // 3}, for three phases in {end_step} steps"
            )
        return AlternatingSparsity(target, end_step - 2 * turns * length, end_step, length)
