"""The layers and operations of Keras that the runtime can run, and the nodes that each becomes.

`LAYERS` and `OPERATIONS` at the end have an entry for each; a new kind of layer is a function from a call
to nodes, and its entry.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfprune.compiler.draft import Affine, Call, Draft, Value, ZeroPadding
from tfprune.network.kinds import KernelEntry, builtin_layer, builtin_operation, kind_of
from tfprune.runtime.graph import (
    ACTIVATIONS,
    Activation,
    Add,
    Concatenate,
    Conv,
    Flatten,
    GlobalPool,
    Multiply,
    Pool,
)

# Appends the nodes that a call becomes; returns the index of the node whose value is the call's output.
Rule = Callable[[Draft, Call], int]
# Makes the error from the rule that is broken.
Refuse = Callable[[str], Exception]


@dataclass(frozen=True)
class Entry:
    """A layer class or an operation that the runtime can run.

    Attributes:
        rule: Appends the nodes.
        of_integers: The kind of numbers that come out where integers, such as plain pixels, go in: "integers"
            or "floats"; "" where the runtime would have to compute with integers, which it does not.
    """

    rule: Rule
    of_integers: str = ""


def entry_of(call: Call) -> Entry:
    """Returns the entry of the layer or operation that is called.

    Raises:
        UserError: The runtime cannot run it.
    """
    # A subclass may compute something else.
    entry = LAYERS.get(builtin_layer(call.operation)) or OPERATIONS.get(builtin_operation(call.operation))
    if entry is None:
        raise call.refuse(f"it runs {', '.join(sorted(LAYERS))}")
    return entry


def add_call(draft: Draft, call: Call) -> int:
    """Appends the nodes that compute what a layer or operation does.

    Args:
        draft: The draft to append to.
        call: The layer and its inputs.

    Returns:
        Index of the node whose value is the layer's output.

    Raises:
        UserError: The runtime cannot run it.
    """
    if getattr(call.operation, "data_format", "channels_last") == "channels_first":
        raise call.refuse("`data_format` must be 'channels_last'. Received: data_format='channels_first'")
    for value in [*call.inputs, Value(0, call.rank)]:
        if value.rank not in (2, 4):
            raise call.refuse(f"tensors must have 2 or 4 axes, with the batch. Received: {value.rank}")
    return entry_of(call).rule(draft, call)


def _read(call: Call, weight: Any) -> np.ndarray:
    """Returns a weight of a layer, or any tensor, as float64."""
    if weight is None:
        raise call.refuse("the layer must be built")
    return np.asarray(keras.ops.convert_to_numpy(weight)).astype(np.float64)


# Convolutions and dense layers.

_NO_PADDING = (0, 0, 0, 0)


def _convolution(draft: Draft, call: Call) -> int:
    """Adds a `Conv` for each kernel: two for a separable convolution, one of size 1x1 for a dense layer."""
    layer = call.operation
    if getattr(layer, "quantization_mode", None) is not None:
        raise call.refuse(f"it is quantized to {layer.quantization_mode}")
    entries = kind_of(layer).kernels
    node = call.input.node
    for entry in entries:
        kernel = _grouped_kernel(call, entry)
        options: dict[str, Any] = {"bias": np.zeros(kernel.shape[3]), "groups": int(entry.groups(layer))}
        if entry is entries[0] and hasattr(layer, "strides"):
            options |= _window(draft, call, kernel)
        if entry is entries[-1]:  # The bias and the activation come once, after the last.
            options["activation"] = _activation_of_function(layer.activation, call.refuse)
            if layer.use_bias:
                options["bias"] = _read(call, layer.bias)
        part = "" if len(entries) == 1 else f"/{entry.name.removesuffix('_kernel')}"
        node = draft.add(Conv(f"{call.name}{part}", (node,), kernel=kernel, **options), call)
    return node


def _grouped_kernel(call: Call, entry: KernelEntry) -> np.ndarray:
    """Returns a kernel as `[height, width, inputs of a group, outputs]`.

    A dense kernel has no height and width. A depthwise one, `[height, width, channels, multiplier]`, has a
    group for each channel.
    """
    kernel = _read(call, getattr(call.operation, entry.name))  # With LoRA, a sum instead of a variable.
    outputs = math.prod(kernel.shape[axis] for axis in entry.axes.outputs)
    return kernel.reshape(*(kernel.shape[:-2] or (1, 1)), -1, outputs)


def _window(draft: Draft, call: Call, kernel: np.ndarray) -> dict[str, Any]:
    layer = call.operation
    strides = tuple(int(number) for number in layer.strides)
    dilation = tuple(int(number) for number in layer.dilation_rate)
    padding = _NO_PADDING
    if layer.padding == "same":
        size = draft.shapes[call.input.node][:2]
        padding = _same_padding(size, kernel.shape[:2], strides, dilation)
    return {"strides": strides, "padding": padding, "dilation": dilation}


def _same_padding(
    size: tuple[int, int],
    window: tuple[int, int],
    strides: tuple[int, int],
    dilation: tuple[int, int] = (1, 1),
) -> tuple[int, int, int, int]:
    """Returns the zeros that `padding="same"` adds in Keras; the far side gets the odd one.

    Args:
        size: Height and width of the input.
        window: Height and width of the kernel or the pool.
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


