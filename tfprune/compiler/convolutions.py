"""Keras's convolutions and dense layers as the runtime's `Conv`."""

from typing import Any

import keras
import numpy as np

from tfprune.compiler.activations import activation_of_function
from tfprune.compiler.draft import Call, Draft
from tfprune.runtime.graph import Conv

NO_PADDING = (0, 0, 0, 0)


def same_padding(
    size: tuple[int, int],
    window: tuple[int, int],
    strides: tuple[int, int],
    dilation: tuple[int, int] = (1, 1),
) -> tuple[int, int, int, int]:
    """What `padding="same"` adds in Keras: the far side gets the odd one.

    Args:
        size: Height and width of the input.
        window: Of the kernel or the pool.
        strides: Vertical and horizontal.
        dilation: Vertical and horizontal.

    Returns:
        `(top, bottom, left, right)`.
    """
    padding: list[int] = []
    for length, taps, stride, rate in zip(size, window, strides, dilation, strict=True):
        outputs = -(-length // stride)
        total = max((outputs - 1) * stride + (taps - 1) * rate + 1 - length, 0)
        padding += [total // 2, total - total // 2]
    return tuple(padding)


def read_weight(call: Call, weight: Any) -> np.ndarray:
    """A weight of a layer, or any tensor, as float64."""
    if weight is None:
        raise call.refuse("the layer must be built")
    return np.asarray(keras.ops.convert_to_numpy(weight)).astype(np.float64)


def conv2d(draft: Draft, call: Call) -> int:
    """`Conv2D`."""
    layer = call.operation
    kernel = _kernel(call, "kernel")
    return _add_conv(draft, call, kernel, _bias(call, kernel.shape[3]), layer.groups)


def depthwise_conv2d(draft: Draft, call: Call) -> int:
    """`DepthwiseConv2D`: a convolution with a group for each input channel."""
    kernel = _as_groups(_kernel(call, "kernel"))
    channels = draft.shapes[call.input.node][2]
    return _add_conv(draft, call, kernel, _bias(call, kernel.shape[3]), channels)


def separable_conv2d(draft: Draft, call: Call) -> int:
    """`SeparableConv2D`: a depthwise convolution, then a 1x1 convolution with the bias and the activation."""
    layer = call.operation
    depthwise = _as_groups(_kernel(call, "depthwise_kernel"))
    pointwise = _kernel(call, "pointwise_kernel")
    source = call.input.node
    node = Conv(
        f"{call.name}/depthwise",
        (source,),
        kernel=depthwise,
        bias=np.zeros(depthwise.shape[3]),
        groups=draft.shapes[source][2],
        **_window(draft, call, depthwise),
    )
    middle = draft.add(node, call)
    activation = activation_of_function(layer.activation, call.refuse)
    bias = _bias(call, pointwise.shape[3])
    return draft.add(
        Conv(f"{call.name}/pointwise", (middle,), kernel=pointwise, bias=bias, activation=activation), call
    )


def dense(draft: Draft, call: Call) -> int:
    """`Dense`: a 1x1 convolution."""
    kernel = _kernel(call, "kernel")[None, None]
    node = Conv(
        call.name,
        (call.input.node,),
        kernel=kernel,
        bias=_bias(call, kernel.shape[3]),
        activation=activation_of_function(call.operation.activation, call.refuse),
    )
    return draft.add(node, call)


def _add_conv(draft: Draft, call: Call, kernel: np.ndarray, bias: np.ndarray, groups: int) -> int:
    node = Conv(
        call.name,
        (call.input.node,),
        kernel=kernel,
        bias=bias,
        groups=int(groups),
        activation=activation_of_function(call.operation.activation, call.refuse),
        **_window(draft, call, kernel),
    )
    return draft.add(node, call)


def _window(draft: Draft, call: Call, kernel: np.ndarray) -> dict[str, Any]:
    layer = call.operation
    strides = tuple(int(number) for number in layer.strides)
    dilation = tuple(int(number) for number in layer.dilation_rate)
    padding = NO_PADDING
    if layer.padding == "same":
        size = draft.shapes[call.input.node][:2]
        padding = same_padding(size, kernel.shape[:2], strides, dilation)
    return {"strides": strides, "padding": padding, "dilation": dilation}


def _as_groups(kernel: np.ndarray) -> np.ndarray:
    """A depthwise kernel `[h, w, channels, multiplier]` as one of `channels` groups."""
    return kernel.reshape(*kernel.shape[:2], 1, -1)


def _kernel(call: Call, name: str) -> np.ndarray:
    if getattr(call.operation, "quantization_mode", None) is not None:
        raise call.refuse(f"it is quantized to {call.operation.quantization_mode}")
    return read_weight(call, getattr(call.operation, name))


def _bias(call: Call, filters: int) -> np.ndarray:
    return read_weight(call, call.operation.bias) if call.operation.use_bias else np.zeros(filters)
