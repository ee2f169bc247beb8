"""The sparsity that a schedule is going to, and the layers whose masks are not there."""

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfprune.sparsity.apply import Part, kept_weights, prune_by_magnitude, pruned_together, read
from tfprune.sparsity.masks import have_reached, would_reach
from tfprune.sparsity.schedules import falls, last_due
from tfprune.sparsity.wrapper import PruneLowMagnitude


def target_of(schedule: Any) -> float | None:
    """Returns the sparsity that a schedule ends at; None if that is not known."""
    for name in ("target_sparsity", "final_sparsity"):
        if (target := getattr(schedule, name, None)) is not None:
            return float(target)
    end_step = getattr(schedule, "end_step", None)
    return None if end_step is None or end_step < 0 else float(np.asarray(schedule(end_step)[1]))


def target_step_of(schedule: Any) -> int | None:
    """Returns the step at which a schedule asks for its target first; None if that is not known."""
    begin, end = getattr(schedule, "begin_step", None), getattr(schedule, "end_step", None)
    return begin if hasattr(schedule, "target_sparsity") else end


def prune_to_targets(layers: Iterable[PruneLowMagnitude]) -> None:
    """Prunes layers by magnitude to the targets of their schedules, so far as these are known."""
    for parts in pruned_together(layers).values():
        rule = parts[0].rule
        target = target_of(rule.pruning_schedule)
        if target:
            prune_by_magnitude(parts, target, rule.scope)


@dataclass(frozen=True)
class Shortfall:
    """Layers of one schedule that are not at its target.

    Attributes:
        schedule: The schedule.
        target: The sparsity that the schedule ends at.
        sparsity: The fraction of zeros in the layers' masks; where those are learned, of what is removed at
            present.
        layers: The layers' names.
    """

    schedule: Any
    target: float
    sparsity: float
    layers: tuple[str, ...]

    @property
    def place(self) -> str:
        """Returns the layers and their sparsity in words."""
        names = ", ".join(map(repr, self.layers[:3])) + (", ..." if len(self.layers) > 3 else "")
        return f"sparsity {_digits(self.sparsity, self.target)} in layers {names}"

    @property
    def goal(self) -> str:
        """Returns the schedule, its target and the step of that in words."""
        step = target_step_of(self.schedule)
        when = f" at step {step}" if step is not None and step >= 0 else ""
        return f"their schedule {self.schedule!r} gets to {self.target:g}{when}"


def _digits(sparsity: float, target: float) -> str:
    """Returns a sparsity with as many digits as tell it from the target."""
    return next((text for n in (2, 3, 4) if float(text := f"{sparsity:.{n}f}") != target), repr(sparsity))


def shortfalls(layers: Iterable[PruneLowMagnitude]) -> list[Shortfall]:
    """Returns the groups of built layers whose masks are not as sparse as the end of their schedule.

    Args:
        layers: Wrappers. Those with schedules that have no known end, or none, are passed over.
    """
    found = []
    for parts in pruned_together(layers).values():
        rule = parts[0].rule
        target = target_of(rule.pruning_schedule)
        if not target:
            continue
        masks = [read(part.mask) for part in parts]
        if not have_reached(masks, [part.pattern for part in parts], target, rule.scope):
            names = tuple(dict.fromkeys(map(_owner, parts)))
            found.append(Shortfall(rule.pruning_schedule, target, _sparsity(parts), names))
    return found


def late(layers: Iterable[PruneLowMagnitude], last_step: int) -> list[Any]:
    """Returns the schedules that have not brought their masks to the target by a step.

    Args:
        layers: Wrappers that have been trained for fewer steps.
        last_step: The last step that will be trained.
    """
    found = []
    for parts in pruned_together(layers).values():
        rule = parts[0].rule
        schedule, scope = rule.pruning_schedule, rule.scope
        target = target_of(schedule)
        if not target or (target_step_of(schedule) or 0) <= last_step:
            continue
        masks, patterns = [read(part.mask) for part in parts], [part.pattern for part in parts]
        reached = have_reached(masks, patterns, target, scope)
        if reached and not falls(schedule):
            continue
        taken = max(parts[0].layer.steps_taken or -1, getattr(schedule, "begin_step", 0) - 1)
        due = last_due(schedule, taken, last_step)
        if not (reached if due is None else would_reach(masks, patterns, due, target, scope)):
            found.append(schedule)
    return found


def _owner(part: Part) -> str:
    """Returns the name of a variable's layer, or its path if others in the layer have other rules."""
    return part.paths[0] if len(part.layer.rules) == 1 else part.paths[-1]


# A tensor is all but erased if it keeps one group, or this share of what the common density would keep of it,
_ERASED = 1 / 50
# where that would be as many groups at least.
_WORTH_TELLING = 10


def warn_of_erased(parts: Sequence[Part]) -> None:
    """Warns of tensors that a common ranking left hardly a weight, unless they have a floor.

    Args:
        parts: Variables that were ranked together.
    """
    masks = [read(part.mask) for part in parts]
    density = 1.0 - _sparsity(parts)
    for part, mask in zip(parts, masks, strict=True):
        kept, share = np.count_nonzero(mask), density * mask.size
        group = part.pattern.largest_group(mask.shape)
        if share < _WORTH_TELLING * group or part.rule.min_density:
            continue
        if kept <= max(group, _ERASED * share):
            warnings.warn(
                f"The ranking of all layers together, scope='global', leaves {kept:,} of {mask.size:,} "
                f"weights in {part.name}, though {density:.4g} of all weights stay. `min_density` keeps a "
                "share of every layer; score='lamp' ranks layers more evenly.",
                stacklevel=3,
            )


# What was learned has left the choice to the ranking if it keeps so many times the weights that stay.
_UNLEARNED = 2.0


def warn_of_unlearned(parts: Sequence[Part], sparsity: float) -> None:
    """Warns where the last ranking, and not what was learned, is going to remove most of the weights.

    Args:
        parts: The variables, of layers that are pruned together, whose masks are to be fixed.
        sparsity: In [0, 1).
    """
    density = 1.0 - _sparsity(parts)
    if density > _UNLEARNED * (1.0 - sparsity):
        warnings.warn(
            f"What was learned keeps {density:.3g} of the weights, in {parts[0].name}"
            f"{' and others' if len(parts) > 1 else ''}, where the schedule ends at {1.0 - sparsity:.3g}: a "
            "ranking at once removes the difference. Learn for more steps, with more updates, or with a "
            "larger learning rate. A loop of your own adds `model.losses`, the penalty, to its loss.",
            stacklevel=3,
        )


def _sparsity(parts: Sequence[Part]) -> float:
    return 1.0 - sum(map(kept_weights, parts)) / sum(math.prod(part.shape) for part in parts)