# Pools and zeros around images.


def _pool(kind: str) -> Rule:
    def add_pool(draft: Draft, call: Call) -> int:
        layer = call.operation
        size, strides = (tuple(int(n) for n in pair) for pair in (layer.pool_size, layer.strides))
        padding = _NO_PADDING
        if layer.padding == "same":
            padding = _same_padding(draft.shapes[call.input.node][:2], size, strides)
        return draft.add(Pool(call.name, (call.input.node,), kind, size, strides, padding), call)

    return add_pool


def _global_pool(kind: str) -> Rule:
    return lambda draft, call: draft.add(GlobalPool(call.name, (call.input.node,), kind), call)


def _zero_padding(draft: Draft, call: Call) -> int:
    (top, bottom), (left, right) = call.operation.padding
    padding = tuple(int(zeros) for zeros in (top, bottom, left, right))
    source = call.input.node
    if not any(padding):
        return source
    return draft.add(ZeroPadding(call.name, (source,), padding, draft.shapes[source][2]), call)


# Shapes, and layers that do nothing at inference.


def _nothing(draft: Draft, call: Call) -> int:
    return call.input.node


def _flatten(draft: Draft, call: Call) -> int:
    source = call.input.node
    if draft.shapes[source][:2] == (1, 1):
        return source
    return draft.add(Flatten(call.name, (source,)), call)


def _reshape(draft: Draft, call: Call) -> int:
    source = call.input.node
    old = draft.shapes[source]
    new = call.operation.compute_output_shape((1, *old[4 - call.input.rank :]))[1:]
    if len(new) == 1:
        return _flatten(draft, call)
    if tuple(new) != old:
        raise call.refuse(
            f"it must make a vector, or (1, 1, channels) of one. Received: {old} to {tuple(new)}"
        )
    return source


# Normalizations: a scale and a shift for each channel.


def _batch_normalization(draft: Draft, call: Call) -> int:
    layer = call.operation
    if layer.axis not in (-1, call.rank - 1):
        raise call.refuse(f"`axis` must be the last one. Received: axis={layer.axis}")
    scale = 1.0 / np.sqrt(_read(call, layer.moving_variance) + layer.epsilon)
    if layer.scale:
        scale = scale * _read(call, layer.gamma)
    shift = -_read(call, layer.moving_mean) * scale
    if layer.center:
        shift = shift + _read(call, layer.beta)
    return _add_affine(draft, call, call.input, scale, shift)


def _normalization(draft: Draft, call: Call) -> int:
    """Adds `(x - mean) / max(sqrt(variance), epsilon)`, or its inverse."""
    layer = call.operation
    mean, variance = _read(call, layer.mean), _read(call, layer.variance)
    deviation = np.maximum(np.sqrt(variance), keras.config.epsilon())
    if layer.invert:
        return _add_affine(draft, call, call.input, deviation, mean)
    return _add_affine(draft, call, call.input, 1.0 / deviation, -mean / deviation)


def _rescaling(draft: Draft, call: Call) -> int:
    layer = call.operation
    if keras.config.image_data_format() != "channels_last" and np.ndim(layer.scale):
        raise call.refuse("`keras.config.image_data_format()` must be 'channels_last'")
    return _add_affine(draft, call, call.input, layer.scale, layer.offset)


def _add_affine(draft: Draft, call: Call, source: Value, scale: Any, shift: Any) -> int:
    channels = draft.shapes[source.node][2]
    scale, shift = (_for_each_channel(call, array, channels) for array in (scale, shift))
    return draft.add(Affine(call.name, (source.node,), scale, shift), call)


def _for_each_channel(call: Call, array: Any, channels: int) -> np.ndarray:
    array = np.asarray(array, np.float64)
    one_value = array.size == 1
    if not one_value and array.size != (array.shape or (1,))[-1]:
        raise call.refuse(f"it must scale and shift each channel as a whole. Received: shape {array.shape}")
    if not one_value and array.size != channels:
        raise call.refuse(f"it must have a number for each of {channels} channels. Received: {array.size}")
    return np.broadcast_to(array.reshape(-1), (channels,)).copy()


# Several tensors, or a tensor and a constant.


