"""The network as the runtime sees it: a list of a few operations on images, with their weights.

One image at a time: a value is `[height, width, channels]`, and a vector is `[1, 1, channels]`, so that a
dense layer is a 1x1 convolution. The compiler (`tfprune.compiler`) makes a graph from a Keras model, a
`model.tfprune` file stores it, and `Model` runs it.
"""

import dataclasses
import math
import numbers
from collections.abc import Sequence

import numpy as np

from tfprune.runtime.errors import GraphError
from tfprune.runtime.sparse_array import SparseArray

Shape = tuple[int, int, int]  # height, width, channels

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
_NONNEGATIVE = ("relu", "relu6", "sigmoid", "hard_sigmoid", "softmax")
PATHS = ("sparse", "dense")
# Offsets within a value are 32-bit numbers in the kernels.
MAX_VALUES = 2**31 - 1
# Far more than any network's: a small file must not be able to ask for much time or memory.
MAX_NODES = 2**14
MAX_INPUTS = 2**15  # of all nodes together
MAX_WINDOW = 2**14
MAX_PHASE_PLANES = 2**20  # of all strided convolutions together


@dataclasses.dataclass(frozen=True)
class Node:
    """One operation.

    Attributes:
        name: The name of the Keras layer that the operation comes from; for messages and tables.
        inputs: The indices of the nodes whose values the operation takes, each below its own.
    """

    name: str
    inputs: tuple[int, ...]

    def output_shape(self, shapes: Sequence[Shape]) -> Shape:
        """Returns the shape of the node's value.

        Args:
            shapes: The shapes of the inputs, `(height, width, channels)` each.

        Returns:
            `(height, width, channels)`.

        Raises:
            GraphError: The node cannot take such inputs, or an attribute breaks its rule.
        """
        raise NotImplementedError

    def refuse(self, rule: str) -> GraphError:
        """Makes the error that says which node breaks which rule."""
        return GraphError(f"{type(self).__name__} {self.name!r}: {rule}")


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
        _check_count(self, shapes, 0)
        _check_numbers(self, "shape", self.shape, 3, 1)
        for name, array in (("scale", self.scale), ("shift", self.shift)):
            _check_array(self, name, array, (self.shape[2],))
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
        _check_numbers(self, "strides", self.strides, 2, 1)
        _check_numbers(self, "dilation", self.dilation, 2, 1)
        _check_numbers(self, "padding", self.padding, 4, 0)
        _check_numbers(self, "groups", (self.groups,), 1, 1)
        _check_choice(self, "activation", self.activation, ACTIVATIONS)
        _check_choice(self, "path", self.path, PATHS)
        for name, cost in self.costs.items():
            _check_choice(self, "costs", name, PATHS)
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
        _check_array(self, "kernel", self.kernel, (rows, columns, inner, filters))
        _check_array(self, "bias", self.bias, (filters,))
        shape = (
            *_window_counts(
                self, (height, width), (rows, columns), self.strides, self.padding, self.dilation
            ),
            filters,
        )
        if len(shapes) == 2 and tuple(shapes[1]) != shape:
            raise self.refuse(f"its residual must have its output's shape {shape}. Received: {shapes[1]}")
        _check_softmax(self, self.activation, shape)
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
        _check_count(self, shapes, 1)
        _check_choice(self, "kind", self.kind, ("max", "average"))
        _check_numbers(self, "size", self.size, 2, 1)
        _check_numbers(self, "strides", self.strides, 2, 1)
        _check_numbers(self, "padding", self.padding, 4, 0)
        if not isinstance(self.padding_counts, bool):
            raise self.refuse(f"`padding_counts` must be true or false. Received: {self.padding_counts!r}")
        if max(self.padding[:2]) >= self.size[0] or max(self.padding[2:]) >= self.size[1]:
            raise self.refuse(
                f"`padding` must be below `size`. Received: padding={self.padding}, size={self.size}"
            )
        height, width, channels = shapes[0]
        counts = _window_counts(self, (height, width), self.size, self.strides, self.padding, (1, 1))
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
        _check_count(self, shapes, 1)
        _check_choice(self, "kind", self.kind, ("max", "average"))
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
        _check_choice(self, "activation", self.activation, ACTIVATIONS)
        if len(shapes) < 2 or len({tuple(shape) for shape in shapes}) > 1:
            raise self.refuse(f"takes two or more inputs of one shape. Received: {list(shapes)}")
        _check_softmax(self, self.activation, shapes[0])
        return shapes[0]


@dataclasses.dataclass(frozen=True)
class Multiply(Node):
    """The product of a value and another of its shape, or of a vector with a factor for each channel."""

    def output_shape(self, shapes: Sequence[Shape]) -> Shape:
        """See `Node`."""
        _check_count(self, shapes, 2)
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
        _check_count(self, shapes, 1)
        _check_choice(self, "activation", self.activation, ACTIVATIONS)
        _check_softmax(self, self.activation, shapes[0])
        return shapes[0]


