"""Replaces the layers of a model: functional ones are made anew, subclassed ones changed in place."""

import functools
from collections.abc import Callable
from typing import Any

import keras

from tfprune.network.graph import is_graph

Replace = Callable[[Any], Any]

# Where Keras, TensorFlow and PyTorch themselves keep what a layer consists of.
_OF_KERAS = ("_layers", "_metrics", "_trainable_variables", "_non_trainable_variables", "_seed_generators")
_OF_BACKENDS = ("_self_unconditional_dependency_names", "_modules")


def rebuild(model: keras.Model, replace: Replace) -> keras.Model:
    """Returns a model with `replace(layer)` for each layer, in nested models too.

    A functional or Sequential model is made anew around the same layers, and compiled as it was. A
    subclassed model is changed in place: its attributes, and the lists, tuples and dictionaries among them.
    """

    @functools.cache  # A nested model met twice stays one.
    def replaced(layer: Any) -> Any:
        if not isinstance(layer, keras.Model):
            return replace(layer) if isinstance(layer, keras.layers.Layer) else layer
        if is_graph(layer):
            return keras.models.clone_model(layer, clone_function=replaced, recursive=True)
        _rebuild_in_place(layer, replaced)
        return layer

    return replaced(model)


def _rebuild_in_place(model: keras.Model, replace: Replace) -> None:
    order = {id(layer): i for i, layer in enumerate(model._layers)}
    replaced: set[int] = set()
    tracker = model._tracker
    locked = tracker.locked
    tracker.unlock()  # A built model takes no new layers, but these bring only masks.
    try:
        # PyTorch keeps the layers among a model's attributes apart.
        for name, value in [*vars(model).items(), *getattr(model, "_modules", {}).items()]:
            if name in _OF_KERAS or name in _OF_BACKENDS:
                continue
            new = _map_layers(value, replace, order, replaced)
            if new is not value:
                setattr(model, name, new)
        for layer in list(model._layers):
            if id(layer) in replaced:
                tracker.untrack(layer)
    finally:
        if locked:
            tracker.lock()
    model._layers.sort(key=lambda layer: order.get(id(layer), len(order)))
    # What was traced runs the layers as they were.
    model.train_function = model.test_function = model.predict_function = None


def _map_layers(value: Any, replace: Replace, order: dict[int, int], replaced: set[int]) -> Any:
    """Returns `value` with its layers replaced; notes the layers that go, and the order of the new ones."""
    if isinstance(value, keras.layers.Layer):
        new = replace(value)
        if new is not value:
            replaced.add(id(value))
            order.setdefault(id(new), order.get(id(value), len(order)))
        return new
    if isinstance(value, dict):
        new = {key: _map_layers(item, replace, order, replaced) for key, item in value.items()}
        return new if any(new[key] is not value[key] for key in value) else value
    if isinstance(value, (list, tuple)):  # On TensorFlow a model's tuples and lists are wrapped.
        new = [_map_layers(item, replace, order, replaced) for item in value]
        if all(a is b for a, b in zip(new, value, strict=True)):
            return value
        if isinstance(value, list):
            return new
        return value._make(new) if hasattr(value, "_fields") else tuple(new)
    return value
