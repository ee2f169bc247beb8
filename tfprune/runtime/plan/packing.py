"""Packs weights as the kernels want them: entries, block by block."""

import dataclasses

import numpy as np

from tfprune.runtime.graph import MAX_VALUES, Conv, Node
from tfprune.runtime.integers import to_int8
from tfprune.runtime.kernels.integer_convolution import QUAD
from tfprune.runtime.plan.layout import Geometry, taps
from tfprune.runtime.sparse_array import SparseArray, nonzeros

# A block of input planes may fill this part of the first-level cache, and is not worth its while, the
# storing and loading of the accumulators, for fewer entries than this in a group.
CACHE_SHARE = 0.75
LEAST_ENTRIES = 8


@dataclasses.dataclass(frozen=True)
class Weights:
    """A convolution's weights for `kernels.convolution`; its parameters explain the names.

    Attributes:
        starts: int32 `[blocks * groups + 1]`.
        offsets: int32 `[entries]`; with weights of 8 bits the smallest type that holds them.
        values: float32 or int8 `[entries, group]`.
        bias: float32 `[groups, group]`.
        blocks: Blocks of input planes.
        scales: float32 `[groups, group]`; None for float32 values.
    """

    starts: np.ndarray
    offsets: np.ndarray
    values: np.ndarray
    bias: np.ndarray
    blocks: int
    scales: np.ndarray | None

    @property
    def groups(self) -> int:
        """Returns the number of groups of output channels."""
        return len(self.bias)


