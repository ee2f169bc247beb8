"""Nodes of attention: products of each position's numbers with those of all others."""

from typing import Any

import keras
import numpy as np

from tfprune.compiler.arithmetic import add_activation, add_constant, combine, read
from tfprune.compiler.convolutions import activation_of
from tfprune.compiler.draft import Call, Draft
from tfprune.compiler.shapes import add_gather
from tfprune.network.attention import projections_of
from tfprune.network.drafts import Value
from tfprune.runtime.graph import Conv, MatMul

# What is added to the products with positions that come later, before their softmax.
_NEVER = -1e9


def add_attention(draft: Draft, call: Call) -> int | list[int]:
    """Adds a `MultiHeadAttention` of signals `[n, time, channels]`.

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
    scores = draft.add(MatMul(call.name, (queries, keys)), call)
    heads, time, times = draft.shapes[scores]
    if call.named.get("use_causal_mask"):
        later = np.where(np.arange(times) > np.arange(time)[:, None], _NEVER, 0.0)
        scores = combine(draft, call, "add", scores, add_constant(draft, call, later[None]))
    scores = add_activation(draft, call, scores, "softmax")
    made = draft.add(MatMul(call.name, (scores, values)), call)
    size = draft.shapes[made][2]
    channels = [head * time * size + channel for head in range(heads) for channel in range(size)]
    made = add_gather(draft, call, made, [[0], range(0, time * size, size), channels])
    made = _dense(draft, call, made, layers.output, "attention_output", read(call, layers.output.kernel))
    return [made, scores] if call.named.get("return_attention_scores") else made


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


def add_einsum(draft: Draft, call: Call) -> int:
    """Adds an `EinsumDense` that is a dense layer of the last axis, such as `"abc,cd->abd"`."""
    layer = call.operation
    inputs, _, made = layer.equation.replace(" ", "").replace("->", ",").partition(",")
    weights, _, made = made.partition(",")
    contracted = inputs[-1:]
    plain = len(weights) == 2 and weights[0] == contracted and made == inputs[:-1] + weights[1]
    if not plain or weights[1] in inputs or inputs[:-1].strip(".").count(contracted):
        raise call.refuse(f"`equation` must be a dense layer of the last axis. Received: {layer.equation}")
    kernel = read(call, layer.kernel)
    bias = np.zeros(kernel.shape[1])
    if layer.bias is not None:
        bias = read(call, layer.bias)
        if bias.size != kernel.shape[1]:
            raise call.refuse(f"`bias_axes` must be the last one. Received: {layer.bias_axes}")
    kernel = kernel.reshape(1, 1, *kernel.shape)
    node = Conv(call.name, (call.input.node,), kernel=kernel, bias=bias.reshape(-1))
    node = draft.add(node, call)
    form = activation_of(call)
    return add_activation(draft, call, node, form.name, form.settings)
