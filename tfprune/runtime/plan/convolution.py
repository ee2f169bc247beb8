"""Convolutions as steps: on planes, on their phases, and as dense layers on vectors."""

import functools

import numpy as np

from tfprune.runtime.graph import Conv
from tfprune.runtime.kernels import convolution, planes, vectors
from tfprune.runtime.plan.arena import aligned_zeros
from tfprune.runtime.plan.layout import (
    DENSE_GROUP,
    check_reach,
    dense_tiles,
    is_vector,
    phase_shape,
    reads,
    sparse_tiles,
)
from tfprune.runtime.plan.packing import Weights, pack, pack_vector_rows
from tfprune.runtime.plan.plan import Plan, Share, even, parts_for, ranges
from tfprune.runtime.sparse_array import nonzeros

# Vectors of outputs that a dense layer computes at a time.
_LAYER_VECTORS = 4
# What storing a group's tile costs, in entries.
_STORE_COST = 3
# Threads take whole tiles, because each then reads mostly what it wrote itself, if that leaves no more than
# this share of their time idle; else groups of channels.
_MOST_IDLE = 0.15


def lower_conv(plan: Plan, index: int, node: Conv) -> None:
    """Adds the steps of a convolution, but for a softmax."""
    source, target = (node.inputs[0],), (index,)
    if is_vector(plan.shape(target)):
        _lower_layer(plan, target, source, node)
        return
    key = reads(node)
    if key != source and not plan.has_place(key):
        _add_split(plan, key, node)
    _add_convolution(plan, target, key, node)


def make_flat(plan: Plan, source: tuple, place: int) -> None:
    """Adds a step that makes planes a vector: rows, columns, channels."""
    height, width, channels = plan.shape(source)
    geometry = plan.geometry(source)
    plan.add(
        ("flatten",),
        vectors.emit_flatten,
        vectors.FLATTEN_PARAMETERS,
        {
            "source": plan.place(source),
            "target": place,
            "plane": geometry.plane,
            "pitch": geometry.pitch,
            "width": width,
            "channels": channels,
        },
        even(height),
    )


def _add_convolution(plan: Plan, target: tuple, source: tuple, node: Conv) -> None:
    from_, to = plan.geometry(source), plan.geometry(target)
    sparse = node.path == "sparse"
    group = 1 if sparse else DENSE_GROUP
    tiles = (sparse_tiles if sparse else dense_tiles)(to, plan.target)
    tile = tiles.vectors * plan.target.lanes
    weights = pack(node, from_, group, tile, plan.target.l1_bytes)
    if len(weights.offsets):
        lowest, highest = int(weights.offsets.min()), int(weights.offsets.max())
        check_reach(node, from_, plan.shape(source)[2], lowest, highest + tiles.count * tile - 1)
    written = (weights.groups * group - 1) * to.plane + tiles.count * tile - 1
    check_reach(node, to, weights.groups * group, 0, written)
    residual = len(node.inputs) == 2
    activation = node.activation.replace("softmax", "linear")
    plan.add(
        ("convolution", group, tiles.vectors, activation, residual),
        functools.partial(
            convolution.emit, group=group, vectors=tiles.vectors, activation=activation, residual=residual
        ),
        convolution.PARAMETERS,
        {
            "source": plan.place(source),
            "target": plan.place(target),
            "residual": plan.place((node.inputs[1],)) if residual else 0,
            "plane": to.plane,
            "mask": plan.mask(target),
            "starts": weights.starts,
            "offsets": weights.offsets,
            "values": weights.values,
            "bias": weights.bias,
            "blocks": weights.blocks,
            "groups": weights.groups,
        },
        _share(tiles.count, weights),
    )


