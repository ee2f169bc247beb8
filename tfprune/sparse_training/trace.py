"""Traces a Keras model: its graph for the sparse trainer, and where the graph's numbers lie in the model."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from tfprune.network.drafts import Value
from tfprune.network.graph import Step, computed_graph, evaluate, producer
from tfprune.network.wrapping import unwrapped
from tfprune.sparse_training.draft import Call, Draft
from tfprune.sparse_training.errors import UnsupportedError
from tfprune.sparse_training.graph import Affine, Conv, Graph, Input, Node, Pad, Pool, Shape, Window
from tfprune.sparse_training.layers import add_call, check_layer, entry_of
from tfprune.sparsity.apply import pruned_layers

_NONE = (0, 0, 0, 0)


@dataclasses.dataclass(frozen=True)
class Statistics:
    """The moving statistics of a BatchNormalization layer.

    Attributes:
        mean: float32 `[channels]`.
        variance: float32 `[channels]`.
    """

    mean: keras.Variable
    variance: keras.Variable


@dataclasses.dataclass(frozen=True)
class Traced:
    """A Keras model as a graph, and where the graph's numbers lie in the model.

    Attributes:
        graph: The graph. Activations at the end of the model are left out: they are in `ending`.
        variables: The model's variable of each parameter of the graph, by its name.
        masks: The mask of each kernel that has one, by its name.
        statistics: The moving statistics of each normalization, by its `moving_name`.
        ending: What the backend computes of the graph's output, one after the other: functions of a tensor of
            the shape of the model's output. The losses of Keras look through a softmax that is computed so.
        input_dtype: What Keras casts the pixels to first.
        output_shape: That of an output of the model, without the batch.
    """

    graph: Graph
    variables: dict[str, keras.Variable]
    masks: dict[str, keras.Variable]
    statistics: dict[str, Statistics]
    ending: tuple[Callable[[Any], Any], ...]
    input_dtype: str
    output_shape: tuple[int, ...]

    def with_graph(self, graph: Graph) -> "Traced":
        """Returns the same with another graph like this one, whose numbers may be others."""
        return dataclasses.replace(self, graph=graph)


def traced_network(model: keras.Model) -> keras.Model:
    """Returns the network that a model trains: its `student`, where its loss is one of outputs, or itself."""
    return model.student if getattr(model, "loss_of_outputs", False) else model


def trace(model: keras.Model) -> Traced:
    """Traces a Keras model.

    Args:
        model: A built functional or Sequential model, wrapped by `prune_low_magnitude` or not, with one
            input, images `[n, height, width, channels]` of a fixed size or vectors, and one output. Nested
            models are taken apart; the calls of a layer that is called more than once share its weights. A
            model with `loss_of_outputs`, such as a distiller, stands for its `student`.

    Returns:
        The graph, with copies of the weights that stay.

    Raises:
        UnsupportedError: The sparse trainer cannot train it; the message names every layer, with the rule
            that it breaks.
    """
    network = traced_network(model)
    functional = computed_graph(network)
    if functional is None:
        raise UnsupportedError(
            f"model {getattr(model, 'name', model)!r}: the sparse trainer cannot train it: it must be a built"
            " functional or Sequential model without a `call` of its own."
            f" Received: {type(model).__name__}"
        )
    tracer = _Tracer(network)
    shape = tracer.input_shape(functional)
    draft = tracer.draft
    channels = shape.channels
    name = producer(functional.inputs[0]).name
    ones, zeros = np.ones(channels, np.float32), np.zeros(channels, np.float32)
    dtype = str(functional.inputs[0].dtype)
    rank = len(functional.inputs[0].shape)
    pixels = draft.add(Input(name, (), shape, ones, zeros))
    (output,) = evaluate(
        functional, [Value(pixels, rank, integer="float" not in dtype)], tracer.call_with_prefix("")
    )
    ending = draft.take_ending(output)
    tracer.refuse_what_is_left()
    return Traced(
        Graph(_folded(draft.nodes, ending.node)),
        {parameter.name: variable for parameter, variable in draft.parameters()},
        {name: mask for name, mask in draft.mask_of_name.items()},
        {
            name: Statistics(layer.moving_mean, layer.moving_variance)
            for name, layer in draft.normalizations.items()
        },
        ending.functions,
        dtype,
        tuple(functional.outputs[0].shape[1:]),
    )


class _Tracer:
    """A model that is traced, with all that it breaks."""

    def __init__(self, network: keras.Model) -> None:
        self._network = network
        self._problems: list[str] = []
        masks = {
            id(pruned.kernel.variable): pruned.mask
            for wrapper in pruned_layers(network)
            for pruned in wrapper.pruned
        }
        self.draft = Draft({id(variable) for variable in network.trainable_variables}, masks)

    def input_shape(self, functional: keras.Model) -> Shape:
        """Returns the shape of an image or a vector.

        Raises:
            UnsupportedError: The model has others.
        """
        if len(functional.inputs) != 1 or len(functional.outputs) != 1:
            raise self._refusal(
                "it must have one input and one output. Received:"
                f" {len(functional.inputs)} inputs, {len(functional.outputs)} outputs"
            )
        sizes = tuple(functional.inputs[0].shape)[1:]
        if len(sizes) not in (1, 3) or None in sizes:
            raise self._refusal(
                "its input must be images [n, height, width, channels] of a fixed size, or vectors."
                f" Received: {tuple(functional.inputs[0].shape)}"
            )
        return Shape(*sizes) if len(sizes) == 3 else Shape(1, 1, *sizes)

    def call_with_prefix(self, prefix: str) -> Callable[[Step], list[Value]]:
        """Returns a function that drafts the calls of a model; `prefix` goes before the layers' names."""
        return lambda step: self._outputs(step, prefix)

    def refuse_what_is_left(self) -> None:
        """Raises the error of all that the model breaks, if there is anything."""
        self._problems += [str(reason) for reason in self.draft.left_over()]
        if self._problems:
            raise self._refusal("; ".join(dict.fromkeys(self._problems)))

    def _outputs(self, step: Step, prefix: str) -> list[Value]:
        """Drafts one call of a layer; returns its outputs, or what stands for them where it cannot."""
        layer = unwrapped(step.operation)
        call = Call(prefix + layer.name, layer, step.args, tuple(step.outputs[0].shape))
        try:
            self._check_arguments(call, step)
            graph = computed_graph(layer)
            if graph is not None:
                _look_for_unknown_inputs(call)
                inputs = call.nested_inputs(graph)
                return evaluate(graph, inputs, self.call_with_prefix(call.name + "/"))
            check_layer(call)
            if getattr(step.operation, "in_8_bits", False):
                raise call.refuse("it computes with weights of 8 bits, by `quantize_aware`")
            _look_for_unknown_inputs(call)
            integer = entry_of(call).makes_integers(call)
            return [dataclasses.replace(add_call(self.draft, call), integer=integer)]
        except _UnknownInput:
            pass
        except UnsupportedError as error:
            self._problems.append(str(error))
        return [self._stand_in(tensor) for tensor in step.outputs]

    def _check_arguments(self, call: Call, step: Step) -> None:
        # Keras puts what `fit` says of training in the place of what a call in a graph says.
        call.check_arguments({name: value for name, value in step.kwargs.items() if name != "training"})

    def _stand_in(self, tensor: keras.KerasTensor) -> Value:
        """Returns a value in the place of one that cannot be computed, so that later layers are looked at."""
        sizes = tuple(tensor.shape)[1:]
        if len(sizes) not in (1, 3) or None in sizes:
            return Value(-1, len(sizes) + 1)
        shape = Shape(*sizes) if len(sizes) == 3 else Shape(1, 1, *sizes)
        none = np.zeros(0, np.float32)
        return Value(self.draft.add(Input("", (), shape, none, none)), len(sizes) + 1)

    def _refusal(self, rule: str) -> UnsupportedError:
        return UnsupportedError(f"model {self._network.name!r}: the sparse trainer cannot train it: {rule}")


