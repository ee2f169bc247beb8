"""`prune_low_magnitude`, `prune_to` and `strip_pruning`: models in, models out."""

import functools
import re
from collections.abc import Callable
from typing import Any

import keras

from tfprune.sparsity import masks as mask_rules
from tfprune.sparsity import registry
from tfprune.sparsity.apply import apply_masks, pruned_layers, set_sparsity
from tfprune.sparsity.schedules import check_sparsity
from tfprune.sparsity.wrapper import DEFAULT_SCHEDULE, PruneLowMagnitude

Selection = str | type | tuple[type, ...] | Callable[[keras.layers.Layer], bool] | None


def prune_low_magnitude(
    to_prune: Any,
    pruning_schedule: Any = DEFAULT_SCHEDULE,
    *,
    layers: Selection = None,
    scope: str = "layer",
    score: str = "magnitude",
    **kwargs: Any,
) -> Any:
    """Wraps a model's prunable layers, a layer, or a list of layers for magnitude pruning.

    The call of `tfmot.sparsity.keras.prune_low_magnitude`. The result shares its variables with
    `to_prune`: pruning the one changes the other. A model is compiled if `to_prune` was, with the same
    settings and a fresh optimizer.

    ```python
    model = prune_low_magnitude(model, PolynomialDecay(0.0, 0.9, begin_step=0, end_step=2000))
    model.compile(...)
    model.fit(..., callbacks=[UpdatePruningStep()])
    model = strip_pruning(model)
    ```

    Args:
        to_prune: A functional or Sequential model (nested ones too), a layer, or a list of layers.
            Wrapped layers in it keep their masks and take the new schedule.
        pruning_schedule: A `PruningSchedule`, tfmot's, or None (masks change only in `prune_to`).
            Default: `ConstantSparsity(0.5, begin_step=0, frequency=100)`.
        layers: Which layers: a layer class or a tuple of them, a regular expression that the whole layer
            name must match, or a function from a layer to bool. None: every layer that has prunable
            variables. A layer that has none is left as it is.
        scope: "layer" (each reaches the sparsity by itself) or "global" (all together).
        score: Name of the score that ranks weights; "magnitude".
        **kwargs: For each `PruneLowMagnitude`.

    Returns:
        A new model, a `PruneLowMagnitude`, or a list of layers.

    Raises:
        ValueError: On something that cannot be pruned, a selection that matches no prunable layer, or
            bad arguments.
    """
    selected = _selector(layers)
    matched: list[str] = []

    @functools.cache  # A layer met twice, in a list or in two nested models, gets one wrapper and one mask.
    def wrap(layer: keras.layers.Layer) -> keras.layers.Layer:
        if not isinstance(layer, keras.layers.Layer):  # A functional model has bare operations too: `x + y`.
            return layer
        inner = layer.layer if isinstance(layer, PruneLowMagnitude) else layer
        if not selected(inner) or not _is_prunable(inner):
            return layer
        matched.append(inner.name)
        wrapper = PruneLowMagnitude(inner, pruning_schedule, scope=scope, score=score, **kwargs)
        if isinstance(layer, PruneLowMagnitude) and layer.built:
            for new, old in zip(wrapper.masks, layer.masks, strict=True):
                new.assign(old)
        return wrapper

    mask_rules.check_scope(scope)
    if isinstance(to_prune, (list, tuple)):
        result = [wrap(layer) for layer in to_prune]
    elif isinstance(to_prune, keras.Model):
        result = _clone(to_prune, wrap)
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
            f"Received: layers={layers!r}, to_prune={to_prune!r}"
        )
    return result


def prune_to(model: keras.layers.Layer, sparsity: float, *, scope: str | None = None) -> None:
    """Prunes a wrapped model at once to `sparsity`, without training.

    Updates the masks of all `PruneLowMagnitude` layers in place and zeroes the removed weights and, if
    the model is compiled, the optimizer's slots for them. Masks that already remove more are kept.

    Args:
        model: A model or layer that went through `prune_low_magnitude`.
        sparsity: Fraction of the prunable weights to remove, in [0, 1).
        scope: "layer" or "global". Default: what each layer was wrapped with; layers of global scope
            reach the sparsity together.

    Raises:
        ValueError: On a model without wrapped layers, a sparsity outside [0, 1), or weights that are not
            finite (the message names the layer).
    """
    sparsity = check_sparsity("sparsity", sparsity)
    wrappers = pruned_layers(model)
    if not wrappers:
        raise ValueError(
            "The model has no pruned layers: wrap it with `prune_low_magnitude` first. "
            f"Received: model={model!r}"
        )
    if not all(w.built for w in wrappers):
        raise ValueError(f"The model must be built before it can be pruned. Received: model={model!r}")
    if scope is not None:
        mask_rules.check_scope(scope)
    optimizer = getattr(model, "optimizer", None)
    for choice in mask_rules.SCOPES:
        group = [w for w in wrappers if (scope or w.scope) == choice]
        if group:
            set_sparsity(group, sparsity, choice, optimizer)


def strip_pruning(model: Any) -> Any:
    """Returns the model (or layer, or list of layers) without wrappers, its removed weights exactly zero.

    The result shares its variables with `model`.

    Raises:
        ValueError: On a model that is neither functional nor Sequential.
    """

    def unwrap(layer: keras.layers.Layer) -> keras.layers.Layer:
        if not isinstance(layer, PruneLowMagnitude):
            return layer
        if layer.built:
            apply_masks([layer])
        return layer.layer

    if isinstance(model, (list, tuple)):
        return [unwrap(layer) for layer in model]
    if isinstance(model, keras.Model):
        return _clone(model, unwrap)
    return unwrap(model)


def _clone(model: keras.Model, function: Callable) -> keras.Model:
    """Rebuilds a model with `function(layer)` for each layer; nested models are rebuilt too."""
    functional = isinstance(model, keras.Sequential) or hasattr(model, "_run_through_graph")
    if not functional:
        raise ValueError(
            "Only functional and Sequential models can be rebuilt; wrap the layers of a subclassed "
            f"model in its `__init__`. Received: {model!r} of type {type(model)}"
        )
    return keras.models.clone_model(model, clone_function=function, recursive=True)


def _selector(layers: Selection) -> Callable[[keras.layers.Layer], bool]:
    """Turns the `layers` argument into a predicate."""
    if layers is None:
        return lambda layer: True
    if isinstance(layers, str):
        try:
            pattern = re.compile(layers)
        except re.error as error:
            raise ValueError(
                f"`layers` must be a valid regular expression ({error}). Received: layers={layers!r}"
            ) from error
        return lambda layer: pattern.fullmatch(layer.name) is not None
    if isinstance(layers, type) or (
        isinstance(layers, tuple) and all(isinstance(cls, type) for cls in layers)
    ):
        return lambda layer: isinstance(layer, layers)
    if callable(layers):
        return layers
    raise ValueError(
        "`layers` must be a layer class, a tuple of them, a regular expression, a function or None. "
        f"Received: layers={layers!r}"
    )


def _is_prunable(layer: keras.layers.Layer) -> bool:
    if layer.built:
        return bool(registry.prunable_variables(layer))
    return registry.may_be_prunable(layer)