def weights_of(
    kernel: np.ndarray | SparseArray, compact: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Returns the weights of a kernel that are not zero, as 8-bit integers or as they are.

    Args:
        kernel: The kernel.
        compact: Whether weights take 8 bits.

    Returns:
        Their positions, as of `nonzeros`, the weights, and the scales of the output channels, or None for
            weights as they are.
    """
    return to_int8(kernel) if compact else (*nonzeros(kernel), None)


def pack(
    node: Conv, source: Geometry, group: int, tile: int, l1_bytes: int, compact: bool = False
) -> Weights:
    """Packs a convolution on planes.

    Args:
        node: The convolution.
        source: Geometry of the planes that it reads.
        group: Output channels that share an entry.
        tile: Numbers in a tile of the target.
        l1_bytes: First-level data cache of a core.
        compact: Whether weights take 8 bits, and offsets as few as they need.

    Returns:
        The weights. A position where all channels of a group have a zero has no entry.

    Raises:
        GraphError: The lists are longer than 32 bits can count.
    """
    rows, columns, inner, filters = node.kernel.shape
    positions, values, scales = weights_of(node.kernel, compact)
    row, column, channel, out = np.unravel_index(positions, node.kernel.shape)
    phases = node.strides[0] * node.strides[1]
    phase, down, right = taps(node, row, column)
    (_, top, left), (_, bottom, most_right) = taps(node, 0, 0), taps(node, rows - 1, columns - 1)
    plane = (channel + out // (filters // node.groups) * inner) * phases + phase
    offset = plane * source.plane + down * source.pitch + right

    groups = -(-filters // group)
    planes = inner * node.groups * phases
    reach = min(source.plane, tile + (bottom - top) * source.pitch + most_right - left)
    fitting = max(1, int(CACHE_SHARE * l1_bytes / 4 / reach))
    affordable = len(positions) / groups / LEAST_ENTRIES / group
    blocks = int(max(1, min(-(-planes // fitting), affordable)))
    per_block = -(-planes // blocks)
    blocks = -(-planes // per_block)

    # Entries in the order of blocks, groups, planes and taps; the channels of a group share one.
    list_index = plane // per_block * groups + out // group
    entry_key = (list_index * planes + plane) * (rows * columns) + row * columns + column
    order = np.argsort(entry_key * group + out % group)
    list_index, offset, out, values, entry_key = (
        array[order] for array in (list_index, offset, out, values, entry_key)
    )
    is_new = np.diff(entry_key, prepend=-1) != 0
    entry = np.cumsum(is_new) - 1
    packed = np.zeros((int(is_new.sum()), group), values.dtype)
    packed[entry, out % group] = values
    counts = np.bincount(list_index[is_new], minlength=blocks * groups)
    offsets = in_32_bits(node, offset[is_new])
    return Weights(
        starts=in_32_bits(node, np.concatenate([[0], np.cumsum(counts)])),
        offsets=narrowed(offsets, np.int8) if compact else offsets,
        values=packed,
        bias=_by_groups(node.bias, groups, group),
        blocks=blocks,
        scales=_by_groups(scales, groups, group) if compact else None,
    )


@dataclasses.dataclass(frozen=True)
class Fours:
    """A convolution's weights for `kernels.integer_convolution`; its parameters explain the names.

    Attributes:
        starts: int32 `[channels + 1]`.
        offsets: int32 `[fours, 4]`; where they are to be compact the smallest type that holds them.
        values: int8 `[fours, 4]`; at the end of a channel's list perhaps zeros.
        scales: float32 `[channels]`.
    """

    starts: np.ndarray
    offsets: np.ndarray
    values: np.ndarray
    scales: np.ndarray


def pack_fours(node: Conv, source: Geometry, compact: bool = False) -> Fours:
    """Packs a convolution of whole numbers on planes, its weights rounded to 8 bits.

    Args:
        node: The convolution.
        source: Geometry of the planes that it reads.
        compact: As of `pack`, of the offsets.

    Returns:
        The weights.

    Raises:
        GraphError: The lists are longer than 32 bits can count.
    """
    rows, columns, inner, filters = node.kernel.shape
    positions, values, scales = to_int8(node.kernel)
    positions, values = positions[values != 0], values[values != 0]
    row, column, channel, out = np.unravel_index(positions, node.kernel.shape)
    phase, down, right = taps(node, row, column)
    plane = (channel + out // (filters // node.groups) * inner) * node.strides[0] * node.strides[1] + phase
    offset = plane * source.plane + down * source.pitch + right
    order = np.lexsort((offset, out))
    offset, values, out = offset[order], values[order], out[order]
    counts = np.bincount(out, minlength=filters)
    starts = np.concatenate([[0], np.cumsum(-(-counts // QUAD))])
    within = np.arange(len(out)) - np.repeat(np.cumsum(counts) - counts, counts)
    at = QUAD * starts[out] + within
    # What fills up a list reads the first pixel, times zero.
    offsets, packed = np.zeros(QUAD * int(starts[-1]), np.int32), np.zeros(QUAD * int(starts[-1]), np.int8)
    offsets[at], packed[at] = in_32_bits(node, offset), values
    return Fours(
        starts=in_32_bits(node, starts),
        offsets=(narrowed(offsets, np.int8) if compact else offsets).reshape(-1, QUAD),
        values=packed.reshape(-1, QUAD),
        scales=scales,
    )


def _by_groups(numbers: np.ndarray, groups: int, group: int) -> np.ndarray:
    """Returns a number for each output channel as float32 `[groups, group]`, zeros at the end."""
    filled = np.zeros(groups * group, np.float32)
    filled[: len(numbers)] = numbers
    return filled.reshape(groups, group)


def narrowed(numbers: np.ndarray, smallest: type) -> np.ndarray:
    """Returns integers in the smallest type that holds all of them.

    Args:
        numbers: int32.
        smallest: The smallest type that may be returned: int8 or int16.
    """
    low, high = int(numbers.min(initial=0)), int(numbers.max(initial=0))
    types = [np.dtype(kind) for kind in (smallest, np.int16, np.int32)]
    return numbers.astype(
        next(kind for kind in types if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max)
    )


def pack_vector_rows(
    node: Conv, inputs: np.ndarray, outputs: np.ndarray, values: np.ndarray, lanes: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Packs a sparse dense layer: for each output its inputs and weights, filled up to whole vectors.

    Args:
        node: The layer.
        inputs: The input of each weight.
        outputs: The output of each weight.
        values: float32 or int8 weights.
        lanes: Numbers in a vector.

    Returns:
        int32 starts in vectors `[filters + 1]`, int32 indices and the weights `[vectors, lanes]`.

    Raises:
        GraphError: The lists are longer than 32 bits can count.
    """
    filters = node.kernel.shape[3]
    order = np.lexsort((inputs, outputs))
    inputs, outputs, values = inputs[order], outputs[order], values[order]
    counts = np.bincount(outputs, minlength=filters)
    starts = np.concatenate([[0], np.cumsum(-(-counts // lanes))])
    within = np.arange(len(outputs)) - np.repeat(np.cumsum(counts) - counts, counts)
    at = starts[outputs] * lanes + within
    size = int(starts[-1]) * lanes
    starts = in_32_bits(node, starts)
    indices, weights = np.zeros(size, np.int32), np.zeros(size, values.dtype)
    indices[at], weights[at] = in_32_bits(node, inputs), values
    return starts, indices.reshape(-1, lanes), weights.reshape(-1, lanes)


def in_32_bits(node: Node, numbers: np.ndarray) -> np.ndarray:
    """Returns int32 numbers, none of them another than before.

    Args:
        node: The node that they belong to; for the message.
        numbers: Integers.

    Raises:
        GraphError: One does not fit.
    """
    if len(numbers) and max(-int(numbers.min()), int(numbers.max())) > MAX_VALUES:
        raise node.refuse(f"its weights are more, or farther apart, than {MAX_VALUES}")
    return numbers.astype(np.int32)
