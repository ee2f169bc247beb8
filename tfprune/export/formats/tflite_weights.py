"""Reads the weights out of a TFLite flatbuffer, as the runtime will see them, and finds a kernel among them.

Float16 tensors, sparse encodings and quantised integers are decoded here from the file's bytes,
without the interpreter, so that an audit does not depend on what a delegate does with them.
Schema: tensorflow/compiler/mlir/lite/schema/schema.fbs.
"""

import dataclasses
import itertools
import struct
from collections.abc import Sequence

import numpy as np

from tfprune.extras import extra

with extra("export"):
    from ai_edge_litert import schema_py_generated as schema

_NUMPY_TYPES = {
    schema.TensorType.FLOAT32: np.float32,
    schema.TensorType.FLOAT16: np.float16,
    schema.TensorType.INT8: np.int8,
    schema.TensorType.UINT8: np.uint8,
}

# The right tensor differs from the kernel by a factor for each output channel (BatchNorm, folded
# in) and by rounding; int8 leaves a cosine above 0.99. Unrelated tensors are near 0.
MIN_SIMILARITY = 0.95


# Some layers compute with slices of their kernel, such as the gates of a ConvLSTM and groups of channels.
_MOST_SLICES = 8


@dataclasses.dataclass(frozen=True)
class TFLiteWeights:
    """A constant of two axes or more that may be the weights of an operator.

    Attributes:
        name: The tensor's name in the file.
        values: The decoded values, float32, in the file's layout.
    """

    name: str
    values: np.ndarray


def read_weights(flatbuffer: bytes) -> list[TFLiteWeights]:
    """Decodes every constant of a file that may be weights: numbers in two axes or more.

    Args:
        flatbuffer: The file.

    Returns:
        One entry for each that is stored, in the order of the file; one that is used twice appears once.

    Raises:
        ValueError: The file is not whole, or a constant is not what its encoding says.
    """
    try:
        model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(flatbuffer))
    except struct.error as error:
        raise ValueError(f"not a whole TFLite file: {error}") from error
    found: dict[int, TFLiteWeights] = {}
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            if tensor.buffer in found or tensor.type not in _NUMPY_TYPES or np.size(tensor.shape) < 2:
                continue
            data = _buffer(model, tensor, flatbuffer)
            if data is not None:
                found[tensor.buffer] = TFLiteWeights(tensor.name.decode(), decode_tensor(tensor, data))
    return list(found.values())


def decode_tensor(tensor: schema.TensorT, data: bytes) -> np.ndarray:
    """Decodes a constant: expands a sparse encoding, then removes the quantisation.

    Quantised values q stand for `scale * (q - zero_point)`, with one scale for the tensor or one
    for each index of the quantised dimension.

    Args:
        tensor: The tensor's table in the flatbuffer.
        data: Its buffer.

    Returns:
        float32 values in the tensor's shape.

    Raises:
        ValueError: The type or the encoding is unknown, or the buffer does not fit it.
    """
    name = tensor.name.decode()
    if tensor.type not in _NUMPY_TYPES:
        raise ValueError(f"cannot decode TFLite type {tensor.type} of tensor {name!r}")
    stored = np.frombuffer(data, _NUMPY_TYPES[tensor.type])
    shape = tuple(int(size) for size in tensor.shape)
    quantization = tensor.quantization
    quantised = quantization is not None and quantization.scale is not None
    if quantised and len(quantization.scale):
        zero_points = np.asarray(quantization.zeroPoint, np.int64)
    else:
        quantised, zero_points = False, np.zeros(1, np.int64)
    if tensor.sparsity is not None:
        # What a sparse encoding leaves out is the stored number 0, as the runtime's kernels do.
        values = expand_sparse(stored, shape, tensor.sparsity)
    elif stored.size == np.prod(shape, dtype=np.int64):
        values = stored.reshape(shape)
    else:
        raise ValueError(f"tensor {name!r} of shape {shape} has {stored.size} values")
    if not quantised:
        return values.astype(np.float32)
    along = [1] * len(shape)
    if len(quantization.scale) > 1:
        along[quantization.quantizedDimension] = -1
    scales = np.asarray(quantization.scale, np.float32).reshape(along)
    if len(zero_points) > 1:
        zero_points = zero_points.reshape(along)
    return (values.astype(np.int64) - zero_points).astype(np.float32) * scales


