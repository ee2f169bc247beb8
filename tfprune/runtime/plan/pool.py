"""Max and average pooling as steps."""

import numpy as np

from tfprune.runtime.graph import Pool
from tfprune.runtime.kernels import pool
from tfprune.runtime.plan.arena import inverse_counts_of
from tfprune.runtime.plan.layout import Value, check_reach, is_vector
from tfprune.runtime.plan.parts import Even
from tfprune.runtime.plan.planner import Planner

# A larger window is left to plain loops: the fast kernel is written out window by window.
_LARGEST_UNROLLED_WINDOW = 25


def lower_pool(planner: Planner, index: int, node: Pool) -> None:
    """Adds the step of a pool: rows of vectors where that is possible, else plain loops."""
    source, target = Value(node.inputs[0]), Value(index)
    in_shape, out_shape = planner.shape(source), planner.shape(target)
    zeros_do = node.kind == "average" or node.padding_counts or planner.nonnegative[source.node]
    unrolled = (
        node.strides[1] in (1, 2)
        and node.size[0] * node.size[1] <= _LARGEST_UNROLLED_WINDOW
        and (zeros_do or not any(node.padding))
        and not is_vector(in_shape)
        and not is_vector(out_shape)
    )
    (_pool_rows if unrolled else _pool_windows)(planner, index, node)


def _pool_rows(planner: Planner, index: int, node: Pool) -> None:
    source, target = Value(node.inputs[0]), Value(index)
    from_, to = planner.geometry(source), planner.geometry(target)
    height, width, channels = planner.shape(target)
    lanes = planner.target.lanes
    count = -(-width // lanes)
    start = -node.padding[0] * from_.pitch - node.padding[2]
    last_row = (channels - 1) * from_.plane + (
        (height - 1) * node.strides[0] + node.size[0] - 1
    ) * from_.pitch
    last = start + last_row + (count * lanes) * node.strides[1] + node.size[1] + lanes
    check_reach(node, from_, channels, start, last)
    weights = planner.mask(target)
    if node.kind == "average":
        size = planner.shape(source)[:2]
        weights = planner.plane_table(
            (size, node.size, node.strides, node.padding, node.padding_counts),
            to,
            (height, width, 1),
            lambda: inverse_counts_of(to, *_window_counts(node, size)),
        )
    planner.add(
        pool.RowPool(node.kind, *node.size, node.strides[1]),
        {
            "source": planner.place(source) + start,
            "target": planner.place(target),
            "source_plane": from_.plane,
            "source_pitch": from_.pitch,
            "target_plane": to.plane,
            "target_pitch": to.pitch,
            "rows": height,
            "vectors": count,
            "row_step": node.strides[0],
            "weights": weights,
        },
        Even(channels),
    )


def _window_counts(node: Pool, size: tuple[int, int]) -> list[np.ndarray]:
    """Returns for each row of windows, and for each column, how many rows and columns are averaged."""
    counts = []
    for axis in range(2):
        before, after = node.padding[2 * axis : 2 * axis + 2]
        starts = np.arange(0, size[axis] + before + after - node.size[axis] + 1, node.strides[axis]) - before
        inside = np.minimum(starts + node.size[axis], size[axis]) - np.maximum(starts, 0)
        counts.append(np.full_like(inside, node.size[axis]) if node.padding_counts else inside)
    return counts


def _pool_windows(planner: Planner, index: int, node: Pool) -> None:
    source, target = Value(node.inputs[0]), Value(index)
    in_shape, out_shape = planner.shape(source), planner.shape(target)
    lies = {}
    for name, value, shape in (("source", source, in_shape), ("target", target, out_shape)):
        vector = is_vector(shape)
        lies[f"{name}_plane"] = 1 if vector else planner.geometry(value).plane
        lies[f"{name}_pitch"] = 1 if vector else planner.geometry(value).pitch
    planner.add(
        pool.WindowPool(kind=node.kind, padding_counts=node.padding_counts),
        lies
        | {
            "source": planner.place(source),
            "target": planner.place(target),
            "height": in_shape[0],
            "width": in_shape[1],
            "target_height": out_shape[0],
            "target_width": out_shape[1],
            "window_height": node.size[0],
            "window_width": node.size[1],
            "stride_y": node.strides[0],
            "stride_x": node.strides[1],
            "top": node.padding[0],
            "left": node.padding[2],
        },
        Even(out_shape[2]),
    )
