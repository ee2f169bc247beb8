"""Nodes of attention: products of each position's numbers with those of all others."""

from typing import Any

import keras
import numpy as np

from tfprune.compiler.arithmetic import add_activation, add_affine, add_constant, combine, read
from tfprune.compiler.draft import Call, Draft
from tfprune.compiler.masks import (
    NEVER,
    add_never,
    as_column,
    keep_steps,
    mask_of,
    mask_of_steps,
    masked_scores,
)
from tfprune.compiler.shapes import add_gather, as_value, axis_of, broadcast, permute, reshape, select
from tfprune.network.attention import projections_of
from tfprune.network.drafts import Value
from tfprune.network.kinds import builtin_layer
from tfprune.network.masks import is_zero_behind_softmax
from tfprune.runtime.graph import Conv, MatMul


def add_attention(draft: Draft, call: Call) -> int | list[int]:
    """Adds a `MultiHeadAttention` or a `GroupQueryAttention` of signals `[n, time, channels]`.

    The heads are the rows of the values between: queries and keys are `[heads, time, channels of a head]`,
    their products `[heads, time, time of the keys]`.
    """
    query, key, value = _inputs(call)
    layers = projections_of(call.operation)
    if layers.unusual:
        raise call.refuse(f"`{layers.unusual[0]}` must not be set")
    queries = _heads(draft, call, query, layers.query, "query", layers.scale)
    keys = _heads(draft, call, key, layers.key, "key")
    values = _heads(draft, call, value, layers.value, "value", channels_as_time=True)
    keys, values = (
        select(draft, call, node, {0: np.repeat(range(draft.shapes[node][0]), layers.repeats)})
        for node in (keys, values)
    )
    scores = draft.add(MatMul(call.name, (queries, keys)), call)
    allowed = _allowed(draft, call, scores, query, key)
    if allowed is None and call.named.get("use_causal_mask"):
        scores = _add_bias_of_later(draft, call, scores)
    # Where no position may be looked at, Keras looks at all alike, or, by its layer for softmax, at none.
    by_layer = layers.dropout > 0 or bool(call.named.get("return_attention_scores"))
    at_none = by_layer and is_zero_behind_softmax()
    if allowed is not None:
        scores = masked_scores(draft, call, scores, allowed)
    scores = add_activation(draft, call, scores, "softmax")
    if allowed is not None and at_none:
        scores = combine(draft, call, "multiply", scores, allowed)
    made = draft.add(MatMul(call.name, (scores, values)), call)
    heads, time, size = draft.shapes[made]
    channels = [head * time * size + channel for head in range(heads) for channel in range(size)]
    made = add_gather(draft, call, made, [[0], range(0, time * size, size), channels])
    made = _dense(draft, call, made, layers.output, "attention_output", read(call, layers.output.kernel))
    return [made, scores] if call.named.get("return_attention_scores") else made


def add_plain_attention(draft: Draft, call: Call) -> int | list[int]:
    """Adds an `Attention` or an `AdditiveAttention` of signals, which have no kernels of their own."""
    layer = call.operation
    unusual = sorted({*call.named} - {"use_causal_mask", "return_attention_scores"})
    unusual = [
        name for name in unusual if any(one is not None for one in keras.tree.flatten(call.named[name]))
    ]
    if unusual or len(call.arguments) != 1 or not 2 <= len(call.inputs) <= 3:
        raise call.refuse(f"it must be called with a list of 2 or 3 signals alone. Received: {unusual}")
    query, value, key = (*call.inputs, call.inputs[1])[:3]
    additive = builtin_layer(layer) == "AdditiveAttention"
    if any(one.rank != 3 for one in (query, value, key)):
        raise call.refuse("its inputs must be signals [n, time, channels]")
    if additive or layer.score_mode == "concat":
        scores = _additive_scores(draft, call, query.node, key.node, additive)
    else:
        scores = draft.add(MatMul(call.name, (query.node, key.node)), call)
        if layer.scale is not None:
            scores = add_affine(draft, call, scores, read(call, layer.scale), 0.0)
    given = call.masks.get("mask") or [None, None]
    own, mask = (
        mask_of_steps(draft, call, one, draft.shapes[signal.node][1])
        for one, signal in zip(given[:2], (query, value), strict=True)
    )
    causal = bool(call.named.get("use_causal_mask"))
    if causal and mask is None:
        scores = _add_bias_of_later(draft, call, scores)
    elif causal:
        mask = combine(draft, call, "multiply", add_constant(draft, call, _seen(draft, scores)), mask)
    if mask is not None:
        scores = combine(draft, call, "add", scores, add_never(draft, call, mask))
    scores = add_activation(draft, call, scores, "softmax")
    made = draft.add(MatMul(call.name, (scores, permute(draft, call, value.node, (0, 2, 1)))), call)
    if own is not None:
        made = keep_steps(draft, call, made, own)
    return [made, scores] if call.named.get("return_attention_scores") else made


