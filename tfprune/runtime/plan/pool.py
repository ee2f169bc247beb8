"""Max and average pooling as steps."""

import functools

import numpy as np

from tfprune.runtime.graph import Pool
from tfprune.runtime.kernels import planes, window_pool
from tfprune.runtime.plan.arena import counts_of
from tfprune.runtime.plan.layout import check_reach, is_vector
from tfprune.runtime.plan.plan import Plan, even

# A larger window is left to plain loops: the fast kernel is written out window by window.
_LARGEST_UNROLLED_WINDOW = 25


def lower_pool(plan: Plan, index: int, node: Pool) -> None:
    """Adds the step of a pool: rows of vectors where that is possible, else plain loops."""
    source, target = (node.inputs[0],), (index,)
    in_shape, out_shape = plan.shape(source), plan.shape(target)
    zeros_do = node.kind == "average" or node.padding_counts or plan.nonnegative[source[0]]
    unrolled = (
        node.strides[1] in (1, 2)
        and node.size[0] * node.size[1] <= _LARGEST_UNROLLED_WINDOW
        and (zeros_do or not any(node.padding))
        and not is_vector(in_shape)
        and not is_vector(out_shape)
    )
    (_pool_rows if unrolled else _pool_windows)(plan, index, node)


def _pool_rows(plan: Plan, index: int, node: Pool) -> None:
    source, target = (node.inputs[0],), (index,)
    from_, to = plan.geometry(source), plan.geometry(target)
    height, width, channels = plan.shape(target)
    lanes = plan.target.lanes
    count = -(-width // lanes)
    start = -node.padding[0] * from_.pitch - node.padding[2]
    last_row = (channels - 1) * from_.plane + (
        (height - 1) * node.strides[0] + node.size[0] - 1
    ) * from_.pitch
    last = start + last_row + (count * lanes) * node.strides[1] + node.size[1] + lanes
    check_reach(node, from_, channels, start, last)
    weights = plan.mask(target)
    if node.kind == "average":
        weights = counts_of(to, (height, width, 1), 1 / _window_counts(node, plan.shape(source)[:2]))
    plan.add(
        ("pool", node.kind, *node.size, node.strides[1]),
        functools.partial(
            planes.emit_pool,
            kind=node.kind,
            rows=node.size[0],
            columns=node.size[1],
            stride=node.strides[1],
        ),
        planes.POOL_PARAMETERS,
        {
            "source": plan.place(source) + start,
            "target": plan.place(target),
            "source_plane": from_.plane,
            "source_pitch": from_.pitch,
            "target_plane": to.plane,
            "target_pitch": to.pitch,
            "rows": height,
            "vectors": count,
            "row_step": node.strides[0],
            "weights": weights,
        },
        even(channels),
    )


def _window_counts(node: Pool, size: tuple[int, int]) -> np.ndarray:
    """How many numbers each window's average is of, float32 `[height, width]`."""
    if node.padding_counts:
        return np.float32(node.size[0] * node.size[1])
    counts = []
    for axis in range(2):
        before, after = node.padding[2 * axis : 2 * axis + 2]
        starts = np.arange(0, size[axis] + before + after - node.size[axis] + 1, node.strides[axis]) - before
        counts.append(np.minimum(starts + node.size[axis], size[axis]) - np.maximum(starts, 0))
    return np.outer(*counts).astype(np.float32)


def _pool_windows(plan: Plan, index: int, node: Pool) -> None:
    source, target = (node.inputs[0],), (index,)
    in_shape, out_shape = plan.shape(source), plan.shape(target)
    lies = {}
    for name, key, shape in (("source", source, in_shape), ("target", target, out_shape)):
        vector = is_vector(shape)
        lies[f"{name}_plane"] = 1 if vector else plan.geometry(key).plane
        lies[f"{name}_pitch"] = 1 if vector else plan.geometry(key).pitch
    plan.add(
        ("window_pool", node.kind, node.padding_counts),
        functools.partial(window_pool.emit, kind=node.kind, padding_counts=node.padding_counts),
        window_pool.PARAMETERS,
        lies
        | {
            "source": plan.place(source),
            "target": plan.place(target),
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
        even(out_shape[2]),
    )
