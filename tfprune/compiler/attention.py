"""Nodes of attention: products of each position's numbers with those of all others."""

from typing import Any

import keras
import numpy as np

from tfprune.compiler.arithmetic import add_activation, add_affine, add_constant, combine, read
from tfprune.compiler.draft import Call, Draft
from tfprune.compiler.shapes import add_gather, as_value, axis_of, broadcast, permute, reshape, select
from tfprune.network.attention import projections_of
from tfprune.network.drafts import Value
from tfprune.network.kinds import builtin_layer
from tfprune.runtime.graph import Conv, MatMul

# What is added to the products with positions that come later, before their softmax.
_NEVER = -1e9


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
    made, scores = _attend(draft, call, scores, values)
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
    made, scores = _attend(draft, call, scores, permute(draft, call, value.node, (0, 2, 1)))
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


def _attend(draft: Draft, call: Call, scores: int, values: int) -> tuple[int, int]:
    """Adds the sums of values by shares.

    Args:
        draft: The draft.
        call: The call; its argument `use_causal_mask` says whether a position sees the earlier ones only.
        scores: `[heads, time, time of the values]`, whose softmax are the shares.
        values: `[heads, channels, time of the values]`.

    Returns:
        The sums, `[heads, time, channels]`, and the shares.
    """
    _, time, times = draft.shapes[scores]
    if call.named.get("use_causal_mask"):
        later = np.where(np.arange(times) > np.arange(time)[:, None], _NEVER, 0.0)
        scores = combine(draft, call, "add", scores, add_constant(draft, call, later[None]))
    scores = add_activation(draft, call, scores, "softmax")
    return draft.add(MatMul(call.name, (scores, values)), call), scores


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
        raise call.refuse(f"it must be called without masks of its inputs. Received: {sorted(others)}")
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
