"""Compiles a Keras model for the sparse runtime."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfprune.channels.shrink import ExactCut
from tfprune.compiler.draft import Draft
from tfprune.compiler.eight_bits import with_values_of_8_bits
from tfprune.compiler.fold import fold
from tfprune.compiler.trace import trace
from tfprune.errors import UserError
from tfprune.network.drafts import Value
from tfprune.network.graph import computed_graph, output_structure, producer
from tfprune.runtime.errors import GraphError
from tfprune.runtime.graph import Activation, Flatten, Graph, Input, Output
from tfprune.text import numbered

VALUES = ("float32", "int8")


def compile_model(
    model: keras.Model,
    *,
    shrink: bool = True,
    sizes: Mapping[str, Sequence[int]] | None = None,
    values: str = VALUES[0],
    calibration: Any = None,
) -> Graph:
    """Compiles a Keras model into the graph that the sparse runtime runs at inference.

    BatchNorm goes into the convolution before it. Activations and residual sums go into the convolution or
    the sum before them. Zero padding goes into the convolution or the pool after it. A normalization of the
    image goes into the input. Where a neighbour cannot take a layer in, the layer becomes a depthwise 1x1
    convolution. Folding is done in float64 and rounded once; a weight of 0 stays 0. The graph computes in
    float32, whatever the precision of the model's layers. Random layers, such as `Dropout`, are left out.

    Masks of time steps are values of the graph, handed on as in Keras (`tfprune.network.masks`).

    Channels that change no output are cut first, exactly (`tfprune.structured.shrink`).

    Compilation works on every backend.

    Example:

    ```python
    graph = compile_model(tfprune.sparsity.strip_pruning(model))
    logits = tfprune.runtime.Model(graph)(images)
    ```

    Args:
        model: A built functional or Sequential model without pruning wrappers. Its inputs are images
            `[n, height, width, channels]`, signals `[n, time, channels]` or vectors, of a fixed size; its
            outputs likewise. Nested models are taken apart; a layer called twice becomes two nodes.
        shrink: Whether to cut them. Without, the nodes have the layers' shapes.
        sizes: Name of an input -> the shape of one example, where the model leaves it open, such as
            `{"image": (224, 224, 3)}`. A graph is for one size.
        values: How values lie between the operations: `"float32"`; or `"int8"`: convolutions read values of 8
            bits wherever these cannot be below zero, behind ReLU mostly, and multiply whole numbers
            (`tfprune.compiler.eight_bits`). `choose_paths` then leaves those that are faster so.
        calibration: Images like those that the network will see, `[n, ...]` as it takes them, whose values
            tell how large the steps of 8 bits are; needed by `values="int8"`, of which a few hundred do.

    Returns:
        The graph. Its nodes have the names of the Keras layers, with the path, joined with `/`, for those of
        nested models; a convolution with what follows has the convolution's. Its inputs have the names of
        the `Input` layers, its outputs, where they are not the one vector, those of the layers that make
        them, or their keys.

    Raises:
        UserError: The runtime cannot run a layer, the model has other inputs or outputs, a size is open or
            does not fit, or the `calibration` images do not.
        ValueError: `values` is neither, or there are `calibration` images for one, or none for the other.
    """
    check_values(values, calibration)
    functional = computed_graph(model)
    if functional is None:
        name = getattr(model, "name", model)
        raise UserError(
            f"model {name!r}: the sparse runtime takes built functional and Sequential models"
            f" without a `call` of their own. Received: {type(model).__name__}"
        )
    shapes = [_shape_of(functional, tensor, sizes or {}) for tensor in functional.inputs]
    names = _output_names(model, functional)
    if shrink:
        functional = computed_graph(_shrunk(model))
    draft = Draft()
    images = [
        _add_input(draft, tensor, shape) for tensor, shape in zip(functional.inputs, shapes, strict=True)
    ]
    values = trace(draft, functional, images)
    try:
        graph = _graph(draft, values, names)
        graph.shapes()
    except GraphError as error:  # For example, folding made a weight infinite.
        raise _refuse_model(functional, str(error)) from error
    return graph if calibration is None else with_values_of_8_bits(graph, calibration)


def check_values(values: str, calibration: Any) -> None:
    """Refuses what `compile_model` does of the two.

    Raises:
        ValueError: They do not go together.
    """
    if values not in VALUES:
        raise ValueError(f"`values` must be one of {', '.join(VALUES)}. Received: values={values!r}")
    if (values == "int8") != (calibration is not None):
        given = "None" if calibration is None else type(calibration).__name__
        raise ValueError(
            '`calibration` must be images for values="int8", and None for values="float32".'
            f" Received: values={values!r}, calibration={given}"
        )


def _shrunk(model: keras.Model) -> keras.Model:
    """Returns a model without its dead channels; the model itself if there are none, or it cannot be cut."""
    try:
        cut = ExactCut(model, narrow=False)  # The sparse kernels pass over zeros by themselves.
        return cut.smaller if cut.cuts else model
    except Exception as error:  # Of a layer's own configuration or rule, too.
        warnings.warn(f"Compiled with all channels, because they cannot be cut: {error}", stacklevel=3)
        return model


def _shape_of(
    functional: keras.Model, tensor: keras.KerasTensor, sizes: Mapping[str, Sequence[int]]
) -> tuple[int, ...]:
    """Returns the shape of one example of an input."""
    shape = tuple(tensor.shape)
    name, given = producer(tensor).name, shape[1:]
    if name in sizes:
        given = tuple(sizes[name])
        fits = len(given) == len(shape) - 1 and all(
            wanted in (None, size) for wanted, size in zip(shape[1:], given, strict=True)
        )
        if not fits or not all(isinstance(size, int) and size > 0 for size in given):
            raise _refuse_model(functional, f"`sizes` must fit input {name!r}, {shape}. Received: {given}")
        shape = (shape[0], *given)
    if not 2 <= len(shape) <= 4 or None in shape[1:]:
        raise _refuse_model(
            functional,
            "its inputs must be images [n, height, width, channels], signals [n, time, channels] or vectors"
            f" [n, channels], of a fixed size. Received: {shape}",
        )
    if not any(kind in tensor.dtype for kind in ("int", "float", "bool")):
        raise _refuse_model(functional, f"its inputs must be numbers. Received: {tensor.dtype}")
    return tuple(map(int, given))


def _add_input(draft: Draft, tensor: keras.KerasTensor, sizes: tuple[int, ...]) -> Value:
    shape = (*(1,) * (3 - len(sizes)), *sizes)
    scale, shift = np.ones(shape[2]), np.zeros(shape[2])
    given = sizes if len(sizes) < 3 else ()
    node = draft.add(Input(producer(tensor).name, (), shape, scale, shift, given))
    return Value(node, len(tensor.shape), integer="float" not in tensor.dtype)


def _output_names(model: keras.Model, functional: keras.Model) -> list[str]:
    """Returns the names of a model's outputs, each another one."""
    structure = output_structure(model)
    names = list(functional.output_names)
    if isinstance(structure, dict):
        places = keras.tree.pack_sequence_as(structure, list(range(len(names))))
        names = [name for _, name in sorted(_paths(places))]
    made: list[str] = []
    for name in names:
        made.append(numbered(name, made, second=1))
    return made