def _share(tiles: int, weights: Weights) -> Share:
    """Cuts a convolution: into tiles where there are enough, else into groups of about equal cost."""
    entries = np.diff(weights.starts).reshape(weights.blocks, weights.groups).sum(0)
    cost = np.concatenate([[0], np.cumsum(entries + _STORE_COST * weights.blocks)])

    def share(threads: int) -> list[tuple[int, ...]]:
        most = parts_for(threads)
        at_once = -(-tiles // threads) * threads
        if at_once - tiles <= _MOST_IDLE * at_once:
            parts = min(most, tiles)
            edges = [tiles * i // parts for i in range(parts + 1)]
            return [(start, stop, 0, weights.groups) for start, stop in ranges(edges)]
        edges = np.searchsorted(cost, cost[-1] * np.arange(most + 1) / most).tolist()
        edges[-1] = weights.groups
        return [(0, tiles, start, stop) for start, stop in ranges(edges)]

    return share


def _add_split(plan: Plan, key: tuple, node: Conv) -> None:
    source, (down, right) = (key[0],), key[1]
    height, width, channels = plan.shape(source)
    from_, to = plan.geometry(source), plan.geometry(key)
    lanes = plan.target.lanes
    columns = phase_shape((height, width, channels), key[1])[1]
    count = -(-columns // lanes)
    masks = np.zeros((right, count * lanes), np.int32)
    table = []
    for channel in range(channels):
        for row in range(down):
            for column in range(right):
                first = channel * from_.plane + row * from_.pitch + column
                table.append((first, -(-(height - row) // down), column * count * lanes))
    for column in range(right):
        masks[column, : -(-(width - column) // right)] = -1
    last_row = max(first + (rows - 1) * down * from_.pitch for first, rows, _ in table if rows)
    check_reach(node, from_, channels, 0, last_row + count * lanes * right - 1)
    plan.add(
        ("split", right),
        functools.partial(planes.emit_split, stride=right),
        planes.SPLIT_PARAMETERS,
        {
            "source": plan.place(source),
            "target": plan.place(key),
            "plane": to.plane,
            "pitch": to.pitch,
            "row_step": down * from_.pitch,
            "vectors": count,
            "table": np.array(table, np.int64),
            "masks": masks.view(np.float32),
        },
        even(len(table)),
    )


def _lower_layer(plan: Plan, target: tuple, source: tuple, node: Conv) -> None:
    """A convolution whose output is one pixel: a dense layer on the flattened input."""
    height, width, channels = plan.shape(source)
    place = plan.place(source)
    if not is_vector((height, width, channels)):
        place = plan.temporary_vector(height * width * channels)
        make_flat(plan, source, place)
    _, _, inner, filters = node.kernel.shape
    positions, values = nonzeros(node.kernel)
    row, column, channel, out = np.unravel_index(positions, node.kernel.shape)
    y = row * node.dilation[0] - node.padding[0]
    x = column * node.dilation[1] - node.padding[2]
    channel = channel + out // (filters // node.groups) * inner
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    inputs = ((y * width + x) * channels + channel)[inside]
    out, values = out[inside], values[inside]

    lanes = plan.target.lanes
    activation = node.activation.replace("softmax", "linear")
    residual = len(node.inputs) == 2
    shared = {
        "source": place,
        "target": plan.place(target),
        "residual": plan.place((node.inputs[1],)) if residual else 0,
    }
    if node.path == "sparse":
        starts, indices, packed = pack_vector_rows(inputs, out, values, filters, lanes)
        plan.add(
            ("layer_sparse", activation, residual),
            functools.partial(vectors.emit_sparse, activation=activation, residual=residual),
            vectors.SPARSE_PARAMETERS,
            shared | {"starts": starts, "indices": indices, "values": packed, "bias": node.bias},
            even(filters),
        )
        return
    tile = min(_LAYER_VECTORS, -(-filters // lanes))
    tiles = -(-filters // (tile * lanes))
    size = tiles * tile * lanes
    plan.require_memory(height * width * channels * size)
    weights = aligned_zeros(height * width * channels * size)
    weights[inputs * size + out] = values
    bias = aligned_zeros(size)
    bias[:filters] = node.bias
    plan.add(
        ("layer_dense", tile, activation, residual),
        functools.partial(vectors.emit_dense, vectors=tile, activation=activation, residual=residual),
        vectors.DENSE_PARAMETERS,
        shared | {"weights": weights, "bias": bias, "inputs": height * width * channels, "width": size},
        even(tiles),
    )
