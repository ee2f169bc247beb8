"""Nodes of layers with kernels: convolutions, dense layers, transposed convolutions; and of resizing."""

import math
from typing import Any

import keras
import numpy as np

from tfprune.compiler.arithmetic import add_activation, combine, read
from tfprune.compiler.draft import Call, Draft, ZeroPadding
from tfprune.compiler.shapes import add_gather, permute, select, sizes_of, steps_of
from tfprune.network.activations import Form, form_of_function
from tfprune.network.kinds import KernelEntry, kind_of
from tfprune.network.windows import NO_PADDING, grouped_shape, same_padding
from tfprune.runtime.graph import ACROSS_CHANNELS, ACTIVATIONS, Activation, Conv

# Older versions of Keras have it in one of the two.
_GATED = [module.glu for module in (keras.activations, keras.ops) if hasattr(module, "glu")]


def pair(numbers: Any) -> tuple[int, int]:
    """Returns the vertical and the horizontal number of a configuration; a signal has one, along its time."""
    vertical, horizontal = (1, *(int(number) for number in numbers))[-2:]
    return vertical, horizontal


def activation_of(call: Call) -> Form:
    """Returns the activation that the `activation` of a layer is: a function, a layer or None."""
    function = call.operation.activation
    form = form_of_function(function, call.refuse)
    if form is None:
        raise unknown_activation(call, function)
    return form


def unknown_activation(call: Call, function: Any) -> Exception:
    """Makes the error of an activation that the runtime does not have."""
    shown = getattr(function, "__name__", type(function).__name__)
    return call.refuse(f"`activation` must be one of {', '.join(ACTIVATIONS)}. Received: {shown}")


def add_convolution(draft: Draft, call: Call) -> int:
    """Adds a `Conv` for each kernel: two for a separable convolution, one of size 1x1 for a dense layer."""
    layer = call.operation
    check_kernels(call)
    entries = kind_of(layer).kernels
    node = call.input.node
    for entry in entries:
        kernel = _grouped_kernel(call, entry)
        options: dict[str, Any] = {"bias": np.zeros(kernel.shape[3]), "groups": int(entry.groups(layer))}
        if entry is entries[0] and hasattr(layer, "strides"):
            options |= _window(draft, call, kernel)
        if entry is entries[-1]:  # The bias and the activation come once, after the last.
            form = Form("linear") if gates(layer.activation) else activation_of(call)
            options |= {"activation": form.name, "settings": form.settings}
            if layer.use_bias:
                options["bias"] = read(call, layer.bias)
        part = "" if len(entries) == 1 else f"/{entry.name.removesuffix('_kernel')}"
        node = draft.add(Conv(f"{call.name}{part}", (node,), kernel=kernel, **options), call)
    return add_gated(draft, call, node) if gates(layer.activation) else node


def gates(function: Any) -> bool:
    """Returns whether a function is the gated linear unit, half of whose channels open the others."""
    if isinstance(function, keras.layers.Activation):
        function = function.activation
    return function in _GATED


def add_gated(draft: Draft, call: Call, source: int) -> int:
    """Adds a gated linear unit of the last axis. Source: Dauphin and others, arXiv:1612.08083."""
    half = draft.shapes[source][2] // 2
    shown = select(draft, call, source, {2: range(half)})
    gate = add_activation(draft, call, select(draft, call, source, {2: range(half, 2 * half)}), "sigmoid")
    return combine(draft, call, "multiply", shown, gate)


def check_kernels(call: Call) -> None:
    """Refuses a layer whose kernels are quantized."""
    mode = getattr(call.operation, "quantization_mode", None)
    if mode is not None:
        raise call.refuse(f"it is quantized to {mode}")


def _grouped_kernel(call: Call, entry: KernelEntry) -> np.ndarray:
    kernel = read(call, getattr(call.operation, entry.name))  # With LoRA, a sum instead of a variable.
    return kernel.reshape(grouped_shape(kernel.shape, entry))


