"""`prune_low_magnitude` and `strip_pruning`: models in, models out."""

import functools
from collections.abc import Mapping
from typing import Any

import keras

from tfprune.network.rebuild import rebuild
from tfprune.sparsity.apply import apply_masks, pruned_layers
from tfprune.sparsity.layer_selection import (
    Selection,
    check_names,
    first_match,
    is_prunable,
    prunable_layers,
    selector,
)
from tfprune.sparsity.patterns import Pattern, from_arguments
from tfprune.sparsity.rule import Rule
from tfprune.sparsity.scores import Score
from tfprune.sparsity.wrapper import DEFAULT_SCHEDULE, PruneLowMagnitude


def prune_low_magnitude(
    to_prune: Any,
    pruning_schedule: Any = DEFAULT_SCHEDULE,
    block_size: tuple[int, int] = (1, 1),
    block_pooling_type: str = "AVG",
    pruning_policy: Any = None,
    sparsity_m_by_n: tuple[int, int] | None = None,
    *,
    layers: Selection = None,
    spare_ends: bool = False,
    scope: str = "layer",
    score: str | Score = "magnitude",
    granularity: str = "weight",
    regrowth: Any = None,
    pattern: Pattern | None = None,
    **kwargs: Any,
) -> Any:
    """Wraps a model's prunable layers, a layer, or a list of layers for magnitude pruning.

    The call of `tfmot.sparsity.keras.prune_low_magnitude`. The result shares its variables with
    `to_prune`: pruning the one changes the other. A model is compiled if `to_prune` was, with the same
    settings and a fresh optimizer. A subclassed model is wrapped in place, and returned.

    ```python
    model = prune_low_magnitude(model, PolynomialDecay(0.0, 0.9, begin_step=0, end_step=2000))
    model.compile(...)
    model.fit(..., callbacks=[UpdatePruningStep()])
    model = strip_pruning(model)
    ```

    Args:
        to_prune: A model (nested models are entered), a layer, or a list of layers. Wrapped layers in it
            keep their masks and take the new arguments.
        pruning_schedule: A `PruningSchedule`, or None (masks change only in `prune_to`); or, for targets
            of their own, a mapping from regular expressions to such: the first that matches the whole
            name of a layer counts, and a layer that none matches is left as it is.
            Default: `ConstantSparsity(0.5, begin_step=0, frequency=100)`.
        block_size: (height, width) of blocks that are removed together, in weights along the last axis
            but one and along the last: of a convolution's kernel the channels, at each position.
        block_pooling_type: What ranks a block, its weights' mean ("AVG") or largest ("MAX") score.
        pruning_policy: A `PruningPolicy`: says which layers are wrapped, and refuses models.
        sparsity_m_by_n: (m, n): m zeros in every n consecutive weights along the input channels. At the
            schedule's sparsity s a group has `round(s * n)` zeros, at most m; the schedule ends at m / n.
        layers: Which layers: a layer class or a tuple of them, a regular expression that the whole layer
            name must match, or a function from a layer to bool. None: every layer that has prunable
            variables. A layer that has none is left as it is.
        spare_ends: Leaves the model's first and last layer with prunable variables as they are.
        scope: How the sparsity is shared out. "layer": each tensor reaches it. "global": all together, by
            one ranking. "erk": all together, small tensors less (Erdos-Renyi-Kernel, arXiv:1911.11134).
            Layers are together if all their arguments are equal.
        score: What ranks weights: "magnitude", "lamp", "random", "taylor", "fisher", or a function
            (`scores.py`).
        granularity: "weight", or "channel": whole output channels, ranked by their L2 norm.
        regrowth: None, or `SET()` or `RigL()`: a method that moves a fixed number of weights about.
        pattern: A `Pattern` (`patterns.py`), such as `Blocks((4, 4))`, `MOfN(2, 4)` or one of your own, in
            the place of `block_size`, `block_pooling_type`, `sparsity_m_by_n` and `granularity`.
        **kwargs: For each `PruneLowMagnitude`.

    Returns:
        A model, a `PruneLowMagnitude`, or a list of layers.

    Raises:
        ValueError: On something that cannot be pruned, a selection that matches no prunable layer, or
            bad arguments.
    """
    schedule_of = _schedules(pruning_schedule)
    pattern = from_arguments(block_size, block_pooling_type, sparsity_m_by_n, granularity, pattern)

    def rule_of(schedule: Any) -> Rule:
        return Rule(schedule, pattern, scope, score, regrowth)

    for schedule in (
        pruning_schedule.values() if isinstance(pruning_schedule, Mapping) else [pruning_schedule]
    ):
        rule_of(schedule)  # Bad arguments are an error before anything is changed.
    if not isinstance(spare_ends, bool):
        raise ValueError(f"`spare_ends` must be True or False. Received: spare_ends={spare_ends!r}")
    if pruning_policy is not None and not hasattr(pruning_policy, "allow_pruning"):
        raise ValueError(
            f"`pruning_policy` must be a `PruningPolicy` or None. Received: pruning_policy={pruning_policy!r}"
        )
    selected = selector(layers)
    if pruning_policy is not None and isinstance(to_prune, keras.Model):
        pruning_policy.ensure_model_supports_pruning(to_prune)
    spared: list[keras.layers.Layer] = []
    if spare_ends and isinstance(to_prune, keras.layers.Layer):
        found = prunable_layers(to_prune)
        spared = [found[0], found[-1]] if found else []
    matched: list[str] = []

    def is_wanted(layer: keras.layers.Layer) -> bool:
        return (
            selected(layer)
            and not any(layer is end for end in spared)
            and schedule_of(layer.name) is not _NOT_NAMED
            and (pruning_policy is None or pruning_policy.allow_pruning(layer))
            and is_prunable(layer)
        )

    @functools.cache  # A layer met twice, in a list or in two nested models, gets one wrapper and one mask.
    def wrap(layer: keras.layers.Layer) -> keras.layers.Layer:
        inner = layer.layer if isinstance(layer, PruneLowMagnitude) else layer
        if not is_wanted(inner):
            return layer
        matched.append(inner.name)
        rule = rule_of(schedule_of(inner.name))
        inside = pruned_layers(inner)
        if inside:  # Such as `TimeDistributed(prune_low_magnitude(...))`: its masks are there already.
            for wrapper in inside:
                wrapper.rule = rule
            return layer
        again = isinstance(layer, PruneLowMagnitude)
        own = {"seed": layer.seed, **kwargs} if again else kwargs
        wrapper = PruneLowMagnitude(inner, **rule.arguments(), **own)
        if again and layer.built:
            for new, old in zip(wrapper.masks, layer.masks, strict=True):
                new.assign(old)
            wrapper.pruning_step.assign(layer.pruning_step)
        return wrapper

    _check_names(pruning_schedule, to_prune)
    if isinstance(to_prune, (list, tuple)):
        result = [wrap(layer) for layer in to_prune]
    elif isinstance(to_prune, keras.Model):
        result = rebuild(to_prune, wrap)
        _keep_output_names(to_prune, result)
    elif isinstance(to_prune, keras.layers.Layer):
        result = wrap(to_prune)
    else:
        raise ValueError(
            "`to_prune` must be a Keras 3 model, a layer or a list of layers. "
            f"Received: to_prune={to_prune!r} of type {type(to_prune)}"
        )
    if not matched:
        raise ValueError(
            "Nothing to prune: no layer selected has a kernel or an embedding table. "
            f"Received: layers={layers!r}, pruning_schedule={pruning_schedule!r}, "
            f"pruning_policy={pruning_policy!r}, to_prune={to_prune!r}"
        )
    return result