@dataclasses.dataclass(frozen=True)
class Flatten(Node):
    """A vector of all values, in the order of Keras's `Flatten`: rows, columns, channels."""

    def output_shape(self, shapes: Sequence[Shape]) -> Shape:
        """See `Node`."""
        _check_count(self, shapes, 1)
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
        if not 1 <= len(self.nodes) <= MAX_NODES:
            raise GraphError(f"a graph must have 1 to {MAX_NODES} nodes. Received: {len(self.nodes)}")
        inputs = sum(len(node.inputs) for node in self.nodes)
        if inputs > MAX_INPUTS:
            raise GraphError(f"a graph's nodes may have {MAX_INPUTS} inputs in all. Received: {inputs}")
        shapes: list[Shape] = []
        split, planes = set(), 0
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
            if isinstance(node, Conv) and max(node.strides) > 1 and shape[:2] != (1, 1):
                read = (node.inputs[0], *node.strides)
                if read not in split:
                    split.add(read)
                    planes += shapes[node.inputs[0]][2] * math.prod(node.strides)
                if planes > MAX_PHASE_PLANES:
                    raise node.refuse(
                        f"the channels that a graph's strided convolutions read, each by its strides of"
                        f" {node.strides}, may be {MAX_PHASE_PLANES} in all. Received: {planes}"
                    )
        if shapes[-1][:2] != (1, 1):
            raise self.nodes[-1].refuse(
                f"the last node must give a vector [1, 1, classes]. Received: {shapes[-1]}"
            )
        return shapes


def nonnegative_values(graph: Graph) -> list[bool]:
    """Returns for each node whether its value is known to have no number below zero.

    The maximum over a pool's windows is then the same with the pool's own padding as with explicit zeros
    (ResNet's stem).

    Args:
        graph: The network.
    """
    known: list[bool] = []
    for node in graph.nodes:
        match node:
            case Conv(activation=activation) | Activation(activation=activation):
                known.append(activation in _NONNEGATIVE)
            case Add(activation=activation):
                sum_of_such = activation == "linear" and all(known[source] for source in node.inputs)
                known.append(activation in _NONNEGATIVE or sum_of_such)
            case Pool() | GlobalPool() | Multiply() | Concatenate() | Flatten():
                known.append(all(known[source] for source in node.inputs))
            case _:
                known.append(False)
    return known


def _window_counts(
    node: Node,
    size: tuple[int, int],
    window: tuple[int, int],
    strides: tuple[int, int],
    padding: tuple[int, int, int, int],
    dilation: tuple[int, int],
) -> tuple[int, int]:
    """Returns how many windows fit in the padded height and width.

    Args:
        node: The node of the windows; for the message.
        size: The height and width of the input.
        window: The height and width of the window.
        strides: Vertical and horizontal.
        padding: Top, bottom, left, right.
        dilation: Vertical and horizontal.

    Raises:
        GraphError: No window fits.
    """
    counts = []
    for axis in range(2):
        free = (
            size[axis] + padding[2 * axis] + padding[2 * axis + 1] - (window[axis] - 1) * dilation[axis] - 1
        )
        if free < 0:
            raise node.refuse(f"a window {window} does not fit {size} with padding {padding}")
        counts.append(free // strides[axis] + 1)
    return counts[0], counts[1]


def _check_count(node: Node, shapes: Sequence[Shape], count: int) -> None:
    """Raises a GraphError unless a node has so many inputs."""
    if len(shapes) != count:
        raise node.refuse(f"takes {count} inputs. Received: {len(shapes)}")


def _check_numbers(node: Node, name: str, values: Sequence[int], count: int, least: int) -> None:
    """Raises a GraphError unless an attribute is `count` integers from `least` up to 65535."""
    right = isinstance(values, tuple | list) and len(values) == count
    right = right and all(
        isinstance(value, int) and not isinstance(value, bool) and least <= value < 2**16 for value in values
    )
    if not right:
        raise node.refuse(f"`{name}` must be {count} integers of at least {least}. Received: {values}")


def _check_choice(node: Node, name: str, value: str, choices: Sequence[str]) -> None:
    """Raises a GraphError unless an attribute is one of the choices."""
    if value not in choices:
        raise node.refuse(f"`{name}` must be one of {', '.join(choices)}. Received: {value!r}")


def _check_array(node: Node, name: str, array: np.ndarray | SparseArray, shape: tuple[int, ...]) -> None:
    """Raises a GraphError unless a weight has its shape, is float32 and finite."""
    if not isinstance(array, np.ndarray | SparseArray):
        raise node.refuse(f"`{name}` must be an array. Received: {type(array).__name__}")
    values = array.values if isinstance(array, SparseArray) else array
    if np.shape(array) != shape or array.dtype != np.float32:
        raise node.refuse(f"`{name}` must be float32 {shape}. Received: {array.dtype} {array.shape}")
    if not np.isfinite(values).all():
        raise node.refuse(f"`{name}` must be finite. Received: values that are not")


def _check_softmax(node: Node, activation: str, shape: Shape) -> None:
    """Raises a GraphError if a softmax is to be taken of more than a vector."""
    if activation == "softmax" and shape[:2] != (1, 1):
        raise node.refuse(f"softmax is for vectors. Received: {shape}")
