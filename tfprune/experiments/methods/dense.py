"""`--regime=dense`: trains, and prunes nothing."""

from tfprune.experiments.methods.method import Method


class Dense(Method):
    """Training without pruning, in round 0. A pruned start keeps its masks as they are."""

    def check(self) -> None:
        """Checks that nothing asks for pruning.

        Raises:
            UserError: With the flag, the value and the rule.
        """
        if self.config.target_sparsity:
            self.config.refuse("target_sparsity", "must be 0 for --regime=dense, which prunes nothing")
        self._check_settings()

    def check_target(self, start: float) -> None:
        """Does nothing: there is no target."""

    def level(self, start: float, number: int) -> float:
        """Returns the sparsity of the starting masks."""
        return start
