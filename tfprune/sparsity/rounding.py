"""Kernels rounded to what 8 bits hold, as files of the sparse runtime and TFLite's store them.

Symmetric about zero, with a scale for each output channel: on the steps of `tfprune.runtime.integers`, which
leaves such weights as they are. Zero is a step of every scale, so that what pruning removed stays removed.
"""

from collections.abc import Iterator
from typing import Any

import keras
from keras import ops

from tfprune.network import kinds
from tfprune.network.graph import all_layers

LARGEST_INT8 = 127


def rounded_kernels(layer: keras.layers.Layer) -> Iterator[kinds.Kernel]:
    """Yields the kernels of a layer, and of those inside it, that are rounded.

    They multiply, or are tables that are looked up. Those that are never pruned, such as depthwise ones, are
    among them.
    """
    found = {id(kernel.variable): kernel for kernel in kinds.prunable(layer)}
    for part in all_layers(layer):
        found.update({id(kernel.variable): kernel for kernel in kinds.kernels(part)})
    # A variable of a class that is not Keras's may be anything; a table's axis is known.
    return (kernel for kernel in found.values() if kernel.input_axis is not None or kernel.output_axes)


def to_8_bits(kernel: kinds.Kernel, values: Any) -> Any:
    """Returns a kernel's values rounded to 8 bits, and lets gradients pass as if they were not.

    With the largest absolute value m of an output channel and its step s = m / 127, a weight w becomes
    `round(w / s) * s`. The gradient is the straight-through estimator's (arXiv:1308.3432). Keras's
    `fake_quant_with_min_max_vars` has one axis of channels only, and a depthwise kernel has two.

    Args:
        kernel: The kernel. Where no axis numbers output channels, the last one does.
        values: A tensor of its shape.

    Returns:
        A tensor of the same shape and type.
    """
    channels = [axis % len(values.shape) for axis in kernel.output_axes or (-1,)]
    others = tuple(axis for axis in range(len(values.shape)) if axis not in channels)
    exact = ops.cast(values, "float32")
    steps = ops.max(ops.abs(exact), axis=others, keepdims=True) / LARGEST_INT8
    steps = ops.where(steps > 0, steps, 1.0)
    rounded = ops.cast(ops.round(exact / steps) * steps, values.dtype)
    # The second term is zero, and has the gradient of `values`.
    return ops.stop_gradient(rounded) + (values - ops.stop_gradient(values))