def _add(draft: Draft, call: Call) -> int:
    _check_ranks(call)
    nodes = tuple(value.node for value in call.inputs)
    return nodes[0] if len(nodes) == 1 else draft.add(Add(call.name, nodes), call)


def _multiply(draft: Draft, call: Call) -> int:
    _check_ranks(call)
    nodes = [value.node for value in call.inputs]
    product = nodes[0]
    for node in nodes[1:]:
        # The factor for each channel comes second.
        pair = sorted((product, node), key=lambda i: draft.shapes[i][:2] == (1, 1))
        product = draft.add(Multiply(call.name, tuple(pair)), call)
    return product


def _concatenate(draft: Draft, call: Call) -> int:
    if call.operation.axis not in (-1, call.rank - 1):
        raise call.refuse(f"`axis` must be the last one. Received: axis={call.operation.axis}")
    nodes = tuple(value.node for value in call.inputs)
    return nodes[0] if len(nodes) == 1 else draft.add(Concatenate(call.name, nodes), call)


def _check_ranks(call: Call) -> None:
    # Layers put the missing axes after the batch, operations before it.
    if not isinstance(call.operation, keras.Layer) and len({value.rank for value in call.inputs}) > 1:
        raise call.refuse("operands must have the same number of axes")


def _arithmetic(constant_rule: Callable[[np.ndarray, bool], tuple | None], rule: Rule | None = None) -> Rule:
    """Makes the rule of an operation with two operands, of which one may be a constant, such as `x / 255.0`.

    Args:
        constant_rule: Takes the constant, and whether it comes first; returns a scale and a shift, None
            where there are none.
        rule: The rule for two tensors, if there is one.
    """

    def add_arithmetic(draft: Draft, call: Call) -> int:
        if len(call.inputs) != 1 or len(call.arguments) != 2:
            if rule is None:
                raise call.refuse("one operand must be a constant")
            return rule(draft, call)
        first, second = call.arguments
        constant_first = isinstance(second, Value)
        affine = constant_rule(_read(call, first if constant_first else second), constant_first)
        if affine is None:
            raise call.refuse("a constant divided by a tensor")
        return _add_affine(draft, call, call.input, *affine)

    return add_arithmetic


def _difference(constant: np.ndarray, constant_first: bool) -> tuple:
    return (-1.0, constant) if constant_first else (1.0, -constant)


def _quotient(constant: np.ndarray, constant_first: bool) -> tuple | None:
    return None if constant_first else (1.0 / constant, 0.0)


# Activations. The formulas of the runtime are those of these functions, with their defaults.

_FUNCTIONS = {getattr(keras.activations, name): name for name in ACTIVATIONS}
# `keras.ops.gelu` is not among them: its default is the approximation with tanh.
_FUNCTIONS |= {getattr(keras.ops, name): name for name in ACTIVATIONS if name not in ("gelu", "linear")}
_LEAKY_SLOPE = 0.2


def _activation(draft: Draft, call: Call) -> int:
    name = _activation_of_operation(call.operation, call.refuse, call.rank)
    if name == "linear":
        return call.input.node
    return draft.add(Activation(call.name, (call.input.node,), activation=name), call)


def _activation_of_function(function: Any, refuse: Refuse) -> str:
    """Returns the runtime's name of the `activation` of a layer: a function, a layer or None."""
    if function is None:
        return "linear"
    if isinstance(function, keras.Operation):
        name = _activation_of_operation(function, refuse)
    else:
        name = _FUNCTIONS.get(function)
    if name is None:
        shown = getattr(function, "__name__", type(function).__name__)
        raise refuse(f"`activation` must be one of {', '.join(ACTIVATIONS)}. Received: {shown}")
    return name


def _activation_of_operation(
    operation: keras.Operation, refuse: Refuse, rank: int | None = None
) -> str | None:
    """Returns the runtime's name of the activation that a layer or an operation computes.

    Args:
        operation: Any layer, or operation of `keras.ops`.
        refuse: Makes the error from the rule that is broken.
        rank: Axes of its input, with the batch, where known.

    Returns:
        One of the runtime's `ACTIVATIONS`; None if it is no activation.
    """
    name_of = _ACTIVATION_LAYERS.get(builtin_layer(operation)) or _ACTIVATION_OPERATIONS.get(
        builtin_operation(operation)
    )
    return name_of if name_of is None or isinstance(name_of, str) else name_of(operation, refuse, rank)


def _of_activation_layer(layer: Any, refuse: Refuse, rank: int | None) -> str:
    return _activation_of_function(layer.activation, refuse)


