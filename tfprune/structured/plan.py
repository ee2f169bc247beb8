"""Plans which channels go, so that what is left of a network is no larger than a budget."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np

from tfprune.channels.cut import build_smaller, check_at_rest
from tfprune.channels.groups import Traced
from tfprune.pictures import write_picture
from tfprune.sparsity.gradients import GradientData
from tfprune.structured.costs import Costs, PlannedGroup, Size
from tfprune.structured.importance import ChannelScore, Importance
from tfprune.structured.latency import Seconds, fast_enough, pair_of
from tfprune.structured.order import SCOPES, Order, kept_sets
from tfprune.structured.picture import draw
from tfprune.structured.repair import repaired
from tfprune.text import text_table

_NAMES_IN_A_ROW = 3


@dataclass(frozen=True, eq=False)
class Plan:
    """A choice of the channels of a model that stay; `print` shows it as a table.

    Attributes:
        model: The model, which stays as it is.
        traced: Its channels.
        stays: Booleans, one for each set of channels of `traced`.
        groups: The groups, in the order of the layers; the fixed ones at the end.
        before: The size of the model.
        after: The size of what `apply` returns; `repair` may add biases to it.
        unknown: Names of layers without a rule, whose neighbours are fixed -> their classes.
    """

    model: keras.Model
    traced: Traced
    stays: np.ndarray
    groups: tuple[PlannedGroup, ...]
    before: Size
    after: Size
    unknown: dict[str, str]
    _rest: tuple[Size, Size]

    def apply(self, repair: str | None = None, images: Any = None) -> keras.Model:
        """Returns the model without the channels that go, with its present weights; it is not changed.

        Args:
            repair: What the layers that took those channels are given in their place, by their values on
                `images`. None: nothing. "constant": their mean. "merge": a multiple of the channel that stays
                and correlates most. "ridge": the best sum of all channels that stay. A layer without a
                bias is given one for it, unless a BatchNorm follows. See `structured.repair.repaired`.
            images: Inputs of the model, a few hundred: an array, for a model of several inputs in its
                structure, or an iterable of batches, such as a `tf.data.Dataset`; labels in it are passed
                over.

        Returns:
            A new model of the same class, Sequential or functional, that is not compiled. A wrapped model
            stays wrapped, with its masks, its schedules and its step.

        Raises:
            ValueError: If `repair` is none of these, or `images` are too few or do not fit.
        """
        if repair is not None:
            return repaired(self.traced, self.stays, images, repair)
        if images is not None:
            raise ValueError("`images` must be None without `repair`. Received: images, and repair=None")
        return build_smaller(
            self.model, self.traced.trace.cuts, lambda labels: self.stays[self.traced.sets[labels]]
        )

    def plot(self, path: str | os.PathLike) -> None:
        """Writes a picture of the network before and after: how wide its groups are, and what they cost.

        The file is written whole or not at all.

        Args:
            path: The file to write; its ending says the format: `.png`, `.svg` or `.pdf`.

        Raises:
            ValueError: On another ending, or if the model has no groups of channels.
        """
        write_picture(path, lambda: draw(self.groups, self.before, self.after))

    def __str__(self) -> str:
        rows = [
            [_names(one.layers), f"{one.kept:,}", f"{one.channels:,}", *_cells(one.before, one.after)]
            for one in self.groups
        ]
        if any(size.parameters for size in self._rest):
            rows.append(["other weights", "", "", *_cells(*self._rest)])
        rows.append(["all", "", "", *_cells(self.before, self.after)])
        lines = text_table(["layers", "kept", "of", "parameters", "after", "MACs", "after"], rows)
        if self.before.seconds is not None:
            before, after = (1e3 * size.seconds for size in (self.before, self.after))
            lines.append(f"{before:.3g} ms before, {after:.3g} ms after")
        fixed = [f"{_names(one.layers)}: {one.fixed}" for one in self.groups if one.fixed]
        fixed += _whole(self.traced)
        if fixed:
            lines += ["", "Fixed:", *(f"  {line}" for line in fixed)]
        if self.unknown:
            named = ", ".join(f"{name} ({kind})" for name, kind in self.unknown.items())
            lines += ["", f"Without a rule, so that what meets them stays: {named}"]
        return "\n".join(lines)


def plan(
    model: keras.Model,
    *,
    params: float | None = None,
    macs: float | None = None,
    latency: float | None = None,
    runtime: str | Seconds = "tflite",
    scope: str = "global",
    score: ChannelScore = "l2",
    round_to: int = 1,
    keep: Sequence[str] | str = (),
    data: GradientData = None,
    input_shape: Any = None,
) -> Plan:
    """Chooses which channels of a model go, so that what is left meets a budget.

    A budget of weights or MACs is met from below, and as closely as one more set of channels allows. For one
    of time, some networks are cut, converted and measured beside the whole one; of those within the budget
    the slowest is chosen, as nearly as measured times repeat. No layer and no tensor is left without a
    channel. Channels that go together (of a residual connection; those of a group of a grouped convolution;
    those of an attention head) are one set.

    Removed weights of a wrapped model count as zeros in scores, and as weights in the size.

    Args:
        model: A built functional or Sequential model, wrapped for pruning or not. It is not changed.
        params: The budget as a fraction of the model's weights, in (0, 1].
        macs: The budget as a fraction of its multiply-accumulates, in (0, 1].
        latency: The budget as a fraction of the time of a call with one example, in (0, 1]. Exactly one
            budget is given.
        runtime: Where the time is measured. "tflite": in LiteRT, on a dense float32 file; "sparse": in
            `tfprune.runtime`; both on one thread, with TensorFlow as Keras's backend. Or a function from a
            model to the seconds that a call of it takes, on any machine.
        scope: Where channels are compared. "global": in one ranking of all groups; scores other than
            estimates of the loss ("taylor", "fisher") and factors of normalisation ("batchnorm") are divided
            by the mean of their group first. "layer": in each group alone, and the same fraction of the
            channels of each goes. "equal": in each group alone, and the same share of the sum of each group's
            scores goes, so that a group whose scores are concentrated in few channels loses more of them.
        score: Which channels stay: those with the largest. "l1" and "l2": the norm of all weights that make
            and take a channel, in all layers of the group. "taylor" and "fisher": the loss that it is
            estimated to cost, summed over these weights. "batchnorm": the absolute value of the factors
            (gamma). "variance": that of the values that the next layers take, over examples and positions.
            Any other score of `prune_low_magnitude`, a name or a function, is summed over these weights.
        round_to: What is kept of a group is a multiple, but for groups that have fewer channels.
        keep: Names of layers, or patterns such as "block1_*", whose channels all stay; the name of a nested
            model is one for all layers in it.
        data: For scores that are measured: batches `(x, y)` for "taylor" and "fisher", of a compiled model;
            batches of inputs, or an array of them, for "variance".
        input_shape: With the batch's axis, for a model whose own sizes are open: that of one example whose
            MACs count.

    Raises:
        ValueError: If an argument is out of its range, `keep` matches nothing, the budget cannot be reached,
            a `fit` of the wrapped model is under way, or its masks are still learned.
        UserError: If the network cannot be converted to be measured.
    """
    unit, fraction = _budget(params=params, macs=macs, latency=latency)
    if scope not in SCOPES:
        raise ValueError(f"`scope` must be one of {list(SCOPES)}. Received: scope={scope!r}")
    if isinstance(round_to, bool) or not isinstance(round_to, (int, np.integer)) or round_to < 1:
        raise ValueError(f"`round_to` must be a whole number of at least 1. Received: round_to={round_to!r}")
    traced = Traced(model)
    check_at_rest(model)
    kept = kept_sets(traced, keep)
    costs = Costs(traced, input_shape)
    whole = costs.size(np.ones(traced.count, bool))
    if unit != "parameters" and whole.macs is None:
        raise ValueError(
            f"MACs must be known of all layers, but are not of {_names(costs.unknown())}: give `input_shape` "
            f"where sizes are open, or `params` as the budget. Received: {unit}={fraction}"
        )
    order = Order(
        traced,
        costs,
        Importance(traced, score, data),
        scope=scope,
        round_to=round_to,
        kept=kept,
    )
    if unit != "latency":
        return _plan(traced, costs, order, _fewest_moves(traced, order, unit, fraction))
    count, seconds = fast_enough(traced, order, fraction, pair_of(model, runtime, input_shape))
    return _plan(traced, costs, order, count, seconds)


def _budget(**budgets: float | None) -> tuple[str, float]:
    """Returns the unit and the fraction of the one budget that is given."""
    given = {name: value for name, value in budgets.items() if value is not None}
    if len(given) != 1:
        names = ", ".join(f"`{name}`" for name in budgets)
        received = ", ".join(f"{name}={value!r}" for name, value in given.items()) or "none"
        raise ValueError(f"Exactly one budget must be given, of {names}. Received: {received}")
    ((name, value),) = given.items()
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not 0 < value <= 1:
        raise ValueError(f"`{name}` must be a fraction in (0, 1]. Received: {name}={value!r}")
    return {"params": "parameters"}.get(name, name), float(value)


def _fewest_moves(traced: Traced, order: Order, unit: str, fraction: float) -> int:
    """Returns the number of moves after which the cost is at most a fraction of the whole."""
    whole, least = order.cost(0, unit), order.cost(len(order.moves), unit)
    if least > fraction * whole:
        name, words = ("params", unit) if unit == "parameters" else (unit, "MACs")
        kept = [f"{_names(traced.groups[number].layers)}: {why}" for number, why in order.reasons.items()]
        fixed = [*kept, *_whole(traced), *map(str, filter(lambda group: group.fixed, traced.groups))]
        why = f" ({_names(fixed, '; ')})" if least == whole and fixed else ""
        raise ValueError(
            f"`{name}` must be at least {_up(least / whole)}: the fewest channels that each group may have "
            f"by `keep` and `round_to` leave {least:,} of {whole:,} {words}{why}. Received: {name}={fraction}"
        )
    return order.fewest(unit, fraction * whole, order.forced, len(order.moves))


def _up(fraction: float) -> float:
    """Returns a fraction with four digits that is not below the given one."""
    return math.ceil(fraction * 1e4) / 1e4


def _plan(
    traced: Traced, costs: Costs, order: Order, count: int, seconds: tuple[float | None, ...] = (None, None)
) -> Plan:
    everything, stays = order.stays(0), order.stays(count)
    before = replace(costs.size(everything), seconds=seconds[0])
    after = replace(costs.size(stays), seconds=seconds[1])
    group_of = np.full(traced.count, -1)
    for number, group in enumerate(traced.groups):
        group_of[group.sets] = number
    owned = [costs.by_owner(which, group_of) for which in (everything, stays)]

    def sizes(key: Any) -> tuple[Size, Size]:
        found = [each.get(key, (0, 0)) for each in owned]
        return tuple(Size(both[0], both[1] if before.macs is not None else None) for both in found)

    groups, seen = [], set()
    for number, group in enumerate(traced.groups):
        key = group.layers[0] if group.fixed else number
        seen.add(key)
        kept = group.channels if group.fixed else int(stays[group.sets].sum())
        reason = group.fixed or order.reasons.get(number, "")
        groups.append(PlannedGroup(group.layers, group.takers, group.channels, kept, *sizes(key), reason))
    others = [sizes(key) for key in {key for each in owned for key in each} - seen]
    rest = tuple(
        Size(
            sum(pair[i].parameters for pair in others),
            None if before.macs is None else sum(pair[i].macs for pair in others),
        )
        for i in (0, 1)
    )
    return Plan(traced.model, traced, stays, tuple(groups), before, after, dict(traced.trace.unknown), rest)


def _whole(traced: Traced) -> list[str]:
    """Returns the layers that have a rule and are not cut at all, with the reasons."""
    trace = traced.trace
    return [f"{name}: {reason}" for name, reason in trace.whole.items() if name not in trace.unknown]


def _names(names: Sequence[str], between: str = ", ") -> str:
    """Returns some names; of many the first ones, and how many there are."""
    shown = between.join(names[:_NAMES_IN_A_ROW])
    return shown if len(names) <= _NAMES_IN_A_ROW else f"{shown} and {len(names) - _NAMES_IN_A_ROW} more"


def _cells(before: Size, after: Size) -> list[str]:
    return [
        "unknown" if number is None else f"{number:,}"
        for number in (before.parameters, after.parameters, before.macs, after.macs)
    ]