def _additive_scores(draft: Draft, call: Call, query: int, key: int, additive: bool) -> int:
    """Adds the sum over the channels of tanh of each sum of a query and a key."""
    layer = call.operation
    queries = permute(draft, call, query, (1, 0, 2))
    time, times, channels = draft.shapes[query][1], *draft.shapes[key][1:]
    sums = combine(draft, call, "add", broadcast(draft, call, queries, (time, times, channels)), key)
    weights = np.ones(channels)
    if additive and layer.use_scale:
        weights = read(call, layer.scale)
    elif not additive:
        weights = weights * read(call, layer.concat_score_weight)
        if layer.scale is not None:
            sums = add_affine(draft, call, sums, read(call, layer.scale), 0.0)
    shown = add_activation(draft, call, sums, "tanh")
    conv = Conv(call.name, (shown,), kernel=weights.reshape(1, 1, channels, 1), bias=np.zeros(1))
    return reshape(draft, call, draft.add(conv, call), (1, time, times))


def _allowed(draft: Draft, call: Call, scores: int, query: Value, key: Value) -> int | None:
    """Adds the mask of the scores of several heads: 1 where a query may look at a key; None without masks.

    Args:
        draft: The draft.
        call: The call, with the masks of its query, its key and its value, and that of the scores.
        scores: `[heads, time, time of the keys]`.
        query: The query.
        key: The key.
    """
    time, times = (draft.shapes[signal.node][1] for signal in (query, key))
    parts = []
    mask = mask_of_steps(draft, call, call.masks.get("query_mask"), time)
    if mask is not None:
        parts.append(as_column(draft, call, mask))
    for name in ("value_mask", "key_mask"):
        mask = mask_of_steps(draft, call, call.masks.get(name), times)
        parts += [] if mask is None else [mask]
    given = mask_of(draft, call, call.masks.get("attention_mask"))
    if given is not None:
        shape, heads = draft.shapes[given.node], draft.shapes[scores][0]
        if (
            given.rank < 3
            or shape[0] not in (1, heads)
            or shape[1] not in (1, time)
            or shape[2] not in (1, times)
        ):
            raise call.refuse(f"`attention_mask` must have {time} times {times} numbers. Received: {shape}")
        parts.append(given.node)
    if not parts:
        return None
    if call.named.get("use_causal_mask"):
        parts.append(add_constant(draft, call, _seen(draft, scores)))
    return combine(draft, call, "multiply", *parts)


def _seen(draft: Draft, scores: int) -> np.ndarray:
    """Returns the mask of scores by which a position sees the earlier ones and itself only."""
    _, time, times = draft.shapes[scores]
    return (np.arange(times) <= np.arange(time)[:, None])[None].astype(float)


def _add_bias_of_later(draft: Draft, call: Call, scores: int) -> int:
    """Adds the same to scores; each position sees at least itself."""
    later = np.where(_seen(draft, scores), 0.0, NEVER)
    return combine(draft, call, "add", scores, add_constant(draft, call, later))


# Products of two tensors.


