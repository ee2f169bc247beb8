"""Which Keras layers the runtime can run, and the nodes that each becomes."""

from collections.abc import Callable

import keras
from keras import layers

from tfprune.compiler import convolutions as sparse_convolutions
from tfprune.compiler import normalizations as sparse_normalizations
from tfprune.compiler.activations import activation_of_operation
from tfprune.compiler.convolutions import NO_PADDING, same_padding
from tfprune.compiler.draft import Call, Draft, Value, ZeroPadding
from tfprune.runtime.graph import Activation, Add, Concatenate, Flatten, GlobalPool, Multiply, Pool

Rule = Callable[[Draft, Call], int]


def add_call(draft: Draft, call: Call) -> int:
    """Appends the nodes that compute what a layer or operation does.

    Args:
        draft: Where to append.
        call: The layer and its inputs.

    Returns:
        Index of the node whose value is the layer's output.

    Raises:
        UserError: The runtime cannot run it.
    """
    operation = call.operation
    if getattr(operation, "data_format", "channels_last") == "channels_first":
        raise call.refuse("`data_format` must be 'channels_last'. Received: data_format='channels_first'")
    for value in [*call.inputs, Value(0, call.rank)]:
        if value.rank not in (2, 4):
            raise call.refuse(f"tensors must have 2 or 4 axes, with the batch. Received: {value.rank}")
    # A subclass may compute something else.
    rule = _LAYERS.get(type(operation))
    if rule is None and type(operation).__module__.startswith("keras.src.ops."):
        rule = _OPERATIONS.get(type(operation).__name__)
    if rule is None and activation_of_operation(operation, call.refuse, call.rank) is not None:
        rule = _activation
    if rule is None:
        raise call.refuse(f"it runs {', '.join(SUPPORTED)}")
    return rule(draft, call)


def _nothing(draft: Draft, call: Call) -> int:
    return call.input.node


def _activation(draft: Draft, call: Call) -> int:
    name = activation_of_operation(call.operation, call.refuse, call.rank)
    if name == "linear":
        return call.input.node
    return draft.add(Activation(call.name, (call.input.node,), activation=name), call)


def _zero_padding(draft: Draft, call: Call) -> int:
    (top, bottom), (left, right) = call.operation.padding
    padding = tuple(int(zeros) for zeros in (top, bottom, left, right))
    source = call.input.node
    if not any(padding):
        return source
    return draft.add(ZeroPadding(call.name, (source,), padding, draft.shapes[source][2]), call)


def _pool(kind: str) -> Rule:
    def add_pool(draft: Draft, call: Call) -> int:
        layer = call.operation
        size, strides = (tuple(int(n) for n in pair) for pair in (layer.pool_size, layer.strides))
        padding = NO_PADDING
        if layer.padding == "same":
            padding = same_padding(draft.shapes[call.input.node][:2], size, strides)
        return draft.add(Pool(call.name, (call.input.node,), kind, size, strides, padding), call)

    return add_pool


def _global_pool(kind: str) -> Rule:
    return lambda draft, call: draft.add(GlobalPool(call.name, (call.input.node,), kind), call)


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


def _arithmetic(rule: Rule | None) -> Rule:
    """A rule for operands of which one may be a constant; `rule` is for tensors only."""

    def add_arithmetic(draft: Draft, call: Call) -> int:
        node = sparse_normalizations.constant_operand(draft, call)
        if node is not None:
            return node
        if rule is None:
            raise call.refuse("one operand must be a constant")
        return rule(draft, call)

    return add_arithmetic


def _check_ranks(call: Call) -> None:
    # Layers put the missing axes after the batch, operations before it.
    if not isinstance(call.operation, keras.Layer) and len({value.rank for value in call.inputs}) > 1:
        raise call.refuse("operands must have the same number of axes")


_LAYERS: dict[type, Rule] = {
    layers.Conv2D: sparse_convolutions.conv2d,
    layers.DepthwiseConv2D: sparse_convolutions.depthwise_conv2d,
    layers.SeparableConv2D: sparse_convolutions.separable_conv2d,
    layers.Dense: sparse_convolutions.dense,
    layers.BatchNormalization: sparse_normalizations.batch_normalization,
    layers.Normalization: sparse_normalizations.normalization,
    layers.Rescaling: sparse_normalizations.rescaling,
    layers.ZeroPadding2D: _zero_padding,
    layers.MaxPooling2D: _pool("max"),
    layers.AveragePooling2D: _pool("average"),
    layers.GlobalMaxPooling2D: _global_pool("max"),
    layers.GlobalAveragePooling2D: _global_pool("average"),
    layers.Add: _add,
    layers.Multiply: _multiply,
    layers.Concatenate: _concatenate,
    layers.Flatten: _flatten,
    layers.Reshape: _reshape,
    # At inference these change nothing.
    layers.ActivityRegularization: _nothing,
    layers.AlphaDropout: _nothing,
    layers.Dropout: _nothing,
    layers.GaussianDropout: _nothing,
    layers.GaussianNoise: _nothing,
    layers.Identity: _nothing,
    layers.SpatialDropout2D: _nothing,
}
_ACTIVATION_LAYERS = (layers.Activation, layers.ReLU, layers.LeakyReLU, layers.ELU, layers.Softmax)
_OPERATIONS: dict[str, Rule] = {
    "Add": _arithmetic(_add),
    "Subtract": _arithmetic(None),
    "Multiply": _arithmetic(_multiply),
    "Divide": _arithmetic(None),
    "TrueDivide": _arithmetic(None),
    "Concatenate": _concatenate,
}
# Layers that leave integers as they are, and layers that make floating-point numbers of them.
KEEP_INTEGERS = tuple(
    kind for kind, rule in _LAYERS.items() if rule in (_nothing, _zero_padding, _flatten, _reshape)
)
TAKE_INTEGERS = (layers.Normalization, layers.Rescaling, layers.BatchNormalization)
SUPPORTED = sorted(kind.__name__ for kind in (*_LAYERS, *_ACTIVATION_LAYERS))
