"""A graph in PyTorch: a program of plain tensors, which `torch.save` stores and `TorchNetwork` runs."""

from typing import Any

import numpy as np
import torch
from torch.nn import functional

from tfprune.runtime.graph import (
    ACTIVATIONS,
    CELLS,
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
    Quantize,
    Recurrent,
    nonnegative_values,
)

_IN_PLACE = {
    "relu": torch.relu_,
    "relu6": lambda x: functional.relu6(x, inplace=True),
    "leaky_relu": lambda x, slope: functional.leaky_relu(x, slope, inplace=True),
    "elu": lambda x, alpha: functional.elu(x, alpha, inplace=True),
    "sigmoid": torch.sigmoid_,
    "hard_sigmoid": lambda x: functional.hardsigmoid(x, inplace=True),
    "tanh": torch.tanh_,
    "silu": lambda x: functional.silu(x, inplace=True),
    "hard_silu": lambda x: functional.hardswish(x, inplace=True),
    "gelu": functional.gelu,
    "softmax": lambda x: torch.softmax(x, dim=1),
    "general_relu": lambda x, slope, largest, threshold: (
        torch.where(x > threshold, x, 0).clamp(max=largest) - slope * torch.relu(threshold - x)
    ),
    "clip": lambda x, least, largest: x.clamp_(least, largest),
    "abs": torch.abs_,
    "celu": lambda x, alpha: functional.celu(x, alpha, inplace=True),
    "exponential": torch.exp_,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "hard_shrink": functional.hardshrink,
    "log": torch.log_,
    "log_softmax": lambda x: torch.log_softmax(x, dim=1),
    "log_sigmoid": functional.logsigmoid,
    "mish": lambda x: functional.mish(x, inplace=True),
    "reciprocal": torch.reciprocal_,
    "rsqrt": torch.rsqrt_,
    "selu": lambda x: functional.selu(x, inplace=True),
    "soft_shrink": functional.softshrink,
    "softplus": functional.softplus,
    "softsign": functional.softsign,
    "sparse_plus": lambda x: torch.where(x > 1, x, 0.25 * torch.relu(x + 1) ** 2),
    "sparse_sigmoid": lambda x: ((x + 1) * 0.5).clamp_(0, 1),
    "sqrt": torch.sqrt_,
    "square": torch.square_,
    "squareplus": lambda x, added: (x + torch.sqrt(x * x + added)) / 2,
    "tanh_shrink": functional.tanhshrink,
    "nonzero": lambda x: (x != 0).to(x.dtype),
    "threshold": lambda x, threshold, below: functional.threshold(x, threshold, below, inplace=True),
}


def to_torch(graph: Graph) -> list[dict[str, Any]]:
    """Converts a graph to the program that `TorchNetwork` takes.

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
        step["settings"] = list(getattr(node, "settings", ()) or ACTIVATIONS[step["activation"]])
        step["done"] = [source for source in sorted(set(node.inputs)) if last_use[source] == index]
        input_shape = shapes[node.inputs[0]] if node.inputs else ()
        free_zeros = bool(node.inputs) and nonnegative[node.inputs[0]]
        program.append(step | _step(node, input_shape, free_zeros))
    return program


class TorchNetwork(torch.nn.Module):
    """The network, channels-last, each value freed after its last use.

    Args:
        program: The return value of `to_torch`.
    """

    def __init__(self, program: list[dict[str, Any]]) -> None:
        """Keeps the program; its tensors are constants, not parameters."""
        super().__init__()
        self._program = program

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Classifies a batch.

        Args:
            images: uint8 or float32 `[n, height, width, channels]`.

        Returns:
            float32 `[n, classes]`.
        """
        # As [n, channels, height, width], pixels lie channels-last already.
        values: list[torch.Tensor | None] = [images.permute(0, 3, 1, 2).float()]
        for index, step in enumerate(self._program):
            inputs = [values[source] for source in step["inputs"]] if index else [values[0]]
            value = _compute(step, inputs)
            if index:
                values.append(value)
            else:
                values[0] = value
            for source in step["done"]:
                values[source] = None
        return values[-1].flatten(1).expand(len(images), -1)


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
        case Combine():
            return {"op": f"combine_{node.operation}"}
        case Constant():
            return {"op": "constant", "value": torch.from_numpy(node.value.transpose(2, 0, 1)[None].copy())}
        case Concatenate():
            return {"op": "concatenate", "dim": (2, 3, 1)[node.axis]}
        case Gather():
            rows, columns, channels = map(np.array, (node.rows, node.columns, node.channels))
            places = rows[:, None] + columns + channels[:, None, None]
            return {"op": "gather", "places": torch.from_numpy(places)}
        case MatMul():
            return {"op": "matmul"}
        case Normalize():
            return {
                "op": "normalize",
                "scale": _channels(node.scale),
                "shift": _channels(node.shift),
                "groups": node.groups,
                "dims": [2] if node.over == "pixel" else [2, 3, 4],
                "centered": node.centered,
                "epsilon": node.epsilon,
            }
        case Embedding():
            return {"op": "embedding", "kernel": torch.from_numpy(np.array(node.kernel)[0, 0])}
        case Recurrent():
            return {
                "op": f"recurrent_{node.cell}",
                "kernel": torch.from_numpy(np.array(node.kernel)[0, 0]),
                "bias": torch.from_numpy(node.bias.copy()),
                "gate_activation": node.gate_activation,
                "gate_settings": list(node.gate_settings or ACTIVATIONS[node.gate_activation]),
                "memory": node.memory,
                "masked": node.masked,
            }
        case Activation() | Quantize():  # Peers compute in float32.
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
    """Returns the padding to add separately, in PyTorch's order, and that of the operation itself."""
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


