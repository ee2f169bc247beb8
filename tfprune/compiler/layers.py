"""The layers and operations of Keras that the runtime can run, and the nodes that each becomes.

`LAYERS` and `OPERATIONS` at the end have an entry for each; a new kind of layer is a function from a call
to nodes, and its entry.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from tfprune.compiler.draft import Affine, Call, Draft, ZeroPadding
from tfprune.network import activations, drafts
from tfprune.network.activations import LEAKY_SLOPE, form_of, form_of_function
from tfprune.network.affine import affine_of_layer, affine_of_operation, for_each_channel
from tfprune.network.drafts import Entry, Value
from tfprune.network.kinds import KernelEntry, kind_of
from tfprune.network.windows import NO_PADDING, grouped_shape, pair, same_padding
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


def entry_of(call: Call) -> Entry:
    """Returns the entry of the layer or operation that is called.

    Raises:
        UserError: The runtime cannot run it.
    """
    return drafts.entry_of(call, LAYERS, OPERATIONS, f"it runs {', '.join(sorted(LAYERS))}")


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
    call.check_ranks()
    return entry_of(call).rule(draft, call)


def _read(call: Call, weight: Any) -> np.ndarray:
    """Returns a weight of a layer, or any tensor, as float64."""
    if weight is None:
        raise call.refuse("the layer must be built")
    return np.asarray(keras.ops.convert_to_numpy(weight)).astype(np.float64)


# Convolutions and dense layers.


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
            options["activation"] = _activation_argument(call)
            if layer.use_bias:
                options["bias"] = _read(call, layer.bias)
        part = "" if len(entries) == 1 else f"/{entry.name.removesuffix('_kernel')}"
        node = draft.add(Conv(f"{call.name}{part}", (node,), kernel=kernel, **options), call)
    return node


def _grouped_kernel(call: Call, entry: KernelEntry) -> np.ndarray:
    kernel = _read(call, getattr(call.operation, entry.name))  # With LoRA, a sum instead of a variable.
    return kernel.reshape(grouped_shape(kernel.shape, entry))


def _window(draft: Draft, call: Call, kernel: np.ndarray) -> dict[str, Any]:
    layer = call.operation
    strides, dilation = pair(layer.strides), pair(layer.dilation_rate)
    padding = NO_PADDING
    if layer.padding == "same":
        size = draft.shapes[call.input.node][:2]
        padding = same_padding(size, kernel.shape[:2], strides, dilation)
    return {"strides": strides, "padding": padding, "dilation": dilation}


# Pools and zeros around images.


def _pool(kind: str) -> Rule:
    def add_pool(draft: Draft, call: Call) -> int:
        layer = call.operation
        size, strides = pair(layer.pool_size), pair(layer.strides)
        padding = NO_PADDING
        if layer.padding == "same":
            padding = same_padding(draft.shapes[call.input.node][:2], size, strides)
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


def _constant_affine(draft: Draft, call: Call) -> int:
    return _add_affine(draft, call, call.input, *affine_of_layer(call.operation, call.refuse))


def _add_affine(draft: Draft, call: Call, source: Value, scale: Any, shift: Any) -> int:
    channels = draft.shapes[source.node][2]
    scale, shift = (for_each_channel(array, channels, call.refuse) for array in (scale, shift))
    return draft.add(Affine(call.name, (source.node,), scale, shift), call)


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
        operands = sorted((product, node), key=lambda i: draft.shapes[i][:2] == (1, 1))
        product = draft.add(Multiply(call.name, tuple(operands)), call)
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


def _arithmetic(rule: Rule | None = None) -> Rule:
    """Makes the rule of an operation with two operands, of which one may be a constant, such as `x / 255.0`.

    Args:
        rule: The rule for two tensors, if there is one.
    """

    def add_arithmetic(draft: Draft, call: Call) -> int:
        if len(call.inputs) != 1 or len(call.arguments) != 2:
            if rule is None:
                raise call.refuse("one operand must be a constant")
            return rule(draft, call)
        first, second = call.arguments
        constant_first = isinstance(second, Value)
        constant = _read(call, first if constant_first else second)
        affine = affine_of_operation(type(call.operation).__name__, constant, constant_first)
        if affine is None:
            raise call.refuse("a constant divided by a tensor")
        return _add_affine(draft, call, call.input, *affine)

    return add_arithmetic


# Activations. The formulas of the runtime are those of these functions, with their defaults.


def _activation(draft: Draft, call: Call) -> int:
    form = form_of(call.operation, call.refuse, call.rank, LEAKY_SLOPE)
    if form is None:
        raise _unknown_activation(call, call.operation.activation)
    if form.name == "linear":
        return call.input.node
    return draft.add(Activation(call.name, (call.input.node,), activation=form.name), call)


def _activation_argument(call: Call) -> str:
    """Returns the runtime's name of the `activation` of a layer: a function, a layer or None."""
    function = call.operation.activation
    form = form_of_function(function, call.refuse, LEAKY_SLOPE)
    if form is None:
        raise _unknown_activation(call, function)
    return form.name


def _unknown_activation(call: Call, function: Any) -> Exception:
    shown = getattr(function, "__name__", type(function).__name__)
    return call.refuse(f"`activation` must be one of {', '.join(ACTIVATIONS)}. Received: {shown}")


# Name of the class in `keras.layers` -> what it becomes.
LAYERS: dict[str, Entry] = {
    "Conv2D": Entry(_convolution),
    "DepthwiseConv2D": Entry(_convolution),
    "SeparableConv2D": Entry(_convolution),
    "Dense": Entry(_convolution),
    "BatchNormalization": Entry(_batch_normalization, "floats"),
    "Normalization": Entry(_constant_affine, "floats"),
    "Rescaling": Entry(_constant_affine, "floats"),
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
    **dict.fromkeys(activations.LAYERS, Entry(_activation)),
}
# Name of the class of an operation of `keras.ops` -> what it becomes.
OPERATIONS: dict[str, Entry] = {
    "Add": Entry(_arithmetic(_add)),
    "Subtract": Entry(_arithmetic()),
    "Multiply": Entry(_arithmetic(_multiply)),
    "Divide": Entry(_arithmetic(), "floats"),
    "TrueDivide": Entry(_arithmetic(), "floats"),
    "Concatenate": Entry(_concatenate),
    **dict.fromkeys(activations.OPERATIONS, Entry(_activation)),
}
