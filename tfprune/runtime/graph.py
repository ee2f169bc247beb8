"""The network as the runtime sees it: a list of a few operations on images, with their weights.

One image at a time: a value is `[height, width, channels]`, and a vector is `[1, 1, channels]`, so that a
dense layer is a 1x1 convolution. The compiler (`tfprune.export`) makes a graph from a Keras model, a
`model.tfprune` file stores it, and `Model` runs it.
"""

import dataclasses
import math
import numbers
from collections.abc import Sequence

import numpy as np

from tfprune.runtime.errors import GraphError
from tfprune.runtime.graph_rules import (
    check_array,
    check_choice,
    check_count,
    check_numbers,
    check_softmax,
    window_counts,
)
from tfprune.runtime.node import Node, Shape
from tfprune.runtime.sparse_array import SparseArray

# Computed value by value; "softmax" over the channels of a vector. The formulas are Keras's defaults.
ACTIVATIONS = (
    "linear",
    "relu",
    "relu6",
    "leaky_relu",
    "elu",
    "sigmoid",
    "hard_sigmoid",
    "tanh",
    "silu",
    "hard_silu",
    "gelu",
    "softmax",
)
PATHS = ("sparse", "dense")
# Offsets within a value are 32-bit numbers in the kernels.
MAX_VALUES = 2**31 - 1
# Far more than any network's; a file must not be able to ask for tables of any size.
MAX_WINDOW = 2**14
MAX_PLANES = 2**20


@dataclasses.dataclass(frozen=True)
class Input(Node):
    """The image, normalized: `pixels * scale + shift`.

    Attributes:
        shape: `(height, width, channels)` of the image.
        scale: float32 `[channels]`.
        shift: float32 `[channels]`.
    """

    shape: Shape
    scale: np.ndarray
    shift: np.ndarray

    def output_shape(self, shapes: Sequence[Shape]) -> Shape:
        """See `Node`."""
        check_count(self, shapes, 0)
        check_numbers(self, "shape", self.shape, 3, 1)
        for name, array in (("scale", self.scale), ("shift", self.shift)):
            check_array(self, name, array, (self.shape[2],))
        return self.shape


@dataclasses.dataclass(frozen=True)
class Conv(Node):
    """A convolution with everything that follows it at once: `activation(conv(x) + bias [+ residual])`.

    Attributes:
        inputs: The value convolved; and, where there is one, the residual, of the output's shape.
        kernel: float32 `[kernel height, kernel width, input channels // groups, output channels]`, dense or
            sparse.
        bias: float32 `[output channels]`.
        strides: `(vertical, horizontal)`.
        padding: Zeros around the input: `(top, bottom, left, right)`.
        dilation: `(vertical, horizontal)`.
        groups: As in `keras.layers.Conv2D`; the number of input channels for a depthwise convolution.
        activation: One of `ACTIVATIONS`.
        path: `"sparse"` goes through lists of the weights that are not zero, `"dense"` through blocks of
            output channels that share what they read.
        costs: Microseconds of each path, where they were measured: path to microseconds.
    """

    kernel: np.ndarray | SparseArray
    bias: np.ndarray
    strides: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    activation: str = "linear"
    path: str = "sparse"
    costs: dict[str, float] = dataclasses.field(default_factory=dict)

    def output_shape(self, shapes: Sequence[Shape]) -> Shape:
        """See `Node`."""
        if len(shapes) not in (1, 2):
            raise self.refuse(f"takes one input and perhaps a residual. Received: {len(shapes)} inputs")
        height, width, channels = shapes[0]
        check_numbers(self, "strides", self.strides, 2, 1)
        if channels * math.prod(self.strides) > MAX_PLANES:
            raise self.refuse(f"{channels} channels by strides of {self.strides} may be {MAX_PLANES} at most")
        check_numbers(self, "dilation", self.dilation, 2, 1)
        check_numbers(self, "padding", self.padding, 4, 0)
        check_numbers(self, "groups", (self.groups,), 1, 1)
        check_choice(self, "activation", self.activation, ACTIVATIONS)
        check_choice(self, "path", self.path, PATHS)
        for name, cost in self.costs.items():
            check_choice(self, "costs", name, PATHS)
            if not isinstance(cost, numbers.Real) or not 0 <= cost < math.inf:
                raise self.refuse(f"`costs` must be microseconds of at least 0. Received: {name}={cost!r}")
        if np.ndim(self.kernel) != 4 or 0 in np.shape(self.kernel):
            raise self.refuse(f"`kernel` must have 4 axes, none empty. Received: {np.shape(self.kernel)}")
        rows, columns, inner, filters = np.shape(self.kernel)
        if rows * columns > MAX_WINDOW:
            raise self.refuse(f"a window may have {MAX_WINDOW} elements. Received: {rows} x {columns}")
        if inner * self.groups != channels or filters % self.groups:
            raise self.refuse(
                f"{channels} input channels and {filters} filters do not fit a kernel of"
                f" {inner} input channels in {self.groups} groups"
            )
        check_array(self, "kernel", self.kernel, (rows, columns, inner, filters))
        check_array(self, "bias", self.bias, (filters,))
        shape = (
            *window_counts(self, (height, width), (rows, columns), self.strides, self.padding, self.dilation),
            filters,
        )
        if len(shapes) == 2 and tuple(shapes[1]) != shape:
            raise self.refuse(f"its residual must have its output's shape {shape}. Received: {shapes[1]}")
        check_softmax(self, self.activation, shape)
        return shape


