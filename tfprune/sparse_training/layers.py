"""The layers and operations of Keras that the sparse trainer knows, and the nodes that each becomes.

`LAYERS` and `OPERATIONS` at the end have an entry for each; a new kind of layer is a function from a call
to nodes, and its entry.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from tfprune.network import activations, drafts
from tfprune.network.activations import Form, form_of, form_of_function
from tfprune.network.affine import affine_of_layer, affine_of_operation, for_each_channel
from tfprune.network.drafts import Entry, Value
from tfprune.network.kinds import builtin_layer, kind_of
from tfprune.network.windows import NO_PADDING, grouped_shape, pair, same_padding
from tfprune.sparse_training.draft import Call, Draft
from tfprune.sparse_training.errors import UnsupportedError
from tfprune.sparse_training.graph import (
    ACTIVATIONS,
    Activation,
    Add,
    Affine,
    BatchNorm,
    Concatenate,
    Conv,
    Dropout,
    GlobalPool,
    Multiply,
    Pad,
    Pool,
    Shape,
    Window,
)

# Appends the nodes that a call becomes; returns the value that the call returns.
Rule = Callable[[Draft, Call], Value]


def entry_of(call: Call) -> Entry:
    """Returns the entry of the layer or operation that is called.

    Raises:
        UnsupportedError: There is none.
    """
    return drafts.entry_of(call, LAYERS, OPERATIONS, "its class is none that the sparse trainer knows")


def add_call(draft: Draft, call: Call) -> Value:
    """Appends the nodes that compute what a layer or operation does.

    Args:
        draft: The draft to append to.
        call: The layer and its inputs.

    Returns:
        What stands for the layer's output.

    Raises:
        UnsupportedError: The sparse trainer cannot train it; `check_layer` has found nothing.
    """
    call.check_ranks()
    return entry_of(call).rule(draft, call)


def check_layer(call: Call) -> None:
    """Checks the class of a layer or an operation, and the options that every layer has.

    Raises:
        UnsupportedError: The sparse trainer cannot train it, whatever its inputs are.
    """
    entry_of(call)
    layer = call.operation
    if not isinstance(layer, keras.Layer):
        return
    if getattr(layer, "data_format", "channels_last") == "channels_first":
        raise call.refuse("`data_format` must be 'channels_last'. Received: data_format='channels_first'")
    if getattr(layer, "quantization_mode", None) is not None:
        raise call.refuse(f"it is quantized to {layer.quantization_mode}")
    if getattr(layer, "lora_enabled", False):
        raise call.refuse("its kernel is a sum with LoRA")
    if layer.compute_dtype != "float32" or layer.variable_dtype != "float32":
        raise call.refuse(f"it must compute in float32. Received: {layer.dtype_policy.name}")
    for what in ("regularizer", "constraint"):
        of_variables = [getattr(variable, what, None) for variable in layer.variables]
        if any(given is not None for given in of_variables):
            raise call.refuse(f"it must have no {what}")
    if getattr(layer, "activity_regularizer", None) is not None:
        raise call.refuse("it must have no regularizer")


def _shape(draft: Draft, value: Value) -> Shape:
    return draft.shapes[value.node]


def _image(draft: Draft, call: Call) -> Value:
    """Returns the input of a call that needs more than the flat numbers of an image."""
    value = call.input
    if value.flat:
        raise call.refuse(f"it must not take a flattened image. Received: {_shape(draft, value)}")
    return value


def _made(call: Call, node: int, flat: bool = False) -> Value:
    return Value(node, call.rank, flat=flat)


# Convolutions and dense layers.


def _convolution(draft: Draft, call: Call) -> Value:
    """Adds a `Conv` for each kernel: two for a separable convolution.

    A dense layer is a window of one pixel, or, of a flattened image, of all of them.
    """
    layer = call.operation
    entries = kind_of(layer).kernels
    source = call.input
    node = source.node
    for entry in entries:
        variable = getattr(layer, entry.name)
        shape = grouped_shape(tuple(variable.shape), entry)
        if source.flat:
            shape = (*draft.shapes[node], shape[3])
        window = Window(shape[:2])
        if entry is entries[0] and hasattr(layer, "strides"):
            window = _window(draft, call, shape[:2])
        kernel = draft.kernel(variable, shape, call)
        # The bias comes once, after the last.
        bias = draft.vector(layer.bias) if entry is entries[-1] and layer.use_bias else None
        part = "" if len(entries) == 1 else f"/{entry.name.removesuffix('_kernel')}"
        if min(window.positions(draft.shapes[node])) < 1:
            raise call.refuse(f"its window is larger than its input. Received: {draft.shapes[node]}")
        groups = int(entry.groups(layer))
        node = draft.add(Conv(call.name + part, (node,), kernel, bias, window, groups))
    return _activated(draft, call, _made(call, node))


def _window(draft: Draft, call: Call, size: tuple[int, int]) -> Window:
    layer = call.operation
    strides, dilation = pair(layer.strides), pair(layer.dilation_rate)
    padding = NO_PADDING
    if layer.padding == "same":
        padding = same_padding(_shape(draft, call.input)[:2], size, strides, dilation)
    return Window(size, strides, padding, dilation)


# Pools and zeros around images.


def _pool(kind: str) -> Rule:
    def add_pool(draft: Draft, call: Call) -> Value:
        layer, value = call.operation, _image(draft, call)
        size, strides = pair(layer.pool_size), pair(layer.strides)
        padding = NO_PADDING
        if layer.padding == "same":
            padding = same_padding(_shape(draft, value)[:2], size, strides)
        return _made(call, draft.add(Pool(call.name, (value.node,), kind, Window(size, strides, padding))))

    return add_pool


def _global_pool(kind: str) -> Rule:
    return lambda draft, call: _made(
        call, draft.add(GlobalPool(call.name, (_image(draft, call).node,), kind))
    )


def _zero_padding(draft: Draft, call: Call) -> Value:
    (top, bottom), (left, right) = call.operation.padding
    padding = (int(top), int(bottom), int(left), int(right))
    value = _image(draft, call)
    return _made(call, draft.add(Pad(call.name, (value.node,), padding))) if any(padding) else value


# Shapes.


def _nothing(draft: Draft, call: Call) -> Value:
    return call.input


def _flatten(draft: Draft, call: Call) -> Value:
    value = call.input
    return _made(call, value.node, value.flat or _shape(draft, value)[:2] != (1, 1))


def _reshape(draft: Draft, call: Call) -> Value:
    value, sizes = call.input, call.shape[1:]
    if len(sizes) == 1:
        return _flatten(draft, call)
    if tuple(sizes) != tuple(_shape(draft, value)):
        raise call.refuse(
            "it must make a vector of an image, or the image of it again."
            f" Received: {tuple(_shape(draft, value))} to {tuple(sizes)}"
        )
    return _made(call, value.node)


# Normalizations and dropout.


def _batch_normalization(draft: Draft, call: Call) -> Value:
    layer, value = call.operation, _image(draft, call)
    if layer.axis not in (-1, len(call.shape) - 1):
        raise call.refuse(f"`axis` must be the last one. Received: axis={layer.axis}")
    if getattr(layer, "renorm", False):
        raise call.refuse("`renorm` must be False. Received: renorm=True")
    # Keras does not count a frozen layer's batches.
    frozen = not layer.trainable
    name = layer.moving_mean.path.rpartition("/")[0]
    if draft.normalizations.get(name, layer) is not layer:
        name = call.name
    if name in draft.normalizations and not frozen:
        raise call.refuse("it must be called once")
    draft.normalizations[name] = layer
    moving = (
        np.array(keras.ops.convert_to_numpy(variable), np.float32)
        for variable in (layer.moving_mean, layer.moving_variance)
    )
    node = BatchNorm(
        call.name,
        (value.node,),
        draft.vector(layer.gamma),
        draft.vector(layer.beta),
        name,
        *moving,
        epsilon=float(layer.epsilon),
        momentum=float(layer.momentum),
        frozen=frozen,
    )
    return _made(call, draft.add(node))


def _constant_affine(draft: Draft, call: Call) -> Value:
    return _add_affine(draft, call, *affine_of_layer(call.operation, call.refuse))


def _add_affine(draft: Draft, call: Call, scale: Any, shift: Any) -> Value:
    value = call.input
    channels = _shape(draft, value).channels
    if value.flat and max(np.size(scale), np.size(shift)) > 1:
        raise call.refuse("it must scale and shift a flattened image as a whole")
    scale, shift = (
        for_each_channel(array, channels, call.refuse).astype(np.float32) for array in (scale, shift)
    )
    return _made(call, draft.add(Affine(call.name, (value.node,), scale, shift)), value.flat)


def _dropout(draft: Draft, call: Call) -> Value:
    layer, value = call.operation, call.input
    if not layer.rate:
        return value
    if layer.rate >= 1.0:
        raise call.refuse(f"`rate` must be below 1. Received: rate={layer.rate}")
    channels, images = builtin_layer(layer) == "SpatialDropout2D", False
    shape = None if channels else layer.noise_shape
    if shape is not None:
        images = shape[0] is None and all(size == 1 for size in shape[1:]) and len(shape) == value.rank
        if not images:
            raise call.refuse(
                f"`noise_shape` must be None, or (None, 1, 1, 1). Received: noise_shape={shape}"
            )
    # Saved with the model, so that a fit that goes on draws what it would have drawn.
    seed = int(keras.ops.convert_to_numpy(layer.seed_generator.state)[0])
    node = Dropout(call.name, (value.node,), float(layer.rate), channels, images, seed)
    return _made(call, draft.add(node), value.flat)


# Several tensors, or a tensor and a constant.


def _add(draft: Draft, call: Call) -> Value:
    values = call.inputs
    _check_alike(draft, call, values)
    if len(values) == 1:
        return values[0]
    return _made(call, draft.add(Add(call.name, tuple(value.node for value in values))), values[0].flat)


def _multiply(draft: Draft, call: Call) -> Value:
    values = call.inputs
    if any(value.flat for value in values) or len({value.rank for value in values}) > 1:
        _check_alike(draft, call, values)
    # A factor for each channel comes second.
    values = sorted(values, key=lambda value: _shape(draft, value)[:2] == (1, 1))
    product = values[0].node
    for value in values[1:]:
        shape, other = draft.shapes[product], _shape(draft, value)
        if other not in (shape, Shape(1, 1, shape.channels)):
            raise call.refuse(
                "its operands must have the same shape, or one be a factor for each channel."
                f" Received: {tuple(shape)} and {tuple(other)}"
            )
        product = draft.add(Multiply(call.name, (product, value.node)))
    return _made(call, product, values[0].flat)


def _concatenate(draft: Draft, call: Call) -> Value:
    if call.operation.axis not in (-1, len(call.shape) - 1):
        raise call.refuse(f"`axis` must be the last one. Received: axis={call.operation.axis}")
    values = call.inputs
    if any(value.flat for value in values):
        raise call.refuse("it must not take a flattened image")
    if len(values) == 1:
        return values[0]
    return _made(call, draft.add(Concatenate(call.name, tuple(value.node for value in values))))


def _check_alike(draft: Draft, call: Call, values: list[Value]) -> None:
    kinds = {(value.rank, value.flat, _shape(draft, value)) for value in values}
    if len(kinds) > 1:
        shapes = " and ".join(str(tuple(_shape(draft, value))) for value in values)
        raise call.refuse(f"its operands must have the same shape. Received: {shapes}")


def _arithmetic(rule: Rule | None = None) -> Rule:
    """Makes the rule of an operation with two operands, of which one may be a constant, such as `x / 255.0`.

    Args:
        rule: The rule for two tensors, if there is one.
    """

    def add_arithmetic(draft: Draft, call: Call) -> Value:
        if len(call.inputs) != 1 or len(call.arguments) != 2:
            if rule is None:
                raise call.refuse("one operand must be a constant")
            return rule(draft, call)
        first, second = call.arguments
        constant_first = isinstance(second, Value)
        constant = np.asarray(keras.ops.convert_to_numpy(first if constant_first else second), np.float64)
        affine = affine_of_operation(type(call.operation).__name__, constant, constant_first)
        if affine is None:
            raise call.refuse("a constant divided by a tensor")
        return _add_affine(draft, call, *affine)

    return add_arithmetic


# Activations.


def _activation(draft: Draft, call: Call) -> Value:
    operation = call.operation
    try:
        form = form_of(operation, call.refuse, len(call.shape))
    except UnsupportedError as error:
        return _made(call, draft.add_unknown(call, call.input.node, operation, error), call.input.flat)
    return _add_activation(draft, call, call.name, call.input, form, operation)


def _activated(draft: Draft, call: Call, value: Value) -> Value:
    """Adds the `activation` of a layer: a function, a layer or None."""
    function = call.operation.activation
    if function is None:
        return value
    try:
        form = form_of_function(function, call.refuse)
    except UnsupportedError as error:
        return _made(call, draft.add_unknown(call, value.node, function, error))
    return _add_activation(draft, call, f"{call.name}/activation", value, form, function)


def _add_activation(
    draft: Draft, call: Call, name: str, value: Value, form: Form | None, function: Callable[[Any], Any]
) -> Value:
    if form is not None and form.name == "linear":
        return value
    if form is not None and form.name in ACTIVATIONS:
        node = Activation(name, (value.node,), form.name, form.slope)
        return _made(call, draft.add_function(node, function), value.flat)
    shown = getattr(function, "activation", function) if form is None else form.name
    shown = getattr(shown, "__name__", shown)
    reason = call.refuse(
        f"its activation must be one of {', '.join(ACTIVATIONS)}, but at the end of the model."
        f" Received: {shown}"
    )
    return _made(call, draft.add_unknown(call, value.node, function, reason), value.flat)


# Name of the class in `keras.layers` -> what it becomes.
LAYERS: dict[str | None, Entry] = {
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
    "Dropout": Entry(_dropout),
    "SpatialDropout2D": Entry(_dropout),
    "Flatten": Entry(_flatten, "integers"),
    "Reshape": Entry(_reshape, "integers"),
    "Identity": Entry(_nothing, "integers"),
    **dict.fromkeys(activations.LAYERS, Entry(_activation)),
}
# Name of the class of an operation of `keras.ops` -> what it becomes.
OPERATIONS: dict[str | None, Entry] = {
    "Add": Entry(_arithmetic(_add)),
    "Subtract": Entry(_arithmetic()),
    "Multiply": Entry(_arithmetic(_multiply)),
    "Divide": Entry(_arithmetic(), "floats"),
    "TrueDivide": Entry(_arithmetic(), "floats"),
    "Concatenate": Entry(_concatenate),
    **dict.fromkeys(activations.OPERATIONS, Entry(_activation)),
}