def _compute(step: dict[str, Any], inputs: list[torch.Tensor]) -> torch.Tensor:
    value = inputs[0] if inputs else step["value"]
    match step["op"]:
        case "input":
            return value * step["scale"] + step["shift"]
        case "conv":
            value = functional.conv2d(
                _pad(value, step, 0.0),
                step["kernel"],
                step["bias"],
                step["stride"],
                step["padding"],
                step["dilation"],
                step["groups"],
            )
            if len(inputs) == 2:
                value.add_(inputs[1])
        case "max_pool":
            padded = _pad(value, step, step["fill"])
            return functional.max_pool2d(padded, step["size"], step["stride"], step["padding"])
        case "average_pool":
            padded = _pad(value, step, 0.0)
            counts = step["count_include_pad"]
            value = functional.avg_pool2d(
                padded, step["size"], step["stride"], step["padding"], count_include_pad=counts
            )
            return value if step["scale"] is None else value * step["scale"]
        case "global_max":
            return value.amax((2, 3), keepdim=True)
        case "global_average":
            return value.mean((2, 3), keepdim=True)
        case "add":
            value = value + inputs[1]
            for other in inputs[2:]:
                value.add_(other)
        case "multiply":
            return value * inputs[1]
        case "combine_maximum":
            return torch.maximum(value, inputs[1])
        case "combine_minimum":
            return torch.minimum(value, inputs[1])
        case "combine_add":
            return value + inputs[1]
        case "combine_multiply":
            return value * inputs[1]
        case "constant":
            return value
        case "concatenate":
            size = max(len(each) for each in inputs)
            return torch.cat([each.expand(size, -1, -1, -1) for each in inputs], dim=step["dim"])
        case "gather":
            return value.permute(0, 2, 3, 1).reshape(len(value), -1)[:, step["places"]]
        case "matmul":
            return (value.permute(0, 2, 3, 1) @ inputs[1].permute(0, 2, 1, 3)).permute(0, 3, 1, 2)
        case "normalize":
            groups = value.reshape(len(value), step["groups"], -1, *value.shape[2:])
            if step["centered"]:
                groups = groups - groups.mean(step["dims"], keepdim=True)
            variance = groups.square().mean(step["dims"], keepdim=True)
            normal = (groups / torch.sqrt(variance + step["epsilon"])).reshape(value.shape)
            return normal * step["scale"] + step["shift"]
        case "embedding":
            numbers, rows = value[:, :, 0].transpose(1, 2), len(step["kernel"])
            known = (numbers >= -rows) & (numbers < rows)
            made = step["kernel"][torch.where(known, numbers, 0).long()]
            return torch.where(known[..., None], made, torch.nan).permute(0, 3, 1, 2)
        case operation if operation.startswith("recurrent_"):
            return _recur(step, operation.removeprefix("recurrent_"), inputs)
        case "flatten":
            return value.permute(0, 2, 3, 1).reshape(len(value), -1, 1, 1)
        case "activation":
            value = value.clone(memory_format=torch.preserve_format)
    return _activate(value, step["activation"], step["settings"])


def _activate(value: torch.Tensor, activation: str, settings: list[float]) -> torch.Tensor:
    """Returns the activation of a value, which may be overwritten."""
    activate = _IN_PLACE.get(activation)
    return value if activate is None else activate(value, *settings)


def _recur(step: dict[str, Any], cell: str, inputs: list[torch.Tensor]) -> torch.Tensor:
    """Returns the states of a cell after each column of a signal, `[n, states, 1, columns]`."""
    signal, kernel, bias = inputs[0][:, :, 0], step["kernel"], step["bias"]
    others = [given[:, :, 0, 0] for given in inputs[1:]]
    mask = others.pop() if step["masked"] else None
    first = others or [signal.new_zeros(len(signal), len(kernel))] * 2
    state, memory, gates = first[0], first[-1], len(CELLS[cell])

    def opened(x: torch.Tensor) -> torch.Tensor:
        return _activate(x, step["gate_activation"], step["gate_settings"])

    def shown(x: torch.Tensor) -> torch.Tensor:
        return _activate(x, step["activation"], step["settings"])

    columns = []
    for index, x in enumerate(signal.unbind(2)):
        before = state, memory
        r = state @ kernel + bias
        both = (x + r).chunk(gates, dim=1)
        if cell == "simple":
            state = shown(both[0])
        elif cell == "lstm":
            memory = opened(both[1]) * memory + opened(both[0]) * shown(both[2])
            state = opened(both[3]) * shown(memory.clone())
        else:
            update, reset = opened(both[0]), opened(both[1])
            given, taken = x.chunk(gates, dim=1)[2], r.chunk(gates, dim=1)[2]
            if cell == "gru":
                taken = reset * taken
            else:
                taken = ((reset * state) @ kernel + bias).chunk(gates, dim=1)[2]
            state = update * state + (1 - update) * shown(given + taken)
        if mask is not None:
            kept = mask[:, index, None] != 0
            state, memory = torch.where(kept, state, before[0]), torch.where(kept, memory, before[1])
        columns.append(torch.cat([memory, state], dim=1) if step["memory"] else state)
    return torch.stack(columns, dim=2)[:, :, None]


def _pad(value: torch.Tensor, step: dict[str, Any], fill: float) -> torch.Tensor:
    return functional.pad(value, step["pad"], value=fill) if any(step["pad"]) else value
