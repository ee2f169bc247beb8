"""Rules of attention."""

import numpy as np

from tfprune.channels.labels import Channels
from tfprune.channels.rules.axes import LAST
from tfprune.channels.trace import INSIDE, Call, Rule
from tfprune.network.graph import inner_layers
from tfprune.network.kinds import builtin_layer


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
        labels = channels.on(LAST)
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
        call.unite(out, given["query"].on(LAST))
    else:
        call.config("output_shape", lambda kept: (int(kept(out).sum()),))
    call.weight(output.kernel, -1, out, "makes")
    call.weight(output.bias, -1, out, "makes")
    return [
        Channels.along(call.shapes[0], LAST, out),
        *(Channels.fixed(shape) for shape in call.shapes[1:]),
    ]


def _dot_product_attention(call: Call) -> list[Channels]:
    """Queries meet keys channel by channel; the values pass."""
    given = call.inputs
    query, value = given[0], given[1]
    key = given[2] if len(given) > 2 else value
    for channels in (query, key):
        if channels.on(LAST) is None:
            return call.stay("it takes channels and positions together")
    call.unite(query.on(LAST), key.on(LAST))
    call.mix(query, "it sums over its channels")
    if builtin_layer(call.layer) == "AdditiveAttention" and len(call.layer.weights):
        call.weight(call.layer.weights[0], 0, query.on(LAST), "scales")
    return [
        Channels.along(call.shapes[0], LAST, value.on(LAST)),
        *(Channels.fixed(shape) for shape in call.shapes[1:]),
    ]


LAYERS: dict[str, Rule] = {
    **dict.fromkeys(("MultiHeadAttention", "GroupedQueryAttention"), _attention_heads),
    **dict.fromkeys(("Attention", "AdditiveAttention"), _dot_product_attention),
}
