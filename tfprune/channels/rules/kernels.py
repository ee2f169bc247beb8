"""Rules of the layers with kernels: dense layers, convolutions, embeddings."""

import numpy as np

from tfprune.channels.labels import Channels
from tfprune.channels.rules.axes import LAST, channel_axis, make, mixes, take
from tfprune.channels.trace import Call, Rule


def _dense(call: Call) -> list[Channels]:
    layer, (channels,) = call.layer, call.inputs
    if any(axis != len(channels.shape) - 1 for axis in channels.axes()):
        # It mixes positions; the channels lie along another axis and pass.
        if len(channels.shape) - 1 in channels.axes() or mixes(layer):
            return call.stay("it takes channels and positions together")
        return [Channels(call.shapes[0], channels.labels)]
    taken = take(call, LAST)
    made = make(call, layer.units, "units")
    call.weight(layer.kernel, 0, taken, "takes")
    call.weight(layer.kernel, 1, made, "makes")
    call.weight(layer.bias, 0, made, "makes")
    return [Channels.along(call.shapes[0], LAST, made)]


def _convolution(call: Call) -> list[Channels]:
    layer = call.layer
    axis = channel_axis(layer)
    taken = take(call, axis)
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
    taken = take(call, axis)
    made = make(call, layer.filters, "filters")
    call.weight(layer.kernel, -1, taken, "takes")
    call.weight(layer.kernel, -2, made, "makes")
    call.weight(layer.bias, 0, made, "makes")
    return [Channels.along(call.shapes[0], axis, made)]


def _depthwise_convolution(call: Call) -> list[Channels]:
    layer = call.layer
    axis = channel_axis(layer)
    taken = take(call, axis)
    made = np.repeat(taken, layer.depth_multiplier)
    call.weight(layer.kernel, -2, taken, "scales")
    call.weight(layer.bias, 0, made, "scales")
    return [Channels.along(call.shapes[0], axis, made)]


def _separable_convolution(call: Call) -> list[Channels]:
    layer = call.layer
    axis = channel_axis(layer)
    taken = take(call, axis)
    made = make(call, layer.filters, "filters")
    call.weight(layer.depthwise_kernel, -2, taken, "takes")
    call.weight(layer.pointwise_kernel, -2, np.repeat(taken, layer.depth_multiplier), "scales")
    call.weight(layer.pointwise_kernel, -1, made, "makes")
    call.weight(layer.bias, 0, made, "makes")
    return [Channels.along(call.shapes[0], axis, made)]


def _einsum_dense(call: Call) -> list[Channels]:
    """One letter of the output that the kernel adds numbers channels, the first; one summed letter takes."""
    layer, (channels,) = call.layer, call.inputs
    equation = layer.equation.replace(" ", "")
    operands, _, output = equation.partition("->")
    inputs, _, kernel = operands.partition(",")
    letters = inputs.replace("...", "")
    rank = len(channels.shape) + 1
    # The letters name the axes from the left up to the dots, and from the right.
    before, _, after = inputs.partition("...") if "..." in inputs else (inputs, "", "")
    axis_of = {letter: place for place, letter in enumerate(before)}
    axis_of |= {letter: rank - len(after) + place for place, letter in enumerate(after)}
    differing = [letter for letter in letters if axis_of[letter] - 1 in channels.axes()]
    if len(differing) > 1 or any(letter not in kernel and letter not in output for letter in letters):
        return call.stay("its equation is none of those that can be cut")
    for letter in differing:
        taken = channels.on(axis_of[letter] - 1)
        if letter not in kernel:
            return call.stay("its equation hands channels on")
        role = "takes" if letter not in output else "scales"
        call.weight(layer.kernel, kernel.index(letter), taken, role)
        if role == "scales":
            return call.stay("its equation hands channels on")
    new = [letter for letter in output.replace("...", "") if letter in kernel and letter not in letters]
    shape = call.shapes[0]
    if not new or mixes(layer):
        return [Channels.fixed(shape)]
    letter = new[0]
    start, _, end = output.partition("...") if "..." in output else (output, "", "")
    place = start.index(letter) if letter in start else len(shape) + 1 - len(end) + end.index(letter)
    axis = place - 1
    made = call.new(shape[axis])
    call.weight(layer.kernel, kernel.index(letter), made, "makes")
    bias = layer.bias
    if bias is not None:
        bias_axis = axis - len(shape)
        if len(bias.shape) >= -bias_axis and bias.shape[bias_axis] == shape[axis]:
            call.weight(bias, bias_axis, made, "makes")
    wanted = layer.get_config()["output_shape"]
    wanted = [wanted] if isinstance(wanted, int) else list(wanted)
    at = place - (len(shape) + 1 - len(wanted))
    call.config(
        "output_shape",
        lambda kept: [int(kept(made).sum()) if i == at else size for i, size in enumerate(wanted)],
    )
    return [Channels.along(shape, axis, made)]


def _embedding(call: Call) -> list[Channels]:
    layer = call.layer
    if not call.inputs[0].is_fixed:
        return call.stay("it looks rows up")
    made = call.new(layer.output_dim)
    call.config("output_dim", made)
    call.weight(layer.embeddings, 1, made, "makes")
    return [Channels.along(call.shapes[0], LAST, made)]


LAYERS: dict[str, Rule] = {
    "Dense": _dense,
    "EinsumDense": _einsum_dense,
    **dict.fromkeys(("Conv1D", "Conv2D", "Conv3D"), _convolution),
    **dict.fromkeys(("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"), _transposed_convolution),
    **dict.fromkeys(("DepthwiseConv1D", "DepthwiseConv2D"), _depthwise_convolution),
    **dict.fromkeys(("SeparableConv1D", "SeparableConv2D"), _separable_convolution),
    "Embedding": _embedding,
}
