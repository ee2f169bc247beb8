"""The pruning flags, as arguments of the library."""

import re
from typing import TYPE_CHECKING, Any

import keras

from tfprune import sparsity
from tfprune.errors import UserError
from tfprune.sparsity.rule import Rule

if TYPE_CHECKING:  # `config` imports this module.
    from tfprune.experiments.config import ExperimentConfig

REGROWTH = {"none": None, "set": sparsity.SET, "rigl": sparsity.RigL}
# Flag -> its default, for what only tfprune's own engine does.
BEYOND_TFMOT = {
    "score": "magnitude",
    "granularity": "weight",
    "block_size": (1, 1),
    "sparsity_m_by_n": (),
    "layer_sparsity": (),
}


def rule_options(config: "ExperimentConfig") -> dict[str, Any]:
    """Returns the arguments of `prune_low_magnitude` that say what goes, whatever the schedule."""
    return {
        "scope": config.scope,
        "score": config.score,
        "granularity": config.granularity,
        "block_size": config.block_size,
        "block_pooling_type": config.block_pooling_type,
        "sparsity_m_by_n": config.sparsity_m_by_n or None,
    }


def layer_targets(config: "ExperimentConfig") -> dict[str, float]:
    """Returns {regular expression of layer names: sparsity at the end}; the last entry is for all others.

    Raises:
        UserError: On an entry of --layer_sparsity that is not REGEX:SPARSITY.
    """
    targets = {}
    for entry in config.layer_sparsity:
        pattern, colon, number = entry.rpartition(":")
        try:
            re.compile(pattern)
            target = float(number)
        except (re.error, ValueError):
            target = -1.0
        if not colon or not pattern or not 0.0 <= target < 1.0:
            raise UserError(
                f"--layer_sparsity={entry}: must be REGEX:SPARSITY, a regular expression of layer names and "
                "a sparsity in [0, 1)"
            )
        targets[pattern] = target
    return {**targets, ".*": config.target_sparsity}


def check_pruning(config: "ExperimentConfig") -> None:
    """Checks that the pruning flags go together.

    Raises:
        UserError: With the flag, the value and the rule.
    """
    if config.layer_sparsity and config.regime in ("dense", "sparse"):
        raise UserError(
            f"--layer_sparsity={','.join(config.layer_sparsity)}: must be empty for --regime={config.regime}"
        )
    layer_targets(config)
    if config.regime == "dense":
        return
    schedule = sparsity.ConstantSparsity(config.target_sparsity, begin_step=0, end_step=1, frequency=1)
    try:
        Rule(schedule, **rule_options(config), regrowth=regrowth(config))
    except ValueError as error:
        # The library's arguments have the flags' names.
        named = [name for name in re.findall(r"\w+", str(error)) if hasattr(config, name)]
        name = named[0] if named else "score"
        value = getattr(config, name)
        value = ",".join(map(str, value)) if isinstance(value, tuple) else value
        raise UserError(f"--{name}={value}: {error}") from error


def regrowth(config: "ExperimentConfig") -> sparsity.Regrowth | None:
    """Returns the method of `--regime=sparse`, None for the others."""
    method = REGROWTH[config.regrowth]
    return method(config.drop_fraction) if method else None


def wrap(config: "ExperimentConfig", network: keras.Model) -> keras.Model:
    """Wraps the layers that `--prune_layers` selects; by default every convolution, as the paper.

    Raises:
        UserError: If none is selected, or one does not have what the flags ask for.
    """
    try:
        return sparsity.prune_low_magnitude(
            network,
            None,
            layers=config.prune_layers or keras.layers.Conv2D,
            spare_ends=config.spare_ends,
            **rule_options(config),
        )
    except ValueError as error:
        raise UserError(f"--prune_layers={config.prune_layers}: {error}") from error


def schedule_wrapped(config: "ExperimentConfig", network: keras.Model, schedules: Any) -> keras.Model:
    """Gives a wrapped network's layers a schedule, or {regular expression: schedule}; masks stay."""
    names = {wrapper.layer.name for wrapper in sparsity.pruned_layers(network)}
    return sparsity.prune_low_magnitude(
        network,
        schedules,
        layers=lambda layer: layer.name in names,
        regrowth=regrowth(config),
        **rule_options(config),
    )
