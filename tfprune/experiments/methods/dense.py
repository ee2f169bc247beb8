"""`--regime=dense`: trains, and prunes nothing."""

from tfprune.experiments.methods.method import Method


class Dense(Method):
    """Training without pruning, in round 0. A pruned start keeps its masks as they are."""

    def check(self) -> None:
        """Checks that there is no schedule; whatever else asks for pruning has no effect, and is refused so.

        Raises:
            UserError: With the flag, the value and the rule.
        """
        self._check_schedule()

    def check_target(self, start: float) -> None:
        """Does nothing: there is no target."""

    def level(self, start: float, number: int) -> float:
        """Returns the sparsity of the starting masks."""
        return start
