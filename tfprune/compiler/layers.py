"""The layers and operations of Keras that the runtime can run, and the nodes that each becomes.

`LAYERS` and `OPERATIONS` at the end have an entry for each; a new kind of layer is a function from a call
to nodes, and its entry.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from tfprune.compiler import (
    arithmetic,
    attention,
    convolutions,
    einsum,
    masks,
    normalizations,
    recurrent,
    shapes,
)
from tfprune.compiler.draft import Call, Draft
from tfprune.network import activations, drafts
from tfprune.network.activations import form_of
from tfprune.network.drafts import Entry
from tfprune.network.kinds import builtin_layer, builtin_operation
from tfprune.network.masks import RETURN_THEIR_INPUT, attaches_mask
from tfprune.network.windows import NO_PADDING, same_padding
from tfprune.runtime.graph import Embedding, GlobalPool, Pool

# Appends the nodes that a call becomes; returns the index of the node whose value is the call's output, or
# those of several outputs.
Rule = Callable[[Draft, Call], int | list[int]]


def entry_of(call: Call) -> Entry:
    """Returns the entry of the layer or operation that is called.

    Raises:
        UserError: The runtime cannot run it.
    """
    if builtin_operation(call.operation):
        known = f"of Keras's operations it runs {', '.join(sorted(OPERATIONS))}"
    else:
        known = f"it runs {', '.join(sorted(LAYERS))}"
        if not builtin_layer(call.operation):
            known = (
                f"put the layers that its `call` uses into a functional model, which may be nested: {known}"
            )
    return drafts.entry_of(call, LAYERS, OPERATIONS, known)


def takes_named_arguments(call: Call) -> bool:
    """Returns whether the rule of a layer looks at its named arguments itself."""
    return builtin_layer(call.operation) in (*_ATTENTION, *_PLAIN_ATTENTION, "Bidirectional", *_RECURRENT)


def check_booleans(call: Call) -> None:
    """Refuses a call that computes with what is true or false, but for what masks are made and joined by.

    Raises:
        UserError: It does.
    """
    if any(value.boolean for value in call.inputs):
        moves = entry_of(call).of_integers == "integers"  # And computes nothing.
        if not moves and builtin_operation(call.operation) not in (*_OF_BOOLEANS, "Concatenate", "Multiply"):
            raise call.refuse("its input must be numbers, not true or false: cast it first")


def add_call(draft: Draft, call: Call) -> Sequence[int]:
    """Appends the nodes that compute what a layer or operation does.

    Args:
        draft: The draft to append to.
        call: The layer and its inputs.

    Returns:
        Indices of the nodes whose values are the layer's outputs.

    Raises:
        UserError: The runtime cannot run it.
    """
    if getattr(call.operation, "data_format", "channels_last") == "channels_first":
        raise call.refuse("`data_format` must be 'channels_last'. Received: data_format='channels_first'")
    call.check_ranks()
    made = entry_of(call).rule(draft, call)
    return made if isinstance(made, list) else [made]


# Pools.


def _pool(kind: str) -> Rule:
    def add_pool(draft: Draft, call: Call) -> int:
        layer = call.operation
        size, strides = convolutions.pair(layer.pool_size), convolutions.pair(layer.strides)
        padding = NO_PADDING
        if layer.padding == "same":
            padding = same_padding(draft.shapes[call.input.node][:2], size, strides)
        return draft.add(Pool(call.name, (call.input.node,), kind, size, strides, padding), call)

    return add_pool


def _adaptive_pool(kind: str) -> Rule:
    """Makes the rule of a pool to a size: window i of m along n pixels goes from i n / m to (i + 1) n / m."""

    def add_adaptive_pool(draft: Draft, call: Call) -> int:
        node, wanted = call.input.node, convolutions.pair(np.atleast_1d(call.operation.output_size))
        old = draft.shapes[node][:2]
        if all(size % count == 0 for size, count in zip(old, wanted, strict=True)):
            window = tuple(size // count for size, count in zip(old, wanted, strict=True))
            return draft.add(Pool(call.name, (node,), kind, window, window), call)
        for axis, (size, count) in enumerate(zip(old, wanted, strict=True)):
            windows = [range(i * size // count, -(-(i + 1) * size // count)) for i in range(count)]
            if kind == "average":
                matrix = np.zeros((size, count))
                for index, window in enumerate(windows):
                    matrix[window, index] = 1 / len(window)
                node = convolutions.multiply_along(draft, call, node, axis, matrix)
                continue
            longest = max(map(len, windows))
            # As long as the longest, each with its last place again.
            places = [min(window.start + i, window.stop - 1) for window in windows for i in range(longest)]
            node = shapes.select(draft, call, node, {axis: places})
            window = (longest, 1) if axis == 0 else (1, longest)
            node = draft.add(Pool(call.name, (node,), kind, window, window), call)
        return node

    return add_adaptive_pool


def _global_pool(kind: str) -> Rule:
    return lambda draft, call: draft.add(GlobalPool(call.name, (call.input.node,), kind), call)


def _average_over_time(draft: Draft, call: Call) -> int:
    """Adds a `GlobalAveragePooling1D`, of the time steps of its mask."""
    source = call.input.node
    mask = masks.mask_of_steps(draft, call, call.masks.get("mask"), draft.shapes[source][1])
    if mask is None:
        return _global_pool("average")(draft, call)
    return masks.average_of_steps(draft, call, source, mask)


# Layers around others.


def _layer_inside(draft: Draft, call: Call) -> int | list[int]:
    """Adds what the layer in a `SpectralNormalization` becomes, whose kernel is normalized in training."""
    layer = call.operation.layer
    if attaches_mask(layer):
        raise call.refuse("its layer must make no mask of time steps")
    inner = dataclasses.replace(call, name=f"{call.name}/{layer.name}", operation=layer)
    return entry_of(inner).rule(draft, inner)


def _pipeline(draft: Draft, call: Call) -> int:
    value = call.input
    for layer in call.operation.layers:
        if attaches_mask(layer):
            raise call.refuse("its layers must make no mask of time steps")
        inner = Call(f"{call.name}/{layer.name}", layer, (value,), call.shape)
        entry = entry_of(inner)
        (node,) = add_call(draft, inner)
        value = dataclasses.replace(value, node=node, integer=entry.makes_integers(inner))
    return value.node


# Layers that do nothing at inference.


def _nothing(draft: Draft, call: Call) -> int:
    return call.input.node


# Activations. The runtime has the names of `Form`.


def _activation(draft: Draft, call: Call) -> int:
    if convolutions.gates(call.operation):
        return convolutions.add_gated(draft, call, call.input.node)
    form = form_of(call.operation, call.refuse, call.rank)
    if form is None:
        function = getattr(call.operation, "activation", call.operation)
        raise convolutions.unknown_activation(call, function)
    return arithmetic.add_activation(draft, call, call.input.node, form.name, form.settings)


def _gated(draft: Draft, call: Call) -> int:
    axis = shapes.axis_of(call, call.operation.axis, call.rank)
    return shapes.on_last_axis(
        draft, call, call.input.node, axis, lambda node: convolutions.add_gated(draft, call, node)
    )


def _embedding(draft: Draft, call: Call) -> int:
    convolutions.check_kernels(call)
    kernel = arithmetic.read(call, call.operation.embeddings)
    return draft.add(Embedding(call.name, (call.input.node,), kernel=kernel[None, None]), call)


def _upsampling(draft: Draft, call: Call) -> int:
    nearest = getattr(call.operation, "interpolation", "nearest") == "nearest"
    return (shapes.add_upsampling if nearest else convolutions.add_smooth_upsampling)(draft, call)


_RANDOM = (
    "AugMix",
    "CutMix",
    "MixUp",
    "RandAugment",
    "RandomBrightness",
    "RandomColorDegeneration",
    "RandomColorJitter",
    "RandomContrast",
    "RandomElasticTransform",
    "RandomErasing",
    "RandomFlip",
    "RandomGaussianBlur",
    "RandomGrayscale",
    "RandomHue",
    "RandomInvert",
    "RandomPerspective",
    "RandomPosterization",
    "RandomRotation",
    "RandomSaturation",
    "RandomSharpness",
    "RandomShear",
    "RandomTranslation",
    "RandomZoom",
    "Solarization",
    "StochasticDepth",  # Of ConvNeXt.
)
_ATTENTION = ("MultiHeadAttention", "GroupQueryAttention", "GroupedQueryAttention")
_PLAIN_ATTENTION = ("AdditiveAttention", "Attention")
_RECURRENT = ("GRU", "LSTM", "RNN", "SimpleRNN")
_KERNELS = ("Conv1D", "Conv2D", "DepthwiseConv1D", "DepthwiseConv2D", "SeparableConv1D", "SeparableConv2D")

# Name of the class in `keras.layers` -> what it becomes.
LAYERS: dict[str, Entry] = {
    **dict.fromkeys((*_KERNELS, "Dense"), Entry(convolutions.add_convolution)),
    "EinsumDense": Entry(einsum.add_einsum),
    **dict.fromkeys(_ATTENTION, Entry(attention.add_attention)),
    **dict.fromkeys(_PLAIN_ATTENTION, Entry(attention.add_plain_attention)),
    "Dot": Entry(attention.add_dot),
    "Pipeline": Entry(_pipeline, "floats"),
    "SpectralNormalization": Entry(_layer_inside),
    **dict.fromkeys(_RECURRENT, Entry(recurrent.add_recurrent)),
    "Bidirectional": Entry(recurrent.add_bidirectional),
    "TimeDistributed": Entry(recurrent.distributed(lambda call: entry_of(call).rule)),
    "Conv1DTranspose": Entry(convolutions.add_transposed),
    "Conv2DTranspose": Entry(convolutions.add_transposed),
    "BatchNormalization": Entry(normalizations.add_batch_normalization, "floats"),
    "GroupNormalization": Entry(normalizations.add_group_normalization),
    "LayerNormalization": Entry(normalizations.add_layer_normalization),
    "RMSNormalization": Entry(normalizations.add_rms_normalization),
    "UnitNormalization": Entry(normalizations.add_unit_normalization),
    "Normalization": Entry(normalizations.add_constant_affine, "floats"),
    "Rescaling": Entry(normalizations.add_constant_affine, "floats"),
    "PReLU": Entry(arithmetic.add_prelu),
    "LayerScale": Entry(arithmetic.add_layer_scale),
    "CustomScaleLayer": Entry(arithmetic.add_scaled_sum),
    "ZeroPadding1D": Entry(convolutions.add_padding, "integers"),
    "ZeroPadding2D": Entry(convolutions.add_padding, "integers"),
    "Cropping1D": Entry(shapes.add_cropping, "integers"),
    "Cropping2D": Entry(shapes.add_cropping, "integers"),
    "CenterCrop": Entry(shapes.add_center_crop, "floats"),
    "Resizing": Entry(convolutions.add_resizing),
    "UpSampling1D": Entry(shapes.add_upsampling),
    "UpSampling2D": Entry(_upsampling),
    "MaxPooling1D": Entry(_pool("max")),
    "MaxPooling2D": Entry(_pool("max")),
    "AveragePooling1D": Entry(_pool("average")),
    "AveragePooling2D": Entry(_pool("average")),
    "AdaptiveAveragePooling1D": Entry(_adaptive_pool("average")),
    "AdaptiveAveragePooling2D": Entry(_adaptive_pool("average")),
    "AdaptiveMaxPooling1D": Entry(_adaptive_pool("max")),
    "AdaptiveMaxPooling2D": Entry(_adaptive_pool("max")),
    "GlobalMaxPooling1D": Entry(_global_pool("max")),
    "GlobalMaxPooling2D": Entry(_global_pool("max")),
    "GlobalAveragePooling1D": Entry(_average_over_time),
    "GlobalAveragePooling2D": Entry(_global_pool("average")),
    "Masking": Entry(masks.add_masking),
    "Add": Entry(arithmetic.combining("add")),
    "Average": Entry(arithmetic.add_average),
    "Maximum": Entry(masks.largest_or_smallest("maximum")),
    "Minimum": Entry(masks.largest_or_smallest("minimum")),
    "Multiply": Entry(masks.add_product),
    "Subtract": Entry(arithmetic.add_difference),
    "Concatenate": Entry(shapes.add_concatenate),
    "Flatten": Entry(shapes.add_reshape, "integers"),
    "Permute": Entry(shapes.add_permute, "integers"),
    "RepeatVector": Entry(shapes.add_repeat_vector, "integers"),
    "Reshape": Entry(shapes.add_reshape, "integers"),
    **dict.fromkeys(RETURN_THEIR_INPUT, Entry(_nothing, "integers")),
    **dict.fromkeys(_RANDOM, Entry(_nothing, "floats")),
    **dict.fromkeys(activations.LAYERS, Entry(_activation)),
    "Softmax": Entry(normalizations.add_softmax),
    **dict.fromkeys(("Embedding", "ReversibleEmbedding"), Entry(_embedding, "floats")),
}
# Operations that take what is true or false, or make it.
_OF_BOOLEANS: dict[str, Entry] = {
    "Any": Entry(masks.add_any, "floats"),
    "Cast": Entry(masks.add_cast, "floats"),
    "ConvertToTensor": Entry(_nothing, "integers"),
    "Equal": Entry(masks.comparing(equal=True), "floats"),
    "LogicalAnd": Entry(masks.joining("multiply"), "floats"),
    "LogicalNot": Entry(masks.add_logical_not, "floats"),
    "LogicalOr": Entry(masks.joining("maximum"), "floats"),
    "NotEqual": Entry(masks.comparing(equal=False), "floats"),
    "OnesLike": Entry(masks.filled(1.0), "floats"),
    "ZerosLike": Entry(masks.filled(0.0), "floats"),
}
# Name of the class of an operation of `keras.ops` -> what it becomes.
OPERATIONS: dict[str, Entry] = {
    **_OF_BOOLEANS,
    "Add": Entry(arithmetic.arithmetic("Add")),
    "Subtract": Entry(arithmetic.arithmetic("Subtract")),
    "Multiply": Entry(arithmetic.arithmetic("Multiply")),
    "Divide": Entry(arithmetic.arithmetic("Divide"), "floats"),
    "TrueDivide": Entry(arithmetic.arithmetic("TrueDivide"), "floats"),
    "Maximum": Entry(arithmetic.arithmetic("Maximum")),
    "Minimum": Entry(arithmetic.arithmetic("Minimum")),
    "Negative": Entry(arithmetic.add_negative),
    "Power": Entry(arithmetic.add_power),
    "Amax": Entry(arithmetic.reduction("max")),
    "Amin": Entry(arithmetic.reduction("min")),
    "Matmul": Entry(attention.add_matmul),
    "Max": Entry(arithmetic.reduction("max")),
    "Mean": Entry(arithmetic.reduction("average")),
    "Min": Entry(arithmetic.reduction("min")),
    "Sum": Entry(arithmetic.reduction("sum")),
    "Concatenate": Entry(shapes.add_concatenate),
    "ExpandDims": Entry(shapes.add_made_shape, "integers"),
    "Flip": Entry(shapes.add_flip, "integers"),
    "GetItem": Entry(shapes.add_item, "integers"),
    "Moveaxis": Entry(shapes.add_moved_axes, "integers"),
    "Repeat": Entry(shapes.add_repeat, "integers"),
    "Reshape": Entry(shapes.add_made_shape, "integers"),
    "Roll": Entry(shapes.add_roll, "integers"),
    "Split": Entry(shapes.add_split, "integers"),
    "Squeeze": Entry(shapes.add_made_shape, "integers"),
    "Stack": Entry(shapes.add_stack, "integers"),
    "Swapaxes": Entry(shapes.add_moved_axes, "integers"),
    "Take": Entry(shapes.add_take, "integers"),
    "Tile": Entry(shapes.add_tile, "integers"),
    "Transpose": Entry(shapes.add_transpose, "integers"),
    **dict.fromkeys(activations.OPERATIONS, Entry(_activation)),
    "Glu": Entry(_gated),
    "LogSoftmax": Entry(lambda draft, call: normalizations.add_softmax(draft, call, "log_softmax")),
    "Softmax": Entry(normalizations.add_softmax),
}
