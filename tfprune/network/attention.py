"""The layers inside Keras's attention of several heads."""

from typing import NamedTuple

import keras


class Projections(NamedTuple):
    """The layers of a `MultiHeadAttention`, or of a `GroupQueryAttention`, and how it multiplies.

    Attributes:
        query: Makes `[n, time, heads, channels of a head]` of the query.
        key: The same of the key.
        value: The same of the value.
        output: Makes the output of what the heads made.
        scale: What the products of queries and keys are multiplied by.
        repeats: How many heads of the query share one of the key and the value.
        dropout: The share of scores that is left out in training.
        unusual: The names of settings beyond plain attention that the layer has.
    """

    query: keras.layers.Layer
    key: keras.layers.Layer
    value: keras.layers.Layer
    output: keras.layers.Layer
    scale: float
    repeats: int
    dropout: float
    unusual: list[str]


def projections_of(layer: keras.layers.Layer) -> Projections:
    """Returns the layers inside a built `MultiHeadAttention` or `GroupQueryAttention`."""
    grouped = hasattr(layer, "num_repeats")
    unusual = [
        name
        for name in ("use_gate", "sliding_window")
        if getattr(layer, name if grouped else f"_{name}", None)
    ]
    return Projections(
        layer._query_dense,
        layer._key_dense,
        layer._value_dense,
        layer._output_dense,
        layer._inverse_sqrt_head_dim if grouped else layer._inverse_sqrt_key_dim,
        layer.num_repeats if grouped else 1,
        layer.dropout if grouped else layer._dropout,
        unusual,
    )