def _window(draft: Draft, call: Call, kernel: np.ndarray) -> dict[str, Any]:
    layer = call.operation
    strides, dilation = pair(layer.strides), pair(layer.dilation_rate)
    padding = NO_PADDING
    if layer.padding == "same":
        size = draft.shapes[call.input.node][:2]
        padding = same_padding(size, kernel.shape[:2], strides, dilation)
    elif layer.padding == "causal":
        padding = (0, 0, (kernel.shape[1] - 1) * dilation[1], 0)
    return {"strides": strides, "padding": padding, "dilation": dilation}


def add_transposed(draft: Draft, call: Call) -> int:
    """Adds a transposed convolution: a plain one that makes all phases of the output, which are put together.

    Output `o`, counted from the first that a window reaches, takes input `i` by the kernel's element
    `o - i s` for stride s: those of phase `o % s` take every s-th element.
    """
    layer = call.operation
    check_kernels(call)
    source = call.input.node
    strides, dilation = pair(layer.strides), pair(layer.dilation_rate)
    kernel = read(call, layer.kernel)
    kernel = kernel.reshape(*(1, 1, *kernel.shape[:-2])[-2:], *kernel.shape[-2:]).transpose(0, 1, 3, 2)
    size = draft.shapes[source][:2]
    sizes = layer.compute_output_shape((1, *sizes_of(draft, call.input)))[1:-1]
    made = (1, *sizes)[-2:]
    phases, before, padding = [], [], []
    for axis in range(2):
        taps = (kernel.shape[axis] - 1) * dilation[axis] + 1
        cut = same_padding(made, (taps, taps), strides)[2 * axis] if layer.padding == "same" else 0
        phases.append(-(-taps // strides[axis]))  # Elements of a phase's kernel.
        if strides[axis] == 1:
            padding += [taps - 1 - cut, made[axis] - size[axis] + cut]
            cut = 0
        else:
            padding += [phases[axis] - 1, max(0, -(-(cut + made[axis]) // strides[axis]) - size[axis])]
        before.append(cut)
    channels, filters = kernel.shape[2:]
    parts = np.zeros((*phases, channels, *strides, filters))
    for (row, column), place in _places_of_taps(kernel.shape[:2], strides, dilation).items():
        parts[place] = kernel[row, column]
    bias = read(call, layer.bias) if layer.use_bias else np.zeros(filters)
    form = activation_of(call)
    together = form.name in ACROSS_CHANNELS  # Of one pixel's channels, not of all phases'.
    conv = Conv(
        call.name,
        (source,),
        kernel=parts.reshape(*phases, channels, -1),
        bias=np.tile(bias, math.prod(strides)),
        padding=tuple(padding),
        activation="linear" if together else form.name,
        settings=form.settings,
    )
    node = draft.add(conv, call)
    if math.prod(strides) > 1 or any(before) or draft.shapes[node][:2] != made:
        steps = steps_of(draft.shapes[node])
        places = []
        for axis, in_phases in enumerate((strides[1] * filters, filters)):
            position, phase = np.divmod(before[axis] + np.arange(made[axis]), strides[axis])
            places.append(position * steps[axis] + phase * in_phases)
        node = add_gather(draft, call, node, [*places, range(filters)])
    return draft.add(Activation(call.name, (node,), form.name), call) if together else node


def _places_of_taps(
    size: tuple[int, int], strides: tuple[int, int], dilation: tuple[int, int]
) -> dict[tuple[int, int], tuple[Any, ...]]:
    """Returns the place of each element of a transposed convolution's kernel in that of all phases.

    The latter is `[rows, columns, inputs, phase row, phase column, filters]`.
    """
    last = [
        ((count - 1) * rate) // stride for count, rate, stride in zip(size, dilation, strides, strict=True)
    ]
    places = {}
    for row in range(size[0]):
        down, phase_row = divmod(row * dilation[0], strides[0])
        for column in range(size[1]):
            right, phase_column = divmod(column * dilation[1], strides[1])
            place = (last[0] - down, last[1] - right)
            places[row, column] = (*place, slice(None), phase_row, phase_column)
    return places


def transposed_kernel(stored: np.ndarray, layer: Any) -> np.ndarray:
    """Returns the kernel of a transposed convolution, in the layer's shape, from that of its `Conv`.

    Args:
        stored: The kernel of the node, scaled or not.
        layer: The layer.
    """
    strides, dilation = pair(layer.strides), pair(layer.dilation_rate)
    shape = tuple(layer.kernel.shape)
    size = (1, 1, *shape[:-2])[-2:]
    filters, channels = shape[-2:]
    parts = stored.reshape(*stored.shape[:2], channels, *strides, filters)
    kernel = np.zeros((*size, channels, filters), stored.dtype)
    for (row, column), place in _places_of_taps(size, strides, dilation).items():
        kernel[row, column] = parts[place]
    return kernel.transpose(0, 1, 3, 2).reshape(shape)


def add_padding(draft: Draft, call: Call) -> int:
    """Adds a `ZeroPadding1D` or `ZeroPadding2D`."""
    given = call.operation.padding
    (top, bottom), (left, right) = ((0, 0), given) if isinstance(given[0], int) else given
    padding = tuple(int(zeros) for zeros in (top, bottom, left, right))
    source = call.input.node
    if not any(padding):
        return source
    return draft.add(ZeroPadding(call.name, (source,), padding, draft.shapes[source][2]), call)


# Resizing: along each axis a product with a matrix of few numbers, of which Keras's own resizing is asked.


def add_resizing(draft: Draft, call: Call) -> int:
    """Adds a `Resizing`."""
    layer = call.operation
    for name in ("crop_to_aspect_ratio", "pad_to_aspect_ratio"):
        if getattr(layer, name, False):
            raise call.refuse(f"`{name}` must be False. Received: {name}=True")
    options = {"interpolation": layer.interpolation, "antialias": getattr(layer, "antialias", False)}
    return resize(draft, call, (layer.height, layer.width), options)


def add_smooth_upsampling(draft: Draft, call: Call) -> int:
    """Adds an `UpSampling2D` that interpolates."""
    height, width, _ = draft.shapes[call.input.node]
    rows, columns = call.operation.size
    return resize(
        draft, call, (height * rows, width * columns), {"interpolation": call.operation.interpolation}
    )


def resize(draft: Draft, call: Call, size: tuple[int, int], options: dict[str, Any]) -> int:
    """Adds the nodes that give an image another size.

    Args:
        draft: The draft.
        call: The call that asks for it.
        size: Height and width.
        options: Of `keras.ops.image.resize`.
    """
    node = call.input.node
    for axis in range(2):
        old = draft.shapes[node][axis]
        if old == size[axis]:
            continue
        # The images of the unit vectors are the columns of the matrix.
        unit = np.eye(old, dtype=np.float32).reshape(1, old, 1, old)
        made = keras.ops.image.resize(unit, (size[axis], 1), data_format="channels_last", **options)
        node = multiply_along(draft, call, node, axis, read(call, made).reshape(size[axis], old).T)
    return node


def multiply_along(draft: Draft, call: Call, source: int, axis: int, matrix: np.ndarray) -> int:
    """Adds the nodes that multiply the rows (axis 0) or the columns (axis 1) of a value with a matrix.

    Args:
        draft: The draft.
        call: The call that asks for it.
        source: The value.
        axis: The axis.
        matrix: float64 `[old size, new size]`.
    """
    order = (2, 1, 0) if axis == 0 else (0, 2, 1)
    node = permute(draft, call, source, order)
    kernel, bias = matrix[None, None], np.zeros(matrix.shape[1])
    return permute(draft, call, draft.add(Conv(call.name, (node,), kernel=kernel, bias=bias), call), order)
