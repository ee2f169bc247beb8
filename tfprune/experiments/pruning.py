"""The pruning settings, as arguments of the library."""

import math
import re
from typing import Any

import keras
from keras import ops

from tfprune import sparsity
from tfprune.errors import UserError
from tfprune.models.catalog import source_of
from tfprune.runs.config import ExperimentConfig
from tfprune.sparsity import ConstantSparsity, GeometricDecay, PolynomialDecay, PruningSchedule
from tfprune.sparsity.apply import parts_of


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


def rising(
    config: ExperimentConfig, start: float, target: float, end_step: int, frequency: int = 1
) -> PruningSchedule:
    """Returns `--schedule` from a sparsity at step 0 to another at `end_step`; `constant` is there at once.

    Args:
        config: The experiment.
        start: The sparsity at step 0.
        target: The sparsity at `end_step`.
        end_step: In training steps, or in rounds.
        frequency: The schedule's, in the same unit.
    """
    if config.schedule == "constant":
        return ConstantSparsity(target, begin_step=0, frequency=frequency)
    if config.schedule == "polynomial":
        return PolynomialDecay(start, target, 0, end_step, power=config.power, frequency=frequency)
    return GeometricDecay(start, target, 0, end_step, frequency=frequency)


def check_method(config: ExperimentConfig, *known: str) -> None:
    """Checks that `--method` is one of those that a regime knows.

    Raises:
        UserError: If it is another.
    """
    if config.method not in known:
        config.refuse("method", f"must be {', '.join(known[:-1])} or {known[-1]} for {config.flag('regime')}")


def check_patterns(config: ExperimentConfig) -> None:
    """Checks that the settings that say what goes together can all be met.

    Raises:
        UserError: With the flag, the value and the rule.
    """
    # Weights go in one kind of group; alone where they move.
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
    if config.sparsity_m_by_n:
        _check_m_by_n(config, *config.sparsity_m_by_n)


def _check_m_by_n(config: ExperimentConfig, m: int, n: int) -> None:
    given = f"with --sparsity_m_by_n={m},{n}"
    if config.layer_sparsity:
        config.refuse("layer_sparsity", f"must be empty {given}: every layer has the same share of zeros")
    if config.scope != "layer":
        config.refuse("scope", f"must be layer {given}: every layer has the same share of zeros")
    if abs(config.target_sparsity - m / n) > 0.005:  # The library's own tolerance.
        config.refuse("target_sparsity", f"must be {m / n:.4g} {given}")


def wrap(config: ExperimentConfig, network: keras.Model, keep_zeros: bool | None) -> keras.Model:
    """Wraps the layers that `--prune_layers` selects; wrappers that are there keep their masks.

    Args:
        config: The experiment.
        network: The network.
        keep_zeros: As for `prune_low_magnitude`.

    Raises:
        UserError: If none is selected, or one does not have what the flags ask for.
    """
    try:
        wrapped = sparsity.prune_low_magnitude(
            network,
            None,
            **selection(config),
            keep_zeros=keep_zeros,
            seed=config.seed,
            **rule_options(config),
        )
    except ValueError as error:
        raise UserError(f"{selecting_flags(config)}: {error}") from error
    parts = parts_of(sparsity.pruned_layers(wrapped))
    paths = {path for part in parts for path in part.paths}
    for pattern in config.layer_targets() if config.layer_sparsity else ():
        if not any(re.fullmatch(pattern, path) for path in paths):
            names = dict.fromkeys(part.paths[0] for part in parts)
            config.refuse(
                "layer_sparsity", f"{pattern!r} must match a layer to prune; there are: {', '.join(names)}"
            )
    return wrapped


def selection(config: ExperimentConfig) -> dict[str, Any]:
    """Returns the arguments of `prune_low_magnitude` that say what is pruned.

    Where `--prune_layers` is empty these are the convolutions of tfprune's own networks, as in the paper, and
    all that can be pruned of others.
    """
    convolutions = source_of(config.model).convolutions_alone
    layers = config.prune_layers or (keras.layers.Conv2D if convolutions else None)
    return {"layers": layers, "spare_ends": config.spare_ends}


def masks_sparsity(model: keras.Model) -> float:
    """Returns the fraction of weights that the masks remove; 0 for a model without masks."""
    kept = total = 0
    for layer in sparsity.pruned_layers(model):
        for mask in layer.masks:
            values = ops.convert_to_numpy(mask)
            kept, total = kept + int(values.sum()), total + values.size
    return 1.0 - kept / total if total else 0.0


def pruned_words(model: keras.Model) -> str:
    """Returns which layers of a model are pruned, and how many of its weights: `4 layers, 1,200 of ...`."""
    wrappers = sparsity.pruned_layers(model)
    if not wrappers:
        return "nothing"
    names = [wrapper.layer.name for wrapper in wrappers]
    shown = names if len(names) <= 6 else [*names[:3], "...", *names[-2:]]
    weights = sum(math.prod(part.shape) for part in parts_of(wrappers))
    total = sum(math.prod(variable.shape) for variable in model.trainable_variables)
    return (
        f"{len(names)} layer{'' if len(names) == 1 else 's'}, {weights:,} of {total:,} weights "
        f"({', '.join(shown)})"
    )


def selecting_flags(config: ExperimentConfig) -> str:
    """Returns the flags that say which layers are pruned, for errors."""
    return f"--prune_layers={config.prune_layers}" + (" --spare_ends" if config.spare_ends else "")
