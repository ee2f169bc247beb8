"""Convolutions as steps: on planes, on their phases, and as dense layers on vectors."""

import numpy as np

from tfprune.runtime.graph import ACROSS_CHANNELS, INTEGER_PATH, LARGEST, LARGEST_UINT8, Conv
from tfprune.runtime.kernels import convolution, planes, vectors
from tfprune.runtime.kernels.integer_convolution import IntegerConvolution
from tfprune.runtime.plan.arena import Table, aligned_zeros
from tfprune.runtime.plan.copies import make_flat
from tfprune.runtime.plan.layout import (
    DENSE_GROUP,
    Value,
    check_reach,
    dense_tiles,
    integer_tiles,
    is_vector,
    phase_shape,
    reads,
    sparse_tiles,
)
from tfprune.runtime.plan.packing import Weights, narrowed, pack, pack_fours, pack_vector_rows, weights_of
from tfprune.runtime.plan.parts import Even, TilesOrGroups
from tfprune.runtime.plan.planner import LARGEST_ACTIVATED, Planner, float_bits

# Vectors of outputs that a dense layer computes at a time.
_LAYER_VECTORS = 4
# A dense layer's matrix may be so many times as large as the kernel that it is made of.
_MOST_ZEROS = 4
# What storing a group's tile costs, in entries.
_STORE_COST = 3


def lower_conv(planner: Planner, index: int, node: Conv) -> None:
    """Adds the steps of a convolution, but for an activation across channels."""
    source, target = Value(node.inputs[0]), Value(index)
    if is_vector(planner.shape(target)):
        _lower_layer(planner, target, source, node)
        return
    read = reads(node)
    if read.is_split and not planner.has_place(read):
        _add_split(planner, read, node)
    (_add_integers if node.path == INTEGER_PATH else _add_convolution)(planner, target, read, node)


def _add_convolution(planner: Planner, target: Value, source: Value, node: Conv) -> None:
    from_, to = planner.geometry(source), planner.geometry(target)
    sparse = node.path == "sparse"
    group = 1 if sparse else DENSE_GROUP
    tiles = (sparse_tiles if sparse else dense_tiles)(to, planner.target)
    tile = tiles.vectors * planner.target.lanes
    weights = pack(node, from_, group, tile, planner.target.l1_bytes, planner.compact)
    if len(weights.offsets):
        lowest, highest = int(weights.offsets.min()), int(weights.offsets.max())
        check_reach(node, from_, planner.shape(source)[2], lowest, highest + tiles.count * tile - 1)
    written = (weights.groups * group - 1) * to.plane + tiles.count * tile - 1
    check_reach(node, to, weights.groups * group, 0, written)
    residual = len(node.inputs) == 2
    activation = "linear" if node.activation in ACROSS_CHANNELS else node.activation
    planner.add(
        convolution.Convolution(
            group,
            tiles.vectors,
            activation,
            residual,
            8 * weights.offsets.itemsize,
            planner.compact,
            node.settings,
            tiles.half,
        ),
        {
            "source": planner.place(source),
            "target": planner.place(target),
            "residual": planner.place(Value(node.inputs[1])) if residual else 0,
            "plane": to.plane,
            "mask": planner.mask(target),
            "starts": weights.starts,
            "offsets": weights.offsets,
            "values": weights.values,
            "bias": weights.bias,
            "scales": weights.scales if planner.compact else 0,
            "blocks": weights.blocks,
            "groups": weights.groups,
        },
        TilesOrGroups(tiles.count, _group_costs(weights)),
    )


def _group_costs(weights: Weights) -> tuple[int, ...]:
    """Returns the cost of each group of output channels, in entries."""
    entries = np.diff(weights.starts).reshape(weights.blocks, weights.groups).sum(0)
    return tuple((entries + _STORE_COST * weights.blocks).tolist())


