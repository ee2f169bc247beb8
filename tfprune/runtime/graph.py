"""The network as the runtime sees it: a list of a few operations on images, with their weights.

One image at a time: a value is `[height, width, channels]`; a vector is `[1, 1, channels]`, so that a dense
layer is a 1x1 convolution; a signal is `[1, time, channels]`. The compiler (`tfprune.compiler`) makes a graph
from a Keras model, a `model.tfprune` file stores it, and `Model` runs it.
"""

import dataclasses
import itertools
import math
import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfprune.runtime.errors import GraphError
from tfprune.runtime.integers import LARGEST_INT8
from tfprune.runtime.sparse_array import SparseArray

Shape = tuple[int, int, int]  # height, width, channels

LARGEST = float(np.finfo(np.float32).max)

# Computed value by value; "softmax" and its logarithm over the channels of each pixel. Each has its settings,
# those of Keras's function of the same name, at Keras's defaults.
ACTIVATIONS: dict[str, tuple[float, ...]] = {
    "linear": (),
    "relu": (),
    "relu6": (),
    "leaky_relu": (0.2,),  # slope below zero
    "elu": (1.0,),  # alpha
    "sigmoid": (),
    "hard_sigmoid": (),
    "tanh": (),
    "silu": (),
    "hard_silu": (),
    "gelu": (),
    "softmax": (),
    # Since version 2 of the file format.
    "general_relu": (0.0, LARGEST, 0.0),  # slope below the threshold, maximum, threshold
    "clip": (-1.0, 1.0),  # least, largest
    "abs": (),
    "celu": (1.0,),  # alpha
    "exponential": (),  # of at most 88
    "gelu_tanh": (),  # the approximation
    "hard_shrink": (0.5,),  # threshold
    "log": (),
    "log_softmax": (),
    "log_sigmoid": (),
    "mish": (),
    "reciprocal": (),
    "rsqrt": (),
    "selu": (),
    "soft_shrink": (0.5,),  # threshold
    "softplus": (),
    "softsign": (),
    "sparse_plus": (),
    "sparse_sigmoid": (),
    "sqrt": (),
    "square": (),
    "squareplus": (4.0,),  # b
    "tanh_shrink": (),
    "threshold": (0.0, 0.0),  # threshold, value below it
    # Since version 4.
    "nonzero": (),  # 0 of 0, 1 of all else
}
# Computed of all channels of a pixel; no kernel that does something else takes them along.
ACROSS_CHANNELS = ("softmax", "log_softmax")
_NONNEGATIVE = (
    "relu",
    "relu6",
    "sigmoid",
    "hard_sigmoid",
    "softmax",
    "abs",
    "exponential",
    "softplus",
    "sparse_plus",
    "sparse_sigmoid",
    "sqrt",
    "square",
    "rsqrt",
    "nonzero",
)
FLOAT_PATHS = ("sparse", "dense")
INTEGER_PATH = "int8"
PATHS = (*FLOAT_PATHS, INTEGER_PATH)
# The gates of a recurrent cell, in the order of its kernel's columns, which is Keras's.
CELLS = {
    "simple": ("state",),
    "lstm": ("input", "forget", "candidate", "output"),
    "gru": ("update", "reset", "candidate"),
    "gru_reset_before": ("update", "reset", "candidate"),
}
COMBINATIONS = ("add", "multiply", "maximum", "minimum")
NORMALIZED = ("pixel", "image")
# The most steps of a value of 8 bits, and how small and large a step may be: so that quotients of two, and
# products with weights' scales, are far from the ends of float32.
LARGEST_UINT8 = 255
STEPS = (2.0**-40, 2.0**40)
# Offsets within a value are 32-bit numbers in the kernels.
MAX_VALUES = 2**31 - 1
# Far more than any network's: a small file must not be able to ask for much time or memory.
MAX_NODES = 2**14
MAX_INPUTS = 2**15  # of all nodes together
MAX_WINDOW = 2**14
MAX_PHASE_PLANES = 2**20  # of all strided convolutions together
# Their sum, and that of their absolute values, stays within 32 bits.
MAX_PRODUCTS = MAX_VALUES // (LARGEST_UINT8 * LARGEST_INT8)
MAX_AXES = 8  # of what a caller gives or gets


