"""Rules of what computes with the values of several tensors: sums, products, comparisons, matrix products."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from tfprune.channels.labels import Channels, narrowed
from tfprune.channels.trace import Call, Kept, Rule


def elementwise(call: Call) -> list[Channels]:
    """Values of several tensors meet: their channels go together, constants that they meet are cut."""
    call.by_place = True
    shape = call.shapes[0]
    is_layer = isinstance(call.layer, keras.layers.Layer)
    tensors = []
    for one in call.inputs:
        missing = len(shape) - len(one.shape)
        if missing and not is_layer and not one.is_fixed:
            return call.stay("its batch meets another axis")
        # A layer of Keras's puts the axes that a tensor has not behind the batch's.
        sizes = (1,) * missing
        tensors.append(Channels((*sizes, *one.shape), one.labels.reshape((*sizes, *one.labels.shape))))
    met = tensors[0]
    for other in tensors[1:]:
        if _is_spread(met, other):
            call.fix(met, "it meets all channels of another tensor")
            met = other
        elif _is_spread(other, met):
            call.fix(other, "it meets all channels of another tensor")
        else:
            call.unite(met.labels, other.labels)
            met = Channels(shape, narrowed(np.broadcast_arrays(met.labels, other.labels)[0]))
    return [_with_constants(call, Channels(shape, met.labels))]


def _is_spread(one: Channels, other: Channels) -> bool:
    """Returns whether a tensor has one value where the other has several channels."""
    return any(one.shape[axis] == 1 and other.shape[axis] != 1 for axis in other.axes())


def _with_constants(call: Call, met: Channels) -> Channels:
    """Returns the channels that come out, once the arrays among the arguments are noted."""
    given = {**dict(enumerate(call.args)), **call.kwargs}
    for where, constant in given.items():
        # Lists hold tensors, or are no operands.
        shape = () if isinstance(constant, (Channels, list, tuple, str)) else np.shape(constant)
        for axis, labels in _labelled(met, shape):
            call.argument(where, _cut_constant(constant, axis, labels))
    return met


def _labelled(met: Channels, shape: tuple[int, ...]) -> list[tuple[int, np.ndarray]]:
    """Returns the axes of an array, of several values, that meet those along which labels differ."""
    first = len(met.shape) - len(shape)
    return [(axis - first, met.on(axis)) for axis in met.axes() if axis >= first and shape[axis - first] > 1]


def _cut_constant(constant: Any, axis: int, labels: np.ndarray) -> Callable[[Kept], Any]:
    values = ops.convert_to_numpy(constant)
    return lambda kept: np.compress(kept(labels), values, axis)


def _matrix_product(call: Call) -> list[Channels]:
    """Sums over the last axis of one tensor and the last but one of the other."""
    if len(call.inputs) != 2:
        return call.stay("it multiplies by an array")
    first, second = call.inputs
    if len(first.shape) < 2 or len(first.shape) != len(second.shape):
        return call.stay("its batch meets another axis")
    rank = len(first.shape)
    letters = [chr(ord("a") + place) for place in range(rank + 3)]
    batch = letters[: rank - 1]
    m, k, n = letters[-3:]
    return _summed(call, [[*batch, m, k], [*batch, k, n]], [*batch, m, n])


def _einsum(call: Call) -> list[Channels]:
    equation = call.layer.subscripts.replace(" ", "")
    operands, arrow, output = equation.partition("->")
    given = [list(one) for one in operands.split(",")]
    if len(given) != len(call.inputs) or not arrow or "." in equation:
        return call.stay("its equation is none of those that can be cut")
    if any(len(set(one)) < len(one) or one[0] != output[:1] for one in given):
        return call.stay("its equation is none of those that can be cut")
    return _summed(call, given, list(output))


def _dot(call: Call) -> list[Channels]:
    first, second = call.inputs
    if call.layer.normalize:
        return call.stay("it normalises over its channels")
    ranks = [len(one.shape) for one in call.inputs]
    axes = call.layer.axes
    axes = (axes, axes) if isinstance(axes, int) else axes
    one = ["batch", *(f"first {axis}" for axis in range(ranks[0]))]
    other = ["batch", *(f"second {axis}" for axis in range(ranks[1]))]
    one[axes[0]] = other[axes[1]] = "summed"
    output = [letter for letter in [*one, *other[1:]] if letter != "summed"]
    if len(output) - 1 != len(call.shapes[0]):
        return call.stay("its output has other axes than its inputs")
    return _summed(call, [one, other], output)


def _summed(call: Call, given: list[list[str]], output: list[str]) -> list[Channels]:
    """Sums products of tensors whose axes have names, the batch's first.

    Channels along axes of one name meet and go together; those along an axis that is summed go without a
    trace in the shape, so that they count as mixed.
    """
    labels: dict[str, np.ndarray] = {}
    for names, channels in zip(given, call.inputs, strict=True):
        for place, name in enumerate(names[1:]):
            if channels.shape[place] == 1:
                continue
            found = channels.labels.ravel() if channels.axes() == (place,) else np.zeros(1, int)
            before = labels.setdefault(name, found)
            call.unite(before, found)
            labels[name] = max(before, found, key=len)
    for name, found in labels.items():
        if name not in output:
            call.mix(found, "it sums over its channels")
    made = Channels.fixed(call.shapes[0])
    for axis, name in enumerate(output[1:]):
        found = labels.get(name, made.labels)
        if len(found) > 1 and made.is_fixed:
            made = Channels.along(call.shapes[0], axis, found)
        else:
            call.fix(found, "it multiplies the channels of two tensors")
    return [made]


LAYERS: dict[str, Rule] = {
    **dict.fromkeys(("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum"), elementwise),
    "Dot": _dot,
}

OPERATIONS: dict[str, Rule] = {
    **dict.fromkeys(
        (
            *("Add", "Subtract", "Multiply", "Divide", "TrueDivide", "DivideNoNan", "FloorDivide", "Mod"),
            *("Fmod", "Power", "Maximum", "Minimum", "Fmax", "Fmin", "Logaddexp", "Logaddexp2", "Hypot"),
            *("Arctan2", "Heaviside", "Where", "Equal", "NotEqual", "Greater", "GreaterEqual", "Less"),
            *("LessEqual", "Isclose", "LogicalAnd", "LogicalOr", "LogicalXor", "BitwiseAnd", "BitwiseOr"),
            "BitwiseXor",
        ),
        elementwise,
    ),
    "Matmul": _matrix_product,
    "Einsum": _einsum,
}
