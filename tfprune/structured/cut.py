"""Builds a model anew without some of its channels."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tfprune.channels.trace import Cut, Kept, Slice
from tfprune.network.graph import Step, computed_graph, evaluate
from tfprune.sparsity import PruneLowMagnitude, pruned_layers

Values = Mapping[int, np.ndarray]


def build_smaller(
    model: keras.Model,
    cuts: Mapping[int, Cut],
    kept: Kept,
    edits: Values | None = None,
    biases: Values | None = None,
) -> keras.Model:
    """Returns a new model with the channels that stay; the given one is not changed.

    Args:
        model: A functional or Sequential model.
        cuts: What `Trace` noted of its layers.
        kept: Whether a label's channel stays.
        edits: id of a weight -> values to take in the place of its own, in its whole shape.
        biases: id of a layer with `use_bias=False` -> values of the bias that it is given, in the whole
            shape. Of a wrapped layer the id is that of the layer inside.

    Returns:
        A functional model, or a Sequential one, of the same names, not compiled.

    Raises:
        ValueError: If a `fit` of the wrapped model is under way.
    """
    check_no_fit(model)
    builder = _Builder(cuts, kept, edits or {}, biases or {})
    return builder.model(model)


def check_no_fit(model: keras.Model) -> None:
    """Checks that no training of a wrapped model is under way."""
    for layer in pruned_layers(model):
        if layer.updater is not None and layer.updater.fits:
            raise ValueError(
                "`model` must not be in the middle of a `fit`: cut it between two fits. "
                f"Received: model={model!r}, layer {layer.layer.name!r} of which is being trained"
            )


class _Builder:
    def __init__(self, cuts: Mapping[int, Cut], kept: Kept, edits: Values, biases: Values) -> None:
        self._cuts, self._kept, self._edits, self._biases = cuts, kept, edits, biases
        # id of a layer, an operation or a nested model -> what stands in its place.
        self._made: dict[int, Any] = {}
        self._weights: list[tuple[Any, Any]] = []

    def model(self, model: keras.Model) -> keras.Model:
        """Returns the smaller model, with its weights."""
        made = self._graph(model, [_placeholder(tensor) for tensor in model.inputs])
        for old, new in self._weights:
            self._copy(old, new)
        return made

    def _graph(self, model: Any, inputs: list[keras.KerasTensor]) -> keras.Model:
        graph = computed_graph(model)
        outputs = evaluate(graph, inputs, self._call)
        if isinstance(model, keras.Sequential):
            made = keras.Sequential(name=model.name)
            made.add(keras.Input(batch_shape=inputs[0].shape, dtype=inputs[0].dtype, name=inputs[0].name))
            for layer in model.layers:
                made.add(self._made[id(layer)])
        else:
            structure = keras.tree.pack_sequence_as(model.input, inputs)
            made = keras.Model(structure, keras.tree.pack_sequence_as(model.output, outputs), name=model.name)
        made.trainable = model.trainable if not model.trainable else made.trainable
        return made

    def _call(self, step: Step) -> Sequence[Any]:
        operation = step.operation
        if id(operation) not in self._made:
            self._made[id(operation)] = self._smaller(step)
        return keras.tree.flatten(self._made[id(operation)](*step.args, **step.kwargs))

    def _smaller(self, step: Step) -> Any:
        operation = step.operation
        if computed_graph(operation) is not None:
            return self._graph(operation, [_placeholder(tensor) for tensor in step.inputs])
        cut = self._cuts[id(operation)]
        if not isinstance(operation, keras.layers.Layer):
            return _smaller_operation(operation, cut, self._kept)
        wrapped = isinstance(operation, PruneLowMagnitude)
        layer = operation.layer if wrapped else operation
        changes = {name: value(self._kept) for name, value in cut.config.items()}
        if id(layer) in self._biases:
            changes["use_bias"] = True
        made = _from_config(layer, changes)
        if wrapped:
            made = operation.around(made)
        if operation.weights:
            self._weights.append((operation, made))
        return made

    def _copy(self, old: Any, new: Any) -> None:
        """Gives a layer the weights that stay."""
        slices: dict[int, list[Slice]] = {}
        for one in self._cuts[id(old)].slices:
            slices.setdefault(id(one.variable), []).append(one)
        inner = old.layer if isinstance(old, PruneLowMagnitude) else old
        weights = list(new.weights)
        if id(inner) in self._biases:
            bias = (new.layer if isinstance(new, PruneLowMagnitude) else new).bias
            weights = [weight for weight in weights if weight is not bias]
            made = next(one.labels for one in self._cuts[id(old)].slices if one.role == "makes")
            bias.assign(self._biases[id(inner)][self._kept(made)])
        for ours, theirs in zip(old.weights, weights, strict=True):
            values = self._edits.get(id(ours))
            values = ops.convert_to_numpy(ours) if values is None else values
            for one in slices.get(id(ours), ()):
                values = np.compress(self._kept(one.labels), values, one.axis)
            theirs.assign(values)


def _placeholder(tensor: Any) -> keras.KerasTensor:
    return keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=getattr(tensor, "name", None))


def _from_config(layer: keras.layers.Layer, changes: dict[str, Any]) -> keras.layers.Layer:
    """Returns a layer of the same class and configuration, but for the changes, without weights."""
    return type(layer).from_config({**layer.get_config(), **changes})


def _smaller_operation(operation: Any, cut: Cut, kept: Callable[[np.ndarray], np.ndarray]) -> Any:
    """Returns an operation of `keras.ops` with what it was made with, but for what follows from the cut."""
    if not cut.config:
        return operation
    config = operation.get_config()
    return type(operation).from_config(
        {**config, **{name: value(kept) for name, value in cut.config.items()}}
    )