def since(version: int, default: Any) -> Any:
    """Returns a dataclass's field that earlier files do not have, and later ones only where it matters.

    Args:
        version: The first version of the file format that has it.
        default: Its value where a file does not have it; immutable.
    """
    return dataclasses.field(default=default, metadata={"since": version})


def since_2(default: Any) -> Any:
    """Returns a field that version 1 of the file format does not have, as `since` does."""
    return since(2, default)


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
    """An image, normalized: `pixels * scale + shift`.

    Attributes:
        shape: `(height, width, channels)` of the image.
        scale: float32 `[channels]`.
        shift: float32 `[channels]`.
        given: The shape of an example as the caller has it, of as many numbers; none: `shape`.
    """

    shape: Shape
    scale: np.ndarray
    shift: np.ndarray
    given: tuple[int, ...] = since_2(())

    def output_shape(self, shapes: Sequence[Shape]) -> Shape:
        """See `Node`."""
        _check_count(self, shapes, 0)
        _check_numbers(self, "shape", self.shape, 3, 1)
        for name, array in (("scale", self.scale), ("shift", self.shift)):
            _check_array(self, name, array, (self.shape[2],))
        if self.given:
            _check_given(self, "given", self.given, math.prod(self.shape))
        return self.shape


@dataclasses.dataclass(frozen=True)
class Constant(Node):
    """A value that is the same for all images.

    Attributes:
        value: float32 `[height, width, channels]`.
    """

    value: np.ndarray

    def output_shape(self, shapes: Sequence[Shape]) -> Shape:
        """See `Node`."""
        _check_count(self, shapes, 0)
        shape = np.shape(self.value)
        if len(shape) != 3 or 0 in shape:
            raise self.refuse(f"`value` must have 3 axes, none empty. Received: {shape}")
        _check_array(self, "value", self.value, shape)
        return shape


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
        settings: The activation's; none: its defaults.
        path: `"sparse"` goes through lists of the weights that are not zero, `"dense"` through blocks of
            output channels that share what they read. `"int8"` goes through lists and multiplies whole
            numbers: the steps of its input, a `Quantize`, by weights that are rounded to 8 bits
            (`integers.channel_scales`); their sums are exact. It is for values of several pixels.
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
    settings: tuple[float, ...] = since_2(())

    def output_shape(self, shapes: Sequence[Shape]) -> Shape:
        """See `Node`."""
        if len(shapes) not in (1, 2):
            raise self.refuse(f"takes one input and perhaps a residual. Received: {len(shapes)} inputs")
        height, width, channels = shapes[0]
        _check_numbers(self, "strides", self.strides, 2, 1)
        _check_numbers(self, "dilation", self.dilation, 2, 1)
        _check_numbers(self, "padding", self.padding, 4, 0)
        _check_numbers(self, "groups", (self.groups,), 1, 1)
        _check_activation(self, self.activation, self.settings)
        _check_path(self, PATHS)
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
        settings: The activation's; none: its defaults.
    """

    activation: str = "linear"
    settings: tuple[float, ...] = since_2(())

    def output_shape(self, shapes: Sequence[Shape]) -> Shape:
        """See `Node`."""
        _check_activation(self, self.activation, self.settings)
        if len(shapes) < 2 or len({tuple(shape) for shape in shapes}) > 1:
            raise self.refuse(f"takes two or more inputs of one shape. Received: {list(shapes)}")
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
class Combine(Node):
    """Two values, number by number; the second may have one number for a channel, for a pixel, or for all.

    Sums of one shape are `Add`, products of one shape or with a factor for each channel `Multiply`.

    Attributes:
        operation: One of `COMBINATIONS`.
    """

    operation: str

    def output_shape(self, shapes: Sequence[Shape]) -> Shape:
        """See `Node`."""
        _check_count(self, shapes, 2)
        _check_choice(self, "operation", self.operation, COMBINATIONS)
        height, width, channels = shapes[0]
        if tuple(shapes[1]) not in (
            (height, width, channels),
            (1, 1, channels),
            (height, width, 1),
            (1, 1, 1),
        ):
            raise self.refuse(
                "its second input must have the first's shape, or one number for each channel, for each pixel"
                f" or for all. Received: {shapes}"
            )
        return shapes[0]


@dataclasses.dataclass(frozen=True)
class Concatenate(Node):
    """Two or more values one after the other along an axis; the other axes are of one size.

    Attributes:
        axis: 0 for rows, 1 for columns, 2 for channels.
    """

    axis: int = since_2(2)

    def output_shape(self, shapes: Sequence[Shape]) -> Shape:
        """See `Node`."""
        if type(self.axis) is not int or not 0 <= self.axis <= 2:
            raise self.refuse(f"`axis` must be 0, 1 or 2. Received: {self.axis!r}")
        others = {tuple(shape[: self.axis]) + tuple(shape[self.axis + 1 :]) for shape in shapes}
        if len(shapes) < 2 or len(others) > 1:
            size = ("width and channels", "height and channels", "height and width")[self.axis]
            raise self.refuse(f"takes two or more inputs of one {size}. Received: {list(shapes)}")
        total = list(shapes[0])
        total[self.axis] = sum(shape[self.axis] for shape in shapes)
        return tuple(total)


@dataclasses.dataclass(frozen=True)
class Gather(Node):
    """The numbers of a value at other places: `flat[rows[y] + columns[x] + channels[c]]`.

    `flat` are the input's numbers in the order rows, columns, channels. Slices, flips, crops, repeats,
    permutations of the axes and other shapes of a vector are such nodes.

    Attributes:
        rows: For each row of the output where it begins; at least 0.
        columns: The same for its columns, from the row's beginning.
        channels: The same for its channels, from the pixel's. Of the three each names a row, a column and a
            channel of the input, and their sums stay within its rows, columns and channels.
    """

    rows: tuple[int, ...]
    columns: tuple[int, ...]
    channels: tuple[int, ...]

    def output_shape(self, shapes: Sequence[Shape]) -> Shape:
        """See `Node`."""
        _check_count(self, shapes, 1)
        for name, places in (("rows", self.rows), ("columns", self.columns), ("channels", self.channels)):
            if not isinstance(places, tuple) or not places or not all(type(place) is int for place in places):
                raise self.refuse(f"`{name}` must be integers, at least one. Received: {places}")
            if min(places) < 0 or max(places) > MAX_VALUES:
                raise self.refuse(
                    f"`{name}` must be 0 to {MAX_VALUES}. Received: {min(places)} to {max(places)}"
                )
        starts = [0, len(self.rows), len(self.rows) + len(self.columns)]
        reach = np.maximum.reduceat(self._places(shapes[0]), starts, axis=1).sum(axis=1)
        if any(farthest >= size for farthest, size in zip(reach.tolist(), shapes[0], strict=True)):
            raise self.refuse(
                f"its places must lie within {tuple(shapes[0])}. Received: up to {tuple(reach.tolist())}"
            )
        return len(self.rows), len(self.columns), len(self.channels)

    def places(self, shape: Shape) -> list[np.ndarray]:
        """Returns what of the input each row, column and channel names: its row, column and channel.

        Args:
            shape: The input's.

        Returns:
            int64 `[3, rows]`, `[3, columns]` and `[3, channels]`.
        """
        ends = [len(self.rows), len(self.rows) + len(self.columns)]
        return np.split(self._places(shape), ends, axis=1)

    def _places(self, shape: Shape) -> np.ndarray:
        places = np.array(self.rows + self.columns + self.channels, np.int64)
        return np.stack(np.unravel_index(places, (MAX_VALUES + 1, *shape[1:])))


@dataclasses.dataclass(frozen=True)
class MatMul(Node):
    """The products of each row's pixels with those of another value's row, over the channels.

    `output[y, x, m]` is the sum over channels n of `first[y, x, n] * second[y, m, n]`.
    """

    def output_shape(self, shapes: Sequence[Shape]) -> Shape:
        """See `Node`."""
        _check_count(self, shapes, 2)
        first, second = shapes
        if first[0] != second[0] or first[2] != second[2]:
            raise self.refuse(f"its inputs must have one height and as many channels. Received: {shapes}")
        return (first[0], first[1], second[1])


@dataclasses.dataclass(frozen=True)
class Embedding(Node):
    """For each number of a value, `[1, height, width]`, the row of a table that it names.

    A number is taken without what is behind its point, and one below zero counts from the table's end; what
    names no row gives NaN.

    Attributes:
        kernel: The table, float32 `[1, 1, rows, channels]`, dense or sparse.
    """

    kernel: np.ndarray | SparseArray

    def output_shape(self, shapes: Sequence[Shape]) -> Shape:
        """See `Node`."""
        _check_count(self, shapes, 1)
        if np.ndim(self.kernel) != 4 or 0 in np.shape(self.kernel) or np.shape(self.kernel)[:2] != (1, 1):
            raise self.refuse(f"`kernel` must be [1, 1, rows, channels]. Received: {np.shape(self.kernel)}")
        _check_array(self, "kernel", self.kernel, np.shape(self.kernel))
        if shapes[0][0] != 1:
            raise self.refuse(f"its input must have one row. Received: {shapes[0]}")
        return (*shapes[0][1:], self.kernel.shape[3])


@dataclasses.dataclass(frozen=True)
class Recurrent(Node):
    """A recurrent cell that goes along a signal from its first column to its last; its states are the value.

    What the cell takes of the signal has been multiplied already: the input is `[1, time, gates * units]`.
    With `x` for a column of it, `r` for `kernel^T state + bias`, `a` for the activation and `g` for that of
    the gates, each for the units of a gate by name, a step of a cell is

    - `"simple"`: `state = a(x + r)`;
    - `"lstm"`: `memory = g(forget) memory + g(input) a(candidate)`, `state = g(output) a(memory)`, of sums
      `x + r`;
    - `"gru"`: `state = g(update) state + (1 - g(update)) a(x + g(reset) r)`, update and reset sums `x + r`,
      in `a` the candidate's `x` and `r`;
    - `"gru_reset_before"`: the same with `a(x + r')`, where `r'` is of `g(reset) state` instead of the state.

    Where a mask is 0 the states stay as they are.

    Sources: Hochreiter and Schmidhuber, Long short-term memory, 1997; Cho and others, arXiv:1406.1078.

    Attributes:
        inputs: The signal; and, where they are not zeros, the first state `[1, 1, units]`, and the first
            memory of an LSTM, alike; and at last, where the cell is `masked`, the mask `[1, 1, time]`.
        cell: One of `CELLS`.
        kernel: float32 `[1, 1, units, gates * units]`, dense or sparse.
        bias: float32 `[gates * units]`.
        activation: One of `ACTIVATIONS` that is computed value by value.
        gate_activation: The same for the gates; of a simple cell, which has none, `"linear"`.
        settings: The activation's; none: its defaults.
        gate_settings: The gates' activation's.
        memory: Whether the value of an LSTM is `[1, time, 2 * units]`, the memory before the state; if not,
            as of all others, `[1, time, units]`.
        path: As of `Conv`: lists of the weights that are not zero, or all of them.
        costs: As of `Conv`.
        masked: Whether there is a mask.
    """

    cell: str
    kernel: np.ndarray | SparseArray
    bias: np.ndarray
    activation: str = "tanh"
    gate_activation: str = "sigmoid"
    settings: tuple[float, ...] = ()
    gate_settings: tuple[float, ...] = ()
    memory: bool = False
    path: str = "sparse"
    costs: dict[str, float] = dataclasses.field(default_factory=dict)
    masked: bool = since(4, False)

    @property
    def units(self) -> int:
        """Returns the numbers of a state."""
        return self.kernel.shape[2]

    @property
    def states(self) -> int:
        """Returns how many vectors the cell keeps from a step to the next: an LSTM has its memory too."""
        return 2 if self.cell == "lstm" else 1

    def parts(self, inputs: Sequence[Any]) -> tuple[Any, list[Any], Any]:
        """Returns the signal, the first states, and the mask or None, of what is in the order of `inputs`."""
        signal, *others = inputs
        return signal, others[: len(others) - self.masked], others[-1] if self.masked else None

    def output_shape(self, shapes: Sequence[Shape]) -> Shape:
        """See `Node`."""
        _check_choice(self, "cell", self.cell, tuple(CELLS))
        if not isinstance(self.masked, bool):
            raise self.refuse(f"`masked` must be true or false. Received: {self.masked!r}")
        if len(shapes) - self.masked not in (1, 1 + self.states):
            mask = ", and a mask" if self.masked else ""
            raise self.refuse(
                f"takes a signal and perhaps {self.states} first states{mask}. Received: {len(shapes)} inputs"
            )
        if np.ndim(self.kernel) != 4 or 0 in np.shape(self.kernel):
            raise self.refuse(f"`kernel` must have 4 axes, none empty. Received: {np.shape(self.kernel)}")
        units, width = self.units, len(CELLS[self.cell]) * self.units
        _check_array(self, "kernel", self.kernel, (1, 1, units, width))
        _check_array(self, "bias", self.bias, (width,))
        for name, settings in (
            (self.activation, self.settings),
            (self.gate_activation, self.gate_settings),
        ):
            _check_activation(self, name, settings)
            if name in ACROSS_CHANNELS:
                raise self.refuse(f"its activations must be computed value by value. Received: {name}")
        if not isinstance(self.memory, bool) or self.memory and self.states == 1:
            raise self.refuse(f"`memory` must be false, or true of an LSTM. Received: {self.memory!r}")
        _check_path(self, FLOAT_PATHS)
        if shapes[0][0] != 1 or shapes[0][2] != width:
            raise self.refuse(f"its signal must be [1, time, {width}]. Received: {shapes[0]}")
        _, first, mask = self.parts(shapes)
        if mask is not None and tuple(mask) != (1, 1, shapes[0][1]):
            raise self.refuse(f"its mask must be a vector of {shapes[0][1]}. Received: {mask}")
        if any(tuple(shape) != (1, 1, units) for shape in first):
            raise self.refuse(f"its first states must be vectors of {units}. Received: {first}")
        return (1, shapes[0][1], (1 + self.memory) * units)


@dataclasses.dataclass(frozen=True)
class Normalize(Node):
    """Groups of channels with mean 0 and variance 1, then scaled and shifted channel by channel.

    `(x - mean) / sqrt(variance + epsilon) * scale + shift`, the mean and the variance of what is normalized
    together.

    Attributes:
        over: What is normalized together: `"pixel"`: a group's channels at each pixel; `"image"`: all pixels
            of a group's channels.
        groups: Groups of channels, neighbours each.
        centered: Whether the mean is subtracted; if not, the variance is the mean of the squares.
        epsilon: Above 0.
        scale: float32 `[channels]`.
        shift: float32 `[channels]`.
    """

    over: str
    groups: int
    centered: bool
    epsilon: float
    scale: np.ndarray
    shift: np.ndarray

    def output_shape(self, shapes: Sequence[Shape]) -> Shape:
        """See `Node`."""
        _check_count(self, shapes, 1)
        _check_choice(self, "over", self.over, NORMALIZED)
        _check_numbers(self, "groups", (self.groups,), 1, 1)
        channels = shapes[0][2]
        if channels % self.groups:
            raise self.refuse(f"{channels} channels are not {self.groups} groups")
        if not isinstance(self.centered, bool):
            raise self.refuse(f"`centered` must be true or false. Received: {self.centered!r}")
        if not isinstance(self.epsilon, float) or not 0 < self.epsilon <= LARGEST:
            raise self.refuse(f"`epsilon` must be a float32 above 0. Received: {self.epsilon!r}")
        for name, array in (("scale", self.scale), ("shift", self.shift)):
            _check_array(self, name, array, (channels,))
        return shapes[0]


@dataclasses.dataclass(frozen=True)
class Activation(Node):
    """An activation that no operation before it could take along.

    Attributes:
        activation: One of `ACTIVATIONS`.
        settings: The activation's; none: its defaults.
    """

    activation: str
    settings: tuple[float, ...] = since_2(())

    def output_shape(self, shapes: Sequence[Shape]) -> Shape:
        """See `Node`."""
        _check_count(self, shapes, 1)
        _check_activation(self, self.activation, self.settings)
        return shapes[0]


@dataclasses.dataclass(frozen=True)
class Quantize(Node):
    """A value rounded to whole steps of 8 bits, from 0 to 255: `step * clip(round(x / step), 0, 255)`.

    Halves go to the even neighbour. The product of x and the nearest float32 to 1 / `step` is rounded; where
    the only reader of a convolution's value is such a node, the convolution's own factors have 1 / `step`
    in them. Convolutions on the path `"int8"` read the steps, all else reads the products.

    Attributes:
        step: Of float32, from 2**-40 to 2**40.
    """

    step: float

    def output_shape(self, shapes: Sequence[Shape]) -> Shape:
        """See `Node`."""
        _check_count(self, shapes, 1)
        right = isinstance(self.step, float) and STEPS[0] <= self.step <= STEPS[1]
        if not right or float(np.float32(self.step)) != self.step:
            raise self.refuse(f"`step` must be a float32 from 2**-40 to 2**40. Received: {self.step!r}")
        return shapes[0]


@dataclasses.dataclass(frozen=True)
class Flatten(Node):
    """A vector of all values, in the order of Keras's `Flatten`: rows, columns, channels."""

    def output_shape(self, shapes: Sequence[Shape]) -> Shape:
        """See `Node`."""
        _check_count(self, shapes, 1)
        return (1, 1, math.prod(shapes[0]))


