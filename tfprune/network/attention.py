"""The layers inside Keras's attention of several heads."""

from typing import NamedTuple

import keras


class Projections(NamedTuple):
    """The layers of a `MultiHeadAttention`, and how it multiplies queries and keys.

    Attributes:
        query: Makes `[n, time, heads, channels of a head]` of the query.
        key: The same of the key.
        value: The same of the value.
        output: Makes the output of what the heads made.
        scale: What the products of queries and keys are multiplied by.
        unusual: The names of settings beyond plain attention that the layer has.
    """

    query: keras.layers.Layer
    key: keras.layers.Layer
    value: keras.layers.Layer
    output: keras.layers.Layer
    scale: float
    unusual: list[str]


def projections_of(layer: keras.layers.MultiHeadAttention) -> Projections:
    """Returns the layers inside a built `MultiHeadAttention`."""
    unusual = [name for name in ("use_gate", "sliding_window") if getattr(layer, f"_{name}", None)]
    return Projections(
        layer._query_dense,
        layer._key_dense,
        layer._value_dense,
        layer._output_dense,
        layer._inverse_sqrt_key_dim,
        unusual,
    )
