"""`--prune=channels`: channels are cut out, and what trains on is a smaller network."""

from typing import Any, ClassVar

import keras

from tfprune.experiments.channels import (
    BUDGETS,
    UNITS,
    budget_of,
    cut,
    cut_words,
    left_words,
    plan_cut,
    size_of,
)
from tfprune.experiments.methods.at_once import update_batch_norm
from tfprune.experiments.methods.method import Begun, Method, Round, Taught
from tfprune.experiments.pruning import rising
from tfprune.runs.result import NetworkSize
from tfprune.training.fit import compile_for_training


class CutMethod(Method):
    """A way of cutting channels out: what all have in common.

    Shares are of the whole network, before any channel was cut. What is trained after a cut has a fresh
    optimizer. The masks of a network that was pruned to zeros are cut with it.
    """

    def check(self) -> None:
        """Checks that there is one budget, and that the settings go together.

        Raises:
            UserError: With the flag, the value and the rule.
        """
        config = self.config
        given = [name for name in BUDGETS if getattr(config, name)]
        if len(given) != 1:
            flags = " or ".join(f"--{name}" for name in BUDGETS)
            received = " ".join(map(config.flag, given)) or "neither"
            config.refuse("prune", f"needs either {flags}. Received: {received}")
        if config.batchnorm_after_pruning == "reset_removed":
            config.refuse("batchnorm_after_pruning", "must be keep or recalibrate with --prune=channels")
        self._check_schedule()

    def check_target(self, start: float) -> None:
        """Does nothing: it does not matter how many weights are zero."""

    def check_start(self, model: keras.Model, first: Round) -> None:
        """Checks that the network can be cut as asked, and plans the last cut.

        Raises:
            UserError: With the flag, the value and the rule.
        """
        config, budget = self.config, budget_of(self.config)
        if first.whole.macs is None and budget == "target_macs":
            config.refuse(budget, "must be 0: the MACs of the network are unknown; --target_params will do")
        share, target = self.share(first.size, first.whole), getattr(config, budget)
        if target > share:
            config.refuse(
                budget,
                f"must be at most {share:.4g}: so much is left in the network that the run starts from",
            )
        # What is measured on examples changes which channels go, not whether the budget can be met.
        plan_cut(config, model, target / share, score="l2")

    def level(self, start: float, number: int) -> float:
        """Returns the sparsity of the starting masks, which stay."""
        return start

    def share(self, size: NetworkSize, whole: NetworkSize) -> float:
        """Returns the share of a whole network that is left, in the unit of the budget."""
        return size.share_of(whole, BUDGETS[budget_of(self.config)])

    def reached(self, model: keras.Model, whole: NetworkSize) -> str:
        """Returns how much of the whole network is left, in words."""
        return left_words(model, whole)

    def prunes(self, model: keras.Model) -> str:
        """Returns what of a network can be cut, in words."""
        return f"cuts channels: {cut_words(model)}"

    def left(self, current: Round, number: int, last: int) -> float:
        """Returns the share of the whole network that is left after cut `number` of `last`."""
        start = 1.0 - self.share(current.size, current.whole)
        target = 1.0 - getattr(self.config, budget_of(self.config))
        return 1.0 - rising(self.config, start, target, end_step=last)(number)[1]

    def cut_to(self, left: float, model: keras.Model, current: Round) -> keras.Model:
        """Returns the network with a share of the whole, compiled for a fresh start."""
        share = self.share(size_of(model), current.whole)
        if left < share:
            model = cut(self.config, model, left / share, current.batches, current.number)
        compile_for_training(model, current.settings, current.task.goal)
        return model


class CutInRounds(CutMethod):
    """A cut before each of several rounds of training.

    Round k of n ends at the schedule's value at step k, where the schedule runs from the share that the
    starting network lacks at step 0 to the one that is to go at step n.
    """

    schedules: ClassVar[tuple[str, ...]] = ("polynomial", "geometric")

    def target_left(self, current: Round) -> float | None:
        """Returns the schedule's value at a round."""
        return self.left(current, current.number, self.config.last_round) if current.number else None

    def begin(self, model: keras.Model, current: Round) -> Begun:
        """Cuts to the round's level and brings BatchNorm up to date."""
        compile_for_training(model, current.settings, current.task.goal)
        model = self.cut_to(self.target_left(current), model, current)
        update_batch_norm(self.config, model, current)
        return Begun(model, None)


class CutOnce(CutInRounds):
    """A cut, then training."""

    schedules: ClassVar[tuple[str, ...]] = ("constant",)


class CutWhileTraining(CutMethod):
    """Cuts between the epochs of one fit, whose learning rate goes on as if nothing had happened.

    Of the epochs of `ramp_fraction`, `--cuts` are begun with a cut, at even distances from the first one on.
    Cut k of n ends at the schedule's value at step k of n. An interrupted fit is cut again where it was.
    """

    schedules: ClassVar[tuple[str, ...]] = ("polynomial", "geometric")

    def check(self) -> None:
        """Checks that the settings go together, and that there are epochs enough for the cuts."""
        super().check()
        if self.config.cuts > self._ramp_epochs:
            self.config.refuse(
                "cuts",
                f"must be at most {self._ramp_epochs}, the epochs of --ramp_fraction that begin with one",
            )

    def target_left(self, current: Round) -> float | None:
        """Returns the share that is left after the last cut."""
        return getattr(self.config, budget_of(self.config)) if current.number else None

    def begin(self, model: keras.Model, current: Round) -> Begun:
        """Compiles the network; the cuts come in the fit."""
        compile_for_training(model, current.settings, current.task.goal)
        levels = [f"{level:.1%} at epoch {part.start + 1}" for part, level in self._parts(current)]
        unit = UNITS[BUDGETS[budget_of(self.config)]]
        return Begun(model, None, f"cuts, which leave of the {unit} {', '.join(levels)}")

    def fit(
        self,
        model: keras.Model,
        current: Round,
        taught: Taught,
        *,
        history: list[dict[str, float]],
        **arguments: Any,
    ) -> keras.Model:
        """Trains the network, cuts it before the epochs that begin with a cut, and returns what is left."""
        for part, left in self._parts(current):
            if len(history) == part.start:
                model = self.cut_to(left, model, current)
            super().fit(model, current, taught, part=part, history=history, **arguments)
        return model

    @property
    def _ramp_epochs(self) -> int:
        """The number of the first epochs that can begin with a cut."""
        return max(1, round(self.config.ramp_fraction * self.config.settings(1).epochs))

    def _parts(self, current: Round) -> list[tuple[range, float]]:
        """Returns the epochs from each cut up to the next one, and the share that the cut leaves."""
        count, epochs = self.config.cuts or self._ramp_epochs, current.settings.epochs
        starts = [number * self._ramp_epochs // count for number in range(count)]
        return [
            (range(start, stop), self.left(current, number, count))
            for number, (start, stop) in enumerate(zip(starts, [*starts[1:], epochs], strict=True), start=1)
        ]