@dataclasses.dataclass(frozen=True)
class Output:
    """A result of a network.

    Attributes:
        name: Its name.
        node: The index of the node whose value, a vector, it is.
        shape: The shape of an example's result as the caller gets it, of as many numbers.
    """

    name: str
    node: int
    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Graph:
    """A network: its operations in an order in which each comes after its inputs.

    Attributes:
        nodes: The first ones, at least one and no others, are `Input`s.
        outputs: The network's results; none: the last node's value, a vector, is the only one.
    """

    nodes: tuple[Node, ...]
    outputs: tuple[Output, ...] = ()

    @property
    def inputs(self) -> tuple[Input, ...]:
        """Returns the images that the network takes."""
        return tuple(itertools.takewhile(lambda node: isinstance(node, Input), self.nodes))

    @property
    def has_integers(self) -> bool:
        """Returns whether convolutions multiply whole numbers."""
        return any(isinstance(node, Conv) and node.path == INTEGER_PATH for node in self.nodes)

    def results(self, shapes: Sequence[Shape]) -> tuple[Output, ...]:
        """Returns the network's results, at least one.

        Args:
            shapes: The shapes of the nodes' values.
        """
        last = len(self.nodes) - 1
        return self.outputs or (Output(self.nodes[last].name, last, (shapes[last][2],)),)

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
        inputs = max(1, len(self.inputs))
        for index, node in enumerate(self.nodes):
            if isinstance(node, Input) != (index < inputs):
                raise node.refuse("the first nodes, and only the first, must be an Input each")
            for source in node.inputs:
                if not 0 <= source < index:
                    raise node.refuse(f"`inputs` must be nodes before it ({index}). Received: {source}")
            shape = tuple(int(size) for size in node.output_shape([shapes[i] for i in node.inputs]))
            if math.prod(shape) > MAX_VALUES:
                raise node.refuse(f"its value {shape} has more than {MAX_VALUES} numbers")
            shapes.append(shape)
            if isinstance(node, Conv) and node.path == INTEGER_PATH:
                self._check_integers(node, shapes[node.inputs[0]], shape)
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
        self._check_ends(shapes)
        return shapes

    def _check_integers(self, node: Conv, source: Shape, shape: Shape) -> None:
        """Raises a GraphError unless a convolution can be computed by whole numbers."""
        if not isinstance(self.nodes[node.inputs[0]], Quantize):
            raise node.refuse(f"on the path {INTEGER_PATH!r} its input must be a Quantize")
        if (1, 1) in (source[:2], shape[:2]):
            raise node.refuse(f"on the path {INTEGER_PATH!r} its values must have several pixels")
        products = math.prod(np.shape(node.kernel)[:3])
        if products > MAX_PRODUCTS:
            raise node.refuse(
                f"on the path {INTEGER_PATH!r} a sum may have {MAX_PRODUCTS} products. Received: {products}"
            )

    def _check_ends(self, shapes: Sequence[Shape]) -> None:
        """Raises a GraphError unless the names of inputs and outputs differ, and the outputs are vectors."""
        if not self.outputs and shapes[-1][:2] != (1, 1):
            raise self.nodes[-1].refuse(
                f"the last node must give a vector [1, 1, classes]. Received: {shapes[-1]}"
            )
        for what, ends in (("inputs", self.inputs), ("outputs", self.outputs)):
            if len({end.name for end in ends}) < len(ends):
                raise GraphError(f"a graph's {what} must have different names")
        for output in self.outputs:
            if not 0 <= output.node < len(self.nodes) or shapes[output.node][:2] != (1, 1):
                raise GraphError(f"output {output.name!r}: it must be a node that gives a vector")
            _check_given(output, "shape", output.shape, shapes[output.node][2])
        if len({output.node for output in self.outputs}) < len(self.outputs):
            raise GraphError("a graph's outputs must be different nodes")


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
            case Conv() | Activation():
                known.append(_makes_nonnegative(node))
            case Add(activation=activation):
                sum_of_such = activation == "linear" and all(known[source] for source in node.inputs)
                known.append(_makes_nonnegative(node) or sum_of_such)
            case (
                Pool()
                | GlobalPool()
                | Multiply()
                | Concatenate()
                | Flatten()
                | Gather()
                | Combine()
                | MatMul()
            ):
                known.append(all(known[source] for source in node.inputs))
            case Quantize():
                known.append(True)
            case Constant(value=value):
                known.append(bool((value >= 0).all()))
            case _:
                known.append(False)
    return known


