"""Orders the channels of a model by when they go: a list of moves, of which a plan makes the first ones."""

import fnmatch
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from tfprune.channels.groups import ChannelGroup, Traced
from tfprune.channels.labels import FIXED
from tfprune.network.graph import chains
from tfprune.structured.costs import Costs
from tfprune.structured.importance import Importance

SCOPES = ("global", "layer", "equal")


@dataclass(frozen=True, eq=False)
class Move:
    """Sets of a group that go at once.

    Attributes:
        sets: The sets.
        key: Moves with smaller keys are made first.
    """

    sets: np.ndarray
    key: float


class Order:
    """The moves, in the order in which they are made.

    Args:
        traced: The channels.
        costs: Their costs.
        importance: Their scores.
        scope, round_to: As in `plan`.
        kept: Whether each set is one that the caller keeps.

    Attributes:
        moves: The sets that go at once, in order.
        forced: The number of moves that are made in any case, so that what is left is a multiple.
        reasons: Position of a group -> why nothing of it goes.
    """

    def __init__(
        self,
        traced: Traced,
        costs: Costs,
        importance: Importance,
        *,
        scope: str,
        round_to: int,
        kept: np.ndarray,
    ) -> None:
        self._traced, self._scope, self._round_to = traced, scope, round_to
        self._costs, self._importance = costs, importance
        self.reasons: dict[int, str] = {}
        needed = self._needed(kept)
        width = _widths(traced)
        forced: list[Move] = []
        moves: list[Move] = []
        for number, group in enumerate(traced.groups):
            if group.fixed:
                continue
            if kept[group.sets].all():
                self.reasons[number] = "it is kept, by `keep`"
            elif not importance.scored[group.sets].all():
                self.reasons[number] = importance.missing
            else:
                chain, first_is_forced = self._chain(group, needed, int(width[group.sets].max()))
                forced += chain[:first_is_forced]
                moves += chain[first_is_forced:]
        moves.sort(key=lambda move: move.key)
        self.moves = [move.sets for move in [*forced, *moves]]
        self.forced = len(forced)

    def stays(self, count: int) -> np.ndarray:
        """Returns the sets that stay after the first `count` moves."""
        stays = np.ones(self._traced.count, bool)
        for sets in self.moves[:count]:
            stays[sets] = False
        return stays

    def cost(self, count: int, unit: str) -> int:
        """Returns the "parameters" or the "macs" after the first `count` moves."""
        return self._costs.cost(self.stays(count), unit)

    def fewest(self, unit: str, most: float, low: int, high: int) -> int:
        """Returns the number of moves, from `low` to `high`, after which a cost is first at most `most`."""
        while low < high:
            middle = (low + high) // 2
            if self.cost(middle, unit) <= most:
                high = middle
            else:
                low = middle + 1
        return high

    def _needed(self, kept: np.ndarray) -> np.ndarray:
        """Returns the sets that stay so that no tensor and no weight is left without a channel."""
        values = self._importance.values
        needed = kept | ~self._importance.scored
        needed[FIXED] = True
        for group in self._traced.groups:
            if not group.fixed and not needed[group.sets].any():
                needed[group.sets[values[group.sets].argmax()]] = True
        for sets in self._traced.together:
            if not needed[sets].any():
                needed[sets[values[sets].argmax()]] = True
        return needed

    def _chain(self, group: ChannelGroup, needed: np.ndarray, width: int) -> tuple[list[Move], int]:
        """Returns the moves of a group, and how many of them are forced."""
        free = group.sets[~needed[group.sets]]
        values = self._importance.values[free]
        order = np.argsort(values, kind="stable")
        free, values = free[order], values[order]
        count, least = len(group.sets), len(group.sets) - len(free)
        step = self._round_to // math.gcd(self._round_to, width)
        lowest = max(1, math.ceil(least / step)) * step
        left = [count, *range(count // step * step - (count % step == 0) * step, lowest - 1, -step)]
        ends = [count - number for number in left]
        blocks = [np.arange(start, end) for start, end in zip(ends, ends[1:], strict=False)]
        moved = [free[block] for block in blocks]
        if self._scope == "global":
            scale = 1.0 if self._importance.comparable else self._importance.values[group.sets].mean() or 1.0
            keys = [values[block].mean() / scale for block in blocks]
        elif self._scope == "layer":
            keys = [end / count for end in ends[1:]]
        else:
            total = self._importance.values[group.sets].sum() or 1.0
            keys = list(np.cumsum([values[block].sum() for block in blocks]) / total)
        forced = int(bool(moved) and count % step > 0)
        return [Move(sets, float(key)) for sets, key in zip(moved, keys, strict=True)], forced


def kept_sets(traced: Traced, keep: Sequence[str] | str) -> np.ndarray:
    """Returns whether each set is of the channels that the layers of some names make or hand on.

    Args:
        traced: The channels.
        keep: Names of layers, or patterns as `block1_*`; of a nested model for all in it.

    Raises:
        ValueError: If `keep` is something else, or a pattern matches no layer.
    """
    kept = np.zeros(traced.count, bool)
    patterns = [keep] if isinstance(keep, str) else keep
    if not (isinstance(patterns, Collection) and all(isinstance(pattern, str) for pattern in patterns)):
        raise ValueError(
            "`keep` must be a name of a layer, or a pattern as 'block1_*', or a list of them. "
            f"Received: keep={keep!r}"
        )
    ways = {key: [layer.name for layer in way[1:]] for key, way in chains(traced.model).items()}
    for call in traced.trace.calls:
        names = [call.name, *ways.get(id(call.layer), ())]
        if any(fnmatch.filter(names, pattern) for pattern in patterns):
            made = [one.labels for one in call.slices if one.role == "makes"]
            for labels in [*made, *(channels.labels.ravel() for channels in call.outputs)]:
                kept[traced.sets[labels]] = True
    names = {name for way in ways.values() for name in way} | {call.name for call in traced.trace.calls}
    missing = [pattern for pattern in patterns if not fnmatch.filter(names, pattern)]
    if missing:
        raise ValueError(
            "`keep` must name layers of the model, or match names, as 'block1_*'. "
            f"Received: keep={keep!r}, of which {missing[0]!r} matches none"
        )
    return kept


def _widths(traced: Traced) -> np.ndarray:
    """Returns the number of channels of a tensor that are in each set, in the tensor that has fewest."""
    widths = np.full(traced.count, np.iinfo(np.int64).max)
    for call in traced.trace.calls:
        if not any(one.role == "makes" for one in call.slices):
            continue
        for channels in call.outputs:
            axes = channels.axes()
            if len(axes) == 1:
                sets, counts = np.unique(traced.sets[channels.on(axes[0])], return_counts=True)
                widths[sets] = np.minimum(widths[sets], counts)
    widths[widths == np.iinfo(np.int64).max] = 1
    return widths
