"""Masks of time steps: nodes that make them, join them and apply them.

A mask is a value of 0 and 1 that has the axes of its tensor but the last. Constants scale it, no convolution,
which might be computed in values of 8 bits: what is no mask to the last bit is none.
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from tfprune.compiler.arithmetic import add_activation, add_constant, combine, combine_all, read, reduce
from tfprune.compiler.draft import Call, Draft
from tfprune.compiler.shapes import as_value, axis_of, broadcast, made_sizes, reshape, sizes_of
from tfprune.network.drafts import Value
from tfprune.network.kinds import builtin_layer
from tfprune.network.masks import Later, has_default_mask
from tfprune.runtime.graph import Concatenate, Conv, GlobalPool

# What is put in the place of a score that is masked, or added to it, before a softmax.
NEVER = -1e9
# Those whose rules look at the masks, and those that need none at inference.
_USE_MASKS = (
    "AdditiveAttention",
    "Attention",
    "Bidirectional",
    "GRU",
    "GlobalAveragePooling1D",
    "GroupQueryAttention",
    "GroupedQueryAttention",
    "LSTM",
    "Maximum",
    "Minimum",
    "MultiHeadAttention",
    "Multiply",
    "RNN",
    "SimpleRNN",
    "Softmax",
    "TimeDistributed",
)
_NEED_NONE = ("BatchNormalization",)


def check_masks(call: Call) -> None:
    """Refuses a call of a layer that would do with its mask what no rule has.

    Raises:
        UserError: It is such a call.
    """
    given = any(mask is not None for mask in keras.tree.flatten(dict(call.masks)))
    if given and builtin_layer(call.operation) not in (*_USE_MASKS, *_NEED_NONE):
        raise call.refuse("it must be called without a mask")


def mask_of(draft: Draft, call: Call, mask: Any) -> Value | None:
    """Returns the value of a mask, of 0 and 1; None where there is none.

    Args:
        draft: The draft.
        call: The call that takes it.
        mask: A `Value`, or what makes one, or None.
    """
    if isinstance(mask, Later):
        mask = mask.value()
    if mask is None or isinstance(mask, Value) and mask.boolean:
        return mask
    if not isinstance(mask, Value):
        raise call.refuse(f"a mask must be a tensor. Received: {type(mask).__name__}")
    return Value(add_activation(draft, call, mask.node, "nonzero"), mask.rank, boolean=True)


def mask_of_steps(draft: Draft, call: Call, mask: Any, steps: int) -> int | None:
    """Returns the vector of a mask of a signal's time steps; None where there is none.

    Raises:
        UserError: The mask has other axes.
    """
    value = mask_of(draft, call, mask)
    if value is None:
        return None
    if value.rank != 2 or draft.shapes[value.node][2] != steps:
        sizes = sizes_of(draft, value)
        raise call.refuse(f"its mask must have a number for each of {steps} time steps. Received: {sizes}")
    return value.node


def as_column(draft: Draft, call: Call, mask: int) -> int:
    """Adds the node that makes a vector a number for each time step, `[1, time, 1]`."""
    return reshape(draft, call, mask, (1, draft.shapes[mask][2], 1))


def keep_steps(draft: Draft, call: Call, signal: int, mask: int) -> int:
    """Adds what makes the steps of a signal zero where the vector of a mask is."""
    return combine(draft, call, "multiply", signal, as_column(draft, call, mask))


def add_never(draft: Draft, call: Call, allowed: int) -> int:
    """Adds what is 0 where a mask is 1, and far below zero where it is 0."""
    return _scaled(draft, call, allowed, -NEVER, NEVER)


def masked_scores(draft: Draft, call: Call, scores: int, allowed: int) -> int:
    """Adds scores for a softmax: far below zero, and alike, where a mask is 0."""
    kept = combine(draft, call, "multiply", scores, allowed)
    return combine(draft, call, "add", kept, add_never(draft, call, allowed))


def average_of_steps(draft: Draft, call: Call, signal: int, mask: int) -> int:
    """Adds the average of a signal over the time steps of a mask; of none of them it is NaN, as in Keras."""
    column = as_column(draft, call, mask)
    total, count = (
        draft.add(GlobalPool(call.name, (node,), "average"), call)
        for node in (combine(draft, call, "multiply", signal, column), column)
    )
    return combine(draft, call, "multiply", total, add_activation(draft, call, count, "reciprocal"))


def largest_or_smallest(operation: str) -> Callable[[Draft, Call], int]:
    """Makes the rule of a `Maximum` or a `Minimum`, to which an input that is masked does not belong.

    Args:
        operation: `"maximum"` or `"minimum"`.
    """

    def add_extreme(draft: Draft, call: Call) -> int:
        values = call.inputs
        given = list(call.masks.get("mask") or [None] * len(values))
        if len({value.rank for value in values}) > 1 or not any(mask is not None for mask in given):
            return combine_all(draft, call, operation)
        masks = [_beside(draft, call, mask, value) for mask, value in zip(given, values, strict=True)]
        made, mask = values[0].node, masks[0]
        for value, own in zip(values[1:], masks[1:], strict=True):
            other = value.node if own is None else _where(draft, call, own, value.node, made)
            made = made if mask is None else _where(draft, call, mask, made, other)
            mask = None if None in (mask, own) else combine(draft, call, "maximum", mask, own)
            made = combine(draft, call, operation, made, other)
        return made

    return add_extreme


def add_product(draft: Draft, call: Call) -> int:
    """Adds a `Multiply`: what is masked of an input is 1, and 0 where all inputs are masked."""
    values = call.inputs
    given = list(call.masks.get("mask") or [None] * len(values))
    if len({value.rank for value in values}) > 1 or not any(mask is not None for mask in given):
        return combine_all(draft, call, "multiply")
    masks = [_beside(draft, call, mask, value) for mask, value in zip(given, values, strict=True)]
    one, made, joined = _one(draft, call, 1.0), None, masks[0]
    for value, mask in zip(values, masks, strict=True):
        node = value.node if mask is None else _where(draft, call, mask, value.node, one)
        made = node if made is None else combine(draft, call, "multiply", made, node)
        joined = None if None in (joined, mask) else combine(draft, call, "maximum", joined, mask)
    return made if joined is None else combine(draft, call, "multiply", made, joined)


def _beside(draft: Draft, call: Call, mask: Any, value: Value) -> int | None:
    """Adds the node that gives the mask of a value its axes, with one place in the last; None for none."""
    found = mask_of(draft, call, mask)
    if found is None:
        return None
    height, width, _ = draft.shapes[value.node]
    return reshape(draft, call, found.node, (height, width, 1))


def _where(draft: Draft, call: Call, mask: int, first: int, second: int) -> int:
    """Adds the first of two values where a mask is 1, the second where it is 0."""
    first = combine(draft, call, "multiply", first, mask)
    second = combine(draft, call, "multiply", second, _scaled(draft, call, mask, -1.0, 1.0))
    return combine(draft, call, "add", first, second)


def add_masking(draft: Draft, call: Call) -> int:
    """Adds a `Masking`: zeros where all numbers of a step are the one that stands for none."""
    value = call.input
    if _number(call, call.operation.mask_value) == 0:  # They are zeros already.
        return value.node
    return combine(draft, call, "multiply", value.node, _any_channel(draft, call))


def _any_channel(draft: Draft, call: Call) -> int:
    """Adds the mask of a `Masking`, `[height, width, 1]`."""
    other = _differs(draft, call, call.input.node, _number(call, call.operation.mask_value))
    return _any_of_channels(draft, call, other)


def _any_of_channels(draft: Draft, call: Call, node: int) -> int:
    channels = draft.shapes[node][2]
    if channels == 1:
        return node
    kernel, bias = np.ones((1, 1, channels, 1)), np.zeros(1)
    # Of whole numbers the sum is exact, and zero is zero in 8 bits too.
    return draft.add(Conv(call.name, (node,), kernel=kernel, bias=bias, activation="nonzero"), call)


def _number(call: Call, number: Any) -> float:
    found = read(call, number)
    if found.size != 1 or not np.isfinite(found).all():
        raise call.refuse(f"what stands for no number must be one finite number. Received: {number}")
    return float(found.reshape(()))


def _differs(draft: Draft, call: Call, node: int, number: float) -> int:
    """Adds 1 where a value is another number, 0 where it is this one."""
    if number:
        node = combine(draft, call, "add", node, _one(draft, call, -number))
    return add_activation(draft, call, node, "nonzero")


def _one(draft: Draft, call: Call, number: float) -> int:
    return add_constant(draft, call, np.full((1, 1, 1), number))


def _scaled(draft: Draft, call: Call, node: int, scale: float, shift: float) -> int:
    scaled = combine(draft, call, "multiply", node, _one(draft, call, scale))
    return combine(draft, call, "add", scaled, _one(draft, call, shift))


# The masks of layers' outputs, as `compute_mask` makes them.


def output_masks(draft: Draft, call: Call, previous: Any) -> Any:
    """Returns the mask that a layer makes for its output, or a list for several; None where there is none.

    Args:
        draft: The draft.
        call: The call of the layer.
        previous: The mask of its first argument, or a list.
    """
    made = _COMPUTED.get(builtin_layer(call.operation) or "")
    if made is not None:
        return made(draft, call, previous)
    if has_default_mask(call.operation):
        return previous

    def refuse() -> Value:
        raise call.refuse("no layer behind it may need its mask")

    return Later(refuse)


def _of_embedding(draft: Draft, call: Call, previous: Any) -> Any:
    if not call.operation.mask_zero:
        return None
    value = call.input
    return Later(lambda: Value(_differs(draft, call, value.node, 0.0), value.rank, boolean=True))


def _of_masking(draft: Draft, call: Call, previous: Any) -> Any:
    def make() -> Value:
        value = call.input
        shape = as_value(sizes_of(draft, value)[:-1], call)
        return Value(reshape(draft, call, _any_channel(draft, call), shape), value.rank - 1, boolean=True)

    return Later(make)


def _of_merge(draft: Draft, call: Call, previous: Any) -> Any:
    masks = list(previous or [None])
    return None if None in masks else Later(lambda: _or(draft, call, masks))


def _or(draft: Draft, call: Call, masks: Sequence[Any]) -> Value:
    values = [mask_of(draft, call, mask) for mask in masks]
    if len({value.rank for value in values}) > 1:
        raise call.refuse("the masks of its inputs must have the same axes")
    node = combine(draft, call, "maximum", *(value.node for value in values))
    return Value(node, values[0].rank, boolean=True)


def _of_concatenation(draft: Draft, call: Call, previous: Any) -> Any:
    masks = list(previous or [None])
    if all(mask is None for mask in masks):
        return None

    def make() -> Value:
        rank, parts = call.rank - 1, []
        last = call.operation.axis % call.rank == rank
        for value, mask in zip(call.inputs, masks, strict=True):
            part = mask_of(draft, call, mask)
            if part is None:
                ones = np.ones(as_value(sizes_of(draft, value)[:-1], call))
                part = Value(add_constant(draft, call, ones), rank, boolean=True)
            parts.append(part)
        if last:
            return _or(draft, call, parts)
        axis = axis_of(call, call.operation.axis % call.rank, rank)
        nodes = tuple(part.node for part in parts)
        return Value(draft.add(Concatenate(call.name, nodes, axis), call), rank, boolean=True)

    return Later(make)


def _of_recurrent(draft: Draft, call: Call, previous: Any) -> Any:
    return [keras.tree.flatten(previous)[0] if call.operation.return_sequences else None]


def _of_both_directions(draft: Draft, call: Call, previous: Any) -> Any:
    (mask,) = _of_recurrent(draft, call, previous)
    return [mask] if call.operation.merge_mode else [mask, mask]


def _of_attention(draft: Draft, call: Call, previous: Any) -> Any:
    return previous[0] if previous else None


def _of_none(draft: Draft, call: Call, previous: Any) -> None:
    return None


_COMPUTED: dict[str, Callable[[Draft, Call, Any], Any]] = {
    **dict.fromkeys(("Embedding", "ReversibleEmbedding"), _of_embedding),
    "Masking": _of_masking,
    **dict.fromkeys(("Add", "Average", "Maximum", "Minimum", "Multiply", "Subtract"), _of_merge),
    "Concatenate": _of_concatenation,
    **dict.fromkeys(("GRU", "LSTM", "RNN", "SimpleRNN"), _of_recurrent),
    "Bidirectional": _of_both_directions,
    **dict.fromkeys(("AdditiveAttention", "Attention"), _of_attention),
    **dict.fromkeys(("Dot", "GlobalAveragePooling1D"), _of_none),
}


# Operations that make masks, or join them.


def comparing(equal: bool) -> Callable[[Draft, Call], int]:
    """Makes the rule of `ops.not_equal` or `ops.equal` of a tensor and a number."""

    def add_comparison(draft: Draft, call: Call) -> int:
        first, second = call.arguments
        if isinstance(first, Value) == isinstance(second, Value):
            raise call.refuse("it must compare a tensor with a number")
        number = _number(call, second if isinstance(first, Value) else first)
        other = _differs(draft, call, call.input.node, number)
        return _scaled(draft, call, other, -1.0, 1.0) if equal else other

    return add_comparison


def joining(operation: str) -> Callable[[Draft, Call], int]:
    """Makes the rule of `ops.logical_or`, `"maximum"`, or `ops.logical_and`, `"multiply"`."""

    def add_join(draft: Draft, call: Call) -> int:
        values = [mask_of(draft, call, value) for value in call.arguments]
        if len({value.rank for value in values}) > 1:
            raise call.refuse("operands must have the same number of axes")
        return combine(draft, call, operation, *(value.node for value in values))

    return add_join


def add_logical_not(draft: Draft, call: Call) -> int:
    """Adds `ops.logical_not`."""
    return _scaled(draft, call, mask_of(draft, call, call.input).node, -1.0, 1.0)


def add_any(draft: Draft, call: Call) -> int:
    """Adds `ops.any` along axes."""
    if call.operation.axis is None:
        raise call.refuse("`axis` must be given. Received: axis=None")
    value = mask_of(draft, call, call.input)
    axes = sorted({axis_of(call, int(axis), value.rank) for axis in np.atleast_1d(call.operation.axis)})
    node = value.node
    if 2 in axes:
        node = _any_of_channels(draft, call, node)
    node = reduce(draft, call, node, [axis for axis in axes if axis < 2], "max")
    return reshape(draft, call, node, as_value(made_sizes(draft, call), call))


def filled(number: float) -> Callable[[Draft, Call], int]:
    """Makes the rule of `ops.zeros_like` or `ops.ones_like`."""
    return lambda draft, call: add_constant(draft, call, np.full(draft.shapes[call.input.node], number))


def add_cast(draft: Draft, call: Call) -> int:
    """Adds `ops.cast` to floats, or of what is true or false."""
    wanted, value = keras.backend.standardize_dtype(call.operation.dtype), call.input
    if wanted == "bool":
        return mask_of(draft, call, value).node
    if "float" not in wanted and not value.boolean:
        raise call.refuse(f"`dtype` must be one of floats. Received: dtype={wanted}")
    return value.node


def broadcast_mask(draft: Draft, call: Call, mask: Value, value: Value) -> int:
    """Adds the nodes that give a mask the axes and the sizes of a value.

    Raises:
        UserError: It has others.
    """
    shape, own = draft.shapes[value.node], draft.shapes[mask.node]
    fits = mask.rank == value.rank and all(one in (1, size) for one, size in zip(own, shape, strict=True))
    if not fits:
        raise call.refuse(
            f"its mask must have the axes of its input, {sizes_of(draft, value)}."
            f" Received: {sizes_of(draft, mask)}"
        )
    return broadcast(draft, call, mask.node, shape)
