"""Kernels as matrices, and the Gram matrices of what these multiply.

A layer with a kernel multiplies rows of numbers by a matrix: a dense layer its inputs, a convolution the
patches under its window. `product_of` finds rows and matrix; a `Gram` sums up `rows.T @ rows` over batches,
which is all that least squares needs to know of them.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from tfprune.network.kinds import Kernel, kind_of
from tfprune.network.windows import same_padding

# Numbers of rows that are held at a time, at most.
_CHUNK = 2**24
# Rows of sums that are computed at a time.
_ROWS = 512
# The inputs of a dense layer that all are multiplied with one another, at most: those of a wider one are in
# blocks.
_WIDEST = 4096


class Covariance:
    """Sums of products of columns with columns, around their means, over batches.

    Batches are joined by the rule of Chan, Golub and LeVeque (1983), which keeps a small variance around a
    large mean.

    Args:
        columns: The number of columns.
        given: The columns, from the last, with which all are multiplied. Default: all.
        positions: The number of positions; each has means of its own, and all have their products together.
        dtype: The type that products are computed and summed in.
    """

    def __init__(
        self, columns: int, given: int | None = None, positions: int = 1, dtype: Any = np.float64
    ) -> None:
        self.given = columns if given is None else given
        self.count = 0
        self.mean = np.zeros((positions, columns))
        self._sums = np.zeros((columns, self.given), dtype)
        # What the moves of the mean add: one product for many batches.
        self._moves: list[tuple[np.ndarray, np.ndarray]] = []
        self._dtype = dtype

    @property
    def sums(self) -> np.ndarray:
        """The sums, `[columns, given]`."""
        self._take_moves()
        return self._sums

    @property
    def samples(self) -> int:
        """The number of rows, those of all positions together."""
        return self.count * len(self.mean)

    def add(self, values: np.ndarray) -> None:
        """Adds rows.

        Args:
            values: `[rows, positions, columns]`; overwritten.
        """
        mean, before = values.mean(0, dtype=np.float64), self.count
        self.count += len(values)
        step = mean - self.mean
        self.mean += step * (len(values) / self.count)
        values -= mean.astype(values.dtype)
        values = values.reshape(-1, values.shape[-1]).astype(self._dtype, copy=False)
        first = values.shape[-1] - self.given
        right = values[:, first:]
        # The product of a matrix with itself takes half the time.
        self._sums[first:] += right.T @ right
        if first:
            self._sums[:first] += values[:, :first].T @ right
        if before:
            share = before * (self.count - before) / self.count
            self._moves.append((share * step, step[:, first:]))
            if len(self._moves) * len(step) >= _ROWS:
                self._take_moves()

    def _take_moves(self) -> None:
        if not self._moves:
            return
        scaled, steps = (np.concatenate(each) for each in zip(*self._moves, strict=True))
        for start in range(0, len(self._sums), _ROWS):
            cut = slice(start, start + _ROWS)
            self._sums[cut] += scaled[:, cut].T @ steps
        self._moves = []


Places = Callable[[int], Any]
"""A function from the number of rows to the index of those that are looked at."""


def every(count: int) -> slice:
    """Returns the index of all rows."""
    return slice(None)


@dataclass(frozen=True)
class Product:
    """A kernel as matrices, one a group, that multiply rows.

    Attributes:
        kernel: The kernel.
        source: The layer whose first input the rows are made of: the kernel's, or one that holds it.
        rows: A function from that input, and `Places`, to `[groups, rows, inputs]`.
        split: The kernel's shape with groups apart; perhaps with more inputs, the last, which are zero.
        order: The axes of `split`: groups, inputs, outputs.
        counts: How many of these axes are of groups, inputs and outputs.
        bias: A function from what is to be added to each output, `[groups, outputs]`, to an array of the
            shape of the layer's bias; None where there is no bias.
    """

    kernel: Kernel
    source: keras.layers.Layer
    rows: Callable[..., np.ndarray]
    split: tuple[int, ...]
    order: tuple[int, ...]
    counts: tuple[int, int, int]
    bias: Callable[[np.ndarray], np.ndarray] | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Groups, inputs and outputs."""
        sizes = [self.split[axis] for axis in self.order]
        ends = np.cumsum(self.counts)
        return tuple(math.prod(sizes[start:end]) for start, end in zip((0, *ends[:-1]), ends, strict=True))

    def matrices(self, values: np.ndarray) -> np.ndarray:
        """Returns an array of the kernel's shape as `[groups, inputs, outputs]`."""
        added = math.prod(self.split) - values.size
        if added:
            values = np.concatenate([values.ravel(), np.zeros(added, values.dtype)])
        return values.reshape(self.split).transpose(self.order).reshape(self.shape)

    def values(self, matrices: np.ndarray) -> np.ndarray:
        """Returns `[groups, inputs, outputs]` as an array of the kernel's shape."""
        sizes = [self.split[axis] for axis in self.order]
        back = matrices.reshape(sizes).transpose(np.argsort(self.order))
        shape = tuple(self.kernel.variable.shape)
        return np.ascontiguousarray(back).ravel()[: math.prod(shape)].reshape(shape)