def _paths(structure: Any, path: str = "") -> Iterator[tuple[int, str]]:
    """Yields the leaves of dictionaries and lists, and the keys on the way to each, joined."""
    if isinstance(structure, dict | list | tuple):
        items = structure.items() if isinstance(structure, dict) else enumerate(structure)
        for key, value in items:
            yield from _paths(value, f"{path}_{key}" if path else str(key))
    else:
        yield structure, path


def _graph(draft: Draft, values: list[Value], names: list[str]) -> Graph:
    """Makes the graph of a draft: each output becomes a vector of its own."""
    outputs: list[int] = []
    for value in values:
        node = value.node
        if draft.shapes[node][:2] != (1, 1):
            node = draft.add(Flatten(f"{draft.nodes[node].name}/flat", (node,)))
        if node in outputs:
            node = draft.add(Activation(f"{draft.nodes[node].name}/again", (node,), "linear"))
        outputs.append(node)
    nodes, places = fold(draft.nodes, outputs)
    sizes = [draft.shapes[value.node][4 - value.rank :] for value in values]
    if len(places) == 1 and len(sizes[0]) == 1 and places[0] == len(nodes) - 1:
        return Graph(nodes)
    return Graph(nodes, tuple(map(Output, names, places, sizes)))


def _refuse_model(model: keras.Model, rule: str) -> UserError:
    return UserError(f"model {model.name!r}: the sparse runtime cannot run it: {rule}")