def _relu(operation: Any, refuse: Refuse, rank: int | None) -> str:
    _require(refuse, "threshold", operation.threshold, 0.0)
    if operation.max_value is not None:
        _require(refuse, "max_value", operation.max_value, 6.0, "None or ")
        _require(refuse, "negative_slope", operation.negative_slope, 0.0)
        return "relu6"
    if not operation.negative_slope:
        return "relu"
    _require(refuse, "negative_slope", operation.negative_slope, _LEAKY_SLOPE, "0 or ")
    return "leaky_relu"


def _leaky_relu(operation: Any, refuse: Refuse, rank: int | None) -> str:
    _require(refuse, "negative_slope", operation.negative_slope, _LEAKY_SLOPE)
    return "leaky_relu"


def _elu(operation: Any, refuse: Refuse, rank: int | None) -> str:
    _require(refuse, "alpha", operation.alpha, 1.0)
    return "elu"


def _softmax(operation: Any, refuse: Refuse, rank: int | None) -> str:
    last = {-1} if rank is None else {-1, rank - 1}
    if operation.axis not in last and list(keras.tree.flatten(operation.axis)) != [-1]:
        raise refuse(f"`axis` must be the last one. Received: axis={operation.axis}")
    return "softmax"


def _gelu(operation: Any, refuse: Refuse, rank: int | None) -> str:
    if operation.approximate:
        raise refuse("`approximate` must be False. Received: approximate=True")
    return "gelu"


def _require(refuse: Refuse, name: str, value: float, wanted: float, alternative: str = "") -> None:
    # A slope may have gone through float32.
    if not math.isclose(value, wanted, rel_tol=1e-6):
        raise refuse(f"`{name}` must be {alternative}{wanted:g}. Received: {name}={value:g}")


# Name of the class -> the runtime's activation, or a function that finds it.
_ACTIVATION_LAYERS: dict[str, Any] = {
    "Activation": _of_activation_layer,
    "ELU": _elu,
    "LeakyReLU": _leaky_relu,
    "ReLU": _relu,
    "Softmax": _softmax,
}
_ACTIVATION_OPERATIONS: dict[str, Any] = {
    "Elu": _elu,
    "Gelu": _gelu,
    "HardSigmoid": "hard_sigmoid",
    "HardSilu": "hard_silu",
    "LeakyRelu": _leaky_relu,
    "ReLU": _relu,  # The one that `keras.activations.relu` makes.
    "Relu": "relu",
    "Relu6": "relu6",
    "Sigmoid": "sigmoid",
    "Silu": "silu",
    "Softmax": _softmax,
    "Tanh": "tanh",
}

# Name of the class in `keras.layers` -> what it becomes.
LAYERS: dict[str, Entry] = {
    "Conv2D": Entry(_convolution),
    "DepthwiseConv2D": Entry(_convolution),
    "SeparableConv2D": Entry(_convolution),
    "Dense": Entry(_convolution),
    "BatchNormalization": Entry(_batch_normalization, "floats"),
    "Normalization": Entry(_normalization, "floats"),
    "Rescaling": Entry(_rescaling, "floats"),
    "ZeroPadding2D": Entry(_zero_padding, "integers"),
    "MaxPooling2D": Entry(_pool("max")),
    "AveragePooling2D": Entry(_pool("average")),
    "GlobalMaxPooling2D": Entry(_global_pool("max")),
    "GlobalAveragePooling2D": Entry(_global_pool("average")),
    "Add": Entry(_add),
    "Multiply": Entry(_multiply),
    "Concatenate": Entry(_concatenate),
    "Flatten": Entry(_flatten, "integers"),
    "Reshape": Entry(_reshape, "integers"),
    # At inference these change nothing.
    "ActivityRegularization": Entry(_nothing, "integers"),
    "AlphaDropout": Entry(_nothing, "integers"),
    "Dropout": Entry(_nothing, "integers"),
    "GaussianDropout": Entry(_nothing, "integers"),
    "GaussianNoise": Entry(_nothing, "integers"),
    "Identity": Entry(_nothing, "integers"),
    "SpatialDropout2D": Entry(_nothing, "integers"),
    **dict.fromkeys(_ACTIVATION_LAYERS, Entry(_activation)),
}
# Name of the class of an operation of `keras.ops` -> what it becomes.
OPERATIONS: dict[str, Entry] = {
    "Add": Entry(_arithmetic(lambda constant, first: (1.0, constant), _add)),
    "Subtract": Entry(_arithmetic(_difference)),
    "Multiply": Entry(_arithmetic(lambda constant, first: (constant, 0.0), _multiply)),
    "Divide": Entry(_arithmetic(_quotient), "floats"),
    "TrueDivide": Entry(_arithmetic(_quotient), "floats"),
    "Concatenate": Entry(_concatenate),
    **dict.fromkeys(_ACTIVATION_OPERATIONS, Entry(_activation)),
}
