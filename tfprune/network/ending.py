"""The end of a network: its head, and the activation that makes each of its outputs."""

from collections.abc import Iterator
from typing import Any

import keras

from tfprune.network.graph import Graph, Step, computed_graph, evaluate, inner_layers, walk
from tfprune.reading import reason_of

# What leaves each number what it was, or all that an activation says of them.
_PASSING = {
    "ActivityRegularization",
    "Cast",
    "Dropout",
    "ExpandDims",
    "Flatten",
    "Identity",
    "Permute",
    "Reshape",
    "Squeeze",
    "Transpose",
}


def head_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """Returns the head of a network: its layer named `head`, or else the last layers that have weights.

    Those are, of a graph, the ones behind which no layer with weights stands on the way to an output; of
    another model, the one that it made last. Pruning wrappers are left out.

    Args:
        model: Built.
    """
    named = [layer for layer in walk(model) if layer.name == "head" and layer.weights]
    if named:
        return named[:1]
    graph = computed_graph(model)
    if graph is not None:
        found = [node for node in _back_from_outputs(graph) if getattr(node, "weights", None)]
        return list(dict.fromkeys(found))
    last = [layer for layer in map(_inside, inner_layers(model)) if layer.weights][-1:]
    return head_layers(last[0]) if last and isinstance(last[0], keras.Model) else last


def activations(model: keras.Model) -> list[str | None]:
    """Returns the name of the activation behind each output, in the flat order of the outputs.

    `"linear"` where there is none, and None where a model that has no graph does not tell.
    """
    graph = computed_graph(model)
    if graph is None:
        last = [layer for layer in map(_inside, inner_layers(model)) if _says_activation(layer)][-1:]
        return [_activation(last[0]) if last else None]
    nodes = Graph(graph, _inside)
    found = []
    for node in nodes.outputs:
        while _activation(node) is None and type(node).__name__ in _PASSING and nodes.producers(node):
            node = nodes.producers(node)[0]
        found.append(_activation(node) or "linear")
    return found


def output_names(model: keras.Model, outputs: Any) -> list[str] | None:
    """Returns the names of a model's outputs, in their flat order, as Keras calls their losses and metrics.

    None where it has no names for them: a list or tuple of a model without a graph.

    Args:
        model: The model.
        outputs: What it returned, symbolic or not.
    """
    if isinstance(outputs, dict):
        return sorted(outputs)
    graph = computed_graph(model)
    return None if graph is None else list(graph.output_names)


def _back_from_outputs(graph: Any) -> Iterator[Any]:
    """Yields the nodes met on the ways back from the outputs, up to the first one with weights on each."""
    nodes = Graph(graph, _inside)
    waiting, seen = list(nodes.outputs), set()
    while waiting:
        node = waiting.pop(0)
        if id(node) in seen:
            continue
        seen.add(id(node))
        yield node
        if not getattr(node, "weights", None):
            waiting += nodes.producers(node)


def _inside(layer: Any) -> Any:
    """Returns the layer inside wrappers."""
    while isinstance(layer, keras.layers.Wrapper):
        layer = layer.layer
    return layer


def _says_activation(layer: Any) -> bool:
    return bool(layer.weights) or _activation(layer) is not None


def _activation(node: Any) -> str | None:
    """Returns the name of the activation that a layer or an operation ends with; None if it has none."""
    name = type(node).__name__
    if name in ("Softmax", "Sigmoid"):
        return name.lower()
    function = getattr(node, "activation", None)
    name = getattr(function, "__name__", None)
    return None if name is None or (name == "linear" and not node.weights) else name


def replace_head(model: keras.Model, units: int) -> keras.Model:
    """Returns a network with a fresh layer `head` of other outputs in the place of its last layer.

    The new layer is of the old one's class and configuration but for its number of outputs; what follows
    (an activation) follows the new one. The other layers are the same ones, with their weights.

    Args:
        model: A functional or Sequential model with one output, built.
        units: Its outputs.

    Raises:
        ValueError: If the model has no such last layer, or what follows it needs another number of outputs.
    """
    graph = computed_graph(model)
    heads = head_layers(model)
    if graph is None or len(model.outputs) != 1 or len(heads) != 1 or not _sizes(heads[0]):
        raise ValueError(
            "a new head needs a functional or Sequential model whose one output comes from a Dense layer or "
            "a convolution"
        )
    (old,) = heads
    config = {**old.get_config(), **dict.fromkeys(_sizes(old), units), "name": "head"}
    new = type(old).from_config(config)

    made: set[int] = set()

    def call(step: Step) -> list[Any]:
        inner = computed_graph(step.operation)
        if inner is not None and any(part is old for part in walk(step.operation)):
            made.update(map(id, step.inputs))  # Nothing inside is on these tensors yet.
            return evaluate(inner, step.inputs, call)
        if _inside(step.operation) is old:
            outputs = [new(*step.args)]
        elif not any(id(tensor) in made for tensor in step.inputs):
            return step.outputs
        else:
            outputs = keras.tree.flatten(step.operation(*step.args, **step.kwargs))
        made.update(map(id, outputs))
        return outputs

    try:
        outputs = evaluate(graph, graph.inputs, call)
    except Exception as error:
        raise ValueError(
            f"what follows the last layer takes no {units} outputs: {reason_of(error)}"
        ) from error
    return keras.Model(model.inputs, outputs[0], name=model.name)


def _sizes(layer: keras.layers.Layer) -> list[str]:
    """Returns the argument of a layer that is its number of outputs."""
    return [name for name in ("units", "filters") if name in layer.get_config()]
