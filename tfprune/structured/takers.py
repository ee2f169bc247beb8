"""Kernels that take channels: where the channels lie in what a layer is given, and where a constant goes."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import keras
import numpy as np
from keras import ops

from tfprune.channels.groups import Traced
from tfprune.channels.labels import FIXED
from tfprune.channels.rules.kernels import BIASED
from tfprune.channels.trace import INSIDE, Slice
from tfprune.network.graph import all_layers
from tfprune.network.kinds import builtin_layer, kernels
from tfprune.network.wrapping import unwrapped


@dataclass(frozen=True, eq=False)
class Taker:
    """A kernel that multiplies channels and adds them up.

    A feature is what one place of the kernel's axes multiplies: a channel, or a channel at one of the
    positions that were flattened.

    Attributes:
        layer: The layer whose first input has the channels.
        owner: The layer that has the kernel: `layer`, or its cell.
        kernel: The kernel.
        axes: The axes of the kernel that number the features.
        labels: The label of each feature.
        joint: Whether features of the same label are channels of their own, and not a channel at several
            positions.
        features: A function from an input of the layer to its features, `[samples, features]`.
        constant: A function from what a constant adds, in the kernel's shape without the features' axes, to
            what it adds to the bias.
        within: Whether it takes what the layer of the slice made itself.
    """

    layer: keras.layers.Layer
    owner: keras.layers.Layer
    kernel: keras.Variable
    axes: tuple[int, ...]
    labels: np.ndarray
    joint: bool
    features: Callable[[Any], np.ndarray]
    constant: Callable[[np.ndarray], np.ndarray]
    within: bool = False

    @cached_property
    def blocks(self) -> list[np.ndarray]:
        """The features as `[positions, channels]`; several, where channels have not as many positions."""
        every = np.arange(len(self.labels))
        found, counts = np.unique(self.labels[self.labels != FIXED], return_counts=True)
        if self.joint or (counts == 1).all():
            return [every[None]]
        # What is fixed is no channel at several positions.
        return [
            np.stack([every[self.labels == label] for label in found[counts == count]], 1)
            for count in np.unique(counts)
        ]

    @property
    def rest(self) -> tuple[int, ...]:
        """The kernel's shape without the features' axes."""
        return tuple(size for axis, size in enumerate(self.kernel.shape) if axis not in self.axes)

    @property
    def gains_bias(self) -> bool:
        """Whether the layer has no bias, and can be given one."""
        return getattr(self.owner, "bias", None) is None and builtin_layer(self.owner) in BIASED


def takers(traced: Traced, operation: Any) -> list[Taker]:
    """Returns the kernels of a layer that take channels.

    They are those of dense layers, of convolutions, of attention's projections and of recurrent layers'
    inputs, of Keras's own classes. A recurrent kernel is none, since what it takes stays inside a loop; nor
    is that of a depthwise or a grouped convolution, which does not add up all channels.
    """
    found, holder = [], unwrapped(operation)
    for one in _slices(traced, operation):
        owner = _owner(one) if one.role == "takes" else None
        make = _MAKERS.get(builtin_layer(owner) or "")
        taker = make(owner, one) if make is not None and not _is_quantized(owner) else None
        if taker is not None and builtin_layer(holder) == "TimeDistributed":
            taker = replace(taker, layer=holder)  # Each step may be in a compiled loop.
        if taker is not None:
            found.append(replace(taker, within=one.input == INSIDE))
    return found


def _slices(traced: Traced, operation: Any) -> Iterator[Slice]:
    """Yields those of a layer, and of a layer that it holds."""
    cut = traced.trace.cuts.get(id(operation))
    if cut is not None:
        yield from cut.slices
        for step in cut.held.values():
            yield from _slices(traced, step.operation)


def _owner(one: Slice) -> keras.layers.Layer | None:
    """Returns the layer that has a weight: the one of the slice, or one in it."""
    for part in all_layers(one.layer):
        if any(kernel.variable is one.variable for kernel in kernels(part)):
            return part
    return None


def _is_quantized(layer: Any) -> bool:
    return getattr(layer, "quantization_mode", None) is not None


def _of_last_axis(tensor: Any) -> np.ndarray:
    array = np.asarray(ops.convert_to_numpy(tensor))
    return array.reshape(-1, array.shape[-1])


def _of_channels(layer: Any, rank: int) -> Callable[[Any], np.ndarray]:
    """Returns a function from what a convolution with `rank` axes of positions takes to its features."""
    first = layer.data_format == "channels_first"
    return lambda tensor: _of_last_axis(ops.moveaxis(tensor, -rank - 1, -1) if first else tensor)


def _over_positions(products: np.ndarray) -> np.ndarray:
    """Returns the sum over the positions of a kernel; padded borders meet fewer, which counts for little."""
    return products.reshape(-1, products.shape[-1]).sum(0)


def _dense(layer: Any, one: Slice) -> Taker:
    return Taker(layer, layer, one.variable, (0,), one.labels, False, _of_last_axis, _over_positions)


def _convolution(layer: Any, one: Slice) -> Taker:
    axes = (one.axis % len(one.variable.shape),)
    return Taker(
        layer, layer, one.variable, axes, one.labels, True, _of_channels(layer, layer.rank), _over_positions
    )


def _transposed_convolution(layer: Any, one: Slice) -> Taker:
    axes = (one.axis % len(one.variable.shape),)
    strides = layer.strides if isinstance(layer.strides, tuple) else (layer.strides,) * layer.rank
    share = 1 / math.prod(strides)  # Of the kernel's positions, that an output meets.
    return Taker(
        *(layer, layer, one.variable, axes, one.labels, True, _of_channels(layer, layer.rank)),
        lambda products: share * _over_positions(products),
    )


def _separable_convolution(layer: Any, one: Slice) -> Taker:
    """Makes that of the pointwise kernel: it takes what the depthwise one makes."""
    channels = _of_channels(layer, layer.rank)

    def features(tensor: Any) -> np.ndarray:
        between = ops.depthwise_conv(
            ops.cast(tensor, layer.compute_dtype),
            ops.cast(layer.depthwise_kernel, layer.compute_dtype),
            strides=layer.strides,
            padding=layer.padding,
            data_format=layer.data_format,
            dilation_rate=layer.dilation_rate,
        )
        return channels(between)

    kernel = layer.pointwise_kernel
    labels = np.repeat(one.labels, layer.depth_multiplier)
    return Taker(layer, layer, kernel, (len(kernel.shape) - 2,), labels, True, features, _over_positions)


def _einsum_dense(layer: Any, one: Slice) -> Taker | None:
    """Makes that of the letters that are summed: those of the input and the kernel alone."""
    operands, _, output = layer.equation.replace(" ", "").partition("->")
    inputs, _, kernel = operands.partition(",")
    summed = [letter for letter in kernel if letter in inputs and letter not in output]
    if inputs.endswith("."):
        return None
    letters = inputs.rpartition("...")[2]
    axis_of = {letter: axis - len(letters) for axis, letter in enumerate(letters)}
    if not set(summed) <= set(letters):
        return None

    def features(tensor: Any) -> np.ndarray:
        array = np.asarray(ops.convert_to_numpy(tensor))
        places = [axis_of[letter] % array.ndim for letter in summed]
        others = [axis for axis in range(array.ndim) if axis not in places]
        sizes = [array.shape[place] for place in places]
        return array.transpose(*others, *places).reshape(-1, math.prod(sizes))

    def constant(products: np.ndarray) -> np.ndarray:
        letters = [letter for letter in kernel if letter not in summed]
        spec = output.replace(".", "")
        spec = spec[min(spec.index(letter) for letter in layer.bias_axes) :]
        for letter in [letter for letter in letters if letter not in layer.bias_axes]:
            products = products.mean(letters.index(letter))
            letters.remove(letter)
        products = products.transpose([letters.index(letter) for letter in spec if letter in letters])
        sizes = iter(products.shape)
        shape = [next(sizes) if letter in letters else 1 for letter in spec]
        return products.reshape(shape + [1] * (len(layer.bias.shape) - len(shape)))

    axes = tuple(kernel.index(letter) for letter in summed)
    sizes = [layer.kernel.shape[axis] for axis in axes]
    along = [-1 if axis == one.axis % len(kernel) else 1 for axis in axes]
    labels = np.broadcast_to(one.labels.reshape(along), sizes).ravel()
    return Taker(layer, layer, one.variable, axes, labels, len(axes) > 1, features, constant)


def _cell(cell: Any, one: Slice) -> Taker | None:
    """Makes that of a recurrent layer's input."""
    if one.input == INSIDE:
        return None
    layer = next(part for part in all_layers(one.layer) if getattr(part, "cell", None) is cell)
    rank = len(one.variable.shape) - 2
    axes = (rank,)

    def constant(products: np.ndarray) -> np.ndarray:
        # A GRU may have a second bias, of what comes from the units.
        added = np.zeros(cell.bias.shape)
        added.reshape(-1, products.shape[-1])[0] = _over_positions(products)
        return added

    features = _of_channels(layer, rank) if rank else _of_last_axis
    return Taker(layer, cell, one.variable, axes, one.labels, bool(rank), features, constant)


_MAKERS: dict[str, Callable[[Any, Slice], Taker | None]] = {
    "Dense": _dense,
    **dict.fromkeys(("Conv1D", "Conv2D", "Conv3D"), _convolution),
    **dict.fromkeys(("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"), _transposed_convolution),
    **dict.fromkeys(("SeparableConv1D", "SeparableConv2D"), _separable_convolution),
    "EinsumDense": _einsum_dense,
    **dict.fromkeys(("LSTMCell", "GRUCell", "SimpleRNNCell", "ConvLSTMCell"), _cell),
}
