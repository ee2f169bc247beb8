"""Rules of the layers with kernels: dense layers, convolutions, embeddings."""

from collections.abc import Callable

import numpy as np

from tfprune.channels.labels import Channels
from tfprune.channels.rules.axes import LAST, activate, channel_axis, make
from tfprune.channels.trace import Call, Kept, Rule


def _dense(call: Call) -> list[Channels]:
    layer, (channels,) = call.layer, call.inputs
    if any(axis != len(channels.shape) - 1 for axis in channels.axes()):
        # It mixes positions; the channels lie along another axis and pass.
        activate(call, channels.labels)
        return [Channels(call.shapes[0], channels.labels)]
    taken = call.take(LAST)
    made = make(call, layer.units, "units")
    call.weight(layer.kernel, 0, taken, "takes")
    call.weight(layer.kernel, 1, made, "makes")
    call.weight(layer.bias, 0, made, "makes")
    return [Channels.along(call.shapes[0], LAST, made)]


def _convolution(call: Call) -> list[Channels]:
    layer = call.layer
    axis = channel_axis(layer)
    taken = call.take(axis)
    made = make(call, layer.filters, "filters")
    if layer.groups > 1:
        # Whole groups: all that a group takes goes with all that it makes.
        groups = layer.groups
        ins, outs = taken.reshape(groups, -1), made.reshape(groups, -1)
        call.unite(ins[:, :1], ins)
        call.unite(ins[:, :1], outs)
        call.config("groups", lambda kept: int(kept(outs[:, 0]).sum()))
    else:
        call.weight(layer.kernel, -2, taken, "takes")
    call.weight(layer.kernel, -1, made, "makes")
    call.weight(layer.bias, 0, made, "makes")
    return [Channels.along(call.shapes[0], axis, made)]


def _transposed_convolution(call: Call) -> list[Channels]:
    layer = call.layer
    axis = channel_axis(layer)
    taken = call.take(axis)
    made = make(call, layer.filters, "filters")
    call.weight(layer.kernel, -1, taken, "takes")
    call.weight(layer.kernel, -2, made, "makes")
    call.weight(layer.bias, 0, made, "makes")
    return [Channels.along(call.shapes[0], axis, made)]


def _depthwise_convolution(call: Call) -> list[Channels]:
    layer = call.layer
    axis = channel_axis(layer)
    taken = call.take(axis)
    made = np.repeat(taken, layer.depth_multiplier)
    activate(call, made)
    call.weight(layer.kernel, -2, taken, "scales")
    call.weight(layer.bias, 0, made, "scales")
    return [Channels.along(call.shapes[0], axis, made)]


def _separable_convolution(call: Call) -> list[Channels]:
    layer = call.layer
    axis = channel_axis(layer)
    taken = call.take(axis)
    made = make(call, layer.filters, "filters")
    call.weight(layer.depthwise_kernel, -2, taken, "takes")
    call.weight(layer.pointwise_kernel, -2, np.repeat(taken, layer.depth_multiplier), "scales")
    call.weight(layer.pointwise_kernel, -1, made, "makes")
    call.weight(layer.bias, 0, made, "makes")
    return [Channels.along(call.shapes[0], axis, made)]


def _einsum_dense(call: Call) -> list[Channels]:
    """The channels are taken if the equation sums over their axis; else they pass, scaled or not.

    Where none pass, the first axis of the kernel that the output has and the input has not makes channels.
    """
    layer, (channels,), shape = call.layer, call.inputs, call.shapes[0]
    operands, _, result = layer.equation.replace(" ", "").partition("->")
    operand, _, kernel = operands.partition(",")
    inputs, outputs = _axis_names(operand, len(channels.shape) + 1), _axis_names(result, len(shape) + 1)
    out = Channels.fixed(shape)
    for axis in channels.axes():
        name, labels = inputs[axis + 1], channels.on(axis)
        if name not in kernel and name not in outputs:
            return call.stay("it sums over its channels")
        if name in kernel:
            call.weight(layer.kernel, kernel.index(name), labels, "scales" if name in outputs else "takes")
        if name in outputs:
            out = Channels.along(shape, outputs.index(name) - 1, labels)
    new = [name for name in outputs if name in kernel and name not in inputs]
    if out.is_fixed and new:
        axis = outputs.index(new[0]) - 1
        out = Channels.along(shape, axis, call.new(shape[axis]))
        call.weight(layer.kernel, kernel.index(new[0]), out.on(axis), "makes")
    activate(call, out.labels)
    for axis in out.axes():
        labels, place = out.on(axis), axis - len(shape)
        bias = layer.bias
        if bias is not None and len(bias.shape) >= -place and bias.shape[place] > 1:
            call.weight(bias, place, labels, "makes" if outputs[axis + 1] in new else "scales")
        wanted = layer.get_config()["output_shape"]
        wanted = [wanted] if isinstance(wanted, int) else list(wanted)
        at = axis if result.endswith("...") else place + len(wanted)
        if 0 <= at < len(wanted) and wanted[at] is not None:
            call.config("output_shape", _with_size(wanted, at, labels))
    return [out]


def _axis_names(letters: str, rank: int) -> list[str]:
    """Returns a name for each axis of a tensor in an equation: the letters, numbers for those of the dots."""
    before, dots, after = letters.partition("...")
    between = rank - len(before) - len(after) if dots else 0
    return [*before, *map(str, range(between)), *after]


def _with_size(sizes: list[int | None], place: int, labels: np.ndarray) -> Callable[[Kept], list[int | None]]:
    """Returns a function from what stays to a shape."""
    return lambda kept: [*sizes[:place], int(kept(labels).sum()), *sizes[place + 1 :]]


def _embedding(call: Call) -> list[Channels]:
    """A table's columns are channels."""
    layer = call.layer
    if not call.inputs[0].is_fixed:
        return call.stay("it looks rows up")
    made = call.new(layer.output_dim)
    call.config("output_dim", made)
    call.weight(layer.embeddings, 1, made, "makes")
    return [Channels.along(call.shapes[0], LAST, made)]


def _reversible_embedding(call: Call) -> list[Channels]:
    """Looks rows up, or multiplies with the table: both calls have the same channels."""
    layer = call.layer
    reverse = call.args[1] if len(call.args) > 1 else call.kwargs.get("reverse", False)
    if not reverse:
        outputs = _embedding(call)
        labels = outputs[0].on(LAST)
    else:
        outputs = [Channels.fixed(call.shapes[0])]
        labels = call.take(LAST)
        call.config("output_dim", labels)
        call.weight(layer.embeddings, 1, labels, "takes" if layer.tie_weights else "masks")
    if not layer.tie_weights:
        call.weight(layer.reverse_embeddings, 0, labels, "takes" if reverse else "masks")
    return outputs


_ADDING: dict[str, Rule] = {
    "Dense": _dense,
    **dict.fromkeys(("Conv1D", "Conv2D", "Conv3D"), _convolution),
    **dict.fromkeys(("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"), _transposed_convolution),
    **dict.fromkeys(("SeparableConv1D", "SeparableConv2D"), _separable_convolution),
}

BIASED = frozenset(_ADDING)
"""Classes of layers that add up what their kernel takes, and a bias if `use_bias` says so."""

LAYERS: dict[str, Rule] = {
    **_ADDING,
    "EinsumDense": _einsum_dense,
    **dict.fromkeys(("DepthwiseConv1D", "DepthwiseConv2D"), _depthwise_convolution),
    "Embedding": _embedding,
    "ReversibleEmbedding": _reversible_embedding,
}
