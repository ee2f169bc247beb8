"""The pruning flags, as arguments of the library."""

import itertools
import re
from collections.abc import Callable, Iterable
from typing import Any

import keras

from tfprune import sparsity
from tfprune.errors import UserError
from tfprune.runs.config import ExperimentConfig, to_text
from tfprune.sparsity.regrowth import METHODS

# Flag -> its default, for what only tfprune's own engine does, in pruning and in training.
BEYOND_TFMOT = {
    "score": "magnitude",
    "granularity": "weight",
    "block_size": (1, 1),
    "sparsity_m_by_n": (),
    "layer_sparsity": (),
    "batchnorm_after_pruning": "keep",
    "lr_schedule": "step",
    "warmup_epochs": 0.0,
    "distill_from": "",
}


def rule_options(config: ExperimentConfig) -> dict[str, Any]:
    """Returns the arguments of `prune_low_magnitude` that say what goes, whatever the schedule."""
    return {
        "scope": config.scope,
        "score": config.score,
        "granularity": config.granularity,
        "block_size": config.block_size,
        "block_pooling_type": config.block_pooling_type,
        "sparsity_m_by_n": config.sparsity_m_by_n or None,
    }


def layer_targets(config: ExperimentConfig) -> dict[str, float]:
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
        targets.setdefault(pattern, target)  # The first counts.
    targets.setdefault(".*", config.target_sparsity)
    return targets


def check_experiment(config: ExperimentConfig) -> None:
    """Checks all of an experiment that can be checked without data and weights.

    Raises:
        UserError: With the flag, the value and the rule.
    """
    config.check()
    _check_regime(config)
    check_pruning(config)
    if config.pruning_engine == "tfmot":
        _check_tfmot(config)


def check_pruning(config: ExperimentConfig) -> None:
    """Checks that the pruning flags go together.

    Raises:
        UserError: With the flag, the value and the rule.
    """
    layer_targets(config)
    if config.layer_sparsity and config.regime in ("dense", "sparse"):
        config.refuse("layer_sparsity", f"must be empty for --regime={config.regime}")
    if config.regime == "dense":
        return
    _check_patterns(config)
    if config.sparsity_m_by_n:
        _check_m_by_n(config, *config.sparsity_m_by_n)


def _check_regime(config: ExperimentConfig) -> None:
    if config.regime == "dense":
        if config.target_sparsity:
            config.refuse("target_sparsity", "must be 0 for --regime=dense, which prunes nothing")
    elif not config.target_sparsity:
        config.refuse("target_sparsity", f"must be above 0 for --regime={config.regime}")
    if config.regime in ("dense", "one_shot", "sparse") and config.schedule != "constant":
        config.refuse("schedule", f"must be constant for --regime={config.regime}")
    if config.regime in ("iterative", "gradual") and config.schedule == "constant":
        config.refuse("schedule", f"must be polynomial or geometric for --regime={config.regime}")
    if (config.regime == "sparse") != (config.regrowth != "none"):
        rule = "must be set or rigl for" if config.regime == "sparse" else "must be none but for"
        config.refuse("regrowth", f"{rule} --regime=sparse")
    if config.batchnorm_after_pruning != "keep" and config.regime not in ("one_shot", "iterative"):
        rule = "which does not prune at once, before a round's training"
        config.refuse("batchnorm_after_pruning", f"must be keep for --regime={config.regime}, {rule}")
    if config.regime != "iterative" and config.rounds != 1:
        config.refuse("rounds", f"must be 1 for --regime={config.regime}; only iterative has more")


def _check_tfmot(config: ExperimentConfig) -> None:
    engine = "with --pruning_engine=tfmot"
    if config.regime in ("dense", "sparse"):
        config.refuse("regime", f"must be one_shot, iterative or gradual {engine}, which trains nothing else")
    if config.scope != "layer":
        config.refuse("scope", f"must be layer {engine}, which has no other: pass --scope=layer")
    if config.regime == "gradual" and config.schedule != "polynomial":
        config.refuse("schedule", f"must be polynomial {engine} for --regime=gradual")
    for name, default in BEYOND_TFMOT.items():
        if getattr(config, name) != default:
            config.refuse(name, f"must be {to_text(default) or 'empty'} {engine}")
    if config.mixed_precision != "none":
        config.refuse("mixed_precision", f"must be none {engine}, which trains in float32 here")


