"""Nodes of sums, products and their kin: of tensors, of a tensor and a constant, and along axes."""

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from tfprune.compiler.draft import Affine, Call, Draft
from tfprune.compiler.shapes import as_value, axis_of, broadcast, made_sizes, permute, reshape
from tfprune.network.affine import affine_of_operation, for_each_channel
from tfprune.network.drafts import Value
from tfprune.runtime.graph import (
    LARGEST,
    Activation,
    Add,
    Combine,
    Constant,
    Conv,
    GlobalPool,
    Multiply,
    Pool,
    Shape,
)


def read(call: Call, weight: Any) -> np.ndarray:
    """Returns a weight of a layer, or any tensor, as float64."""
    if weight is None:
        raise call.refuse("the layer must be built")
    return np.asarray(keras.ops.convert_to_numpy(weight)).astype(np.float64)


def add_affine(draft: Draft, call: Call, source: int, scale: Any, shift: Any) -> int:
    """Adds a scale and a shift, one number each or one for each channel."""
    channels = draft.shapes[source][2]
    scale, shift = (for_each_channel(array, channels, call.refuse) for array in (scale, shift))
    return draft.add(Affine(call.name, (source,), scale, shift), call)


def add_activation(draft: Draft, call: Call, source: int, name: str, settings: tuple[float, ...] = ()) -> int:
    """Adds an activation; none for a linear one."""
    if name == "linear":
        return source
    return draft.add(Activation(call.name, (source,), name, settings), call)


def combine(draft: Draft, call: Call, operation: str, made: int, *others: int) -> int:
    """Adds the nodes of values, one after the other, each repeated along the axes of which it has one place.

    Args:
        draft: The draft.
        call: The call that asks for it.
        operation: One of `COMBINATIONS`.
        made: A value; alone it is returned.
        others: More, or the same.
    """
    for other in others:
        made = _combine_two(draft, call, operation, made, other)
    return made


def _combine_two(draft: Draft, call: Call, operation: str, first: int, second: int) -> int:
    shapes = draft.shapes[first], draft.shapes[second]
    if any(one != other and 1 not in (one, other) for one, other in zip(*shapes, strict=True)):
        raise call.refuse(f"its operands do not fit each other. Received: {shapes[0]} and {shapes[1]}")
    shape: Shape = tuple(max(sizes) for sizes in zip(*shapes, strict=True))
    if shapes[0] != shape:
        first, second = second, first
    if draft.shapes[first] != shape:
        first = broadcast(draft, call, first, shape)
    height, width, channels = shape
    small = draft.shapes[second]
    if small not in (shape, (1, 1, channels), (height, width, 1), (1, 1, 1)):
        second = broadcast(draft, call, second, shape)
        small = shape
    if operation == "add" and small == shape:
        return draft.add(Add(call.name, (first, second)), call)
    if operation == "multiply" and small in (shape, (1, 1, channels)):
        return draft.add(Multiply(call.name, (first, second)), call)
    return draft.add(Combine(call.name, (first, second), operation), call)


def combine_all(draft: Draft, call: Call, operation: str) -> int:
    """Adds the nodes of all tensors of a call, one after the other."""
    # Layers put the missing axes after the batch, operations before it.
    if not isinstance(call.operation, keras.Layer) and len({value.rank for value in call.inputs}) > 1:
        raise call.refuse("operands must have the same number of axes")
    nodes = [value.node for value in call.inputs]
    if operation == "add" and len(nodes) > 1 and len({draft.shapes[node] for node in nodes}) == 1:
        return draft.add(Add(call.name, tuple(nodes)), call)
    return combine(draft, call, operation, *nodes)


def _negative(draft: Draft, call: Call, node: int) -> int:
    return add_affine(draft, call, node, -1.0, 0.0)


# Rules of layers and operations of several tensors, or of a tensor and a constant.


def combining(operation: str) -> Callable[[Draft, Call], int]:
    """Makes the rule of a layer such as `Add` and `Maximum`."""
    return lambda draft, call: combine_all(draft, call, operation)


