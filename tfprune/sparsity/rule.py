"""`Rule`: all that says how a layer is pruned, checked once, and how it composes."""

import json
from dataclasses import dataclass, fields
from typing import Any

import keras

from tfprune.network.kinds import Kernel
from tfprune.sparsity import scores
from tfprune.sparsity.masks import check_scope
from tfprune.sparsity.patterns import GRANULARITIES, POOLING_TYPES, WEIGHTS, Blocks, Channels, MOfN, Pattern
from tfprune.sparsity.regrowth import Regrowth
from tfprune.sparsity.schedules import ConstantSparsity, adopt
from tfprune.sparsity.scores import Score

# 0.333 is near enough to one of three.
_TOLERANCE = 0.005


@dataclass(frozen=True)
class Rule:
    """When, how far, by what score and in which groups weights go; fields as in `prune_low_magnitude`.

    Raises:
        ValueError: On an argument out of range, or on two that exclude each other.
    """

    pruning_schedule: Any
    block_size: tuple[int, int] = (1, 1)
    block_pooling_type: str = "AVG"
    sparsity_m_by_n: tuple[int, int] | None = None
    scope: str = "layer"
    score: str | Score = "magnitude"
    granularity: str = "weight"
    regrowth: Regrowth | None = None

    def __post_init__(self) -> None:
        schedule = self.pruning_schedule
        if schedule is not None and (not callable(schedule) or isinstance(schedule, type)):
            raise ValueError(
                "`pruning_schedule` must be a schedule, callable with a step, or None. "
                f"Received: pruning_schedule={schedule!r}"
            )
        put = object.__setattr__
        put(self, "pruning_schedule", adopt(schedule))
        put(self, "block_size", _two_numbers("block_size", self.block_size))
        if self.sparsity_m_by_n is not None:
            put(self, "sparsity_m_by_n", _two_numbers("sparsity_m_by_n", self.sparsity_m_by_n))
        check_scope(self.scope)
        scores.get(self.score)
        if self.granularity not in GRANULARITIES:
            raise ValueError(
                f"`granularity` must be one of {list(GRANULARITIES)}. Received: "
                f"granularity={self.granularity!r}"
            )
        if self.block_pooling_type not in POOLING_TYPES:
            raise ValueError(
                f"`block_pooling_type` must be one of {list(POOLING_TYPES)}. Received: "
                f"block_pooling_type={self.block_pooling_type!r}"
            )
        self._check_combinations()

    def _check_combinations(self) -> None:
        patterns = [
            text
            for given, text in (
                (self.block_size != (1, 1), f"block_size={self.block_size}"),
                (self.sparsity_m_by_n is not None, f"sparsity_m_by_n={self.sparsity_m_by_n}"),
                (self.granularity != "weight", f"granularity={self.granularity!r}"),
            )
            if given
        ]
        if len(patterns) > 1:
            raise ValueError(f"Only one pattern can be asked for. Received: {', '.join(patterns)}")
        if self.sparsity_m_by_n is not None:
            self._check_m_by_n(*self.sparsity_m_by_n)
        if self.regrowth is None:
            return
        if not isinstance(self.regrowth, Regrowth):
            raise ValueError(
                "`regrowth` must be None or a `Regrowth`, such as `RigL()`. "
                f"Received: regrowth={self.regrowth!r}"
            )
        if patterns:
            raise ValueError(f"`regrowth` works on single weights. Received: {patterns[0]}")
        schedule = self.pruning_schedule
        if not (isinstance(schedule, ConstantSparsity) and schedule.end_step > schedule.begin_step):
            raise ValueError(
                "`regrowth` needs a `ConstantSparsity` whose `end_step` is above its `begin_step`: the share "
                f"of weights that moves falls to zero there. Received: pruning_schedule={schedule!r}"
            )

    def _check_m_by_n(self, m: int, n: int) -> None:
        if m >= n:
            raise ValueError(
                "`sparsity_m_by_n` must be (m, n), m zeros in every n weights, with m below n. "
                f"Received: sparsity_m_by_n={self.sparsity_m_by_n}"
            )
        if self.scope != "layer":
            raise ValueError(
                "With `sparsity_m_by_n` every layer has the same share of zeros: `scope` must be 'layer'. "
                f"Received: scope={self.scope!r}"
            )
        schedule = self.pruning_schedule
        for name in ("target_sparsity", "final_sparsity"):
            final = getattr(schedule, name, None)
            if final is not None and abs(final - m / n) > _TOLERANCE:
                raise ValueError(
                    f"With `sparsity_m_by_n`={self.sparsity_m_by_n} the schedule must end at {m / n:.4g}. "
                    f"Received: {name}={final}"
                )

    def check_sparsity(self, sparsity: float) -> None:
        """Checks that the pattern can be so sparse.

        Raises:
            ValueError: If it cannot.
        """
        if self.sparsity_m_by_n is not None:
            m, n = self.sparsity_m_by_n
            if sparsity > m / n + _TOLERANCE:
                raise ValueError(
                    f"With `sparsity_m_by_n`={self.sparsity_m_by_n} sparsity must be at most {m / n:.4g}. "
                    f"Received: sparsity={sparsity}"
                )

    @property
    def key(self) -> str:
        """A text that is equal for layers that are pruned together."""
        return json.dumps([_as_text(v) for v in self.arguments().values()], sort_keys=True, default=str)

    @property
    def score_needs_gradients(self) -> bool:
        """Whether the score reads gradients."""
        return getattr(scores.get(self.score), "needs_gradients", False)

    @property
    def needs_gradients(self) -> bool:
        """Whether an update by schedule reads gradients."""
        return self.score_needs_gradients or (self.regrowth is not None and self.regrowth.needs_gradients)

    def arguments(self) -> dict[str, Any]:
        """Returns what makes the rule anew."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def pattern(self, item: Kernel, name: str) -> Pattern:
        """Returns the groups in which weights of a variable go.

        Raises:
            ValueError: If the variable has no such groups; the message has its `name`.
        """
        if self.block_size != (1, 1):
            if len(item.variable.shape) < 2:
                raise ValueError(
                    f"Blocks need a variable with two axes or more. Received: block_size={self.block_size}, "
                    f"{name}, of shape {tuple(item.variable.shape)}"
                )
            return Blocks(self.block_size, self.block_pooling_type)
        if self.sparsity_m_by_n is not None:
            if item.input_axis is None:
                raise ValueError(
                    "m zeros in n weights along the input channels need input channels. Received: "
                    f"sparsity_m_by_n={self.sparsity_m_by_n}, {name}, which has none; leave it out with "
                    "`layers`"
                )
            return MOfN(*self.sparsity_m_by_n, item.input_axis)
        if self.granularity == "channel":
            if not item.output_axes:
                raise ValueError(
                    "Whole output channels can be removed where there are such. Received: "
                    f"granularity='channel', {name}, which has none; leave it out with `layers`"
                )
            return Channels(item.output_axes, getattr(scores.get(self.score), "group_norm", 1))
        return WEIGHTS


def _two_numbers(name: str, value: Any) -> tuple[int, int]:
    try:
        numbers = tuple(value)
    except TypeError:
        numbers = ()
    if len(numbers) != 2 or any(type(n) is not int or n < 1 for n in numbers):
        raise ValueError(f"`{name}` must be two whole numbers, at least 1. Received: {name}={value!r}")
    return numbers


def _as_text(value: Any) -> Any:
    # Layers read from a file have equal schedules, not the same one.
    return keras.saving.serialize_keras_object(value) if hasattr(value, "get_config") else repr(value)
