"""Walks over the layers of a Keras model, and over the graph of a functional one."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras


def inner_layers(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """Returns the layers directly inside a layer or a model, in the order in which Keras keeps them."""
    return list(layer._layers)


def all_layers(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """Returns a layer and all layers inside it at any depth, each once.

    The layer itself comes first. The others are in the order in which Keras lists them, on which the order
    of the masks in a saved wrapper depends; for the order of the model take `walk`.
    """
    return list({id(part): part for part in layer._flatten_layers()}.values())


def is_built(layer: keras.layers.Layer) -> bool:
    """Returns whether a layer and all layers inside it have their variables."""
    return all(part.built for part in all_layers(layer))


def chains(layer: keras.layers.Layer) -> dict[int, tuple[keras.layers.Layer, ...]]:
    """Returns the way to each layer in a layer: its id -> the layers from the outermost to itself."""
    found: dict[int, tuple[keras.layers.Layer, ...]] = {}
    waiting = [(layer,)]
    for way in waiting:
        if id(way[-1]) not in found:
            found[id(way[-1])] = way
            waiting += [(*way, inner) for inner in inner_layers(way[-1])]
    return found


def walk(
    layer: keras.layers.Layer, enter: Callable[[keras.layers.Layer], bool] = lambda layer: True
) -> Iterator[keras.layers.Layer]:
    """Yields a layer and the layers inside it, depth first, siblings in the order of the model, each once.

    Args:
        layer: A layer or a model, built or not.
        enter: Returns whether to go on inside a layer; the layer itself is yielded in both cases.
    """
    seen = set()
    waiting = [layer]
    while waiting:
        part = waiting.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        yield part
        if enter(part):
            waiting += reversed(inner_layers(part))


def functional(operation: Any) -> Any:
    """Returns the functional model that a model is, or that a Sequential has; None for anything else."""
    model = getattr(operation, "_functional", None) or operation
    return model if hasattr(model, "_run_through_graph") else None


def is_graph(model: Any) -> bool:
    """Returns whether a model is functional or Sequential, the latter built or not."""
    return isinstance(model, keras.Sequential) or functional(model) is not None


def computed_graph(model: Any) -> Any:
    """Returns the functional model that a model computes; None if it has a `call` of its own, or no graph."""
    graph = functional(model)
    computes_it = graph is not None and type(model).call.__module__.startswith("keras.src.models.")
    return graph if computes_it else None


def input_structure(model: Any) -> Any:
    """Returns the symbolic inputs of a model as its calls take them; None for a model without a graph."""
    graph = functional(model)
    return None if graph is None else graph._inputs_struct


def output_structure(model: Any) -> Any:
    """Returns the symbolic outputs of a model in their structure; None if it computes no graph."""
    graph = computed_graph(model)
    return None if graph is None else graph._outputs_struct


def producer(tensor: keras.KerasTensor) -> keras.Operation:
    """Returns the layer or operation whose output a symbolic tensor is."""
    return tensor._keras_history.operation


def taken_by(tensor: keras.KerasTensor) -> list[keras.KerasTensor]:
    """Returns the symbolic tensors that the call took which returned one; none for an input."""
    history = tensor._keras_history
    return list(history.operation._inbound_nodes[history.node_index].input_tensors)


def is_masked(tensor: keras.KerasTensor) -> bool:
    """Returns whether a symbolic tensor has a mask of time steps."""
    return getattr(tensor, "_keras_mask", None) is not None


def hand_on_input_shape(layer: keras.layers.Layer, wrapper: keras.layers.Layer) -> None:
    """Gives a wrapper the `input_shape` that the layer inside was made with, for a Sequential to build on."""
    shape = getattr(layer, "_input_shape_arg", None)
    if shape is not None:
        wrapper._input_shape_arg = shape


@dataclass(frozen=True)
class Step:
    """One call of a layer or an operation in the graph of a functional model.

    Attributes:
        operation: The layer, or the operation of `keras.ops`.
        args: Its positional arguments, with a value in place of each tensor.
        kwargs: Its named arguments, likewise.
        inputs: The values among the arguments, in order; of a nested model those for its inputs.
        outputs: The symbolic tensors that the call returned.
    """

    operation: keras.Operation
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    inputs: list[Any]
    outputs: list[keras.KerasTensor]


def evaluate(
    model: Any,
    inputs: Iterable[Any],
    call: Callable[[Step], Sequence[Any]],
    needed: Collection[int] | None = None,
) -> list[Any]:
    """Runs a functional model on values of any kind.

    Args:
        model: A functional model, as `functional` returns it.
        inputs: A value for each of `model.inputs`.
        call: Takes a call, producers before consumers, and returns a value for each of its outputs. A
            nested model is one call: `evaluate` it there.
        needed: Ids of tensors, as `needed_tensors` returns them: other calls are not made, and among the
            arguments of a call None stands for what they would have made. None: all are.

    Returns:
        A value for each of `model.outputs`.
    """
    values = {id(tensor): value for tensor, value in zip(model.inputs, inputs, strict=True)}

    def value_of(argument: Any) -> Any:
        if not isinstance(argument, keras.KerasTensor):
            return argument
        return values[id(argument)] if needed is None else values.get(id(argument))

    for depth in sorted(model._nodes_by_depth, reverse=True):
        for node in model._nodes_by_depth[depth]:
            if all(id(tensor) in values for tensor in node.outputs):  # An input.
                continue
            if needed is not None and id(node.outputs[0]) not in needed:
                continue
            args, kwargs = node.arguments.convert(value_of)
            given = [value_of(tensor) for tensor in node.input_tensors]
            nested = computed_graph(node.operation)
            if nested is not None:  # Keras names masks in the call of a model, too.
                given = given[: len(nested.inputs)]
            made = call(Step(node.operation, tuple(args), kwargs, given, list(node.outputs)))
            values.update({id(tensor): value for tensor, value in zip(node.outputs, made, strict=True)})
    return [value_of(tensor) for tensor in model.outputs]


def needed_tensors(model: Any, without: Mapping[int, Collection[int]]) -> set[int]:
    """Finds the tensors from which the outputs of a functional model are computed.

    Args:
        model: A functional model.
        without: id of the first tensor that a call returned -> numbers of the inputs that it does without.

    Returns:
        The ids of all tensors that the calls return which have to be made, and of the inputs that they take;
        those inside nested models too, of whose own outputs all are taken to be needed.
    """
    needed = set(map(id, model.outputs))
    for depth in sorted(model._nodes_by_depth):  # Consumers before producers.
        for node in model._nodes_by_depth[depth]:
            made = set(map(id, node.outputs))
            if needed.isdisjoint(made):
                continue
            given = without.get(id(node.outputs[0]), ())
            needed |= made
            needed |= {id(tensor) for at, tensor in enumerate(node.input_tensors) if at not in given}
            graph = computed_graph(node.operation)
            if graph is not None:
                needed |= needed_tensors(graph, without)
    return needed


def call_counts(model: Any) -> dict[int, int]:
    """Returns how often a call of a model calls each layer: id of the layer -> calls.

    Layers inside others that are no graphs are taken to be called once with them.
    """
    counts: dict[int, int] = {}

    def count(step: Step) -> list[None]:
        graph = computed_graph(step.operation)
        if graph is not None:
            return evaluate(graph, step.inputs, count)
        if isinstance(step.operation, keras.layers.Layer):
            for part in all_layers(step.operation):
                counts[id(part)] = counts.get(id(part), 0) + 1
        return [None] * len(step.outputs)

    graph = computed_graph(model)
    if graph is None:
        return dict.fromkeys(map(id, all_layers(model)), 1)
    evaluate(graph, [None] * len(graph.inputs), count)
    return counts


class Graph:
    """The producers and consumers of each layer in a model, with nested models opened.

    Nodes are layers and operations; a layer that is called several times is a single node.

    Args:
        model: A functional model, as `functional` returns it.
        node_of: Returns the node that stands for a layer, such as the layer inside a wrapper.

    Attributes:
        operations: All nodes but the inputs, each once, producers before consumers.
        inputs: The nodes of the model's inputs.
        outputs: The nodes that make the model's outputs.
    """

    def __init__(self, model: Any, node_of: Callable[[Any], Any] = lambda operation: operation) -> None:
        self._node_of = node_of
        # As dictionaries, which keep the order.
        self._producers: dict[Any, dict[Any, None]] = {}
        self._consumers: dict[Any, dict[Any, None]] = {}
        self.inputs = [producer(tensor) for tensor in model.inputs]
        self.outputs = evaluate(model, self.inputs, self._add)  # The value of a tensor is its producer.
        self.operations = list(self._producers)

    def producers(self, layer: Any) -> list[Any]:
        """Returns the layers whose outputs `layer` takes."""
        return list(self._producers.get(layer, ()))

    def consumers(self, layer: Any) -> list[Any]:
        """Returns the layers that take outputs of `layer`."""
        return list(self._consumers.get(layer, ()))

    def _add(self, step: Step) -> list[Any]:
        graph = computed_graph(step.operation)
        if graph is not None:
            return evaluate(graph, step.inputs, self._add)
        layer = self._node_of(step.operation)
        producers = self._producers.setdefault(layer, {})
        for maker in step.inputs:
            producers[maker] = None
            self._consumers.setdefault(maker, {})[layer] = None
        return [layer] * len(step.outputs)