def add_difference(draft: Draft, call: Call) -> int:
    """Adds a `Subtract` layer: the sum with the negative."""
    first, second = (value.node for value in call.inputs)
    return combine(draft, call, "add", first, _negative(draft, call, second))


def add_average(draft: Draft, call: Call) -> int:
    """Adds an `Average` layer."""
    return add_affine(draft, call, combine_all(draft, call, "add"), 1.0 / len(call.inputs), 0.0)


def arithmetic(name: str) -> Callable[[Draft, Call], int]:
    """Makes the rule of an operation with two operands, of which one may be a constant, such as `x / 255.0`.

    Args:
        name: The operation's class.
    """

    def add_arithmetic(draft: Draft, call: Call) -> int:
        if len(call.inputs) != 1 or len(call.arguments) != 2:
            return _of_tensors(draft, call, name)
        first, second = call.arguments
        constant_first = isinstance(second, Value)
        return _with_constant(
            draft, call, name, read(call, first if constant_first else second), constant_first
        )

    return add_arithmetic


def _of_tensors(draft: Draft, call: Call, name: str) -> int:
    operations = {"Add": "add", "Multiply": "multiply", "Maximum": "maximum", "Minimum": "minimum"}
    if name in operations:
        return combine_all(draft, call, operations[name])
    if len({value.rank for value in call.inputs}) > 1:
        raise call.refuse("operands must have the same number of axes")
    first, second = (value.node for value in call.inputs)
    if name == "Subtract":
        return combine(draft, call, "add", first, _negative(draft, call, second))
    return combine(draft, call, "multiply", first, add_activation(draft, call, second, "reciprocal"))


def _with_constant(draft: Draft, call: Call, name: str, constant: np.ndarray, constant_first: bool) -> int:
    source, channels = call.input.node, draft.shapes[call.input.node][2]
    if name in ("Maximum", "Minimum"):
        if constant.size == 1:
            number = float(constant.reshape(()))
            bounds = (number, LARGEST) if name == "Maximum" else (-LARGEST, number)
            return add_activation(draft, call, source, "clip", bounds)
        return combine(draft, call, name.lower(), source, _add_constant(draft, call, constant))
    if constant_first and name in ("Divide", "TrueDivide"):
        source, name = add_activation(draft, call, source, "reciprocal"), "Multiply"
    scale, shift = affine_of_operation(name, constant, constant_first)
    by_channel = constant.size == 1 or (
        constant.size == constant.shape[-1] == channels and constant.ndim <= call.input.rank
    )
    if by_channel:
        return add_affine(draft, call, source, scale, shift)
    if np.ndim(scale):
        return combine(draft, call, "multiply", source, _add_constant(draft, call, scale))
    source = source if scale == 1 else add_affine(draft, call, source, scale, 0.0)
    return combine(draft, call, "add", source, _add_constant(draft, call, shift))


def _add_constant(draft: Draft, call: Call, constant: np.ndarray) -> int:
    """Adds a constant that meets the call's tensor as NumPy broadcasts it."""
    rank = call.input.rank
    if constant.ndim == rank and constant.shape[0] == 1:
        constant = constant[0]
    if constant.ndim >= rank:
        raise call.refuse(f"a constant must be the same for the whole batch. Received: {constant.shape}")
    shape = as_value((1,) * (rank - 1 - constant.ndim) + constant.shape, call)
    return add_constant(draft, call, constant.reshape(shape))


def add_constant(draft: Draft, call: Call, value: np.ndarray) -> int:
    """Adds a value that is the same for all images, `[height, width, channels]`."""
    return draft.add(Constant(call.name, (), value), call)


def add_negative(draft: Draft, call: Call) -> int:
    """Adds `ops.negative`."""
    return _negative(draft, call, call.input.node)


