"""What a graph computes, in plain NumPy and float64: the truth that the runtime's tests compare with."""

import math

import numpy as np

from tfprune.runtime.graph import (
    Activation,
    Add,
    Concatenate,
    Conv,
    Flatten,
    GlobalPool,
    Graph,
    Input,
    Multiply,
    Node,
    Pool,
)

erf = np.vectorize(math.erf, otypes=[np.float64])


def run(graph: Graph, images: np.ndarray) -> np.ndarray:
    """The network's output.

    Args:
        graph: A valid graph.
        images: `[n, height, width, channels]`, any number type.

    Returns:
        float64 `[n, classes]`.
    """
    return run_nodes(graph, images)[-1][:, 0, 0, :]


def run_nodes(graph: Graph, images: np.ndarray) -> list[np.ndarray]:
    """The value of every node, float64 `[n, height, width, channels]` each."""
    shapes = graph.shapes()
    values: list[np.ndarray] = []
    for node, shape in zip(graph.nodes, shapes, strict=True):
        inputs = (
            [values[source] for source in node.inputs] if node.inputs else [np.asarray(images, np.float64)]
        )
        value = compute(node, inputs)
        assert value.shape == (len(images), *shape), (node.name, value.shape, shape)
        values.append(value)
    return values


def compute(node: Node, inputs: list[np.ndarray]) -> np.ndarray:
    """The value of one node from those of its inputs; an `Input` takes the images as its only one."""
    first = inputs[0]
    match node:
        case Input():
            return first * node.scale.astype(np.float64) + node.shift.astype(np.float64)
        case Conv():
            value = convolve(first, node) + node.bias.astype(np.float64)
            return activate(value + inputs[1] if len(inputs) == 2 else value, node.activation)
        case Pool():
            return pool(first, node)
        case GlobalPool():
            reduce = np.max if node.kind == "max" else np.mean
            return reduce(first, axis=(1, 2), keepdims=True)
        case Add():
            return activate(sum(inputs[1:], first), node.activation)
        case Multiply():
            return first * inputs[1]
        case Concatenate():
            return np.concatenate(inputs, axis=-1)
        case Activation():
            return activate(first, node.activation)
        case Flatten():
            return first.reshape(len(first), 1, 1, -1)
    raise TypeError(f"unknown node {node}")


def windows_of(
    padded: np.ndarray, tap: tuple[int, int], strides: tuple[int, int], counts: tuple[int, int]
) -> np.ndarray:
    """What all windows of a padded value see at one of their positions: `[n, *counts, channels]`."""
    rows = slice(tap[0], tap[0] + (counts[0] - 1) * strides[0] + 1, strides[0])
    columns = slice(tap[1], tap[1] + (counts[1] - 1) * strides[1] + 1, strides[1])
    return padded[:, rows, columns]


def pad(value: np.ndarray, padding: tuple[int, int, int, int], fill: float) -> np.ndarray:
    top, bottom, left, right = padding
    return np.pad(value, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=fill)


def convolve(value: np.ndarray, node: Conv) -> np.ndarray:
    """The convolution alone: no bias, no residual, no activation."""
    kernel = np.asarray(node.kernel, np.float64)
    padded = pad(value, node.padding, 0.0)
    counts = node.output_shape([value.shape[1:]])[:2]
    inner, filters = kernel.shape[2], kernel.shape[3] // node.groups
    output = np.zeros((len(value), *counts, kernel.shape[3]))
    for row in range(kernel.shape[0]):
        for column in range(kernel.shape[1]):
            tap = (row * node.dilation[0], column * node.dilation[1])
            seen = windows_of(padded, tap, node.strides, counts)
            for group in range(node.groups):
                sources = slice(group * inner, (group + 1) * inner)
                targets = slice(group * filters, (group + 1) * filters)
                output[..., targets] += np.einsum(
                    "nhwi,io->nhwo", seen[..., sources], kernel[row, column][:, targets]
                )
    return output


def pool(value: np.ndarray, node: Pool) -> np.ndarray:
    counts = node.output_shape([value.shape[1:]])[:2]
    outside = 0.0 if node.padding_counts or node.kind == "average" else -np.inf
    padded = pad(value, node.padding, outside)
    taken = pad(np.ones_like(value), node.padding, float(node.padding_counts))
    taps = [(row, column) for row in range(node.size[0]) for column in range(node.size[1])]
    seen = np.stack([windows_of(padded, tap, node.strides, counts) for tap in taps])
    if node.kind == "max":
        return seen.max(axis=0)
    return seen.sum(axis=0) / sum(windows_of(taken, tap, node.strides, counts) for tap in taps)


def activate(x: np.ndarray, activation: str) -> np.ndarray:
    match activation:
        case "linear":
            return x
        case "relu":
            return np.maximum(x, 0)
        case "relu6":
            return np.clip(x, 0, 6)
        case "leaky_relu":
            return np.where(x >= 0, x, 0.2 * x)
        case "elu":
            return np.where(x >= 0, x, np.expm1(np.minimum(x, 0)))
        case "sigmoid":
            return 0.5 * (1 + np.tanh(x / 2))
        case "hard_sigmoid":
            return np.clip(x + 3, 0, 6) / 6
        case "tanh":
            return np.tanh(x)
        case "silu":
            return x * 0.5 * (1 + np.tanh(x / 2))
        case "hard_silu":
            return x * np.clip(x + 3, 0, 6) / 6
        case "gelu":
            return 0.5 * x * (1 + erf(x / math.sqrt(2)))
        case "softmax":
            powers = np.exp(x - x.max(axis=-1, keepdims=True))
            return powers / powers.sum(axis=-1, keepdims=True)
    raise ValueError(f"unknown activation {activation!r}")
