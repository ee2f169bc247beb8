"""A graph as a program of plain tensors, which `TorchNetwork` runs and `torch.save` stores."""

from typing import Any

import numpy as np
import torch

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
    nonnegative_values,
)


def to_torch(graph: Graph) -> list[dict[str, Any]]:
    """Converts a graph to what `tfprune.benchmark.torch_network.TorchNetwork` takes.

    Args:
        graph: The network.

    Returns:
        A step for each node: dictionaries of numbers, texts and tensors, nothing else, so that
        `torch.load(..., weights_only=True)` reads it back. Kernels are dense and channels-last.
    """
    shapes = graph.shapes()
    nonnegative = nonnegative_values(graph)
    last_use = {source: index for index, node in enumerate(graph.nodes) for source in node.inputs}
    program = []
    for index, node in enumerate(graph.nodes):
        step = {"inputs": list(node.inputs), "activation": getattr(node, "activation", "linear")}
        step["done"] = [source for source in sorted(set(node.inputs)) if last_use[source] == index]
        input_shape = shapes[node.inputs[0]] if node.inputs else ()
        free_zeros = bool(node.inputs) and nonnegative[node.inputs[0]]
        program.append(step | _step(node, input_shape, free_zeros))
    return program


def _step(node: Node, input_shape: tuple[int, ...], free_zeros: bool) -> dict[str, Any]:
    match node:
        case Input():
            return {"op": "input", "scale": _channels(node.scale), "shift": _channels(node.shift)}
        case Conv():
            kernel = torch.from_numpy(np.array(node.kernel).transpose(3, 2, 0, 1).copy())
            outside, inside = _split_padding(node.padding, None)
            return {
                "op": "conv",
                "kernel": kernel.contiguous(memory_format=torch.channels_last),
                "bias": torch.from_numpy(node.bias.copy()),
                "stride": list(node.strides),
                "pad": outside,
                "padding": inside,
                "dilation": list(node.dilation),
                "groups": node.groups,
            }
        case Pool():
            return _pool(node, input_shape, free_zeros)
        case GlobalPool():
            return {"op": f"global_{node.kind}"}
        case Add():
            return {"op": "add"}
        case Multiply():
            return {"op": "multiply"}
        case Concatenate():
            return {"op": "concatenate"}
        case Activation():
            return {"op": "activation"}
        case Flatten():
            return {"op": "flatten"}
    raise TypeError(f"no PyTorch for a {type(node).__name__}")


def _pool(node: Pool, input_shape: tuple[int, ...], free_zeros: bool) -> dict[str, Any]:
    outside, inside = _split_padding(node.padding, node.size)
    step = {"size": list(node.size), "stride": list(node.strides), "pad": outside, "padding": inside}
    if node.kind == "max":
        fill = 0.0
        if node.padding_counts and not free_zeros:
            step |= {"pad": _torch_order(node.padding), "padding": [0, 0]}
        elif any(outside):
            fill = float("-inf")
        return step | {"op": "max_pool", "fill": fill}
    if node.padding_counts or not any(outside):
        return step | {"op": "average_pool", "count_include_pad": node.padding_counts, "scale": None}
    # PyTorch counts what a separate padding added; the scale takes it back.
    taken = torch.nn.functional.pad(torch.ones(1, 1, *input_shape[:2]), outside)
    share = torch.nn.functional.avg_pool2d(taken, node.size, node.strides)
    return step | {"op": "average_pool", "count_include_pad": False, "scale": 1 / share}


def _split_padding(
    padding: tuple[int, int, int, int], size: tuple[int, int] | None
) -> tuple[list[int], list[int]]:
    """What a separate padding has to add, in PyTorch's order, and what the operation takes itself."""
    top, bottom, left, right = padding
    small = size is None or (2 * top <= size[0] and 2 * left <= size[1])
    if top == bottom and left == right and small:
        return [0, 0, 0, 0], [top, left]
    return _torch_order(padding), [0, 0]


def _torch_order(padding: tuple[int, int, int, int]) -> list[int]:
    top, bottom, left, right = padding
    return [left, right, top, bottom]


def _channels(vector: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(vector.copy()).reshape(1, -1, 1, 1)