def add_dot(draft: Draft, call: Call) -> int:
    """Adds a `Dot` of vectors or signals: the products along an axis of each."""
    layer, values = call.operation, call.inputs
    if layer.normalize:
        raise call.refuse("`normalize` must be False. Received: normalize=True")
    if any(value.rank > 3 for value in values):
        raise call.refuse("its inputs must be vectors or signals")
    axes = layer.axes if isinstance(layer.axes, tuple | list) else (layer.axes, layer.axes)
    nodes, sizes = [], []
    for value, axis in zip(values, axes, strict=True):
        along = axis_of(call, axis, value.rank)
        nodes.append(permute(draft, call, value.node, (0, 2, 1)) if along == 1 else value.node)
        sizes += [draft.shapes[nodes[-1]][1]] if value.rank == 3 else []
    made = draft.add(MatMul(call.name, tuple(nodes)), call)
    return reshape(draft, call, made, as_value(sizes or [1], call))


def add_matmul(draft: Draft, call: Call) -> int:
    """Adds `ops.matmul` of tensors of the same batch, or of a tensor and a matrix, which is a dense layer."""
    first, second = call.arguments
    if isinstance(first, Value) and isinstance(second, Value):
        if first.rank != second.rank or first.rank < 3:
            raise call.refuse("its operands must have 3 or 4 axes alike, with the batch")
        other = permute(draft, call, second.node, (0, 2, 1))
        return draft.add(MatMul(call.name, (first.node, other)), call)
    matrix = None if isinstance(second, Value) else read(call, second)
    if matrix is None or matrix.ndim != 2:
        raise call.refuse("a constant must be its second operand, and have 2 axes")
    kernel = matrix.reshape(1, 1, *matrix.shape)
    return draft.add(Conv(call.name, (first.node,), kernel=kernel, bias=np.zeros(matrix.shape[1])), call)


def _inputs(call: Call) -> tuple[Value, Value, Value]:
    """Returns the query, the key and the value of a call, each a signal."""
    given = dict(zip(("query", "value", "key"), call.arguments, strict=False))
    given |= {
        name: call.named[name] for name in ("query", "value", "key") if call.named.get(name) is not None
    }
    others = {
        name: value
        for name, value in call.named.items()
        if name not in ("query", "value", "key", "use_causal_mask", "return_attention_scores")
    }
    if any(value is not None for value in others.values()) or len(call.arguments) > 3:
        raise call.refuse(f"it must be called with its inputs and masks alone. Received: {sorted(others)}")
    found = given["query"], given.get("key", given["value"]), given["value"]
    for value in found:
        if not isinstance(value, Value) or value.rank != 3:
            raise call.refuse("its inputs must be signals [n, time, channels]")
    return found


def _heads(
    draft: Draft,
    call: Call,
    source: Value,
    dense: keras.layers.EinsumDense,
    name: str,
    scale: float = 1.0,
    channels_as_time: bool = False,
) -> int:
    """Adds the projection of a signal to heads: `[heads, time, channels]`, or `[heads, channels, time]`."""
    kernel = read(call, dense.kernel) * scale
    heads, size = kernel.shape[-2:]
    node = _dense(draft, call, source.node, dense, name, kernel.reshape(-1, heads * size), scale)
    time = draft.shapes[node][1]
    times, channels = range(0, time * heads * size, heads * size), range(size)
    rows = range(0, heads * size, size)
    return add_gather(
        draft, call, node, (rows, channels, times) if channels_as_time else (rows, times, channels)
    )


def _dense(
    draft: Draft, call: Call, source: int, dense: Any, name: str, kernel: np.ndarray, scale: float = 1.0
) -> int:
    inputs = draft.shapes[source][2]
    kernel = kernel.reshape(1, 1, inputs, -1)
    bias = np.zeros(kernel.shape[3])
    if dense.bias is not None:
        bias = read(call, dense.bias).reshape(-1) * scale
    return draft.add(Conv(f"{call.name}/{name}", (source,), kernel=kernel, bias=bias), call)
