"""Which layers of a model: by class, by a regular expression on the name, by a function."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import keras

from tfprune.network import kinds as registry
from tfprune.network.graph import walk
from tfprune.sparsity.wrapper import PruneLowMagnitude

Selection = str | type | tuple[type, ...] | Callable[[keras.layers.Layer], bool] | None


def selector(layers: Selection) -> Callable[[keras.layers.Layer], bool]:
    """Turns the `layers` argument of `prune_low_magnitude` into a predicate.

    Raises:
        ValueError: On anything else, and on a regular expression that is none.
    """
    if layers is None:
        return lambda layer: True
    if isinstance(layers, str):
        pattern = compile_name("layers", layers)
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


def compile_name(argument: str, pattern: str) -> re.Pattern:
    """Compiles a regular expression on layer names.

    Raises:
        ValueError: If it is none; the message names the argument.
    """
    try:
        return re.compile(pattern)
    except (re.error, TypeError) as error:
        raise ValueError(
            f"`{argument}` must be a valid regular expression ({error}). Received: {argument}={pattern!r}"
        ) from error


def first_match(argument: str, values: dict[str, Any]) -> Callable[[str], Any]:
    """Turns {regular expression: value} into a function from a layer name to the first value that matches.

    The function returns None where nothing matches.

    Raises:
        ValueError: On no entry, or a regular expression that is none.
    """
    if not values:
        raise ValueError(f"`{argument}` must have at least one entry. Received: {argument}={values!r}")
    patterns = [(compile_name(argument, pattern), value) for pattern, value in values.items()]
    return lambda name: next((value for pattern, value in patterns if pattern.fullmatch(name)), None)


def check_names(argument: str, values: Mapping[str, Any], names: list[str], kind: str) -> None:
    """Checks that each regular expression matches a layer of the `kind`, lest a misspelt one be ignored.

    Raises:
        ValueError: On one that matches no name; the message lists the names.
    """
    for pattern in values:
        if not any(re.fullmatch(pattern, name) for name in names):
            raise ValueError(
                f"Each entry of `{argument}` must match {kind}: {', '.join(names)}. Received: {pattern!r}"
            )


def is_prunable(layer: keras.layers.Layer) -> bool:
    """Whether a layer has prunable variables, or will have when it is built."""
    if layer.built:
        return bool(registry.prunable_variables(layer))
    return registry.may_be_prunable(layer)


def prunable_layers(model: keras.layers.Layer) -> list[keras.layers.Layer]:
    """Returns a model's layers with prunable variables, in order, wrapped ones by what they wrap.

    Raises:
        ValueError: On what is no layer.
    """
    if not isinstance(model, keras.layers.Layer):
        raise ValueError(f"A Keras 3 model or layer is needed. Received: {model!r} of type {type(model)}")
    found = []
    for layer in walk(model, lambda layer: isinstance(layer, keras.Model)):
        if isinstance(layer, PruneLowMagnitude):
            found.append(layer.layer)
        elif not isinstance(layer, keras.Model) and is_prunable(layer):
            found.append(layer)
    return found
