"""A draft of the runtime's graph: one node for each thing that a Keras layer does.

Numbers are float64 here and are rounded once, when folding is done. Two kinds of nodes exist only here:
folding puts them into their neighbours or turns them into depthwise 1x1 convolutions.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfprune.errors import UserError
from tfprune.network import drafts
from tfprune.network.drafts import Value
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
class Call(drafts.Call):
    """One call of a Keras layer or operation.

    Attributes:
        named: The named arguments but `training` and masks, with a `Value` in place of each tensor.
        masks: The arguments that are masks, those that Keras finds too: name -> a `Value`, or what makes one
            later, or a list of such, or None where there is none.
    """

    named: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    masks: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def inputs(self) -> list[Value]:
        """See `drafts.Call`; the tensors among the named arguments, too."""
        given = keras.tree.flatten([list(self.arguments), *self.named.values()])
        return [value for value in given if isinstance(value, Value)]

    def check_ranks(self) -> None:
        """See `drafts.Call`; signals `[time, channels]` are possible too."""
        for rank in [*(value.rank for value in self.inputs), self.rank]:
            if rank not in (2, 3, 4):
                raise self.refuse(f"tensors must have 2 to 4 axes, with the batch. Received: {rank}")

    @staticmethod
    def refusal(layer: str, rule: str) -> UserError:
        """See `drafts.Call`."""
        return UserError(f"{layer}: the sparse runtime cannot run it: {rule}")


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
