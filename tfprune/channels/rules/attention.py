"""Rules of attention."""

import numpy as np

from tfprune.channels.labels import Channels
from tfprune.channels.rules.axes import LAST
from tfprune.channels.trace import INSIDE, Call, Rule
from tfprune.network.graph import inner_layers
from tfprune.network.kinds import builtin_layer


def _attention_heads(call: Call) -> list[Channels]:
    """Whole heads go, with the queries' groups that share one; the output's channels go by themselves."""
    layer = call.layer
    parts = {part.name: part for part in inner_layers(layer)}
    if builtin_layer(layer) == "MultiHeadAttention":
        heads = shared = call.new(layer.num_heads)
        call.config("num_heads", heads)
    else:
        shared = call.new(layer.num_key_value_heads)
        heads = np.repeat(shared, layer.num_query_heads // layer.num_key_value_heads)
        call.config("num_query_heads", heads)
        call.config("num_key_value_heads", shared)
    given = dict(zip(("query", "value", "key"), call.args, strict=False)) | call.kwargs
    query, value = given["query"], given["value"]
    key = value if given.get("key") is None else given["key"]
    takers = {"query": (query, heads), "key": (key, shared), "value": (value, shared), "gate": (query, heads)}
    for name, (channels, made) in takers.items():
        part = parts.get(name)
        if part is None:
            continue
        which = next(number for number, one in enumerate(call.inputs) if one is channels)
        call.weight(part.kernel, 0, call.take(LAST, channels), "takes", which)
        call.weight(part.kernel, 1, made, "makes")
        call.weight(part.bias, 0, made, "makes")
    for channels in call.inputs:
        if not any(channels is one for one in (query, key, value)):
            call.fix(channels, "it is a mask")
    output = parts["attention_output"]
    out = call.new(output.kernel.shape[-1])
    call.weight(output.kernel, 0, heads, "takes", INSIDE)
    call.weight(output.kernel, -1, out, "makes")
    call.weight(output.bias, -1, out, "makes")
    if len(output.kernel.shape) != 3:
        call.fix(out, "its output has several axes of channels")
    elif builtin_layer(layer) == "MultiHeadAttention":
        call.config("output_shape", lambda kept: (int(kept(out).sum()),))
    else:
        # Its output, query, key and value are equally wide.
        for channels in (query, key, value):
            call.unite(out, call.take(LAST, channels))
    # Scores have an axis of heads behind the batch's.
    return [
        Channels.along(call.shapes[0], LAST, out),
        *(Channels.along(shape, 0, heads) for shape in call.shapes[1:]),
    ]


def _dot_product_attention(call: Call) -> list[Channels]:
    """Queries meet keys channel by channel; the values pass."""
    layer = call.layer
    given = call.args[0] if isinstance(call.args[0], (list, tuple)) else call.args
    query, value = given[0], given[1]
    key = given[2] if len(given) > 2 else value
    for channels in call.inputs:
        if not any(channels is one for one in (query, value, key)):
            call.fix(channels, "it is a mask")
    met, passed = call.take(LAST, query), call.take(LAST, value)
    call.unite(met, call.take(LAST, key))
    call.mix(met, "it sums over its channels")
    if builtin_layer(layer) == "AdditiveAttention" and layer.use_scale:
        call.weight(layer.scale, 0, met, "scales")
    return [
        Channels.along(call.shapes[0], LAST, passed),
        *(Channels.fixed(shape) for shape in call.shapes[1:]),
    ]


LAYERS: dict[str, Rule] = {
    **dict.fromkeys(("MultiHeadAttention", "GroupedQueryAttention"), _attention_heads),
    **dict.fromkeys(("Attention", "AdditiveAttention"), _dot_product_attention),
}