def _check_patterns(config: ExperimentConfig) -> None:
    """Weights go in one kind of group; alone where they move."""
    given = f"{config.flag('regrowth')}, which moves single weights" if config.regrowth != "none" else ""
    for name, default, in_words in (
        ("block_size", (1, 1), "1,1"),
        ("granularity", "weight", "weight"),
        ("sparsity_m_by_n", (), "empty"),
    ):
        if getattr(config, name) == default:
            continue
        if given:
            config.refuse(name, f"must be {in_words} with {given}")
        given = f"{config.flag(name)}: weights go in one kind of group"


def _check_m_by_n(config: ExperimentConfig, m: int, n: int) -> None:
    given = f"with --sparsity_m_by_n={m},{n}"
    if config.layer_sparsity:
        config.refuse("layer_sparsity", f"must be empty {given}: every layer has the same share of zeros")
    if config.scope != "layer":
        config.refuse("scope", f"must be layer {given}: every layer has the same share of zeros")
    if abs(config.target_sparsity - m / n) > 0.005:  # The library's own tolerance.
        config.refuse("target_sparsity", f"must be {m / n:.4g} {given}")


def regrowth(config: ExperimentConfig) -> sparsity.Regrowth | None:
    """Returns the method of `--regime=sparse`, None for the others."""
    return METHODS[config.regrowth](config.drop_fraction) if config.regrowth in METHODS else None


def wrap(config: ExperimentConfig, network: keras.Model) -> keras.Model:
    """Wraps the layers that `--prune_layers` selects; by default every convolution, as the paper.

    Raises:
        UserError: If none is selected, or one does not have what the flags ask for.
    """
    try:
        wrapped = sparsity.prune_low_magnitude(
            network,
            None,
            layers=config.prune_layers or keras.layers.Conv2D,
            spare_ends=config.spare_ends,
            seed=config.seed,
            **rule_options(config),
        )
    except ValueError as error:
        raise UserError(f"{selecting_flags(config)}: {error}") from error
    names = [wrapper.layer.name for wrapper in sparsity.pruned_layers(wrapped)]
    for pattern in layer_targets(config) if config.layer_sparsity else ():
        if not any(re.fullmatch(pattern, name) for name in names):
            config.refuse(
                "layer_sparsity", f"{pattern!r} must match a layer to prune; there are: {', '.join(names)}"
            )
    return wrapped


def selecting_flags(config: ExperimentConfig) -> str:
    """Returns the flags that say which layers are pruned, for errors."""
    return f"--prune_layers={config.prune_layers}" + (" --spare_ends" if config.spare_ends else "")


def schedule_wrapped(config: ExperimentConfig, network: keras.Model, schedules: Any) -> keras.Model:
    """Gives a wrapped network's layers a schedule, or {regular expression: schedule}; masks stay."""
    names = {wrapper.layer.name for wrapper in sparsity.pruned_layers(network)}
    return sparsity.prune_low_magnitude(
        network,
        schedules,
        layers=lambda layer: layer.name in names,
        regrowth=regrowth(config),
        **rule_options(config),
    )


def adapt_batchnorm(
    config: ExperimentConfig, model: keras.Model, train_batches: Callable[[int], Iterable[Any]]
) -> None:
    """Does what `--batchnorm_after_pruning` says, once the masks are new.

    Args:
        config: The experiment.
        model: The compiled, pruned network.
        train_batches: Makes the batches of a number of epochs.
    """
    if config.batchnorm_after_pruning == "reset_removed":
        sparsity.reset_removed(model)
    elif config.batchnorm_after_pruning == "recalibrate":
        # An epoch has at least one batch.
        batches = train_batches(config.batchnorm_batches)
        sparsity.recalibrate(model, itertools.islice(batches, config.batchnorm_batches))
