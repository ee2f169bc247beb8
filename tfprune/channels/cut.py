"""Builds a model anew without some of its channels."""

import functools
import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tfprune.channels.groups import Traced
from tfprune.channels.joins import Join
from tfprune.channels.labels import Channels
from tfprune.channels.narrow import Narrowing
from tfprune.channels.trace import Cut, Kept, Slice
from tfprune.network.arithmetic import with_constant
from tfprune.network.copying import classes_and_functions_of
from tfprune.network.graph import (
    Step,
    all_layers,
    computed_graph,
    evaluate,
    needed_tensors,
    producer,
    taken_by,
    walk,
)
from tfprune.network.rebuild import hold
from tfprune.network.state import copy_state
from tfprune.network.wrapping import Wrapping, check_fixed, unwrapped, wrapping_layers

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
        ValueError: If a `fit` of the wrapped model is under way, or its masks are still learned.
    """
    return Builder(cuts, kept, edits or {}, biases or {}).model(model)


def check_at_rest(model: keras.Model) -> None:
    """Checks that no training of a wrapped model is under way, and that no mask is still learned."""
    check_fixed(model)
    for layer in wrapping_layers(model):
        if layer.in_fit:
            raise ValueError(
                "`model` must not be in the middle of a `fit`: cut it between two fits. "
                f"Received: model={model!r}, layer {layer.layer.name!r} of which is being trained"
            )


class Builder:
    """Builds a smaller model.

    Args:
        cuts, kept, edits, biases: As for `build_smaller`.
        joins: id of the first tensor that a call returns -> what is left of it, if it does without operands.
        needed: Ids of the tensors that are made, as `needed_tensors` returns them; None for all.
        narrowed: The model's channels, to narrow convolutions where that saves work; None: none is.

    Attributes:
        narrowing: The convolutions that are narrowed; None without.
        made: id of a layer, an operation or a nested model -> what stands in its place.
        successors: id of a weight -> the weight in its place.
    """

    def __init__(
        self,
        cuts: Mapping[int, Cut],
        kept: Kept,
        edits: Values,
        biases: Values,
        joins: Mapping[int, Join] | None = None,
        needed: Collection[int] | None = None,
        narrowed: Traced | None = None,
    ) -> None:
        self._cuts, self._kept, self._edits, self._biases = cuts, kept, edits, biases
        self._joins = joins or {}
        # Of a model that a layer holds, all.
        held = [computed_graph(step.operation) for cut in cuts.values() for step in cut.held.values()]
        inside = (needed_tensors(graph, {}) for graph in held if graph is not None)
        self._needed = None if needed is None else set(needed).union(*inside)
        self._names: set[str] = set()
        self.made: dict[int, Any] = {}
        self.successors: dict[int, keras.Variable] = {}
        self._layers: list[tuple[Any, Any]] = []
        self._slices: dict[int, list[Slice]] = {}
        for cut in cuts.values():
            for one in cut.slices:
                self._slices.setdefault(id(one.variable), []).append(one)
        self.narrowing: Narrowing | None = None
        if narrowed is not None:
            self.narrowing = Narrowing(narrowed, needed, self._values, self._bias)

    def model(self, model: keras.Model) -> keras.Model:
        """Returns the smaller model, with its weights and what else its layers have learned."""
        check_at_rest(model)
        with classes_and_functions_of(model):
            made = self._graph(model, [tensor.shape for tensor in model.inputs])
        for old, new in self._layers:
            self._copy(old, new)
            copy_state(old, new)
        self.made[id(model)] = made
        for layer in walk(model):
            self._copy_trainable(layer)
        return made

    def _graph(self, model: Any, shapes: Sequence[Sequence[int | None]]) -> keras.Model:
        """Returns the smaller model for inputs of some shapes; what it leaves open stays open."""
        graph = computed_graph(model)
        self._names |= {operation.name for operation in graph.operations}
        inputs = [_input(tensor, shape) for tensor, shape in zip(graph.inputs, shapes, strict=True)]
        outputs = evaluate(graph, inputs, self._call, self._needed)
        if isinstance(model, keras.Sequential):
            made = keras.Sequential(name=model.name)
            made.add(inputs[0])
            for layer in _chain(inputs[0], outputs[0]):
                made.add(layer)
            return made
        structure = keras.tree.pack_sequence_as(model.input, inputs)
        return keras.Model(structure, keras.tree.pack_sequence_as(model.output, outputs), name=model.name)

    def _call(self, step: Step) -> Sequence[Any]:
        join = self._joins.get(id(step.outputs[0]))
        if join is not None:
            return [self._joined(step, join)]
        operation = self._made(step.operation, [tensor.shape for tensor in step.inputs])
        args, kwargs = self.arguments(step)
        if self.narrowing is None or not self.narrowing.changes(step.operation):
            outputs = keras.tree.flatten(operation(*args, **kwargs))
            if id(step.operation) in self._cuts:
                self._check(step.operation, outputs)
            return outputs
        name = functools.partial(self._name, step.operation)
        (given,), taken = step.inputs, self.narrowing.select(step, name)
        args, kwargs = keras.tree.map_structure(
            lambda value: taken if value is given else value, (args, kwargs)
        )
        return [self.narrowing.place(step, operation(*args, **kwargs), name)]

    def _joined(self, step: Step, join: Join) -> keras.KerasTensor:
        """Returns what is left of a call in which tensors meet."""
        given = [step.inputs[at] for at in join.operands]
        made = given[0] if len(given) == 1 else self._made(step.operation, ())(given)
        if join.constant is None:
            return made
        labels = join.channels.labels
        constant = join.constant[self._kept(labels.ravel())].astype(made.dtype)
        sizes = [len(constant) if size > 1 else 1 for size in labels.shape]
        name = self._name(step.operation, "constant")
        return with_constant(join.kind, made, constant.reshape(sizes), name)

    def _name(self, operation: Any, end: str) -> str:
        """Returns a new name for what is added beside an operation, or stands in its place."""
        names = (f"{operation.name}_{end}{number or ''}" for number in itertools.count())
        name = next(name for name in names if name not in self._names)
        self._names.add(name)
        return name

    def _made(self, operation: Any, shapes: Sequence[Sequence[int | None]]) -> Any:
        """Returns what stands in the place of a layer, an operation or a model that takes some shapes."""
        if id(operation) not in self.made:
            made = self._smaller(operation, shapes)
            self.made[id(operation)] = made
            if id(operation) in self._cuts and isinstance(operation, keras.layers.Layer):
                self._layers.append((operation, made))
        return self.made[id(operation)]

    def arguments(self, step: Step) -> tuple[list[Any], dict[str, Any]]:
        """Returns the arguments of the call in the place of one of the whole model."""
        args, kwargs = list(step.args), dict(step.kwargs)
        if id(step.operation) in self._cuts:
            for where, value in self._cuts[id(step.operation)].args.items():
                (args if isinstance(where, int) else kwargs)[where] = value(self._kept)
        return args, kwargs

    def part(self, variable: keras.Variable, values: np.ndarray) -> np.ndarray:
        """Returns the part that stays of values in the shape of a weight."""
        values = self._kept_part(variable, values)
        if self.narrowing is not None:
            for axis, stays in self.narrowing.stays.get(id(variable), {}).items():
                values = np.compress(stays, values, axis)
        return values

    def _kept_part(self, variable: keras.Variable, values: np.ndarray) -> np.ndarray:
        """Returns the part of values in the shape of a weight that channels which stay have."""
        # An axis may have several roles, in a layer that takes channels by the weight that makes them.
        for axis, labels in {one.axis: one.labels for one in self._slices.get(id(variable), ())}.items():
            values = np.compress(self._kept(labels), values, axis)
        return values

    def _values(self, variable: keras.Variable) -> np.ndarray:
        """Returns what a weight is once channels went, before its layer is narrowed."""
        values = self._edits.get(id(variable))
        return self._kept_part(variable, ops.convert_to_numpy(variable) if values is None else values)

    def _bias(self, layer: Any) -> np.ndarray | None:
        """Returns what the bias of a layer is once channels went, before it is narrowed; None without one."""
        if id(layer) not in self._biases:
            return None if layer.bias is None else self._values(layer.bias)
        slices = (one for cut in self._cuts.values() for one in cut.slices)
        made = next(one.labels for one in slices if one.layer is layer and one.role == "makes")
        return self._biases[id(layer)][self._kept(made)]

    def _check(self, operation: Any, outputs: list[keras.KerasTensor]) -> None:
        """Raises an error if a smaller layer makes other channels than its rule says."""
        made = [tuple(tensor.shape[1:]) for tensor in outputs]
        calls = self._cuts[id(operation)].outputs
        # Of a layer that is called several times, each call may have channels of its own.
        if not any(all(map(self._fits, made, each)) for each in calls):
            raise ValueError(
                f"`trace_channels` of layer {operation.name!r} must say how the smaller layer is configured: "
                f"what stays has shape {self._size(calls[0][0])}. Received: a layer that makes {made[0]}"
            )

    def _fits(self, made: tuple[int | None, ...], channels: Channels) -> bool:
        """Returns whether a tensor has as many channels as stay."""
        size = self._size(channels)
        return len(made) == len(size) and all(made[axis] in (None, size[axis]) for axis in channels.axes())

    def _smaller(self, operation: Any, shapes: Sequence[Sequence[int | None]]) -> Any:
        """Returns a smaller layer, operation or model that takes some shapes."""
        if computed_graph(operation) is not None:
            return self._graph(operation, shapes)
        cut = self._cuts[id(operation)]
        changes = {name: value(self._kept) for name, value in cut.config.items()}
        if not isinstance(operation, keras.layers.Layer):
            return _from_config(operation, changes) if changes else operation
        wrapped, layer = isinstance(operation, Wrapping), unwrapped(operation)
        held = {
            name: self._made(step.operation, [(None, *self._size(one)) for one in step.inputs])
            for name, step in cut.held.items()
        }
        changes |= {name: keras.saving.serialize_keras_object(inner) for name, inner in held.items()}
        if id(layer) in self._biases:
            changes["use_bias"] = True
        if self.narrowing is not None and self.narrowing.filters(layer):
            changes["filters"] = self.narrowing.filters(layer)
        # A layer in a wrapper may be called without it, too: the one is the other then.
        made = self.made.get(id(layer)) or _from_config(layer, changes)
        for name, inner in held.items():
            hold(made, name, inner)
        if wrapped:
            self.made[id(layer)] = made
            made = operation.around(made)
        return made

    def _size(self, channels: Channels) -> list[int | None]:
        """Returns the shape that is left of a tensor."""
        shape = list(channels.shape)
        for axis in channels.axes():
            labels = np.moveaxis(channels.labels, axis, 0).reshape(shape[axis], -1)[:, 0]
            shape[axis] = int(self._kept(labels).sum())
        return shape

    def _copy(self, old: Any, new: Any) -> None:
        """Gives a layer the weights that stay."""
        inner = unwrapped(old)
        weights = list(new.weights)
        if id(inner) in self._biases:
            bias = unwrapped(new).bias
            weights = [weight for weight in weights if weight is not bias]
            bias.assign(self._bias(inner) if self.narrowing is None else self.narrowing.bias(inner))
        learned = {id(variable) for variable in (old.learned_variables if isinstance(old, Wrapping) else ())}
        copied = [weight for weight in old.weights if id(weight) not in learned]
        for ours, theirs in zip(copied, weights, strict=True):
            values = self._edits.get(id(ours))
            values = self.part(ours, ops.convert_to_numpy(ours) if values is None else values)
            if values.shape != tuple(theirs.shape):
                raise ValueError(
                    "`trace_channels` must name each axis of a weight that numbers channels. Received: "
                    f"of {ours.path} stays shape {values.shape}, the smaller layer has {tuple(theirs.shape)}"
                )
            theirs.assign(values)
            self.successors[id(ours)] = theirs

    def _copy_trainable(self, old: Any) -> None:
        """Sets the flags of a layer, which its setter hands on to the layers inside, and of those."""
        new = self.made.get(id(old))
        if new is None:
            return
        for ours, theirs in [(old, new)] if isinstance(old, keras.Model) else _pairs(old, new):
            if theirs.trainable != ours.trainable:
                theirs.trainable = ours.trainable


def _chain(first: keras.KerasTensor, last: keras.KerasTensor) -> list[Any]:
    """Returns the layers that are called one after the other between two symbolic tensors."""
    layers = []
    while last is not first:
        layers.append(producer(last))
        (last,) = taken_by(last)
    return layers[::-1]


def _pairs(old: keras.layers.Layer, new: keras.layers.Layer) -> Iterator[tuple[Any, Any]]:
    return zip(all_layers(old), all_layers(new), strict=True)


def _input(tensor: keras.KerasTensor, shape: Sequence[int | None]) -> keras.KerasTensor:
    """Returns an input like one of a model, for another shape."""
    layer = producer(tensor)
    open_as_before = [None if old is None else new for old, new in zip(tensor.shape, shape, strict=True)]
    return type(layer).from_config({**layer.get_config(), "batch_shape": tuple(open_as_before)}).output


def _from_config(operation: Any, changes: dict[str, Any]) -> Any:
    """Returns a layer or an operation of the same class and configuration, but for the changes."""
    return type(operation).from_config({**operation.get_config(), **changes})
