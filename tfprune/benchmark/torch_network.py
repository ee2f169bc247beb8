"""Runs the program of `torch_peer` in PyTorch; imports PyTorch alone."""

from typing import Any

import torch
from torch.nn import functional

_IN_PLACE = {
    "relu": torch.relu_,
    "relu6": lambda x: functional.relu6(x, inplace=True),
    "leaky_relu": lambda x: functional.leaky_relu(x, 0.2, inplace=True),
    "elu": lambda x: functional.elu(x, inplace=True),
    "sigmoid": torch.sigmoid_,
    "hard_sigmoid": lambda x: functional.hardsigmoid(x, inplace=True),
    "tanh": torch.tanh_,
    "silu": lambda x: functional.silu(x, inplace=True),
    "hard_silu": lambda x: functional.hardswish(x, inplace=True),
    "gelu": functional.gelu,
    "softmax": lambda x: torch.softmax(x, dim=1),
}


class TorchNetwork(torch.nn.Module):
    """The network, channels-last, each value freed after its last use.

    Args:
        program: From `tfprune.benchmark.torch_peer.to_torch`.
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
        return values[-1].flatten(1)


def _compute(step: dict[str, Any], inputs: list[torch.Tensor]) -> torch.Tensor:
    value = inputs[0]
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
        case "concatenate":
            return torch.cat(inputs, dim=1)
        case "flatten":
            return value.permute(0, 2, 3, 1).reshape(len(value), -1, 1, 1)
        case "activation":
            value = value.clone(memory_format=torch.preserve_format)
    activate = _IN_PLACE.get(step["activation"])
    return value if activate is None else activate(value)


def _pad(value: torch.Tensor, step: dict[str, Any], fill: float) -> torch.Tensor:
    return functional.pad(value, step["pad"], value=fill) if any(step["pad"]) else value
