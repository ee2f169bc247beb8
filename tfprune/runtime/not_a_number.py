"""Follows NaN through a network: the kernels leave out removed weights, though NaN times zero is NaN.

Only an image that has a NaN is looked at in this way, beside its ordinary call.
"""

from collections.abc import Sequence

import numpy as np

from tfprune.runtime.graph import (
    ACROSS_CHANNELS,
    Activation,
    Add,
    Concatenate,
    Constant,
    Conv,
    Embedding,
    Flatten,
    Gather,
    GlobalPool,
    Graph,
    Input,
    MatMul,
    Node,
    Normalize,
    Pool,
    Recurrent,
    Shape,
)


def nan_outputs(graph: Graph, images: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Returns which numbers of the outputs the NaN of an example reach, by weights of any value.

    Args:
        graph: The network.
        images: An array for each input.

    Returns:
        bool `[numbers]` for each output: where it is NaN if each weight, zero or not, multiplies what it
        reads.
    """
    shapes = graph.shapes()
    reached: list[np.ndarray] = []
    for index, (node, shape) in enumerate(zip(graph.nodes, shapes, strict=True)):
        if isinstance(node, Input):
            found = np.isnan(images[index]).reshape(shape)
        elif isinstance(node, Constant):
            found = np.zeros(shape, bool)
        else:
            found = _reached(node, [reached[source] for source in node.inputs], shape)
        if isinstance(node, Conv | Activation | Add):
            if node.activation in ACROSS_CHANNELS:
                found = np.broadcast_to(found.any(axis=2, keepdims=True), found.shape)
            elif node.activation == "nonzero":  # A NaN is not 0.
                found = np.zeros(shape, bool)
        reached.append(found)
    return [reached[result.node].reshape(-1) for result in graph.results(shapes)]


def _reached(node: Node, inputs: list[np.ndarray], shape: Shape) -> np.ndarray:
    """Returns where a node's value is NaN, bool of its shape, before an activation across channels."""
    counts = shape[:2]
    match node:
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
            return np.concatenate(inputs, axis=node.axis)
        case Gather():
            return gathered(node, inputs[0])
        case MatMul():
            return inputs[0].any(axis=2, keepdims=True) | inputs[1].any(axis=2)[:, None]
        case Normalize():
            groups = inputs[0].reshape(*shape[:2], node.groups, -1)
            groups = groups.any(axis=3 if node.over == "pixel" else (0, 1, 3), keepdims=True)
            return np.broadcast_to(groups, (*shape[:2], node.groups, shape[2] // node.groups)).reshape(shape)
        case Embedding():
            return np.broadcast_to(inputs[0][0][:, :, None], shape)
        case Recurrent():
            return _along(node, inputs)
        case Flatten():
            return inputs[0].reshape(1, 1, -1)
        case _:  # Value by value.
            found = inputs[0]
            for other in inputs[1:]:
                found = found | other
            return found


def _along(node: Recurrent, inputs: list[np.ndarray]) -> np.ndarray:
    """Returns where the states of a cell are NaN: a unit's from the first that it meets, then all units'."""
    signal, states, _ = node.parts(inputs)
    of_gates = signal[0].reshape(signal.shape[1], -1, node.units)
    state, memory = of_gates.any(axis=1), of_gates[:, :3].any(axis=1)  # An LSTM's last gate is behind it.
    first = [vector.reshape(-1) for vector in states]
    if first:
        met = first[0].any() | first[-1]
        state[0] |= met
        memory[0] |= met
    before = np.logical_or.accumulate(state.any(axis=1))[:-1, None]
    state[1:] |= before
    memory[1:] |= before
    return np.concatenate([memory, state] if node.memory else [state], axis=1)[None]


def gathered(node: Gather, value: np.ndarray) -> np.ndarray:
    """Returns the numbers that a `Gather` takes of a value.

    Args:
        node: The node.
        value: `[height, width, channels]`.
    """
    rows, columns, channels = (np.array(places) for places in (node.rows, node.columns, node.channels))
    return value.reshape(-1)[rows[:, None, None] + columns[:, None] + channels]


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
