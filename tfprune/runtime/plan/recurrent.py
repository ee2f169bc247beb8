"""Recurrent cells as steps: a signal becomes rows, a kernel goes along them, its states become planes."""

import numpy as np

from tfprune.runtime.graph import CELLS, Recurrent
from tfprune.runtime.kernels import recurrent
from tfprune.runtime.plan.arena import Table, aligned_zeros
from tfprune.runtime.plan.copies import gather, make_flat
from tfprune.runtime.plan.layout import Value, is_vector
from tfprune.runtime.plan.packing import in_32_bits, narrowed, weights_of
from tfprune.runtime.plan.parts import Even
from tfprune.runtime.plan.planner import Planner

# Vectors of sums that the dense path computes at a time.
_TILE_VECTORS = 4


def lower_recurrent(planner: Planner, index: int, node: Recurrent) -> None:
    """Adds the steps of a recurrent cell."""
    source, first, mask = node.parts([Value(given) for given in node.inputs])
    target = Value(index)
    _, steps, width = planner.shape(source)
    units, gates, lanes = node.units, len(CELLS[node.cell]), planner.target.lanes
    columns = planner.place(source)
    if not is_vector((1, steps, width)):
        columns = planner.temporary_vector(steps * width)
        make_flat(planner, source, columns)
    dense = node.path == "dense"
    needed = -(-units // lanes)
    tile = min(_TILE_VECTORS, needed) if dense else 0
    padded = (-(-needed // tile) * tile if dense else needed) * lanes
    row = node.states * units
    rows = planner.temporary_vector((steps + 1) * row)
    positions, values, scales = weights_of(node.kernel, planner.compact)
    starts, indices = 0, 0
    if dense:
        weights = _matrix(node, positions, values, padded)
    else:
        starts, indices, weights = _lists(node, positions, values, lanes)
        if planner.compact:
            indices = narrowed(indices, np.int16)
    first = [planner.place(state) for state in first]
    planner.add(
        recurrent.Recurrent(
            node.cell,
            (node.activation, node.settings),
            (node.gate_activation, node.gate_settings),
            bool(first),
            tile,
            32 if dense else 8 * indices.itemsize,
            planner.compact,
            node.masked,
        ),
        {
            "source": columns,
            "rows": rows,
            "sums": planner.temporary_vector((gates + 1) * padded),
            "first_state": first[0] if first else 0,
            "first_memory": first[-1] if first else 0,
            "steps": steps,
            "units": units,
            "padded": padded,
            "starts": starts,
            "indices": indices,
            "values": weights,
            "bias": _of_units(node.bias, units, padded),
            "scales": 0 if scales is None else _of_units(scales, units, padded),
            "mask": planner.place(mask) if node.masked else 0,
        },
        Even(1),
    )
    channels = np.arange(row)
    if node.cell == "lstm" and not node.memory:
        channels = channels[units:]
    gather(planner, target, rows + row, ([0], np.arange(steps) * row, channels))


def _matrix(node: Recurrent, positions: np.ndarray, values: np.ndarray, padded: int) -> Table:
    """Returns the kernel as `[gates, units, padded]`."""
    units, gates = node.units, len(CELLS[node.cell])
    numbers = gates * units * padded

    def make() -> np.ndarray:
        filled = np.zeros(numbers, values.dtype)
        source, column = np.divmod(positions, gates * units)
        gate, unit = np.divmod(column, units)
        filled[(gate * units + source) * padded + unit] = values
        return filled

    return Table(numbers, make)


def _lists(
    node: Recurrent, positions: np.ndarray, values: np.ndarray, lanes: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Packs the weights that are not zero: a vector of sums has as many entries as its longest lane.

    Returns:
        int32 starts in entries `[gates * vectors + 1]`, int32 indices and the values `[entries, lanes]`.

    Raises:
        GraphError: The lists are longer than 32 bits can count.
    """
    units, gates = node.units, len(CELLS[node.cell])
    vectors = -(-units // lanes)
    source, column = np.divmod(positions, gates * units)
    gate, unit = np.divmod(column, units)
    lane = (gate * vectors + unit // lanes) * lanes + unit % lanes
    order = np.lexsort((source, lane))
    source, lane, values = source[order], lane[order], values[order]
    counts = np.bincount(lane, minlength=gates * vectors * lanes)
    starts = np.concatenate([[0], np.cumsum(counts.reshape(-1, lanes).max(axis=1))])
    within = np.arange(len(lane)) - np.repeat(np.cumsum(counts) - counts, counts)
    at = (starts[lane // lanes] + within) * lanes + lane % lanes
    size = int(starts[-1]) * lanes
    starts = in_32_bits(node, starts)
    indices, weights = np.zeros(size, np.int32), np.zeros(size, values.dtype)
    indices[at], weights[at] = in_32_bits(node, source), values
    return starts, indices.reshape(-1, lanes), weights.reshape(-1, lanes)


def _of_units(numbers: np.ndarray, units: int, padded: int) -> np.ndarray:
    """Returns a number for each sum as float32 `[gates, padded]`."""
    gates = len(numbers) // units
    filled = aligned_zeros(gates * padded).reshape(gates, padded)
    filled[:, :units] = numbers.reshape(gates, units)
    return filled
