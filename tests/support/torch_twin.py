"""The tests' translation of a functional Keras model: the same network in PyTorch, under the same names."""

import keras
import torch
from torch import nn
from torch.nn import functional

from tfprune.network.graph import computed_graph, evaluate


class Twin(nn.Module):
    """A Keras model of convolutions in PyTorch, with its own initial weights.

    Attributes:
        modules_of: Name of each Keras layer that has weights -> the module.
    """

    def __init__(self, model):
        super().__init__()
        self.graph = computed_graph(model)
        self.modules_of = {}
        for layer in model.layers:
            if (module := _module(layer)) is not None:
                self.modules_of[layer.name] = module
        self.parts = nn.ModuleList(self.modules_of.values())

    def forward(self, x):
        """Returns the model's output for images with the channels first."""
        (output,) = evaluate(self.graph, [x], lambda step: [self._call(step.operation, step.inputs)])
        return output

    def _call(self, layer, inputs):
        module = self.modules_of.get(layer.name)
        if module is not None:
            (x,) = inputs
            if isinstance(module, nn.Conv2d) and layer.padding == "same":
                x = _padded(x, layer.kernel_size, layer.strides)
            return _activated(module(x), getattr(layer, "activation", None))
        return _FUNCTIONS[type(layer).__name__](layer, *inputs)


def _module(layer):
    """Returns the module of a layer with weights; None for one without."""
    match type(layer).__name__:
        case "Conv2D":
            taken, made = layer.kernel.shape[-2] * layer.groups, layer.filters
            return nn.Conv2d(taken, made, layer.kernel_size, layer.strides, groups=layer.groups)
        case "DepthwiseConv2D":
            channels = layer.kernel.shape[-2]
            return nn.Conv2d(channels, channels, layer.kernel_size, layer.strides, groups=channels)
        case "Dense":
            return nn.Linear(*layer.kernel.shape)
        case "BatchNormalization":
            return nn.BatchNorm2d(layer.moving_mean.shape[0])
        case _:
            return None


def _activated(x, activation):
    if activation is None or activation is keras.activations.linear:
        return x
    return getattr(functional, activation.__name__)(x)


def _padded(x, kernel_size, strides):
    """Pads as Keras does: the odd pixel at the far side."""
    sides = []
    for size, kernel, stride in zip(x.shape[:1:-1], kernel_size[::-1], strides[::-1], strict=True):
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        sides += [total // 2, total - total // 2]
    return functional.pad(x, sides)


def _zero_padding(layer, x):
    (top, bottom), (left, right) = layer.padding
    return functional.pad(x, (left, right, top, bottom))


_FUNCTIONS = {
    "ReLU": lambda layer, x: functional.relu6(x) if layer.max_value else functional.relu(x),
    "Activation": lambda layer, x: _activated(x, layer.activation),
    "Add": lambda layer, *inputs: sum(inputs[1:], inputs[0]),
    "Multiply": lambda layer, first, second: first * second,
    "Concatenate": lambda layer, *inputs: torch.cat(inputs, 1),
    "MaxPooling2D": lambda layer, x: functional.max_pool2d(x, layer.pool_size, layer.strides),
    "AveragePooling2D": lambda layer, x: functional.avg_pool2d(x, layer.pool_size, layer.strides),
    "GlobalAveragePooling2D": lambda layer, x: functional.adaptive_avg_pool2d(x, 1).flatten(1),
    "Flatten": lambda layer, x: x.flatten(1),
    "ZeroPadding2D": _zero_padding,
    "Dropout": lambda layer, x: x,
    "Normalization": lambda layer, x: x,
    "Rescaling": lambda layer, x: x,
}
