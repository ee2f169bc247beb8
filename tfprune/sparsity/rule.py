"""`Rule`: the arguments of pruning that a layer has, checked once."""

import json
import numbers
from dataclasses import dataclass, fields
from typing import Any

import keras

from tfprune.network.kinds import Kernel
from tfprune.sparsity import scores
from tfprune.sparsity.learned import Learning
from tfprune.sparsity.masks import check_scope
from tfprune.sparsity.patterns import WEIGHTS, Groups, Pattern, Weights
from tfprune.sparsity.regrowth import Regrowth
from tfprune.sparsity.schedules import ByEpoch, ConstantSparsity, GeometricDecay, PolynomialDecay, adopt
from tfprune.sparsity.scores import Score

# tfmot's default: half the weights, from the start.
DEFAULT_SCHEDULE = ConstantSparsity(0.5, begin_step=0, frequency=100)
# 0.333 is near enough to one of three.
_TOLERANCE = 0.005


@dataclass(frozen=True)
class Rule:
    """The schedule, the pattern, the scope, the score and the regrowth of a layer.

    Attributes:
        pruning_schedule: A schedule, or None: the masks change in `prune_to` alone. `DEFAULT_SCHEDULE` stands
            for the pattern's own sparsity, where it has one.
        pattern: The groups of weights that go together.
        scope: "layer", "global" or "erk".
        score: A name or a function.
        regrowth: A method that moves a fixed number of weights about, or None.
        min_density: In the scope "global": the fraction of each tensor's groups that stays.
        learning: A method that learns the masks, or None.

    Raises:
        ValueError: On an argument out of range, or on two that exclude each other.
    """

    pruning_schedule: Any
    pattern: Pattern = WEIGHTS
    scope: str = "layer"
    score: str | Score = "magnitude"
    regrowth: Regrowth | None = None
    min_density: float = 0.0
    learning: Learning | None = None

    def __post_init__(self) -> None:
        schedule = self.pruning_schedule
        if schedule is not None and (not callable(schedule) or isinstance(schedule, type)):
            raise ValueError(
                "`pruning_schedule` must be a schedule, callable with a step, or None. "
                f"Received: pruning_schedule={schedule!r}"
            )
        if schedule is DEFAULT_SCHEDULE and self.pattern.largest_sparsity < 1:
            schedule = ConstantSparsity(self.pattern.largest_sparsity, begin_step=0, frequency=100)
        object.__setattr__(self, "pruning_schedule", adopt(schedule))
        check_scope(self.scope)
        scores.get(self.score)
        self._check_pattern()
        self._check_regrowth()
        self._check_min_density()
        self._check_learning()

    def _check_min_density(self) -> None:
        if not isinstance(self.min_density, numbers.Real) or not 0.0 <= self.min_density < 1.0:
            raise ValueError(f"`min_density` must be in [0, 1). Received: min_density={self.min_density}")
        if self.min_density and self.scope != "global":
            raise ValueError(
                "`min_density` is for `scope='global'`: in the others no tensor falls behind. "
                f"Received: min_density={self.min_density}, scope={self.scope!r}"
            )
        for name in ("target_sparsity", "final_sparsity"):
            final = getattr(self.pruning_schedule, name, None)
            if final is not None and self.min_density > 1 - final + 1e-9:
                raise ValueError(
                    f"`min_density` must be at most 1 - {name}. "
                    f"Received: min_density={self.min_density}, {name}={final}"
                )

    def _check_pattern(self) -> None:
        if self.scope != "layer" and not isinstance(self.pattern, Groups):
            raise ValueError(
                f"With {self.pattern} every layer has the same share of zeros: `scope` must be 'layer'. "
                f"Received: scope={self.scope!r}"
            )
        largest = self.pattern.largest_sparsity
        for name in ("target_sparsity", "final_sparsity"):
            final = getattr(self.pruning_schedule, name, None)
            if final is not None and largest < 1 and abs(final - largest) > _TOLERANCE:
                raise ValueError(
                    f"With {self.pattern} the schedule must end at {largest:.4g}. Received: {name}={final}"
                )

    def _check_regrowth(self) -> None:
        if self.regrowth is None:
            return
        if not isinstance(self.regrowth, Regrowth):
            raise ValueError(
                "`regrowth` must be None or a `Regrowth`, such as `RigL()`. "
                f"Received: regrowth={self.regrowth!r}"
            )
        if not isinstance(self.pattern, Weights):
            raise ValueError(f"`regrowth` works on single weights. Received: {self.pattern}")
        schedule = self.pruning_schedule
        if not (isinstance(schedule, ConstantSparsity) and schedule.end_step > schedule.begin_step):
            raise ValueError(
                "`regrowth` needs a `ConstantSparsity` whose `end_step` is above its `begin_step`: the share "
                f"of weights that moves falls to zero there. Received: pruning_schedule={schedule!r}"
            )

    def _check_learning(self) -> None:
        if self.learning is None:
            return
        if not isinstance(self.learning, Learning):
            raise ValueError(
                f"`learning` must be None, `DST()` or `CS()`. Received: learning={self.learning!r}"
            )
        if not isinstance(self.pattern, Weights):
            raise ValueError(f"`learning` works on single weights. Received: {self.pattern}")
        if self.regrowth is not None or self.score != "magnitude":
            raise ValueError(
                "`learning` ranks the weights itself: `score` must be 'magnitude' and `regrowth` None. "
                f"Received: score={self.score!r}, regrowth={self.regrowth!r}"
            )
        schedule = self.pruning_schedule
        if not isinstance(schedule, (ByEpoch, GeometricDecay, PolynomialDecay)):
            raise ValueError(
                "`learning` needs a schedule that rises to an end, where the masks are fixed: "
                "`PolynomialDecay`, `GeometricDecay` or `ByEpoch`. "
                f"Received: pruning_schedule={schedule!r}"
            )
        names = ("begin_epoch", "epoch") if isinstance(schedule, ByEpoch) else ("begin_step", "end_step")
        begin, end = (getattr(schedule, name) for name in names)
        if begin >= end:
            raise ValueError(
                f"`learning` needs time: the schedule's `{names[1]}` must be above its `{names[0]}`. "
                f"Received: pruning_schedule={schedule!r}"
            )

    def check_sparsity(self, sparsity: float) -> None:
        """Checks that the pattern can reach a sparsity.

        Raises:
            ValueError: If it cannot.
        """
        if self.min_density > 1 - sparsity + 1e-9:
            raise ValueError(
                f"sparsity must be at most 1 - min_density. "
                f"Received: sparsity={sparsity}, min_density={self.min_density}"
            )
        largest = self.pattern.largest_sparsity
        if sparsity > largest + _TOLERANCE:
            raise ValueError(
                f"With {self.pattern} sparsity must be at most {largest:.4g}. Received: sparsity={sparsity}"
            )

    @property
    def key(self) -> str:
        """Returns a text that is equal for layers that are pruned together."""
        return json.dumps([_as_text(v) for v in self.arguments().values()], sort_keys=True, default=str)

    @property
    def score_needs_gradients(self) -> bool:
        """Returns whether the score reads gradients."""
        return getattr(scores.get(self.score), "needs_gradients", False)

    @property
    def needs_channels(self) -> bool:
        """Returns whether the score reads how strong channels are."""
        return getattr(scores.get(self.score), "needs_channels", False)

    @property
    def needs_gradients(self) -> bool:
        """Returns whether an update by schedule reads gradients."""
        return self.score_needs_gradients or (self.regrowth is not None and self.regrowth.needs_gradients)

    def arguments(self) -> dict[str, Any]:
        """Returns the rule's arguments, which are also those of `PruneLowMagnitude`."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def pattern_of(self, kernel: Kernel, name: str) -> Pattern:
        """Returns the groups in which the weights of a kernel are removed.

        Raises:
            ValueError: If the kernel has no such groups; the message has its `name`.
        """
        return self.pattern.fit(kernel, name, self.score)


def _as_text(value: Any) -> Any:
    # Layers read from a file have equal schedules, not the same one.
    return keras.saving.serialize_keras_object(value) if hasattr(value, "get_config") else repr(value)
