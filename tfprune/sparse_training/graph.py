"""A network to be trained, as data: its operations, their shapes, and the weights that stay.

Unlike the graph of the sparse runtime, nothing is folded: normalizations have statistics of the batch, and
each trainable weight has its place. Nothing here knows of Keras.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# Formulas as in Keras, with its defaults.
ACTIVATIONS = ("relu", "relu6", "leaky_relu", "silu", "sigmoid", "tanh", "hard_silu", "hard_sigmoid")


class Shape(NamedTuple):
    """The shape of an image or of a value between operations; a vector is an image of one pixel."""

    height: int
    width: int
    channels: int


class Window(NamedTuple):
    """A window that moves over an image.

    Attributes:
        size: The rows and columns of the window.
        strides: The steps from one position to the next, vertical and horizontal.
        padding: The zeros around the image: top, bottom, left, right.
        dilation: The distance of two rows and of two columns of the window.
    """

    size: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)

    def positions(self, shape: Shape) -> tuple[int, int]:
        """Returns the rows and columns of positions in an image."""
        top, bottom, left, right = self.padding
        spans = [(taps - 1) * rate + 1 for taps, rate in zip(self.size, self.dilation, strict=True)]
        sides = (shape.height + top + bottom, shape.width + left + right)
        rows, columns = (
            (side - span) // stride + 1 for side, span, stride in zip(sides, spans, self.strides, strict=True)
        )
        return rows, columns


@dataclasses.dataclass(frozen=True, eq=False)
class Kernel:
    """The kernel of a convolution, `[height, width, inputs of a group, outputs]`, or what is left of it.

    Attributes:
        name: The path of the variable, unique in a graph.
        shape: The shape of the whole kernel.
        values: The weights that stay, float32 `[kept]`.
        positions: Their places in the flattened kernel, int64 `[kept]`, ascending; None: all weights stay.
        trainable: Whether the weights learn.
    """

    name: str
    shape: tuple[int, int, int, int]
    values: np.ndarray
    positions: np.ndarray | None = None
    trainable: bool = True

    @property
    def size(self) -> int:
        """Returns the number of weights of the whole kernel."""
        return math.prod(self.shape)

    @property
    def density(self) -> float:
        """Returns the share of the weights that stay."""
        return len(self.values) / self.size


@dataclasses.dataclass(frozen=True, eq=False)
class Vector:
    """A number for each channel: a bias, a scale or a shift.

    Attributes:
        name: The path of the variable, unique in a graph.
        values: float32 `[channels]`.
        trainable: Whether the numbers learn.
    """

    name: str
    values: np.ndarray
    trainable: bool = True


@dataclasses.dataclass(frozen=True, eq=False)
class Node:
    """An operation. Its inputs are the indices of earlier nodes."""

    name: str
    inputs: tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Input(Node):
    """The pixels: `pixels * scale + shift`.

    Attributes:
        shape: The shape of an image.
        scale: float32 `[channels]`.
        shift: float32 `[channels]`.
    """

    shape: Shape
    scale: np.ndarray
    shift: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Conv(Node):
    """A convolution. A dense layer is one whose window is the whole image.

    Attributes:
        kernel: The weights.
        bias: A number for each output; None: none.
        window: The window; its size is that of the kernel.
        groups: Input and output channels in so many groups, each of which sees its own alone.
    """

    kernel: Kernel
    bias: Vector | None
    window: Window
    groups: int = 1


@dataclasses.dataclass(frozen=True, eq=False)
class BatchNorm(Node):
    """`(x - mean) / sqrt(variance + epsilon) * gamma + beta`, for each channel.

    In training mean and variance (without Bessel's correction) are the batch's, over images and pixels, and
    the moving ones become `moving * momentum + batch * (1 - momentum)`; in evaluation they are the moving
    ones.

    Attributes:
        gamma: The scale; None: 1.
        beta: The shift; None: 0.
        moving_name: The path of the layer, by which the moving statistics are known.
        moving_mean: float32 `[channels]`, at the start.
        moving_variance: float32 `[channels]`, at the start.
        epsilon: Added to the variance.
        momentum: Of the moving statistics.
        frozen: Whether the moving statistics are used, and kept, in training too.
    """

    gamma: Vector | None
    beta: Vector | None
    moving_name: str
    moving_mean: np.ndarray
    moving_variance: np.ndarray
    epsilon: float
    momentum: float
    frozen: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class Affine(Node):
    """`x * scale + shift` with constants for each channel, in the middle of a network.

    Attributes:
        scale: float32 `[channels]`.
        shift: float32 `[channels]`.
    """

    scale: np.ndarray
    shift: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Activation(Node):
    """A function of each number.

    Attributes:
        function: One of `ACTIVATIONS`.
        slope: Of `leaky_relu` below zero.
    """

    function: str
    slope: float = 0.2


@dataclasses.dataclass(frozen=True, eq=False)
class Add(Node):
    """The sum of two or more values of one shape. A value may come twice."""


@dataclasses.dataclass(frozen=True, eq=False)
class Multiply(Node):
    """The product of two values; the second may be a vector: a factor for each channel of the first."""


@dataclasses.dataclass(frozen=True, eq=False)
class Concatenate(Node):
    """Channels of several values one after the other."""


@dataclasses.dataclass(frozen=True, eq=False)
class Pool(Node):
    """The maximum or the average over a window.

    Attributes:
        kind: "max" or "average".
        window: The window, not dilated.
        padding_counts: Whether the zeros around the image take part: in the maximum, and in the number that
            an average is divided by.
    """

    kind: str
    window: Window
    padding_counts: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class GlobalPool(Node):
    """The maximum or the average over all pixels: a vector.

    Attributes:
        kind: "max" or "average".
    """

    kind: str


@dataclasses.dataclass(frozen=True, eq=False)
class Pad(Node):
    """Zeros around an image.

    Attributes:
        padding: Top, bottom, left, right.
    """

    padding: tuple[int, int, int, int]


@dataclasses.dataclass(frozen=True, eq=False)
class Dropout(Node):
    """In training zeroes numbers at random and divides the others by `1 - rate`; else does nothing.

    Attributes:
        rate: The probability, in [0, 1).
        whole_channels: Whether it zeroes whole channels of an image.
        whole_images: Whether it zeroes all numbers of an image.
        seed: Of the numbers drawn, which are those of (seed, step, node), whatever the threads.
    """

    rate: float
    whole_channels: bool = False
    whole_images: bool = False
    seed: int = 0


@dataclasses.dataclass(frozen=True, eq=False)
class Graph:
    """A network with one input and one output.

    Attributes:
        nodes: Each after its inputs; the first is the `Input`, the last makes the output.
    """

    nodes: tuple[Node, ...]

    @property
    def parameters(self) -> list[Kernel | Vector]:
        """Returns the kernels and vectors, trainable or not, in the order of the nodes, each once."""
        found: dict[int, Kernel | Vector] = {}
        for node in self.nodes:
            for field in dataclasses.fields(node):
                value = getattr(node, field.name)
                if isinstance(value, Kernel | Vector):
                    found[id(value)] = value
        return list(found.values())

    def shapes(self) -> list[Shape]:
        """Returns the shape of each node's value."""
        shapes: list[Shape] = []
        for node in self.nodes:
            shapes.append(_shape(node, [shapes[index] for index in node.inputs]))
        return shapes


def _shape(node: Node, given: Sequence[Shape]) -> Shape:
    match node:
        case Input():
            return node.shape
        case Conv():
            return Shape(*node.window.positions(given[0]), node.kernel.shape[3])
        case Pool():
            return Shape(*node.window.positions(given[0]), given[0].channels)
        case GlobalPool():
            return Shape(1, 1, given[0].channels)
        case Pad(padding=(top, bottom, left, right)):
            height, width, channels = given[0]
            return Shape(height + top + bottom, width + left + right, channels)
        case Concatenate():
            return Shape(*given[0][:2], sum(shape.channels for shape in given))
    return given[0]
