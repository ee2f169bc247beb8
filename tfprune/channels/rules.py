"""What each kind of layer does with the channels of its inputs: makes new ones, takes them, hands them on."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from tfprune.channels.labels import FIXED, Channels, narrowed
from tfprune.channels.trace import INSIDE, Call, Kept, Rule
from tfprune.network.graph import inner_layers
from tfprune.network.kinds import builtin_layer, builtin_operation

_LAST = -1


def rule_of(operation: Any) -> Rule | None:
    """Returns the rule of a layer or an operation of Keras's own; None where there is none."""
    name = builtin_layer(operation)
    if name is not None:
        return _LAYERS.get(name)
    name = builtin_operation(operation)
    return _OPERATIONS.get(name) if name is not None else None


def _channel_axis(layer: Any) -> int:
    return 0 if getattr(layer, "data_format", "channels_last") == "channels_first" else _LAST


def _taken(call: Call, axis: int, which: int = 0) -> np.ndarray:
    """Returns the labels along the axis that a layer takes; fixed where others differ too."""
    channels = call.inputs[which]
    labels = channels.on(axis)
    if labels is None or len(labels) != channels.shape[axis]:
        call.fix(channels, "it takes channels and positions together")
        return np.full(channels.shape[axis], FIXED)
    return labels


def _is_softmax(layer: Any) -> bool:
    activation = getattr(layer, "activation", None)
    return getattr(activation, "__name__", "") in _TOGETHER


# Activations that compute with all channels together.
_TOGETHER = {"softmax", "log_softmax", "sparsemax", "glu"}


def _made(call: Call, count: int, axis: int, setting: str) -> np.ndarray:
    """Returns the labels of the channels that a layer makes, as many as its setting says."""
    labels = call.new(count)
    if _is_softmax(call.layer):
        call.fix(labels, f"{call.layer.activation.__name__} over its channels")
    call.config(setting, labels)
    return labels


def _dense(call: Call) -> list[Channels]:
    layer, (channels,) = call.layer, call.inputs
    if any(axis != len(channels.shape) - 1 for axis in channels.axes()):
        # It mixes positions; the channels lie along another axis and pass.
        if len(channels.shape) - 1 in channels.axes() or _is_softmax(layer):
            return call.stay("it takes channels and positions together")
        return [Channels(call.shapes[0], channels.labels)]
    taken = _taken(call, _LAST)
    made = _made(call, layer.units, _LAST, "units")
    call.weight(layer.kernel, 0, taken, "takes")
    call.weight(layer.kernel, 1, made, "makes")
    call.weight(layer.bias, 0, made, "makes")
    return [Channels.along(call.shapes[0], _LAST, made)]


def _convolution(call: Call) -> list[Channels]:
    layer = call.layer
    axis = _channel_axis(layer)
    taken = _taken(call, axis)
    made = _made(call, layer.filters, axis, "filters")
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
    axis = _channel_axis(layer)
    taken = _taken(call, axis)
    made = _made(call, layer.filters, axis, "filters")
    call.weight(layer.kernel, -1, taken, "takes")
    call.weight(layer.kernel, -2, made, "makes")
    call.weight(layer.bias, 0, made, "makes")
    return [Channels.along(call.shapes[0], axis, made)]


def _depthwise_convolution(call: Call) -> list[Channels]:
    layer = call.layer
    axis = _channel_axis(layer)
    taken = _taken(call, axis)
    made = np.repeat(taken, layer.depth_multiplier)
    call.weight(layer.kernel, -2, taken, "scales")
    call.weight(layer.bias, 0, made, "scales")
    return [Channels.along(call.shapes[0], axis, made)]


def _separable_convolution(call: Call) -> list[Channels]:
    layer = call.layer
    axis = _channel_axis(layer)
    taken = _taken(call, axis)
    made = _made(call, layer.filters, axis, "filters")
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
    if not new or _is_softmax(layer):
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
    return [Channels.along(call.shapes[0], _LAST, made)]