def strip_pruning(model: Any) -> Any:
    """Returns the model (or layer, or list of layers) without wrappers, its removed weights exactly zero.

    The result shares its variables with `model`; a subclassed model is changed in place, and returned.

    Raises:
        ValueError: On anything else.
    """

    def unwrap(layer: keras.layers.Layer) -> keras.layers.Layer:
        if not isinstance(layer, PruneLowMagnitude):
            return layer
        if layer.built:
            apply_masks([layer])
        return layer.layer

    if isinstance(model, (list, tuple)):
        return [strip_pruning(layer) for layer in model]
    if isinstance(model, keras.Model):
        return rebuild(model, unwrap)
    if not isinstance(model, keras.layers.Layer):
        raise ValueError(f"`model` must be a Keras 3 model, a layer or a list of layers. Received: {model!r}")
    return unwrap(model)


def prune_scope() -> Any:
    """A scope in which models with `PruneLowMagnitude` can be loaded, as `tfmot`'s.

    The wrapper and the schedules are registered, so that `keras.saving.load_model` finds them anyway.
    """
    return keras.saving.custom_object_scope({"PruneLowMagnitude": PruneLowMagnitude})


def _check_names(pruning_schedule: Any, to_prune: Any) -> None:
    """Checks that each name pattern has a prunable layer, lest a misspelt one be ignored."""
    if not isinstance(pruning_schedule, Mapping):
        return
    models = to_prune if isinstance(to_prune, (list, tuple)) else [to_prune]
    names = [layer.name for model in models for layer in prunable_layers(model)]
    check_names("pruning_schedule", pruning_schedule, names, "a layer that can be pruned")


def _keep_output_names(model: keras.Model, wrapped: keras.Model) -> None:
    """Lets losses and labels keyed by output names work as before, though wrapped layers have new names."""
    names = getattr(model, "output_names", None)
    if names is not None and names != wrapped.output_names:
        wrapped.output_names = list(names)
        if model.compiled:
            wrapped.compile_from_config(model.get_compile_config())


_NOT_NAMED = object()


def _schedules(pruning_schedule: Any) -> Any:
    """Turns a schedule, or a mapping of them, into a function from a layer's name."""
    if not isinstance(pruning_schedule, Mapping):
        return lambda name: pruning_schedule
    wrapped = {pattern: (schedule,) for pattern, schedule in pruning_schedule.items()}
    match = first_match("pruning_schedule", wrapped)
    return lambda name: (match(name) or (_NOT_NAMED,))[0]
