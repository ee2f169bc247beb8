"""Replaces the layers of a model: Keras's own models are made anew, others are changed in place."""

import functools
from collections.abc import Callable
from typing import Any

import keras

from tfprune.network.graph import Step, evaluate, functional, inner_layers, is_graph
from tfprune.network.optimizers import fresh

Replace = Callable[[Any], Any]

# Where Keras, TensorFlow and PyTorch themselves keep what a layer consists of.
_OF_KERAS = ("_layers", "_metrics", "_trainable_variables", "_non_trainable_variables", "_seed_generators")
_OF_BACKENDS = ("_self_unconditional_dependency_names", "_modules")
_OF_GRAPHS = (
    "_inputs",
    "_outputs",
    "_inputs_struct",
    "_outputs_struct",
    "_nodes",
    "_nodes_by_depth",
    "_operations",
    "_operations_by_depth",
)
_NOT_OWN = {*_OF_KERAS, *_OF_BACKENDS, *_OF_GRAPHS, "_functional"}


def rebuild(
    model: keras.Model, replace: Replace, changed: Callable[[keras.Model], None] = lambda model: None
) -> keras.Model:
    """Returns a model with `replace(layer)` for each layer, in nested models too.

    A model of Keras's own classes, functional or Sequential, is made anew around the same layers, and
    compiled as it was. A model of any other class may consist of more than its graph: it is changed in
    place, its graph if it has one, its attributes, and the lists, tuples and dictionaries among them. It
    keeps its optimizer, or has a fresh one with the same arguments if other variables are trained than
    before.

    Args:
        model: The model.
        replace: Takes a layer that is no model; returns it, or another one that is to stand in its place.
        changed: Is called with each model that was changed in place, nested ones first.
    """

    @functools.cache  # A nested model met twice stays one.
    def replaced(layer: Any) -> Any:
        if not isinstance(layer, keras.Model):
            return replace(layer) if isinstance(layer, keras.layers.Layer) else layer
        if is_graph(layer) and type(layer).__module__.startswith("keras.src.models."):
            clone = keras.models.clone_model(layer, clone_function=replaced)
            if layer.compiled and not clone.compiled:  # Up to Keras 3.8.
                clone.compile_from_config(layer.get_compile_config())
            clone._trainable = layer._trainable  # The flag of the model itself: its layers have their own.
            return clone
        trained = _trained(layer)
        _InPlace(layer, replaced).rebuild()
        if layer.compiled and getattr(layer.optimizer, "built", False) and _trained(layer) != trained:
            layer.optimizer = fresh(layer.optimizer)
        changed(layer)
        return layer

    return replaced(model)


def _trained(model: keras.Model) -> set[int]:
    return {id(variable) for variable in model.trainable_variables}


def hold(wrapper: keras.layers.Layer, name: str, layer: keras.layers.Layer) -> None:
    """Lets a layer that was not called yet hold another one in the place of that in an attribute."""
    wrapper._tracker.untrack(getattr(wrapper, name))
    setattr(wrapper, name, layer)


def children(model: Any) -> list[keras.layers.Layer]:
    """Returns the layers directly inside a model, each once: its graph's, then its attributes'.

    Their order is the same on every backend, which that of Keras's own list is not.
    """
    inside = list(model.layers) if is_graph(model) else []
    for _, value in sorted(_attributes(model), key=lambda attribute: attribute[0]):
        inside += _layers_in(value)
    return list({id(layer): layer for layer in [*inside, *inner_layers(model)]}.values())


def _attributes(model: Any) -> list[tuple[str, Any]]:
    """Returns the attributes of a model's own; PyTorch keeps the layers among them apart."""
    return [
        (name, value)
        for name, value in {**vars(model), **getattr(model, "_modules", {})}.items()
        if name not in _NOT_OWN
    ]


def _layers_in(value: Any) -> list[keras.layers.Layer]:
    """Returns the layers in an attribute, and in lists, tuples and dictionaries."""
    if isinstance(value, keras.layers.Layer):
        return [value]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return [layer for item in items for layer in _layers_in(item)]


class _InPlace:
    """The replacement of the layers of one model that stays the same object.

    Args:
        model: The model.
        replace: Returns what stands in the place of a layer.
    """

    def __init__(self, model: Any, replace: Replace) -> None:
        self._model = model
        self._replace = replace
        self._order = {id(layer): i for i, layer in enumerate(model._layers)}
        self._gone: set[int] = set()
        # id of a symbolic tensor of the old graph -> its counterpart.
        self._tensors: dict[int, keras.KerasTensor] = {}

    def rebuild(self) -> None:
        """Replaces the layers, and makes the model forget what it traced."""
        model = self._model
        tracker = model._tracker
        locked = tracker.locked
        tracker.unlock()  # A built model takes no new layers, but these bring only masks.
        try:
            if isinstance(model, keras.Sequential):
                self._rebuild_sequence()
            elif functional(model) is not None:
                self._rebuild_graph()
            for name, value in _attributes(model):
                new = self._map(value)
                if new is not value:
                    setattr(model, name, new)
            for layer in list(model._layers):
                if id(layer) in self._gone:
                    tracker.untrack(layer)
        finally:
            if locked:
                tracker.lock()
        model._layers.sort(key=lambda layer: self._order.get(id(layer), len(self._order)))
        # What was traced runs the layers as they were.
        model.train_function = model.test_function = model.predict_function = None

    def _new(self, layer: Any) -> Any:
        """Returns what stands in the place of a layer; notes layers that go, and the places of new ones."""
        new = self._replace(layer)
        if new is not layer:
            self._gone.add(id(layer))
            self._order.setdefault(id(new), self._order.get(id(layer), len(self._order)))
        return new

    def _rebuild_sequence(self) -> None:
        model = self._model
        built = model.built
        model._layers[:] = [self._new(layer) for layer in model._layers]
        if built:
            model._maybe_rebuild()

    def _rebuild_graph(self) -> None:
        """Makes the part of the graph that comes from new layers anew; the old tensors stay as they were."""
        model = self._model
        made: set[int] = set()

        def call(step: Step) -> list[keras.KerasTensor]:
            operation = self._new(step.operation)
            if operation is step.operation and not any(id(tensor) in made for tensor in step.inputs):
                return step.outputs
            outputs = keras.tree.flatten(operation(*step.args, **step.kwargs))
            made.update(map(id, outputs))
            self._tensors.update(zip(map(id, step.outputs), outputs, strict=True))
            return outputs

        outputs = evaluate(model, model.inputs, call)
        graph = keras.Function(
            model._inputs_struct, keras.tree.pack_sequence_as(model._outputs_struct, outputs)
        )
        # Straight in the dictionary of the instance, where TensorFlow does not wrap the containers.
        vars(model).update({name: vars(graph)[name] for name in _OF_GRAPHS})
        for layer in model.layers:
            model._tracker.track(layer)

    def _map(self, value: Any) -> Any:
        """Returns `value` with its layers, and the tensors of the graph, replaced."""
        if isinstance(value, keras.layers.Layer):
            return self._new(value)
        if isinstance(value, keras.KerasTensor):
            return self._tensors.get(id(value), value)
        if isinstance(value, dict):
            new = {key: self._map(item) for key, item in value.items()}
            return new if any(new[key] is not value[key] for key in value) else value
        if isinstance(value, (list, tuple)):  # On TensorFlow a model's tuples and lists are wrapped.
            new = [self._map(item) for item in value]
            if all(a is b for a, b in zip(new, value, strict=True)):
                return value
            if isinstance(value, list):
                return new
            return value._make(new) if hasattr(value, "_fields") else tuple(new)
        return value
