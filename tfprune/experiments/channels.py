"""Networks whose channels are cut out: how large and how wide they are, and the cut that settings ask for."""

import itertools
import math
import re
from collections.abc import Sequence
from typing import Any

import keras

from tfprune import structured
from tfprune.channels.groups import Traced
from tfprune.errors import UserError
from tfprune.experiments.batches import Batches
from tfprune.experiments.transfer import weighted_layers
from tfprune.network.macs import kernel_uses, total
from tfprune.runs.config import ExperimentConfig
from tfprune.runs.result import Channels, NetworkSize

BUDGETS = {"target_macs": "macs", "target_params": "parameters"}
"""Setting -> the field of `NetworkSize` that it is a share of."""
UNITS = {"macs": "MACs", "parameters": "parameters"}
"""Field of `NetworkSize` -> its name in words."""

_ARGUMENTS = {"target_macs": "macs", "target_params": "params"}
# Arguments of `structured.plan` and `Plan.apply` -> the settings that they are.
_FLAGS = {
    **{argument: name for name, argument in _ARGUMENTS.items()},
    "keep": "keep_layers",
    "score": "channel_score",
    "scope": "channel_scope",
    "images": "repair_images",
    "round_to": "round_to",
    "repair": "repair",
}
_ON_LABELS, _ON_INPUTS = ("taylor", "fisher"), ("variance",)


def size_of(model: keras.Model) -> NetworkSize:
    """Returns the size of a network, wrapped for pruning or not."""
    return NetworkSize(parameters_of(model), total([use.macs for use in kernel_uses(model)]) or None)


def parameters_of(model: keras.Model) -> int:
    """Returns the number of weights of a network, trainable or not; masks are none."""
    variables = {id(one): one for part in weighted_layers(model) for one in part.variables}
    return sum(math.prod(one.shape) for one in variables.values())


def left_words(model: keras.Model, whole: NetworkSize) -> str:
    """Returns how much of a whole network is left: `49.8 % of the MACs, 42.0 % of the parameters`."""
    size = size_of(model)
    return ", ".join(
        f"{100 * size.share_of(whole, unit):.1f} % of the {UNITS[unit]}"
        for unit in BUDGETS.values()
        if None not in (getattr(size, unit), getattr(whole, unit))
    )


def widths_of(model: keras.Model, before: Sequence[Channels] = ()) -> tuple[Channels, ...]:
    """Returns the widths of a network, beside those before any channel was cut.

    Args:
        model: A functional or Sequential network.
        before: The widths of the network that it was cut from; none where it is whole.
    """
    whole = {group.layers: group.of for group in before}
    return tuple(
        Channels(group.layers, group.channels, max(whole.get(group.layers, 0), group.channels))
        for group in Traced(model).groups
        if not group.fixed
    )


def cut_words(model: keras.Model) -> str:
    """Returns how many channels of a network can be cut: `120 channels of 9 groups`."""
    groups = widths_of(model)
    kept = sum(group.kept for group in groups)
    return f"{kept:,} channels of {len(groups)} group{'' if len(groups) == 1 else 's'}"


def budget_of(config: ExperimentConfig) -> str:
    """Returns the name of the setting that is the budget."""
    return next(name for name in BUDGETS if getattr(config, name))


def plan_cut(
    config: ExperimentConfig, model: keras.Model, share: float, data: Any = None, score: str | None = None
) -> structured.Plan:
    """Returns the plan of a cut.

    Args:
        config: The experiment.
        model: The network, compiled if the score is measured.
        share: What is left of the budget's unit, of what the network has now.
        data: What the score is measured on.
        score: In the place of `--channel_score`.

    Raises:
        UserError: If there is none; with the flag.
    """
    budget = budget_of(config)
    try:
        return structured.plan(
            model,
            **{_ARGUMENTS[budget]: share},
            scope=config.channel_scope,
            score=score or config.channel_score,
            round_to=config.round_to,
            keep=config.keep_layers,
            data=data,
        )
    except ValueError as error:
        raise _with_flag(config, error, budget) from error


def cut(
    config: ExperimentConfig, model: keras.Model, share: float, batches: Batches, number: int
) -> keras.Model:
    """Returns a network with some of its channels cut out, as the settings ask for it; not compiled.

    Args:
        config: The experiment.
        model: The network, compiled.
        share: What is left of the budget's unit, of what the network has now.
        batches: The experiment's data.
        number: The round, for the examples to measure on.

    Raises:
        UserError: If it cannot be; with the flag.
    """
    data = None
    if config.channel_score in _ON_LABELS:
        data = itertools.islice(
            batches.for_statistics(number, config.gradient_batches), config.gradient_batches
        )
    elif config.channel_score in _ON_INPUTS:
        data = batches.plain_inputs(number, config.gradient_batches * config.batch_size)
    plan = plan_cut(config, model, share, data)
    if config.repair == "none":
        return plan.apply()
    try:
        return plan.apply(repair=config.repair, images=batches.plain_inputs(number, config.repair_images))
    except ValueError as error:
        raise _with_flag(config, error, "repair") from error


def _with_flag(config: ExperimentConfig, error: ValueError, otherwise: str) -> UserError:
    """Returns an error of the library as that of the flag that it is about, which it names first."""
    argument = re.match("`(\\w+)`", str(error))
    name = _FLAGS.get(argument[1], otherwise) if argument else otherwise
    return UserError(f"{config.flag(name)}: {error}")