def _add_split(planner: Planner, phases: Value, node: Conv) -> None:
    source, (down, right) = phases.plain, phases.strides
    height, width, channels = planner.shape(source)
    from_, to = planner.geometry(source), planner.geometry(phases)
    lanes = planner.target.lanes
    columns = phase_shape((height, width, channels), phases.strides)[1]
    count = -(-columns // lanes)
    channel, row, column = np.indices((channels, down, right)).reshape(3, -1)
    first = channel * from_.plane + row * from_.pitch + column
    rows = -(-(height - row) // down)
    table = np.stack([first, rows, column * count * lanes], axis=1)
    pixels = -(-(width - np.arange(right)) // right)
    masks = np.where(np.arange(count * lanes) < pixels[:, None], np.int32(-1), np.int32(0))
    last_row = int((first + (rows - 1) * down * from_.pitch)[rows > 0].max())
    check_reach(node, from_, channels, 0, last_row + count * lanes * right - 1)
    planner.add(
        planes.Split(right, in_bytes=phases.in_bytes),
        {
            "source": planner.place(source),
            "target": planner.place(phases),
            "plane": to.plane,
            "pitch": to.pitch,
            "row_step": down * from_.pitch,
            "vectors": count,
            "table": table.astype(np.int32),
            "masks": masks.astype(np.int8) if phases.in_bytes else masks.view(np.float32),
        },
        Even(len(table)),
    )


def _add_integers(planner: Planner, target: Value, source: Value, node: Conv) -> None:
    """Adds the step of a convolution of whole numbers, with that of the `Quantize` behind it where it can."""
    rounded = planner.steps_of(target.node)
    written = target if rounded is None else Value(rounded, in_bytes=True)
    from_, to = planner.geometry(source), planner.geometry(target)
    tiles = integer_tiles(to, planner.target)
    tile = tiles.vectors * planner.target.lanes
    weights = pack_fours(node, from_, planner.compact)
    last = tiles.count * tile - 1
    lowest, highest = int(weights.offsets.min(initial=0)), int(weights.offsets.max(initial=0))
    check_reach(node, from_, planner.shape(source)[2], lowest, highest + last)
    filters = node.kernel.shape[3]
    check_reach(node, to, filters, 0, (filters - 1) * to.plane + last)
    # Of float64, rounded once.
    scales = weights.scales.astype(np.float64) * _step_of(planner, source)
    bias, residual_step, largest = node.bias.astype(np.float64), 1.0, 0.0
    residual = planner.read_by(target.node)[1:]
    residual_bits = 0
    if residual:
        residual_bits = 8 if residual[0].in_bytes else 32
        residual_step = _step_of(planner, residual[0]) if residual[0].in_bytes else 1.0
    if rounded is not None:
        step = planner.graph.nodes[rounded].step
        largest = min(LARGEST_UINT8, LARGEST_ACTIVATED[node.activation] / step)
        scales, bias, residual_step = scales / step, bias / step, residual_step / step
    activation = "linear" if rounded is not None or node.activation in ACROSS_CHANNELS else node.activation
    planner.add(
        IntegerConvolution(
            tiles.vectors,
            planner.target.dot_products,
            32 if rounded is None else 8,
            residual_bits,
            8 * weights.offsets.itemsize,
            activation,
            () if rounded is not None else node.settings,
        ),
        {
            "source": planner.place(source),
            "target": planner.place(written),
            "residual": planner.place(residual[0]) if residual else 0,
            "plane": to.plane,
            "mask": planner.mask(target) if rounded is None else planner.mask_of_bytes(target),
            "starts": weights.starts,
            "offsets": weights.offsets,
            "values": weights.values,
            "bias": _finite(node, bias),
            "scales": _finite(node, scales),
            "residual_step": float_bits(residual_step),
            "largest": float_bits(largest),
        },
        TilesOrGroups(tiles.count, tuple((np.diff(weights.starts) + _STORE_COST).tolist())),
    )


def _step_of(planner: Planner, value: Value) -> float:
    """Returns the step of a value in bytes."""
    return planner.graph.nodes[value.node].step


def _finite(node: Conv, numbers: np.ndarray) -> np.ndarray:
    """Returns float64 numbers as float32, and refuses a convolution that they leave."""
    if np.abs(numbers).max() > LARGEST:
        raise node.refuse("its factors must be float32 numbers")
    return numbers.astype(np.float32)


def _lower_layer(planner: Planner, target: Value, source: Value, node: Conv) -> None:
    """Adds the steps of a convolution whose output is one pixel: a dense layer on the flattened input."""
    height, width, channels = planner.shape(source)
    place = planner.place(source)
    if not is_vector((height, width, channels)):
        place = planner.temporary_vector(height * width * channels)
        make_flat(planner, source, place)
    _, _, inner, filters = node.kernel.shape
    positions, values, scales = weights_of(node.kernel, planner.compact)
    row, column, channel, out = np.unravel_index(positions, node.kernel.shape)
    y = row * node.dilation[0] - node.padding[0]
    x = column * node.dilation[1] - node.padding[2]
    channel = channel + out // (filters // node.groups) * inner
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    inputs = ((y * width + x) * channels + channel)[inside]
    out, values = out[inside], values[inside]

    lanes = planner.target.lanes
    activation = "linear" if node.activation in ACROSS_CHANNELS else node.activation
    residual = len(node.inputs) == 2
    shared = {
        "source": place,
        "target": planner.place(target),
        "residual": planner.place(Value(node.inputs[1])) if residual else 0,
    }
    # Zeros that groups or strides add to the matrix are not worth a dense layer.
    if node.path == "sparse" or height * width * channels * filters > _MOST_ZEROS * node.kernel.size:
        starts, indices, packed = pack_vector_rows(node, inputs, out, values, lanes)
        if planner.compact:
            indices = narrowed(indices, np.int16)
        planner.add(
            vectors.SparseLayer(activation, residual, 8 * indices.itemsize, planner.compact, node.settings),
            shared
            | {
                "starts": starts,
                "indices": indices,
                "values": packed,
                "bias": node.bias,
                "scales": scales if planner.compact else 0,
            },
            Even(filters),
        )
        return
    tile = min(_LAYER_VECTORS, -(-filters // lanes))
    tiles = -(-filters // (tile * lanes))
    size = tiles * tile * lanes

    def weights() -> np.ndarray:
        filled = np.zeros(height * width * channels * size, values.dtype)
        filled[inputs * size + out] = values
        return filled

    def of_outputs(numbers: np.ndarray) -> np.ndarray:
        filled = aligned_zeros(size)
        filled[:filters] = numbers
        return filled

    planner.add(
        vectors.DenseLayer(tile, activation, residual, planner.compact, node.settings),
        shared
        | {
            "weights": Table(height * width * channels * size, weights),
            "bias": of_outputs(node.bias),
            "scales": of_outputs(scales) if planner.compact else 0,
            "inputs": height * width * channels,
            "width": size,
        },
        Even(tiles),
    )
