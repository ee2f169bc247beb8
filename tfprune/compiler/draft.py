"""A draft of the runtime's graph: one node for each thing that a Keras layer does.

Numbers are float64 here and are rounded once, when folding is done. Two kinds of nodes exist only here:
folding puts them into their neighbours or turns them into depthwise 1x1 convolutions.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from tfprune.errors import UserError
from tfprune.runtime.errors import GraphError
from tfprune.runtime.graph import Node, Shape


@dataclasses.dataclass(frozen=True)
class Affine(Node):
    """A normalization: `x * scale + shift` for each channel.

    Attributes:
        scale: float64 `[channels]`.
        shift: float64 `[channels]`.
    """

    scale: np.ndarray
    shift: np.ndarray

    def output_shape(self, shapes: Sequence[Shape]) -> Shape:
        """See `Node`."""
        return shapes[0]


@dataclasses.dataclass(frozen=True)
class ZeroPadding(Node):
    """Zeros around each channel.

    Attributes:
        padding: `(top, bottom, left, right)`.
        channels: Number of channels.
    """

    padding: tuple[int, int, int, int]
    channels: int

    def output_shape(self, shapes: Sequence[Shape]) -> Shape:
        """See `Node`."""
        height, width, channels = shapes[0]
        top, bottom, left, right = self.padding
        return (height + top + bottom, width + left + right, channels)


@dataclasses.dataclass(frozen=True)
class Value:
    """A value of the draft in place of a Keras tensor.

    Attributes:
        node: Index of the node that computes it.
        rank: Axes of the Keras tensor, with the batch: 4 for images, 2 for vectors.
        integer: Whether its numbers are integers, such as plain pixels.
    """

    node: int
    rank: int
    integer: bool = False


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of a Keras layer or operation.

    Attributes:
        name: The layer's name; the path of names, joined with `/`, within nested models.
        operation: The layer, or the operation of `keras.ops`.
        arguments: The positional arguments, with a `Value` in place of each tensor.
        rank: Axes of the output, with the batch.
    """

    name: str
    operation: keras.Operation
    arguments: tuple[Any, ...]
    rank: int

    @property
    def inputs(self) -> list[Value]:
        """The tensors among its arguments, in order."""
        return [value for value in keras.tree.flatten(self.arguments) if isinstance(value, Value)]

    @property
    def input(self) -> Value:
        """The only tensor among its arguments."""
        if len(self.inputs) != 1:
            raise self.refuse(f"it must have one input. Received: {len(self.inputs)}")
        return self.inputs[0]

    def refuse(self, rule: str) -> UserError:
        """Makes the error that names the layer and the rule that it breaks."""
        return UserError(
            f"layer {self.name!r} ({type(self.operation).__name__}): the sparse runtime cannot run it: {rule}"
        )


class Draft:
    """Nodes in an order in which each comes after its inputs, with the shapes of their values."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.shapes: list[Shape] = []

    def add(self, node: Node, call: Call | None = None) -> int:
        """Appends a node.

        Args:
            node: The node; its inputs are in the draft.
            call: The Keras call that the node comes from, for the error; None for the input.

        Returns:
            Its index.

        Raises:
            UserError: A rule of the graph is broken.
        """
        try:
            shape = in_float32(node).output_shape([self.shapes[i] for i in node.inputs])
        except GraphError as error:
            raise UserError(str(error)) if call is None else call.refuse(str(error)) from error
        self.nodes.append(node)
        self.shapes.append(shape)
        return len(self.nodes) - 1


def in_float32(node: Node) -> Node:
    """Rounds the arrays of a node; what overflows becomes infinite, which the graph refuses."""
    arrays = {}
    for field in dataclasses.fields(node):
        array = getattr(node, field.name)
        if isinstance(array, np.ndarray):
            with np.errstate(over="ignore"):
                # The sum makes -0, a removed weight times a negative scale, a plain 0.
                arrays[field.name] = np.ascontiguousarray(array, np.float32) + np.float32(0)
    return dataclasses.replace(node, **arrays) if arrays else node