def _makes_nonnegative(node: Conv | Add | Activation) -> bool:
    if node.activation == "clip":
        return (node.settings or ACTIVATIONS["clip"])[0] >= 0
    if node.activation == "general_relu":
        slope, largest, threshold = node.settings or ACTIVATIONS["general_relu"]
        return slope == 0 and min(largest, threshold) >= 0
    return node.activation in _NONNEGATIVE


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


def _check_given(end: Node | Output, name: str, given: tuple[int, ...], numbers: int) -> None:
    """Raises a GraphError unless the shape that a caller sees has so many numbers."""
    right = isinstance(given, tuple) and len(given) <= MAX_AXES and all(type(size) is int for size in given)
    if not right or min(given, default=1) < 1 or math.prod(given) != numbers:
        rule = f"`{name}` must be at most {MAX_AXES} sizes above 0 of {numbers} numbers. Received: {given}"
        raise GraphError(f"{type(end).__name__} {end.name!r}: {rule}")


def _check_activation(node: Node, activation: str, settings: tuple[float, ...]) -> None:
    """Raises a GraphError unless an activation is known, and its settings are none or as many as it has."""
    _check_choice(node, "activation", activation, tuple(ACTIVATIONS))
    count = len(ACTIVATIONS[activation])
    right = isinstance(settings, tuple) and len(settings) in (0, count)
    if not right or not all(isinstance(number, float) and abs(number) <= LARGEST for number in settings):
        raise node.refuse(f"`settings` of {activation} must be {count} float32 numbers. Received: {settings}")


def _check_path(node: Conv | Recurrent, paths: Sequence[str]) -> None:
    """Raises a GraphError unless a node's path is one of its kind's, and its costs are times of such."""
    _check_choice(node, "path", node.path, paths)
    for name, cost in node.costs.items():
        _check_choice(node, "costs", name, paths)
        if not isinstance(cost, numbers.Real) or not 0 <= cost < math.inf:
            raise node.refuse(f"`costs` must be microseconds of at least 0. Received: {name}={cost!r}")


def _check_array(node: Node, name: str, array: np.ndarray | SparseArray, shape: tuple[int, ...]) -> None:
    """Raises a GraphError unless a weight has its shape, is float32 and finite."""
    if not isinstance(array, np.ndarray | SparseArray):
        raise node.refuse(f"`{name}` must be an array. Received: {type(array).__name__}")
    values = array.values if isinstance(array, SparseArray) else array
    if np.shape(array) != shape or array.dtype != np.float32:
        raise node.refuse(f"`{name}` must be float32 {shape}. Received: {array.dtype} {array.shape}")
    if not np.isfinite(values).all():
        raise node.refuse(f"`{name}` must be finite. Received: values that are not")