class _UnknownInput(Exception):
    """An input comes from a layer that is refused, and nothing is known of it."""


def _look_for_unknown_inputs(call: Call) -> None:
    if any(value.node < 0 for value in call.inputs):
        raise _UnknownInput


def _folded(nodes: Sequence[Node], output: int) -> tuple[Node, ...]:
    """Puts scales of the pixels into the input and zeros into the windows; leaves out what is not used."""
    nodes = list(nodes)
    place = list(range(len(nodes)))  # Where the value of each node is made now.
    uses = [0] * len(nodes)
    for node in nodes:
        for index in node.inputs:
            uses[index] += 1
    for index, node in enumerate(nodes):
        node = dataclasses.replace(node, inputs=tuple(place[i] for i in node.inputs))
        source = nodes[node.inputs[0]] if node.inputs else None
        if isinstance(node, Affine) and isinstance(source, Input) and uses[node.inputs[0]] == 1:
            scale, shift = source.scale * node.scale, source.shift * node.scale + node.shift
            nodes[node.inputs[0]] = dataclasses.replace(source, scale=scale, shift=shift)
            uses[node.inputs[0]] = uses[index]
            place[index] = node.inputs[0]
        elif isinstance(source, Pad) and isinstance(node, Conv | Pool | Pad):
            node = _with_padding(node, source)
        nodes[index] = node
    return _used(nodes, place[output])


def _with_padding(node: Node, source: Pad) -> Node:
    """Returns a node that adds the zeros of the one before it itself, where it can."""
    if isinstance(node, Pad):
        total = tuple(a + b for a, b in zip(source.padding, node.padding, strict=True))
        return dataclasses.replace(node, padding=total, inputs=source.inputs)
    if isinstance(node, Pool) and node.window.padding != _NONE:
        return node
    total = tuple(a + b for a, b in zip(source.padding, node.window.padding, strict=True))
    counts = {"padding_counts": True} if isinstance(node, Pool) else {}
    old = node.window
    window = Window(old.size, old.strides, total, old.dilation)
    return dataclasses.replace(node, window=window, inputs=source.inputs, **counts)


def _used(nodes: Sequence[Node], output: int) -> tuple[Node, ...]:
    """Returns the nodes that the output needs, in order, with the output last."""
    needed = {0, output}
    for index in range(output, 0, -1):
        if index in needed:
            needed.update(nodes[index].inputs)
    new = {old: number for number, old in enumerate(sorted(needed))}
    return tuple(
        dataclasses.replace(nodes[old], inputs=tuple(new[i] for i in nodes[old].inputs)) for old in new
    )