def _normalized_axis(layer: Any, rank: int) -> int | None:
    """Returns the one axis, without the batch's, along which a normalisation has its parameters."""
    axes = layer.axis if isinstance(layer.axis, (list, tuple)) else [layer.axis]
    if len(axes) != 1:
        return None
    return axes[0] % (rank + 1) - 1


def _batch_normalization(call: Call) -> list[Channels]:
    layer, channels = call.layer, call.inputs[0]
    axis = _normalized_axis(layer, len(channels.shape))
    if axis is None:
        return call.stay("it normalises along several axes")
    taken = _taken(call, axis)
    for variable in layer.variables:
        if len(variable.shape) == 1:
            call.weight(variable, 0, taken, "scales")
    return [Channels.along(call.shapes[0], axis, taken)]


def _layer_normalization(call: Call) -> list[Channels]:
    layer, channels = call.layer, call.inputs[0]
    axis = _normalized_axis(layer, len(channels.shape))
    if axis is None:
        return call.stay("it normalises along several axes")
    taken = _taken(call, axis)
    call.mix(taken, "it normalises over its channels")
    for variable in layer.weights:
        call.weight(variable, 0, taken, "scales")
    return [Channels.along(call.shapes[0], axis, taken)]


def _unit_normalization(call: Call) -> list[Channels]:
    axis = _normalized_axis(call.layer, len(call.inputs[0].shape))
    if axis is None:
        return call.stay("it normalises along several axes")
    call.mix(call.inputs[0], "it normalises over its channels")
    return list(call.inputs)


def _group_normalization(call: Call) -> list[Channels]:
    """Whole groups go, so that what stays is normalised as before."""
    layer, channels = call.layer, call.inputs[0]
    axis = _normalized_axis(layer, len(channels.shape))
    taken = _taken(call, axis)
    groups = layer.groups if layer.groups != -1 else len(taken)
    together = taken.reshape(groups, -1)
    call.unite(together[:, :1], together)
    call.config("groups", lambda kept: int(kept(together[:, 0]).sum()))
    for variable in layer.weights:
        call.weight(variable, 0, taken, "scales")
    return [Channels.along(call.shapes[0], axis, taken)]


def _same(call: Call) -> list[Channels]:
    """Each value becomes one, whatever the others are."""
    return [Channels(shape, call.inputs[0].labels) for shape in call.shapes]


def _activation(call: Call) -> list[Channels]:
    if _is_softmax(call.layer):
        return call.stay(f"{call.layer.activation.__name__} over its channels")
    return _same(call)


def _softmax(call: Call) -> list[Channels]:
    axes = call.layer.axis
    rank = len(call.inputs[0].shape)
    over = {axis % (rank + 1) - 1 for axis in (axes if isinstance(axes, (list, tuple)) else [axes])}
    if over & set(call.inputs[0].axes()):
        return call.stay("softmax over its channels")
    return _same(call)


def _prelu(call: Call) -> list[Channels]:
    channels, alpha = call.inputs[0], call.layer.alpha
    for axis in channels.axes():
        if alpha.shape[axis] > 1:
            labels = channels.on(axis)
            if labels is None:
                return call.stay("its slopes are of channels and positions")
            call.weight(alpha, axis, labels, "scales")
    return _same(call)


def _positions(call: Call) -> list[Channels]:
    """Positions change, channels pass."""
    axis = _channel_axis(call.layer)
    taken = _taken(call, axis)
    return [Channels.along(shape, axis, taken) for shape in call.shapes]


def _global_pooling(call: Call) -> list[Channels]:
    taken = _taken(call, _channel_axis(call.layer))
    axis = _channel_axis(call.layer) if len(call.shapes[0]) > 1 else 0
    return [Channels.along(call.shapes[0], axis, taken)]