@dataclasses.dataclass(frozen=True)
class Pool(Node):
    """Max or average pooling.

    Attributes:
        kind: `"max"` or `"average"`.
        size: `(height, width)` of the window.
        strides: `(vertical, horizontal)`.
        padding: `(top, bottom, left, right)`, each below the window's size.
        padding_counts: Whether the padding takes part, as zeros (an explicit zero padding before the
            pool), or is left out of the maximum and of the average's count (Keras's `"same"`).
    """

    kind: str
    size: tuple[int, int]
    strides: tuple[int, int]
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    padding_counts: bool = False

    def output_shape(self, shapes: Sequence[Shape]) -> Shape:
        """See `Node`."""
        check_count(self, shapes, 1)
        check_choice(self, "kind", self.kind, ("max", "average"))
        check_numbers(self, "size", self.size, 2, 1)
        check_numbers(self, "strides", self.strides, 2, 1)
        check_numbers(self, "padding", self.padding, 4, 0)
        if not isinstance(self.padding_counts, bool):
            raise self.refuse(f"`padding_counts` must be true or false. Received: {self.padding_counts!r}")
        if max(self.padding[:2]) >= self.size[0] or max(self.padding[2:]) >= self.size[1]:
            raise self.refuse(
                f"`padding` must be below `size`. Received: padding={self.padding}, size={self.size}"
            )
        height, width, channels = shapes[0]
        counts = window_counts(self, (height, width), self.size, self.strides, self.padding, (1, 1))
        return (*counts, channels)


@dataclasses.dataclass(frozen=True)
class GlobalPool(Node):
    """The maximum or the average of each channel: a vector.

    Attributes:
        kind: `"max"` or `"average"`.
    """

    kind: str

    def output_shape(self, shapes: Sequence[Shape]) -> Shape:
        """See `Node`."""
        check_count(self, shapes, 1)
        check_choice(self, "kind", self.kind, ("max", "average"))
        return (1, 1, shapes[0][2])


@dataclasses.dataclass(frozen=True)
class Add(Node):
    """The sum of two or more values of one shape, activated.

    Attributes:
        activation: One of `ACTIVATIONS`.
    """

    activation: str = "linear"

    def output_shape(self, shapes: Sequence[Shape]) -> Shape:
        """See `Node`."""
        check_choice(self, "activation", self.activation, ACTIVATIONS)
        if len(shapes) < 2 or len({tuple(shape) for shape in shapes}) > 1:
            raise self.refuse(f"takes two or more inputs of one shape. Received: {list(shapes)}")
        check_softmax(self, self.activation, shapes[0])
        return shapes[0]


@dataclasses.dataclass(frozen=True)
class Multiply(Node):
    """The product of a value and another of its shape, or of a vector with a factor for each channel."""

    def output_shape(self, shapes: Sequence[Shape]) -> Shape:
        """See `Node`."""
        check_count(self, shapes, 2)
        if tuple(shapes[1]) not in (tuple(shapes[0]), (1, 1, shapes[0][2])):
            raise self.refuse(
                f"its second input must have the first's shape or be one factor a channel. Received: {shapes}"
            )
        return shapes[0]


@dataclasses.dataclass(frozen=True)
class Concatenate(Node):
    """Two or more values of one height and width, one after the other along the channels."""

    def output_shape(self, shapes: Sequence[Shape]) -> Shape:
        """See `Node`."""
        if len(shapes) < 2 or len({tuple(shape[:2]) for shape in shapes}) > 1:
            raise self.refuse(f"takes two or more inputs of one height and width. Received: {list(shapes)}")
        return (*shapes[0][:2], sum(shape[2] for shape in shapes))


@dataclasses.dataclass(frozen=True)
class Activation(Node):
    """An activation that no operation before it could take along.

    Attributes:
        activation: One of `ACTIVATIONS`.
    """

    activation: str

    def output_shape(self, shapes: Sequence[Shape]) -> Shape:
        """See `Node`."""
        check_count(self, shapes, 1)
        check_choice(self, "activation", self.activation, ACTIVATIONS)
        check_softmax(self, self.activation, shapes[0])
        return shapes[0]


@dataclasses.dataclass(frozen=True)
class Flatten(Node):
    """A vector of all values, in the order of Keras's `Flatten`: rows, columns, channels."""

    def output_shape(self, shapes: Sequence[Shape]) -> Shape:
        """See `Node`."""
        check_count(self, shapes, 1)
        return (1, 1, math.prod(shapes[0]))


@dataclasses.dataclass(frozen=True)
class Graph:
    """A network: its operations in an order in which each comes after its inputs.

    Attributes:
        nodes: The first is the only `Input`; the last one's value, a vector, is the network's output.
    """

    nodes: tuple[Node, ...]

    def shapes(self) -> list[Shape]:
        """Checks the whole graph and returns the shape of each node's value.

        Returns:
            `(height, width, channels)` for each node.

        Raises:
            GraphError: A rule is broken; names the node.
        """
        if not self.nodes:
            raise GraphError("a graph must have at least an input")
        shapes: list[Shape] = []
        for index, node in enumerate(self.nodes):
            if isinstance(node, Input) != (index == 0):
                raise node.refuse("the first node, and only the first, must be an Input")
            for source in node.inputs:
                if not 0 <= source < index:
                    raise node.refuse(f"`inputs` must be nodes before it ({index}). Received: {source}")
            shape = tuple(int(size) for size in node.output_shape([shapes[i] for i in node.inputs]))
            if math.prod(shape) > MAX_VALUES:
                raise node.refuse(f"its value {shape} has more than {MAX_VALUES} numbers")
            shapes.append(shape)
        if shapes[-1][:2] != (1, 1):
            raise self.nodes[-1].refuse(
                f"the last node must give a vector [1, 1, classes]. Received: {shapes[-1]}"
            )
        return shapes
