"""Reads the weights out of a TFLite flatbuffer, as the runtime will see them, and finds a kernel among them.

Float16 tensors, sparse encodings and quantised integers are decoded here from the file's bytes,
without the interpreter, so that an audit does not depend on what a delegate does with them.
Schema: tensorflow/compiler/mlir/lite/schema/schema.fbs.
"""

import dataclasses
import struct

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

# Operator -> position of the weights among its inputs, and their layout.
_WEIGHT_OPERANDS = {
    schema.BuiltinOperator.CONV_2D: (1, "OHWI"),
    schema.BuiltinOperator.DEPTHWISE_CONV_2D: (1, "1HWC"),
    schema.BuiltinOperator.TRANSPOSE_CONV: (1, "OHWI_transposed"),
    schema.BuiltinOperator.FULLY_CONNECTED: (1, "OI"),
    schema.BuiltinOperator.BATCH_MATMUL: (1, "IO"),
}

# These hand a constant on in another encoding.
_DECODERS = (schema.BuiltinOperator.DEQUANTIZE, schema.BuiltinOperator.DENSIFY)

# The right tensor differs from the kernel by a factor for each output channel (BatchNorm, folded
# in) and by rounding; int8 leaves a cosine above 0.99. Unrelated tensors are near 0.
MIN_SIMILARITY = 0.95


@dataclasses.dataclass(frozen=True)
class TFLiteWeights:
    """A constant that an operator uses as its weights.

    Attributes:
        name: The tensor's name in the file.
        values: The decoded values, float32, in the file's layout.
        layout: `"OHWI"` (convolution), `"1HWC"` (depthwise), `"OHWI_transposed"` (transposed
            convolution), `"OI"` (fully connected) or `"IO"` (batch matrix product).
    """

    name: str
    values: np.ndarray
    layout: str


def read_weights(flatbuffer: bytes) -> list[TFLiteWeights]:
    """Decodes every constant that an operator of the file uses as weights.

    Args:
        flatbuffer: The file.

    Returns:
        One entry a tensor, in the order of the operators; a tensor used twice appears once.

    Raises:
        ValueError: The file is not whole, or stores a weight in an encoding not known here.
    """
    try:
        model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(flatbuffer))
    except struct.error as error:
        raise ValueError(f"not a whole TFLite file: {error}") from error
    found: dict[tuple[int, int], TFLiteWeights] = {}
    for number, graph in enumerate(model.subgraphs):
        codes = [model.operatorCodes[op.opcodeIndex].builtinCode for op in graph.operators]
        source = {
            op.outputs[0]: op.inputs[0]
            for op, code in zip(graph.operators, codes, strict=True)
            if code in _DECODERS
        }
        for op, code in zip(graph.operators, codes, strict=True):
            if code not in _WEIGHT_OPERANDS:
                continue
            position, layout = _WEIGHT_OPERANDS[code]
            index = op.inputs[position]
            while index in source:
                index = source[index]
            tensor = graph.tensors[index]
            data = _buffer(model, tensor, flatbuffer)
            if data is not None and (number, index) not in found:
                name = tensor.name.decode()
                found[number, index] = TFLiteWeights(name, decode_tensor(tensor, data), layout)
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


def matching_weights(kernel: np.ndarray, candidates: list[TFLiteWeights]) -> list[np.ndarray]:
    """Returns the stored weights that are a given kernel.

    The weights are told by shape and content, not by name: the converter's names are made of name scopes,
    with numbers appended, and of what was fused. For each output channel the stored values must be
    the kernel's times a factor.

    Args:
        kernel: The Keras layer's kernel.
        candidates: The file's weights.

    Returns:
        The values of each match, in the kernel's layout. How many there may be is for the caller
        to judge.
    """
    matches = []
    for candidate in candidates:
        values = in_keras_layout(candidate, kernel.shape)
        if values is not None and _similarity(kernel, values, candidate.layout) >= MIN_SIMILARITY:
            matches.append(values)
    return matches


def in_keras_layout(weights: TFLiteWeights, shape: tuple[int, ...]) -> np.ndarray | None:
    """Transposes stored weights to the layout of a Keras kernel.

    Args:
        weights: The stored weights.
        shape: The kernel's shape.

    Returns:
        The values in that shape, or None if they cannot be a kernel of it.
    """
    values = weights.values
    if weights.layout == "1HWC":
        values = values[0]
        fits = len(shape) == 4 and values.shape == (*shape[:2], shape[2] * shape[3])
        return values.reshape(shape) if fits else None
    if weights.layout == "OHWI":
        values = values.transpose(1, 2, 3, 0)
    elif weights.layout == "OHWI_transposed":
        values = values.transpose(1, 2, 0, 3)
    elif weights.layout == "OI":
        values = values.T
    # A Conv1D gains a leading 1; a 1x1 convolution may become a matrix product.
    same = _without_leading_ones(values.shape) == _without_leading_ones(shape)
    return values.reshape(shape) if same else None


def _integers(values: np.ndarray | list[int] | None) -> list[int]:
    return [] if values is None else [int(value) for value in values]


def _buffer(model: schema.ModelT, tensor: schema.TensorT, flatbuffer: bytes) -> bytes | memoryview | None:
    buffer = model.buffers[tensor.buffer]
    if buffer.data is not None and len(buffer.data):
        return bytes(buffer.data)
    if buffer.offset > 1:  # Files beyond 2 GB keep their buffers behind the flatbuffer.
        return memoryview(flatbuffer)[buffer.offset : buffer.offset + buffer.size]
    return None


def _without_leading_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    sizes = list(shape)
    while sizes and sizes[0] == 1:
        sizes.pop(0)
    return tuple(sizes)


def _similarity(kernel: np.ndarray, values: np.ndarray, layout: str) -> float:
    """Returns the absolute cosine of each channel, averaged by the channels' norms.

    A channel without any weight left in the kernel, or scaled to zero, says nothing.
    """
    axes = {"1HWC": (0, 1), "OHWI_transposed": (0, 1, 3)}.get(layout, tuple(range(kernel.ndim - 1)))
    kernel, values = kernel.astype(np.float64), values.astype(np.float64)
    product = np.abs((kernel * values).sum(axes))
    norms = np.linalg.norm(_flat(kernel, axes), axis=0) * np.linalg.norm(_flat(values, axes), axis=0)
    return float(product.sum() / norms.sum()) if norms.sum() > 0 else 0.0


def _flat(array: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    moved = np.moveaxis(array, axes, range(len(axes)))
    return moved.reshape(int(np.prod(moved.shape[: len(axes)])), -1)