def product_of(kernel: Kernel, holder: keras.layers.Layer | None = None) -> Product | None:
    """Returns a kernel as matrices.

    Args:
        kernel: A kernel of a built layer.
        holder: The `TimeDistributed` that calls the layer, whose calls cannot be seen; None without one.

    Returns:
        The matrices; None for a kernel that multiplies nothing that can be seen: tables, those of recurrent
        cells, and those of layers whose class is not known.
    """
    kind, layer = kind_of(kernel.layer), kernel.layer
    if kind is None or kind.cell or not any(entry.name == kernel.name for entry in kind.kernels):
        return None
    if getattr(layer, "quantization_mode", None) is not None:
        return None
    make = _MAKERS.get(_class_name(layer), {}).get(kernel.name)
    product = make(kernel) if make is not None else None
    if product is None or holder is None:
        return product
    rows = product.rows

    def rows_of_steps(tensor: Any, places: Places = every) -> np.ndarray:
        array = _array(tensor)
        return rows(array.reshape(-1, *array.shape[2:]), places)

    return Product(kernel, holder, rows_of_steps, product.split, product.order, product.counts, product.bias)


class Gram:
    """The sums over batches from which least squares follows, for the rows of a product.

    With rows X and, of the layer as it was, the outputs Y: `X.T @ X` and `X.T @ Y`, around their means, and
    the sums of squares of Y.

    Args:
        product: The product.
        limit: The number of rows of a batch that are looked at, at most, evenly spread; None: all.
    """

    def __init__(self, product: Product, limit: int | None = None) -> None:
        groups, inputs, outputs = product.shape
        self._product, self._inputs, self._limit = product, inputs, limit
        # Of outputs with outputs squares alone are needed: a table of a vocabulary is wide.
        self._parts = [Covariance(outputs + inputs, inputs, dtype=np.float32) for _ in range(groups)]
        self._squares = [_Squares(outputs) for _ in range(groups)]

    def add(self, given: Any, before: Any, matrices: np.ndarray) -> None:
        """Adds a batch.

        Args:
            given: The layer's input as it is.
            before: The layer's input as it was, which may be the same object.
            matrices: The kernel as it was, `[groups, inputs, outputs]`, float32.
        """
        rows = self._product.rows(given, self._places)
        wanted = rows if before is given else self._product.rows(before, self._places)
        for part, own, x, x0, matrix in zip(self._parts, self._squares, rows, wanted, matrices, strict=True):
            step = max(1, _CHUNK // sum(matrix.shape))
            for start in range(0, len(x), step):
                y = x0[start : start + step] @ matrix
                part.add(np.concatenate([y, x[start : start + step]], 1)[:, None])
                own.add(y)

    def _places(self, count: int) -> Any:
        if self._limit is None or count <= self._limit:
            return every(count)
        return np.linspace(0, count - 1, self._limit).astype(int)

    @property
    def samples(self) -> int:
        """The number of rows of a group."""
        return self._parts[0].count

    def sums(self, centred: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns `X.T @ X`, `X.T @ Y` and the sums of squares of Y, over the number of rows.

        Args:
            centred: Whether around the means.

        Returns:
            float32 `[groups, inputs, inputs]` and `[groups, inputs, outputs]`, float64 `[groups, outputs]`.
        """
        sums = np.stack([part.sums for part in self._parts])
        sums /= max(self.samples, 1)
        energy = np.stack([own.sums / max(self.samples, 1) for own in self._squares])
        if not centred:
            given, wanted = self.means
            for one, left, right in zip(sums, np.concatenate([wanted, given], 1), given, strict=True):
                for start in range(0, len(one), _ROWS):
                    one[start : start + _ROWS] += left[start : start + _ROWS, None] * right
            energy += wanted**2
        cross, gram = np.split(sums, [energy.shape[1]], 1)
        return gram, cross.transpose(0, 2, 1), energy

    @property
    def means(self) -> tuple[np.ndarray, np.ndarray]:
        """The means of X, `[groups, inputs]`, and of Y, `[groups, outputs]`."""
        means = np.stack([part.mean[0] for part in self._parts])
        wanted, given = np.split(means, [means.shape[1] - self._inputs], 1)
        return given, wanted


class _Squares:
    """Sums of the squares of columns around their means, over batches, as `Covariance` joins them."""

    def __init__(self, columns: int) -> None:
        self.count, self.mean, self.sums = 0, np.zeros(columns), np.zeros(columns)

    def add(self, values: np.ndarray) -> None:
        mean, before = values.mean(0, dtype=np.float64), self.count
        self.count += len(values)
        step = mean - self.mean
        self.mean += step * (len(values) / self.count)
        apart = values - mean.astype(values.dtype)
        self.sums += np.einsum("ij,ij->j", apart, apart, dtype=np.float64)
        self.sums += before * len(values) / self.count * step**2


def _class_name(layer: keras.layers.Layer) -> str:
    return next((cls.__name__ for cls in type(layer).__mro__ if cls.__name__ in _MAKERS), "")


def _array(tensor: Any) -> np.ndarray:
    if isinstance(tensor, np.ndarray):
        return tensor
    array = np.asarray(ops.convert_to_numpy(ops.convert_to_tensor(tensor)))
    return array


def _plain_bias(layer: Any) -> Callable[[np.ndarray], np.ndarray] | None:
    return (lambda added: added.ravel()) if getattr(layer, "bias", None) is not None else None


def _dense(kernel: Kernel) -> Product:
    inputs, outputs = kernel.variable.shape

    def rows(tensor: Any, places: Places = every) -> np.ndarray:
        array = _array(tensor).reshape(1, -1, inputs)
        return array[:, places(array.shape[1])].astype(np.float32, copy=False)

    layer, bias = kernel.layer, _plain_bias(kernel.layer)
    if inputs <= _WIDEST:
        return Product(kernel, layer, rows, (inputs, outputs), (0, 1), (0, 1, 1), bias)
    # As groups, each of which makes its part of the outputs.
    blocks = -(-inputs // _WIDEST)
    wide = -(-inputs // blocks)

    def rows_of_blocks(tensor: Any, places: Places = every) -> np.ndarray:
        array = rows(tensor, places)[0]
        array = np.pad(array, [(0, 0), (0, blocks * wide - inputs)])
        return array.reshape(-1, blocks, wide).transpose(1, 0, 2)

    summed = None if bias is None else lambda added: bias(added.sum(0))
    return Product(kernel, layer, rows_of_blocks, (blocks, wide, outputs), (0, 1, 2), (1, 1, 1), summed)


def _last(array: np.ndarray, layer: Any) -> np.ndarray:
    """Returns what a convolution takes with its channels last, float32."""
    array = array.astype(np.float32, copy=False)
    return np.moveaxis(array, 1, -1) if layer.data_format == "channels_first" else array


def _numbers(value: Any, rank: int) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,) * rank


def _windows(
    array: np.ndarray,
    window: Sequence[int],
    strides: Sequence[int],
    dilation: Sequence[int],
    padding: Sequence[tuple[int, int]],
    places: Places,
) -> np.ndarray:
    """Returns the patches under a window that moves.

    Args:
        array: `[n, *sizes, channels]`.
        window, strides, dilation, padding: For each axis of positions.
        places: Which of the patches, ordered by examples and positions.

    Returns:
        `[patches, taps, channels]`.
    """
    array = np.pad(array, [(0, 0), *padding, (0, 0)])
    reach = [(taps - 1) * rate + 1 for taps, rate in zip(window, dilation, strict=True)]
    sizes = [
        (size - far) // stride + 1
        for size, far, stride in zip(array.shape[1:-1], reach, strides, strict=True)
    ]
    counts = (len(array), *sizes)
    chosen = np.arange(math.prod(counts))[places(math.prod(counts))]
    examples, *starts = np.unravel_index(chosen, counts)
    starts = [start * stride for start, stride in zip(starts, strides, strict=True)]
    patches = np.empty((len(chosen), math.prod(window), array.shape[-1]), array.dtype)
    for number, tap in enumerate(np.ndindex(*window)):
        at = [start + place * rate for start, place, rate in zip(starts, tap, dilation, strict=True)]
        patches[:, number] = array[(examples, *at)]
    return patches


def _padding(
    layer: Any, sizes: Sequence[int], window: Sequence[int], strides: Sequence[int], dilation: Sequence[int]
) -> list[tuple[int, int]]:
    if layer.padding == "same":
        flat = same_padding(tuple(sizes), tuple(window), tuple(strides), tuple(dilation))
        return list(zip(flat[::2], flat[1::2], strict=True))
    if layer.padding == "causal":
        return [(dilation[0] * (window[0] - 1), 0)]
    return [(0, 0)] * len(window)


def _patches(layer: Any, tensor: Any, window: Sequence[int], places: Places) -> np.ndarray:
    """Returns the patches that a convolution's kernel meets, `[rows, taps, channels]`."""
    array, rank = _last(_array(tensor), layer), len(window)
    strides, dilation = _numbers(layer.strides, rank), _numbers(layer.dilation_rate, rank)
    padding = _padding(layer, array.shape[1:-1], window, strides, dilation)
    return _windows(array, window, strides, dilation, padding, places)


def _by_group(patches: np.ndarray, groups: int) -> np.ndarray:
    """Returns `[rows, taps, channels]` as `[groups, rows, taps * channels of a group]`."""
    rows, taps, channels = patches.shape
    if groups == 1:
        return patches.reshape(1, rows, -1)
    apart = patches.reshape(rows, taps, groups, channels // groups)
    return np.ascontiguousarray(apart.transpose(2, 0, 1, 3)).reshape(groups, rows, -1)


def _convolution(kernel: Kernel) -> Product:
    *window, inputs, outputs = kernel.variable.shape
    layer, groups = kernel.layer, kernel.groups
    taps = math.prod(window)
    return Product(
        kernel,
        layer,
        lambda tensor, places=every: _by_group(_patches(layer, tensor, window, places), groups),
        (taps, inputs, groups, outputs // groups),
        (2, 0, 1, 3),
        (1, 2, 1),
        _plain_bias(layer),
    )


def _depthwise(kernel: Kernel) -> Product:
    *window, channels, multiplier = kernel.variable.shape
    layer, taps = kernel.layer, math.prod(window)
    # The bias of a separable convolution is that of its second product.
    bias = _plain_bias(layer) if kernel.name == "kernel" else None
    return Product(
        kernel,
        layer,
        lambda tensor, places=every: _by_group(_patches(layer, tensor, window, places), channels),
        (taps, channels, multiplier),
        (1, 0, 2),
        (1, 1, 1),
        bias,
    )


def _pointwise(kernel: Kernel) -> Product:
    layer = kernel.layer
    inputs, outputs = kernel.variable.shape[-2:]
    rank = len(kernel.variable.shape) - 2

    def rows(tensor: Any, places: Places = every) -> np.ndarray:
        between = ops.depthwise_conv(
            ops.convert_to_tensor(tensor, layer.compute_dtype),
            ops.cast(layer.depthwise_kernel, layer.compute_dtype),
            strides=layer.strides,
            padding=layer.padding if layer.padding != "causal" else "valid",
            data_format=layer.data_format,
            dilation_rate=layer.dilation_rate,
        )
        array = _last(_array(between), layer).reshape(1, -1, inputs)
        return array[:, places(array.shape[1])]

    if layer.padding == "causal":
        return None
    split = (*(1,) * rank, inputs, outputs)
    return Product(kernel, layer, rows, split, tuple(range(rank + 2)), (0, rank + 1, 1), _plain_bias(layer))


def _transposed(kernel: Kernel) -> Product | None:
    """Makes the rows of a transposed convolution: the window moves over the input with zeros between."""
    *window, outputs, inputs = kernel.variable.shape
    layer, rank = kernel.layer, len(window)
    strides, dilation = _numbers(layer.strides, rank), _numbers(layer.dilation_rate, rank)
    if layer.output_padding is not None:
        return None

    def rows(tensor: Any, places: Places = every) -> np.ndarray:
        array = _last(_array(tensor), layer)
        sizes = array.shape[1:-1]
        spread = np.zeros(
            (
                len(array),
                *((size - 1) * s + 1 for size, s in zip(sizes, strides, strict=True)),
                array.shape[-1],
            ),
            np.float32,
        )
        spread[(slice(None), *(slice(None, None, s) for s in strides))] = array
        padding = []
        for size, taps, stride, rate in zip(sizes, window, strides, dilation, strict=True):
            reach = (taps - 1) * rate + 1
            over = max(reach - stride, 0)
            length = size * stride + (0 if layer.padding == "same" else over)
            before = reach - 1 - (over // 2 if layer.padding == "same" else 0)
            padding.append((before, length + reach - 1 - before - ((size - 1) * stride + 1)))
        patches = _windows(spread, window, (1,) * rank, dilation, padding, places)
        # Output o gets tap k of input (o - k): the window is turned round.
        return patches[:, ::-1].reshape(1, -1, math.prod(window) * inputs)

    split = (math.prod(window), outputs, inputs)
    return Product(kernel, layer, rows, split, (0, 2, 1), (0, 2, 1), _plain_bias(layer))


def _einsum(kernel: Kernel) -> Product | None:
    layer = kernel.layer
    operands, _, output = layer.equation.replace(" ", "").partition("->")
    inputs, _, letters = operands.partition(",")
    if inputs.endswith("."):
        return None
    start, _, end = inputs.rpartition("...")
    known = end if "..." in inputs else inputs
    shared = [letter for letter in letters if letter in inputs and letter in output]
    summed = [letter for letter in letters if letter in inputs and letter not in output]
    made = [letter for letter in letters if letter not in inputs]
    # Letters that the input alone sums over, or places that cannot be counted from the end.
    alone = [letter for letter in inputs.replace(".", "") if letter not in letters and letter not in output]
    lost = [letter for letter in made if letter not in output]
    if start or alone or lost or not set(shared + summed) <= set(known) or not summed:
        return None
    place = {letter: axis - len(known) for axis, letter in enumerate(known)}
    sizes = {letter: kernel.variable.shape[axis] for axis, letter in enumerate(letters)}

    def rows(tensor: Any, places: Places = every) -> np.ndarray:
        array = _array(tensor).astype(np.float32, copy=False)
        first = [place[letter] % array.ndim for letter in shared]
        last = [place[letter] % array.ndim for letter in summed]
        others = [axis for axis in range(array.ndim) if axis not in first + last]
        moved = np.ascontiguousarray(array.transpose(*first, *others, *last))
        groups = math.prod(sizes[letter] for letter in shared)
        moved = moved.reshape(groups, -1, math.prod(sizes[letter] for letter in summed))
        return moved[:, places(moved.shape[1])]

    bias = None
    if getattr(layer, "bias", None) is not None:

        def bias(added: np.ndarray) -> np.ndarray:
            left = shared + made
            added = added.reshape([sizes[letter] for letter in left])
            for letter in [letter for letter in left if letter not in layer.bias_axes]:
                added = added.mean(left.index(letter))
                left.remove(letter)
            spec = output.replace(".", "")
            spec = spec[min(spec.index(letter) for letter in layer.bias_axes) :]
            added = added.transpose([left.index(letter) for letter in spec if letter in left])
            lengths = iter(added.shape)
            shape = [next(lengths) if letter in left else 1 for letter in spec]
            return np.broadcast_to(
                added.reshape(shape + [1] * (len(layer.bias.shape) - len(shape))), layer.bias.shape
            )

    order = tuple(letters.index(letter) for letter in (*shared, *summed, *made))
    counts = (len(shared), len(summed), len(made))
    return Product(kernel, layer, rows, tuple(kernel.variable.shape), order, counts, bias)


_MAKERS: dict[str, dict[str, Callable[[Kernel], Product | None]]] = {
    "Dense": {"kernel": _dense},
    "EinsumDense": {"kernel": _einsum},
    **dict.fromkeys(("Conv1D", "Conv2D", "Conv3D"), {"kernel": _convolution}),
    **dict.fromkeys(("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"), {"kernel": _transposed}),
    **dict.fromkeys(("DepthwiseConv1D", "DepthwiseConv2D"), {"kernel": _depthwise}),
    **dict.fromkeys(
        ("SeparableConv1D", "SeparableConv2D"),
        {"depthwise_kernel": _depthwise, "pointwise_kernel": _pointwise},
    ),
}
