"""`prune_to`: prunes without training."""

import numbers
from collections.abc import Mapping
from typing import Any

import keras

from tfprune.sparsity import masks as mask_rules
from tfprune.sparsity.apply import parts_of, pruned_layers, set_sparsity
from tfprune.sparsity.gradients import GradientData, GradientMeter, first_batches
from tfprune.sparsity.layer_selection import check_names, first_match
from tfprune.sparsity.schedules import check_sparsity


def prune_to(
    model: keras.layers.Layer,
    sparsity: float | Mapping[str, float],
    *,
    scope: str | None = None,
    gradient_data: GradientData = None,
    gradient_batches: int | None = None,
) -> None:
    """Prunes a wrapped model at once to `sparsity`, without training.

    Updates the masks of all `PruneLowMagnitude` layers in place and zeroes the removed weights and, if
    the model is compiled, the optimizer's slots for them. Masks that already remove more are kept.

    Args:
        model: A model or layer that went through `prune_low_magnitude`.
        sparsity: Fraction of the prunable weights to remove, in [0, 1); or a mapping from regular
            expressions to such: the first that matches a layer's whole name counts, and a layer that none
            matches stays as it is.
        scope: "layer", "global" or "erk". Default: what each layer was wrapped with; layers of the same
            sparsity and scope reach it together.
        gradient_data: For scores that need gradients, with a compiled model: batches of the form (x, y).
        gradient_batches: How many of them to use, from the start. Default: all.

    Raises:
        ValueError: On a model without wrapped layers, a sparsity outside [0, 1), a mapping that matches
            nothing, missing gradients, or weights that are not finite (the message names the layer).
    """
    if isinstance(sparsity, Mapping):
        sparsity = {name: check_sparsity(f"sparsity[{name!r}]", value) for name, value in sparsity.items()}
        sparsity_of = first_match("sparsity", sparsity)
    else:
        if not isinstance(sparsity, numbers.Real):
            raise ValueError(
                "`sparsity` must be a number in [0, 1), or a mapping to such. "
                f"Received: sparsity={sparsity!r}"
            )
        sparsity = check_sparsity("sparsity", sparsity)
        sparsity_of = lambda name: sparsity  # noqa: E731
    if scope is not None:
        mask_rules.check_scope(scope)
    wrappers = pruned_layers(model)
    if not wrappers:
        raise ValueError(
            "The model has no pruned layers: wrap it with `prune_low_magnitude` first. "
            f"Received: model={model!r}"
        )
    if not all(w.built for w in wrappers):
        raise ValueError(f"The model must be built before it can be pruned. Received: model={model!r}")
    groups: dict[tuple[str, float], list[Any]] = {}
    for wrapper in wrappers:
        target = sparsity_of(wrapper.layer.name)
        if target is not None:
            wrapper.rule.check_sparsity(target)
            groups.setdefault((scope or wrapper.rule.scope, target), []).append(wrapper)
    if isinstance(sparsity, Mapping):
        check_names("sparsity", sparsity, [w.layer.name for w in wrappers], "a pruned layer")
    gradients = None
    if gradient_data is not None and any(w.rule.score_needs_gradients for g in groups.values() for w in g):
        batches = first_batches(gradient_data, 0, gradient_batches)
        gradients = GradientMeter(model, wrappers).measure(batches)
    for (choice, target), group in groups.items():
        set_sparsity(parts_of(group), target, choice, getattr(model, "optimizer", None), gradients)
