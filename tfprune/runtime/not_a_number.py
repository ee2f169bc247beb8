"""Follows NaN through a network: the kernels leave out removed weights, though NaN times zero is NaN.

Only an image that has a NaN is looked at in this way, beside its ordinary call.
"""

import numpy as np

from tfprune.runtime.graph import Activation, Concatenate, Conv, Flatten, GlobalPool, Graph, Input, Node, Pool


def nan_logits(graph: Graph, image: np.ndarray) -> np.ndarray:
    """Returns which logits an image's NaN reach, by weights of any value.

    Args:
        graph: The network.
        image: `[height, width, channels]`.

    Returns:
        bool `[classes]`: what the network is NaN at if each weight, zero or not, multiplies what it reads.
    """
    shapes = graph.shapes()
    reached: list[np.ndarray] = []
    for node, shape in zip(graph.nodes, shapes, strict=True):
        inputs = [reached[source] for source in node.inputs] or [np.isnan(image)]
        found = _reached(node, inputs, shape[:2])
        if isinstance(node, Conv | Activation) and node.activation == "softmax":
            found = np.broadcast_to(found.any(), found.shape)
        reached.append(found)
    return reached[-1].reshape(-1)


def _reached(node: Node, inputs: list[np.ndarray], counts: tuple[int, int]) -> np.ndarray:
    """Returns where a node's value is NaN, bool `[height, width, channels]`, before a softmax."""
    match node:
        case Input():
            return inputs[0]
        case Conv():
            height, width, channels = inputs[0].shape
            of_group = inputs[0].reshape(height, width, node.groups, channels // node.groups).any(axis=3)
            found = _in_windows(of_group, counts, node.kernel.shape[:2], node, node.dilation)
            found = np.repeat(found, node.kernel.shape[3] // node.groups, axis=2)
            return found | inputs[1] if len(inputs) == 2 else found
        case Pool():
            return _in_windows(inputs[0], counts, node.size, node, (1, 1))
        case GlobalPool():
            return inputs[0].any(axis=(0, 1), keepdims=True)
        case Concatenate():
            return np.concatenate(inputs, axis=2)
        case Flatten():
            return inputs[0].reshape(1, 1, -1)
        case _:  # Value by value.
            found = inputs[0]
            for other in inputs[1:]:
                found = found | other
            return found


def _in_windows(
    values: np.ndarray,
    counts: tuple[int, int],
    window: tuple[int, int],
    node: Conv | Pool,
    dilation: tuple[int, int],
) -> np.ndarray:
    """Returns for each window whether any of what it reads is set: first along the rows, then the columns."""
    for axis in range(2):
        before, after = node.padding[2 * axis : 2 * axis + 2]
        padded = np.pad(values, [(before, after) if each == axis else (0, 0) for each in range(3)])
        stride, length = node.strides[axis], (counts[axis] - 1) * node.strides[axis] + 1
        found = np.zeros((), bool)
        for tap in range(0, window[axis] * dilation[axis], dilation[axis]):
            found = found | padded[(slice(None),) * axis + (slice(tap, tap + length, stride),)]
        values = found
    return values