def _reshaped(call: Call, shape: Sequence[int | None], setting: str | None) -> list[Channels]:
    """A reshape of whole channels, whose sizes follow from what stays."""
    channels = call.inputs[0]
    if channels.is_fixed:
        return [Channels.fixed(shape)]
    whole = channels.whole()
    if whole is None or None in shape:
        return call.stay("its shape is not known")
    labels = narrowed(whole.reshape(shape))
    made = Channels(tuple(shape), labels)
    if len(made.axes()) > 1:
        # Only channels that lie along one axis can go from a box: those of a row go together.
        axis = made.axes()[0]
        rows = np.moveaxis(labels, axis, 0).reshape(labels.shape[axis], -1)
        call.unite(rows[:, :1], rows)
        made = Channels.along(shape, axis, rows[:, 0])
    if setting is not None:
        (axis,) = made.axes()
        along = made.on(axis)
        call.config(
            setting,
            lambda kept: tuple(int(kept(along).sum()) if i == axis else size for i, size in enumerate(shape)),
        )
    return [made]


def _flatten(call: Call) -> list[Channels]:
    channels = call.inputs[0]
    if _channel_axis(call.layer) == 0 and not channels.is_fixed and len(channels.shape) > 1:
        # Keras moves the channels to the end first.
        moved = Channels(
            (*channels.shape[1:], channels.shape[0]),
            np.moveaxis(channels.labels, 0, -1),
        )
        call.inputs[0] = moved
    return _reshaped(call, call.shapes[0], None)


def _reshape(call: Call) -> list[Channels]:
    return _reshaped(call, call.shapes[0], "target_shape")


def _permute(call: Call) -> list[Channels]:
    order = [place - 1 for place in call.layer.dims]
    return [Channels(call.shapes[0], call.inputs[0].labels.transpose(order))]


def _repeat_vector(call: Call) -> list[Channels]:
    return [Channels.along(call.shapes[0], _LAST, _taken(call, _LAST))]


def _elementwise(call: Call) -> list[Channels]:
    """Values of several tensors meet: their channels go together."""
    constants = [one for one in keras.tree.flatten(call.args) if not isinstance(one, Channels)]
    shape = call.shapes[0]
    if any(np.size(one) > 1 for one in constants if one is not None):
        return call.stay("it computes with a constant of several values")
    if any(len(one.shape) != len(shape) for one in call.inputs):
        return call.stay("its inputs have different numbers of axes")
    met = call.inputs[0]
    for other in call.inputs[1:]:
        if _is_spread(met, other):
            call.fix(met, "it meets all channels of another tensor")
            met = other
        elif _is_spread(other, met):
            call.fix(other, "it meets all channels of another tensor")
        else:
            call.unite(met.labels, other.labels)
            met = Channels(shape, np.broadcast_arrays(met.labels, other.labels)[0])
    return [Channels(shape, narrowed(met.labels))]


def _is_spread(one: Channels, other: Channels) -> bool:
    """Returns whether a tensor has one value where the other has several channels."""
    return any(one.shape[axis] == 1 and other.shape[axis] != 1 for axis in other.axes())


def _concatenate(call: Call, axis: int | None = None) -> list[Channels]:
    axis = call.layer.axis if axis is None else axis
    rank = len(call.shapes[0])
    axis = axis % (rank + 1) - 1
    tensors = call.inputs
    sizes = [1] * rank
    for other in range(rank):
        if other != axis:
            sizes[other] = max(one.labels.shape[other] for one in tensors)
    parts = []
    for one in tensors:
        if one.shape[axis] is None:
            return call.stay("its shape is not known")
        wanted = [one.shape[axis] if other == axis else size for other, size in enumerate(sizes)]
        parts.append(np.broadcast_to(one.labels, wanted))
    if any(size > 1 for size in sizes):
        # Joined along positions: what meets along the channels goes together.
        first = [part.take([0], axis) for part in parts]
        for one, tensor in zip(first[1:], tensors[1:], strict=True):
            if axis in tensor.axes() or axis in tensors[0].axes():
                return call.stay("it joins channels and positions")
            call.unite(first[0], one)
        return [Channels(call.shapes[0], first[0])]
    return [Channels(call.shapes[0], narrowed(np.concatenate(parts, axis)))]


def _concatenate_operation(call: Call) -> list[Channels]:
    return _concatenate(call, call.layer.axis)


