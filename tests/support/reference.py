"""What a graph computes, in plain NumPy and float64: the truth that the runtime's tests compare with."""

import math

import numpy as np

from tfprune.runtime.graph import (
    ACTIVATIONS,
    Activation,
    Add,
    Combine,
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
    Multiply,
    Node,
    Normalize,
    Pool,
    Recurrent,
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
    (output,) = run_all(graph, [images]).values()
    return output


def run_all(graph: Graph, inputs: list[np.ndarray]) -> dict[str, np.ndarray]:
    """The network's outputs by name, float64 `[n, ...]`, from an array for each input."""
    values = run_nodes(graph, inputs)
    shapes = graph.shapes()
    return {result.name: values[result.node].reshape(-1, *result.shape) for result in graph.results(shapes)}


def run_nodes(graph: Graph, arrays: list[np.ndarray]) -> list[np.ndarray]:
    """The value of every node, float64 `[n, height, width, channels]` each."""
    shapes = graph.shapes()
    values: list[np.ndarray] = []
    images = len(arrays[0])
    for index, (node, shape) in enumerate(zip(graph.nodes, shapes, strict=True)):
        if isinstance(node, Input):
            inputs = [np.asarray(arrays[index], np.float64).reshape(images, *node.shape)]
        elif isinstance(node, Constant):
            inputs = [np.repeat(node.value[None].astype(np.float64), images, axis=0)]
        else:
            inputs = [values[source] for source in node.inputs]
        value = compute(node, inputs)
        assert value.shape == (images, *shape), (node.name, value.shape, shape)
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
            return activate(value + inputs[1] if len(inputs) == 2 else value, node.activation, node.settings)
        case Pool():
            return pool(first, node)
        case GlobalPool():
            reduce = np.max if node.kind == "max" else np.mean
            return reduce(first, axis=(1, 2), keepdims=True)
        case Add():
            return activate(sum(inputs[1:], first), node.activation, node.settings)
        case Multiply():
            return first * inputs[1]
        case Combine():
            combined = {"add": np.add, "multiply": np.multiply, "maximum": np.maximum, "minimum": np.minimum}
            return combined[node.operation](first, inputs[1])
        case Constant():
            return first
        case Gather():
            flat = first.reshape(len(first), -1)
            rows, columns, channels = map(np.array, (node.rows, node.columns, node.channels))
            return flat[:, rows[:, None, None] + columns[:, None] + channels]
        case MatMul():
            return np.einsum("byxn,bymn->byxm", first, inputs[1])
        case Normalize():
            groups = first.reshape(*first.shape[:3], node.groups, -1)
            axes = (4,) if node.over == "pixel" else (1, 2, 4)
            if node.centered:
                groups = groups - groups.mean(axis=axes, keepdims=True)
            variance = (groups**2).mean(axis=axes, keepdims=True)
            normal = (groups / np.sqrt(variance + node.epsilon)).reshape(first.shape)
            return normal * node.scale.astype(np.float64) + node.shift.astype(np.float64)
        case Embedding():
            table, rows = np.asarray(node.kernel, np.float64)[0, 0], node.kernel.shape[2]
            known = (first >= -rows) & (first < rows)
            made = table[np.where(known, first, 0)[:, 0].astype(int)]
            return np.where(known[:, 0, :, :, None], made, np.nan)
        case Recurrent():
            return recur(node, inputs)
        case Concatenate():
            return np.concatenate(inputs, axis=1 + node.axis)
        case Activation():
            return activate(first, node.activation, node.settings)
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


def recur(node: Recurrent, inputs: list[np.ndarray]) -> np.ndarray:
    """The states of a recurrent cell after each column."""
    signal, first, mask = node.parts(inputs)
    signal, units = signal[:, 0], node.units
    state, memory = (first + [np.zeros((len(signal), 1, 1, units))] * 2)[:2]
    state, memory = state[:, 0, 0], memory[:, 0, 0]
    kernel, bias = np.asarray(node.kernel, np.float64)[0, 0], node.bias.astype(np.float64)

    def of_gate(array, gate):
        return array[..., gate * units : (gate + 1) * units]

    def open_(x):
        return activate(x, node.gate_activation, node.gate_settings)

    def shown(x):
        return activate(x, node.activation, node.settings)

    rows = []
    for column in range(signal.shape[1]):
        before = state, memory
        x, r = signal[:, column], state @ kernel + bias
        both = [of_gate(x + r, gate) for gate in range(kernel.shape[1] // units)]
        if node.cell == "simple":
            state = shown(both[0])
        elif node.cell == "lstm":
            memory = open_(both[1]) * memory + open_(both[0]) * shown(both[2])
            state = open_(both[3]) * shown(memory)
        else:
            update, reset = open_(both[0]), open_(both[1])
            if node.cell == "gru":
                candidate = of_gate(x, 2) + reset * of_gate(r, 2)
            else:
                candidate = of_gate(x, 2) + of_gate((reset * state) @ kernel + bias, 2)
            state = update * state + (1 - update) * shown(candidate)
        if mask is not None:
            kept = mask[:, 0, 0, column, None] != 0
            state, memory = np.where(kept, state, before[0]), np.where(kept, memory, before[1])
        rows.append(np.concatenate([memory, state], axis=1) if node.memory else state)
    return np.stack(rows, axis=1)[:, None]


def activate(x: np.ndarray, activation: str, settings: tuple[float, ...] = ()) -> np.ndarray:
    settings = settings or ACTIVATIONS[activation]
    match activation:
        case "linear":
            return x
        case "relu":
            return np.maximum(x, 0)
        case "relu6":
            return np.clip(x, 0, 6)
        case "leaky_relu":
            return np.where(x >= 0, x, settings[0] * x)
        case "elu":
            return np.where(x >= 0, x, settings[0] * np.expm1(np.minimum(x, 0)))
        case "celu":
            return np.maximum(x, 0) + settings[0] * np.expm1(np.minimum(x, 0) / settings[0])
        case "selu":
            return 1.0507009873554805 * activate(x, "elu", (1.6732632423543772,))
        case "general_relu":
            slope, largest, threshold = settings
            kept = np.where(x <= threshold, 0, x)
            return np.minimum(kept, largest) - slope * np.maximum(threshold - x, 0)
        case "clip":
            return np.clip(x, *settings)
        case "abs":
            return np.abs(x)
        case "exponential":
            return np.exp(np.minimum(x, 88))
        case "gelu_tanh":
            return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
        case "hard_shrink":
            return np.where(np.abs(x) <= settings[0], 0, x)
        case "soft_shrink":
            return x - np.clip(x, -settings[0], settings[0])
        case "tanh_shrink":
            return x - np.tanh(x)
        case "nonzero":
            return np.where(x != 0, 1.0, 0.0)
        case "threshold":
            return np.where(x <= settings[0], settings[1], x)
        case "log":
            with np.errstate(invalid="ignore", divide="ignore"):
                return np.log(x)
        case "softplus":
            return np.logaddexp(x, 0)
        case "log_sigmoid":
            return -np.logaddexp(-x, 0)
        case "mish":
            return x * np.tanh(np.logaddexp(x, 0))
        case "reciprocal":
            with np.errstate(divide="ignore"):
                return 1 / x
        case "sqrt":
            with np.errstate(invalid="ignore"):
                return np.sqrt(x)
        case "rsqrt":
            with np.errstate(invalid="ignore", divide="ignore"):
                return 1 / np.sqrt(x)
        case "softsign":
            return x / (1 + np.abs(x))
        case "sparse_plus":
            return np.where(x > 1, x, np.maximum(x + 1, 0) ** 2 / 4)
        case "sparse_sigmoid":
            return np.clip((x + 1) / 2, 0, 1)
        case "square":
            return x * x
        case "squareplus":
            return (x + np.sqrt(x * x + settings[0])) / 2
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
        case "log_softmax":
            x = x - x.max(axis=-1, keepdims=True)
            return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))
        case "softmax":
            powers = np.exp(x - x.max(axis=-1, keepdims=True))
            return powers / powers.sum(axis=-1, keepdims=True)
    raise ValueError(f"unknown activation {activation!r}")