def expand_sparse(
    stored: np.ndarray, shape: tuple[int, ...], sparsity: schema.SparsityParametersT
) -> np.ndarray:
    """Expands TFLite's sparse encoding (that of the TACO compiler, arXiv:1802.10574).

    The encoding is a tree with one level a dimension, in the traversal order; dimensions from
    `len(shape)` on are blocks, each within the dimension that the block map names. A dense level
    has every child; a compressed (CSR) level lists its children's indices in segments. The leaves,
    in order, are the stored values.

    Args:
        stored: The stored values.
        shape: The tensor's shape.
        sparsity: Traversal order, block map and the levels' metadata.

    Returns:
        The dense tensor, zero where nothing is stored.

    Raises:
        ValueError: The metadata do not describe `stored` or leave the shape.
    """
    block_map = _integers(sparsity.blockMap)
    coordinates: dict[int, np.ndarray] = {}
    sizes: dict[int, int] = {}
    nodes = 1
    for dimension, level in zip(_integers(sparsity.traversalOrder), sparsity.dimMetadata, strict=True):
        if level.format == schema.DimensionType.DENSE:
            sizes[dimension] = int(level.denseSize)
            children = np.full(nodes, level.denseSize)
            here = np.tile(np.arange(level.denseSize), nodes)
        else:
            segments = np.asarray(level.arraySegments.values, np.int64)
            if len(segments) != nodes + 1:
                raise ValueError(f"{len(segments)} segments for {nodes} nodes in a sparse tensor")
            children = np.diff(segments)
            here = np.asarray(level.arrayIndices.values, np.int64)[: segments[-1]]
        coordinates = {key: np.repeat(value, children) for key, value in coordinates.items()}
        coordinates[dimension] = here
        nodes = len(here)
    if nodes != stored.size:
        raise ValueError(f"{stored.size} values for {nodes} leaves in a sparse tensor")
    for block, dimension in enumerate(block_map, start=len(shape)):
        # A block's size is always stored: its level is dense.
        coordinates[dimension] = coordinates[dimension] * sizes[block] + coordinates[block]
    index = tuple(coordinates[dimension] for dimension in range(len(shape)))
    if any((axis >= size).any() for axis, size in zip(index, shape, strict=True)):
        raise ValueError(f"a sparse tensor's indices leave its shape {shape}")
    dense = np.zeros(shape, stored.dtype)
    dense[index] = stored
    return dense


def matching_weights(
    kernel: np.ndarray, output_axes: Sequence[int], candidates: Sequence[TFLiteWeights]
) -> list[np.ndarray]:
    """Returns the stored weights that are a given kernel.

    The weights are told by content, not by name or layout: the converter's names are made of name scopes,
    with numbers appended, and of what was fused, and its layouts differ from operator to operator. For each
    output channel the stored values must be the kernel's times a factor.

    Args:
        kernel: The Keras layer's kernel.
        output_axes: Its axes that number output channels; empty if a factor can be that of the whole alone.
        candidates: The file's weights.

    Returns:
        The values of each match, in the kernel's layout. How many there may be is for the caller
        to judge. A kernel that is stored in slices alone is one match.
    """
    matches = _matches(kernel, output_axes, candidates)
    if matches or not kernel.ndim:
        return matches
    for count in range(2, _MOST_SLICES + 1):
        if kernel.shape[-1] % count == 0:
            slices = np.split(kernel, count, axis=-1)
            found = [_matches(part, output_axes, candidates) for part in slices]
            if all(found):
                return [np.concatenate([part[0] for part in found], axis=-1)]
    return []


def _matches(
    kernel: np.ndarray, output_axes: Sequence[int], candidates: Sequence[TFLiteWeights]
) -> list[np.ndarray]:
    matches = []
    for candidate in candidates:
        layouts = in_keras_layouts(candidate.values, kernel.shape)
        rated = [(_similarity(kernel, values, output_axes), values) for values in layouts]
        similarity, values = max(rated, key=lambda pair: pair[0], default=(0.0, None))
        if similarity >= MIN_SIMILARITY:
            matches.append(values)
    return matches


def in_keras_layouts(values: np.ndarray, shape: tuple[int, ...]) -> list[np.ndarray]:
    """Returns stored weights in each layout in which they can be a kernel of a shape.

    Operators have axes of size 1 more or less than the layer, in another order; where they have joined axes,
    as matrix products have those of heads of attention, the order of what was joined is the kernel's.

    Args:
        values: The stored weights.
        shape: The kernel's shape.
    """
    if values.size != np.prod(shape, dtype=np.int64):
        return []
    stored, wanted = values.squeeze(), tuple(size for size in shape if size != 1)
    orders = map(stored.transpose, itertools.permutations(range(stored.ndim)))
    return [order.reshape(shape) for order in orders if stored.ndim != len(wanted) or order.shape == wanted]


def _integers(values: np.ndarray | list[int] | None) -> list[int]:
    return [] if values is None else [int(value) for value in values]


def _buffer(model: schema.ModelT, tensor: schema.TensorT, flatbuffer: bytes) -> bytes | memoryview | None:
    buffer = model.buffers[tensor.buffer]
    if buffer.data is not None and len(buffer.data):
        return bytes(buffer.data)
    if buffer.offset > 1:  # Files beyond 2 GB keep their buffers behind the flatbuffer.
        return memoryview(flatbuffer)[buffer.offset : buffer.offset + buffer.size]
    return None


def _similarity(kernel: np.ndarray, values: np.ndarray, output_axes: Sequence[int]) -> float:
    """Returns the absolute cosine of each output channel, averaged by the channels' norms.

    A channel without any weight left in the kernel, or scaled to zero, says nothing; channels of one weight
    each are compared as a whole.
    """
    outputs = {axis % kernel.ndim for axis in output_axes}
    axes = tuple(axis for axis in range(kernel.ndim) if axis not in outputs)
    if np.prod([kernel.shape[axis] for axis in axes], dtype=np.int64) == 1:
        axes = tuple(range(kernel.ndim))
    kernel, values = kernel.astype(np.float64), values.astype(np.float64)
    product = np.abs((kernel * values).sum(axes))
    norms = np.sqrt((kernel * kernel).sum(axes) * (values * values).sum(axes))
    return float(product.sum() / norms.sum()) if norms.sum() > 0 else 0.0
