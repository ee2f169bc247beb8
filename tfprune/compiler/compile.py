"""Compiles a Keras model for the sparse runtime."""

import warnings

import keras
import numpy as np

from tfprune.compiler.draft import Draft
from tfprune.compiler.fold import fold
from tfprune.compiler.trace import trace
from tfprune.errors import UserError
from tfprune.network.drafts import Value
from tfprune.network.graph import computed_graph, producer
from tfprune.runtime.errors import GraphError
from tfprune.runtime.graph import Graph, Input
from tfprune.structured.shrink import ExactCut


def compile_model(model: keras.Model, *, shrink: bool = True) -> Graph:
    """Compiles a Keras model into the graph that the sparse runtime runs at inference.

    BatchNorm goes into the convolution before it. Activations and residual sums go into the convolution or
    the sum before them. Zero padding goes into the convolution or the pool after it. A normalization of the
    image goes into the input. Where a neighbour cannot take a layer in, the layer becomes a depthwise 1x1
    convolution. Folding is done in float64 and rounded once; a weight of 0 stays 0. The graph computes in
    float32, whatever the precision of the model's layers. Random layers, such as `Dropout`, are left out.

    Channels that change no output are cut first, exactly (`tfprune.structured.shrink`).

    Compilation works on every backend.

    Example:

    ```python
    graph = compile_model(tfprune.sparsity.strip_pruning(model))
    logits = tfprune.runtime.Model(graph)(images)
    ```

    Args:
        model: A built functional or Sequential model without pruning wrappers, with one input of
            images, uint8 or float32 `[n, height, width, channels]` of a fixed size, and one output
            `[n, classes]`. Nested models are taken apart; a layer called twice becomes two nodes.
        shrink: Whether to cut them. Without, the nodes have the layers' shapes.

    Returns:
        The graph. Its nodes have the names of the Keras layers, with the path, joined with `/`, for those of
        nested models; a convolution with what follows has the convolution's.

    Raises:
        UserError: The runtime cannot run a layer, or the model has other inputs or outputs.
    """
    functional = computed_graph(model)
    if functional is None:
        name = getattr(model, "name", model)
        raise UserError(
            f"model {name!r}: the sparse runtime takes built functional and Sequential models"
            f" without a `call` of their own. Received: {type(model).__name__}"
        )
    height, width, channels = _image_shape(functional)
    if shrink:
        functional = computed_graph(_shrunk(model))
    draft = Draft()
    image = Input(
        producer(functional.inputs[0]).name,
        (),
        shape=(height, width, channels),
        scale=np.ones(channels),
        shift=np.zeros(channels),
    )
    pixels = Value(draft.add(image), 4, integer=functional.inputs[0].dtype == "uint8")
    (output,) = trace(draft, functional, [pixels])
    if draft.shapes[output.node][:2] != (1, 1):
        raise _refuse_model(
            functional, f"its output must be [n, classes]. Received: {functional.outputs[0].shape}"
        )
    graph = Graph(fold(draft.nodes, output.node))
    try:
        graph.shapes()
    except GraphError as error:  # For example, folding made a weight infinite.
        raise _refuse_model(functional, str(error)) from error
    return graph


def _shrunk(model: keras.Model) -> keras.Model:
    """Returns a model without its dead channels; the model itself if there are none, or it cannot be cut."""
    try:
        cut = ExactCut(model, narrow=False)  # The sparse kernels pass over zeros by themselves.
        return cut.smaller if cut.cuts else model
    except Exception as error:  # Of a layer's own configuration or rule, too.
        warnings.warn(f"Compiled with all channels, because they cannot be cut: {error}", stacklevel=3)
        return model


def _image_shape(functional: keras.Model) -> tuple[int, int, int]:
    if len(functional.inputs) != 1 or len(functional.outputs) != 1:
        raise _refuse_model(
            functional,
            "it must have one input and one output."
            f" Received: {len(functional.inputs)} inputs, {len(functional.outputs)} outputs",
        )
    image = functional.inputs[0]
    shape = tuple(image.shape)
    if len(shape) != 4 or None in shape[1:]:
        raise _refuse_model(
            functional,
            f"its input must be images [n, height, width, channels] of a fixed size. Received: {shape}",
        )
    if image.dtype not in ("uint8", "float32"):
        raise _refuse_model(functional, f"its input must be uint8 or float32. Received: {image.dtype}")
    return shape[1:]


def _refuse_model(model: keras.Model, rule: str) -> UserError:
    return UserError(f"model {model.name!r}: the sparse runtime cannot run it: {rule}")