def _attention_heads(call: Call) -> list[Channels]:
    """Whole heads go; what comes out is as wide as the query."""
    layer = call.layer
    grouped = builtin_layer(layer) == "GroupedQueryAttention"
    parts = {part.name: part for part in inner_layers(layer)}
    query, key, value, output = (parts[name] for name in ("query", "key", "value", "attention_output"))
    if not grouped:
        heads = shared = call.new(layer.num_heads)
        call.config("num_heads", heads)
    else:
        shared = call.new(layer.num_key_value_heads)
        heads = np.repeat(shared, layer.num_query_heads // layer.num_key_value_heads)
        call.config("num_query_heads", heads)
        call.config("num_key_value_heads", shared)
    names = ("query", "value", "key")
    given = dict(zip(names, call.args, strict=False)) | {n: call.kwargs[n] for n in names if n in call.kwargs}
    given.setdefault("key", given["value"])
    if given["key"] is None:
        given["key"] = given["value"]
    for part, name, made in ((query, "query", heads), (key, "key", shared), (value, "value", shared)):
        channels = given[name]
        labels = channels.on(_LAST)
        if labels is None or channels.shape[-1] is None:
            return call.stay("it takes channels and positions together")
        which = next(i for i, one in enumerate(call.inputs) if one is channels)
        call.weight(part.kernel, 0, labels, "takes", which)
        call.weight(part.kernel, 1, made, "makes")
        call.weight(part.bias, 0, made, "makes")
    call.weight(output.kernel, 0, heads, "takes", INSIDE)
    out = call.new(output.kernel.shape[-1])
    if len(output.kernel.shape) != 3 or len(call.shapes[0]) != 2:
        call.fix(out, "its output has several axes of channels")
    elif layer.get_config().get("output_shape") is None:
        call.unite(out, given["query"].on(_LAST))
    else:
        call.config("output_shape", lambda kept: (int(kept(out).sum()),))
    call.weight(output.kernel, -1, out, "makes")
    call.weight(output.bias, -1, out, "makes")
    return [
        Channels.along(call.shapes[0], _LAST, out),
        *(Channels.fixed(shape) for shape in call.shapes[1:]),
    ]


_GATES = {"LSTM": 4, "GRU": 3, "SimpleRNN": 1}


def _recurrent(call: Call, layer: Any = None, which: str = "units") -> list[Channels]:
    layer = layer or call.layer
    if len(call.inputs) > 1:
        return call.stay("it is given a state")
    gates = _GATES[type(layer).__name__]
    units = call.new(layer.units)
    if getattr(layer.cell.activation, "__name__", "") in _TOGETHER:
        call.fix(units, "softmax over its units")
    columns = np.tile(units, gates)
    cell = layer.cell
    call.weight(cell.kernel, 0, _taken(call, _LAST), "takes")
    call.weight(cell.kernel, 1, columns, "makes")
    call.weight(cell.recurrent_kernel, 0, units, "takes", INSIDE)
    call.weight(cell.recurrent_kernel, 1, columns, "makes")
    call.weight(cell.bias, -1, columns, "makes")
    if which == "units":
        call.config("units", units)
    return [Channels.along(shape, _LAST, units) for shape in call.shapes]


def _bidirectional(call: Call) -> list[Channels]:
    layer = call.layer
    directions = layer.forward_layer, layer.backward_layer
    if any(type(one).__name__ not in _GATES or not builtin_layer(one) for one in directions):
        return call.stay("its recurrent layer has no rule")
    if len(call.inputs) > 1 or len(call.shapes) > 1:
        return call.stay("it is given a state, or returns one")
    made = []
    for name, one in zip(("layer", "backward_layer"), directions, strict=True):
        (channels, *_) = _recurrent(call, one, which="inside")
        labels = channels.labels.ravel()
        made.append(labels)
        config = keras.saving.serialize_keras_object(one)

        def smaller(kept: Kept, config: Any = config, labels: np.ndarray = labels) -> Any:
            return {**config, "config": {**config["config"], "units": int(kept(labels).sum())}}

        call.config(name, smaller)
    if layer.merge_mode == "concat":
        return [Channels.along(call.shapes[0], _LAST, np.concatenate(made))]
    call.unite(*made)
    return [Channels.along(call.shapes[0], _LAST, made[0])]


def _dot_product_attention(call: Call) -> list[Channels]:
    """Queries meet keys channel by channel; the values pass."""
    given = call.inputs
    query, value = given[0], given[1]
    key = given[2] if len(given) > 2 else value
    for channels in (query, key):
        if channels.on(_LAST) is None:
            return call.stay("it takes channels and positions together")
    call.unite(query.on(_LAST), key.on(_LAST))
    call.mix(query, "it sums over its channels")
    if builtin_layer(call.layer) == "AdditiveAttention" and len(call.layer.weights):
        call.weight(call.layer.weights[0], 0, query.on(_LAST), "scales")
    return [
        Channels.along(call.shapes[0], _LAST, value.on(_LAST)),
        *(Channels.fixed(shape) for shape in call.shapes[1:]),
    ]


# Operations of keras.ops.


def _reduce(call: Call) -> list[Channels]:
    operation, channels = call.layer, call.inputs[0]
    rank = len(channels.shape)
    axes = operation.axis
    if axes is None:
        return call.stay("it reduces the channels")
    axes = {axis % (rank + 1) - 1 for axis in (axes if isinstance(axes, (list, tuple)) else [axes])}
    if axes & set(channels.axes()) or -1 in axes:
        return call.stay("it reduces the channels")
    labels = channels.labels
    if not operation.keepdims:
        labels = labels.squeeze(tuple(axes))
    return [Channels(call.shapes[0], labels)]


def _transpose(call: Call) -> list[Channels]:
    axes = call.layer.axes
    if axes is None or axes[0] != 0:
        return call.stay("it moves the batch")
    return [Channels(call.shapes[0], call.inputs[0].labels.transpose([axis - 1 for axis in axes[1:]]))]


def _expand_dims(call: Call) -> list[Channels]:
    axes = call.layer.axis
    labels = call.inputs[0].labels
    rank = len(call.shapes[0]) + 1
    for axis in sorted(axis % rank for axis in (axes if isinstance(axes, (list, tuple)) else [axes])):
        if axis == 0:
            return call.stay("it moves the batch")
        labels = np.expand_dims(labels, axis - 1)
    return [Channels(call.shapes[0], labels)]


def _squeeze(call: Call) -> list[Channels]:
    axes = call.layer.axis
    shape = call.inputs[0].shape
    if axes is None:
        axes = [place + 1 for place, size in enumerate(shape) if size == 1]
    rank = len(shape) + 1
    gone = tuple(axis % rank - 1 for axis in (axes if isinstance(axes, (list, tuple)) else [axes]))
    return [Channels(call.shapes[0], call.inputs[0].labels.squeeze(gone))]


def _reshape_operation(call: Call) -> list[Channels]:
    return _reshaped(call, call.shapes[0], "newshape")


def _split(call: Call) -> list[Channels]:
    """Parts of a tensor; along channels the places of the cuts follow from what stays."""
    operation, channels = call.layer, call.inputs[0]
    rank = len(channels.shape)
    axis = operation.axis % (rank + 1) - 1
    if axis not in channels.axes():
        return [Channels(shape, channels.labels) for shape in call.shapes]
    sizes = [shape[axis] for shape in call.shapes]
    ends = np.cumsum(sizes)
    parts = np.split(channels.labels, ends[:-1], axis)
    labels = channels.on(axis)
    if labels is None:
        return call.stay("it splits channels and positions")
    call.config("indices_or_sections", lambda kept: np.cumsum(kept(labels))[ends[:-1] - 1].tolist())
    return [Channels(shape, narrowed(part)) for shape, part in zip(call.shapes, parts, strict=True)]


def _get_item(call: Call) -> list[Channels]:
    """A part of a tensor; the channels must be taken whole."""
    channels = call.inputs[0]
    key = call.args[1] if len(call.args) > 1 else call.kwargs.get("key")
    key = key if isinstance(key, tuple) else (key,)
    if channels.is_fixed:
        return [Channels.fixed(call.shapes[0])]
    plain = all(isinstance(one, (slice, int)) for one in key)
    if not plain or not key or key[0] != slice(None):
        return call.stay("it takes part of its channels")
    labels, gone = channels.labels, []
    for axis, one in enumerate(key[1:]):
        if axis in channels.axes():
            if one != slice(None):
                return call.stay("it takes part of its channels")
        elif isinstance(one, int):
            gone.append(axis)
    return [Channels(call.shapes[0], labels.squeeze(tuple(gone)) if gone else labels)]


_LAYERS: dict[str, Callable[[Call], Sequence[Channels]]] = {
    "Dense": _dense,
    "EinsumDense": _einsum_dense,
    **dict.fromkeys(("Conv1D", "Conv2D", "Conv3D"), _convolution),
    **dict.fromkeys(("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"), _transposed_convolution),
    **dict.fromkeys(("DepthwiseConv1D", "DepthwiseConv2D"), _depthwise_convolution),
    **dict.fromkeys(("SeparableConv1D", "SeparableConv2D"), _separable_convolution),
    "Embedding": _embedding,
    "BatchNormalization": _batch_normalization,
    "LayerNormalization": _layer_normalization,
    "RMSNormalization": _layer_normalization,
    "UnitNormalization": _unit_normalization,
    "GroupNormalization": _group_normalization,
    "Activation": _activation,
    "Softmax": _softmax,
    "PReLU": _prelu,
    **dict.fromkeys(
        (
            "ReLU",
            "LeakyReLU",
            "ELU",
            "Dropout",
            "SpatialDropout1D",
            "SpatialDropout2D",
            "SpatialDropout3D",
            "GaussianDropout",
            "GaussianNoise",
            "AlphaDropout",
            "ActivityRegularization",
            "Identity",
            "Masking",
        ),
        _same,
    ),
    **dict.fromkeys(
        (
            *(f"{kind}Pooling{n}D" for kind in ("Max", "Average") for n in (1, 2, 3)),
            *(f"{kind}{n}D" for kind in ("UpSampling", "ZeroPadding", "Cropping") for n in (1, 2, 3)),
            *(f"Adaptive{kind}Pooling{n}D" for kind in ("Max", "Average") for n in (1, 2, 3)),
        ),
        _positions,
    ),
    **dict.fromkeys(
        [f"Global{kind}Pooling{n}D" for kind in ("Max", "Average") for n in (1, 2, 3)], _global_pooling
    ),
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Permute": _permute,
    "RepeatVector": _repeat_vector,
    **dict.fromkeys(
        ("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum"),
        _elementwise,
    ),
    "Concatenate": _concatenate,
    **dict.fromkeys(("MultiHeadAttention", "GroupedQueryAttention"), _attention_heads),
    **dict.fromkeys(("Attention", "AdditiveAttention"), _dot_product_attention),
    **dict.fromkeys(_GATES, _recurrent),
    "Bidirectional": _bidirectional,
}

_OPERATIONS: dict[str, Callable[[Call], Sequence[Channels]]] = {
    **dict.fromkeys(
        ("Add", "Subtract", "Multiply", "Divide", "TrueDivide", "Maximum", "Minimum", "Power"), _elementwise
    ),
    **dict.fromkeys(
        (
            *("Relu", "Relu6", "Sigmoid", "HardSigmoid", "HardSilu", "Silu", "Tanh", "Gelu", "Elu", "Selu"),
            *("LeakyRelu", "Softplus", "Softsign", "Abs", "Absolute", "Negative", "Square", "Sqrt", "Exp"),
            *("Clip", "Cast", "Log", "Log1p", "Rsqrt", "Mish", "Celu", "HardTanh", "Identity", "Reciprocal"),
        ),
        _same,
    ),
    **dict.fromkeys(("Mean", "Sum", "Max", "Min"), _reduce),
    "Transpose": _transpose,
    "ExpandDims": _expand_dims,
    "Squeeze": _squeeze,
    "Reshape": _reshape_operation,
    "Concatenate": _concatenate_operation,
    "Split": _split,
    "GetItem": _get_item,
}
