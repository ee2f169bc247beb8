"""Replaces the layers of a model: functional ones are made anew, subclassed ones changed in place."""

from collections.abc import Callable
from typing import Any

import keras

Replace = Callable[[Any], Any]

# Where Keras itself keeps what a layer consists of.
_OF_KERAS = ("_layers", "_metrics", "_trainable_variables", "_non_trainable_variables", "_seed_generators")


def is_graph(model: Any) -> bool:
    """Whether a model is functional or Sequential."""
    return isinstance(model, keras.Sequential) or hasattr(model, "_run_through_graph")


def rebuild(model: keras.Model, replace: Replace) -> keras.Model:
    """Returns a model with `replace(layer)` for each layer, in nested models too.

    A functional or Sequential model is made anew around the same layers, and compiled as it was. A
    subclassed model is changed in place: its attributes, and the lists, tuples and dictionaries among them.
    """
    if is_graph(model):
        return keras.models.clone_model(
            model, clone_function=lambda layer: _replaced(layer, replace), recursive=True
        )
    _rebuild_in_place(model, replace)
    return model


def _replaced(layer: Any, replace: Replace) -> Any:
    if isinstance(layer, keras.Model):
        return rebuild(layer, replace)
    return replace(layer) if isinstance(layer, keras.layers.Layer) else layer


def _rebuild_in_place(model: keras.Model, replace: Replace) -> None:
    order = {id(layer): i for i, layer in enumerate(model._layers)}
    replaced: set[int] = set()
    tracker = model._tracker
    locked = tracker.locked
    tracker.unlock()  # A built model takes no new layers, but these bring only masks.
    try:
        for name, value in list(vars(model).items()):
            if name in _OF_KERAS:
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
    """Returns `value`, or what takes its place; notes which layers go, and the new ones' place in `order`."""
    if isinstance(value, keras.layers.Layer):
        new = _replaced(value, replace)
        if new is not value:
            replaced.add(id(value))
            order.setdefault(id(new), order.get(id(value), len(order)))
        return new
    if isinstance(value, dict):
        new = {key: _map_layers(item, replace, order, replaced) for key, item in value.items()}
        return new if any(new[key] is not value[key] for key in value) else value
    if type(value) is tuple or isinstance(value, list):
        new = [_map_layers(item, replace, order, replaced) for item in value]
        changed = any(a is not b for a, b in zip(new, value, strict=True))
        return (tuple(new) if type(value) is tuple else new) if changed else value
    return value
