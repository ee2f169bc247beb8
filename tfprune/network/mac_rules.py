"""How often a layer's kernels are used in one call, from the shapes of its input and output."""

import math
from collections.abc import Callable
from typing import Any

import keras
from keras import layers

Shape = tuple[int | None, ...]


def _all_but_last(layer: Any, name: str, inputs: Shape, outputs: Shape) -> int | None:
    return product(inputs[:-1])


def _output_positions(layer: Any, name: str, inputs: Shape, outputs: Shape) -> int | None:
    return positions(layer, outputs)


def _input_positions(layer: Any, name: str, inputs: Shape, outputs: Shape) -> int | None:
    return positions(layer, inputs)


def _einsum(layer: Any, name: str, inputs: Shape, outputs: Shape) -> int | None:
    """The input's axes that the kernel does not have."""
    pattern, kernel = layer.equation.replace(" ", "").split("->")[0].split(",")
    start, _, end = pattern.partition("...")
    labels = start + "." * (len(inputs) - len(start) - len(end)) + end
    return product([size for label, size in zip(labels, inputs, strict=True) if label not in kernel])


def _lookup(layer: Any, name: str, inputs: Shape, outputs: Shape) -> int | None:
    if len(outputs) > len(inputs):
        return 0
    # A `ReversibleEmbedding` run backwards: a product with its table, or with its second one.
    used = "embeddings" if layer.tie_weights else "reverse_embeddings"
    return product(inputs[:-1]) if name == used else 0


CELLS = (layers.SimpleRNNCell, layers.GRUCell, layers.LSTMCell)
CONV_LSTMS = (layers.ConvLSTM1D, layers.ConvLSTM2D, layers.ConvLSTM3D)
# Layer classes, names of their kernels, rule.
_RULES: tuple[tuple[tuple[type, ...], tuple[str, ...], Callable], ...] = (
    ((layers.Dense,), ("kernel",), _all_but_last),
    ((layers.EinsumDense,), ("kernel",), _einsum),
    ((layers.Conv1D, layers.Conv2D, layers.Conv3D), ("kernel",), _output_positions),
    ((layers.DepthwiseConv1D, layers.DepthwiseConv2D), ("kernel",), _output_positions),
    (
        (layers.SeparableConv1D, layers.SeparableConv2D),
        ("depthwise_kernel", "pointwise_kernel"),
        _output_positions,
    ),
    # Each kernel element meets each input position once, whatever the padding crops.
    (
        (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose),
        ("kernel",),
        _input_positions,
    ),
    ((layers.Embedding,), ("embeddings", "reverse_embeddings"), _lookup),
    (CELLS, ("kernel", "recurrent_kernel"), _all_but_last),
)
# Their variables of rank 2 or more scale, they do not project.
_NO_KERNEL = (
    layers.BatchNormalization,
    layers.LayerNormalization,
    layers.GroupNormalization,
    layers.RMSNormalization,
    layers.PReLU,
)


def rule_of(layer: keras.layers.Layer) -> tuple[tuple[str, ...], Callable | None]:
    """The names of a layer's kernels, and the function `(layer, name, input shape, output shape) -> uses`."""
    for classes, names, rule in _RULES:
        if isinstance(layer, classes):
            return names, rule
    return (), None


def kernels_of(layer: keras.layers.Layer) -> list[keras.Variable]:
    """The layer's own kernels: by name where we know the layer, else all that may be one."""
    if not layer.built or isinstance(layer, _NO_KERNEL):
        return []
    found = [getattr(layer, name, None) for name in rule_of(layer)[0]]
    # With LoRA, `kernel` is no variable but a sum.
    known = [variable for variable in found if isinstance(variable, keras.Variable)]
    return known or [variable for variable in layer._trainable_variables if len(variable.shape) >= 2]


def product(sizes: Any) -> int | None:
    """The product of an array's lengths; None if one is unknown."""
    return None if None in sizes else math.prod(sizes)


def positions(layer: Any, shape: Shape) -> int | None:
    """Positions in a batch of images, sequences or volumes; all axes but the channels'."""
    return product(shape[:-1] if layer.data_format == "channels_last" else shape[:1] + shape[2:])