def add_power(draft: Draft, call: Call) -> int:
    """Adds `ops.power` with one of a few exponents."""
    exponent = call.arguments[1]
    named = {2.0: "square", 0.5: "sqrt", -0.5: "rsqrt", -1.0: "reciprocal", 1.0: "linear"}
    if isinstance(exponent, Value) or np.size(exponent) != 1 or float(np.reshape(exponent, ())) not in named:
        wanted = ", ".join(f"{number:g}" for number in sorted(named))
        raise call.refuse(f"the exponent must be one of {wanted}. Received: {exponent}")
    return add_activation(draft, call, call.input.node, named[float(np.reshape(exponent, ()))])


def add_prelu(draft: Draft, call: Call) -> int:
    """Adds `relu(x) - alpha * relu(-x)`, of which one is zero everywhere."""
    source, alpha = call.input.node, read(call, call.operation.alpha)
    above = add_activation(draft, call, source, "relu")
    below = add_activation(draft, call, _negative(draft, call, source), "relu")
    if alpha.size in (1, alpha.shape[-1]):
        below = add_affine(draft, call, below, -alpha.reshape(-1), 0.0)
    else:
        below = combine(draft, call, "multiply", below, _add_constant(draft, call, -alpha))
    return combine(draft, call, "add", above, below)


def add_layer_scale(draft: Draft, call: Call) -> int:
    """Adds the `LayerScale` of ConvNeXt."""
    return add_affine(draft, call, call.input.node, read(call, call.operation.gamma), 0.0)


def add_scaled_sum(draft: Draft, call: Call) -> int:
    """Adds the `CustomScaleLayer` of Inception-ResNet."""
    first, second = (value.node for value in call.inputs)
    scaled = add_affine(draft, call, second, float(call.operation.scale), 0.0)
    return combine(draft, call, "add", first, scaled)


# Reductions.


def reduction(kind: str) -> Callable[[Draft, Call], int]:
    """Makes the rule of a reduction along axes: `"average"`, `"sum"`, `"max"` or `"min"`."""

    def add_reduction(draft: Draft, call: Call) -> int:
        operation, value = call.operation, call.input
        if operation.axis is None or getattr(operation, "initial", None) is not None:
            raise call.refuse("`axis` must be given, and no initial value")
        axes = sorted({axis_of(call, int(axis), value.rank) for axis in np.atleast_1d(operation.axis)})
        node = _negative(draft, call, value.node) if kind == "min" else value.node
        node = reduce(draft, call, node, axes, "max" if kind in ("max", "min") else "average")
        if kind == "min":
            node = _negative(draft, call, node)
        elif kind == "sum":
            shape = draft.shapes[value.node]
            node = add_affine(draft, call, node, float(math.prod(shape[axis] for axis in axes)), 0.0)
        return reshape(draft, call, node, as_value(made_sizes(draft, call), call))

    return add_reduction


def reduce(draft: Draft, call: Call, source: int, axes: list[int], kind: str) -> int:
    """Adds the maximum or the average along some axes of a value, which have one place afterwards."""
    shape = draft.shapes[source]
    spatial = [axis for axis in axes if axis < 2 and shape[axis] > 1]
    if spatial and all(shape[axis] == 1 or axis in axes for axis in (0, 1)):
        source = draft.add(GlobalPool(call.name, (source,), kind), call)
    elif spatial:
        size = tuple(shape[axis] if axis in axes else 1 for axis in (0, 1))
        source = draft.add(Pool(call.name, (source,), kind, size, size), call)
    if 2 not in axes or shape[2] == 1:
        return source
    channels = shape[2]
    if kind == "average":
        kernel = np.full((1, 1, channels, 1), 1.0 / channels)
        return draft.add(Conv(call.name, (source,), kernel=kernel, bias=np.zeros(1)), call)
    shape = draft.shapes[source]
    moved = permute(draft, call, source, (0, 2, 1))
    moved = reduce(draft, call, moved, [1], kind)
    return reshape(draft, call, moved, (shape[0], shape[1], 1))
