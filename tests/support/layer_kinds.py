"""An example of every built-in Keras layer class that has weights."""

from collections.abc import Callable
from typing import NamedTuple

import keras
from keras import layers

TOKENS = ((5,), "int32")


class Example(NamedTuple):
    """How to make a layer, the shape (and dtype) of each input, and the names of what is pruned in it."""

    make: Callable[[], keras.layers.Layer]
    inputs: list
    pruned: list[str]


def recurrent(cls, rank=1, **options):
    shape = [(3, 4), (3, 6, 2), (3, 6, 6, 2), (3, 4, 4, 4, 2)][rank - 1]
    size = (4,) if shape == (3, 4) else (2, 3)
    return Example(lambda: cls(*size, **options), [shape], ["kernel", "recurrent_kernel"])


EMBEDDED = [(4, 8), (5, 8)]
PRUNED = {
    "Dense": Example(lambda: layers.Dense(4), [(6,)], ["kernel"]),
    "EinsumDense": Example(lambda: layers.EinsumDense("abc,cde->abde", (None, 2, 3)), [(4, 6)], ["kernel"]),
    "Conv1D": Example(lambda: layers.Conv1D(4, 3), [(8, 2)], ["kernel"]),
    "Conv2D": Example(lambda: layers.Conv2D(4, 3), [(5, 5, 2)], ["kernel"]),
    "Conv3D": Example(lambda: layers.Conv3D(4, 2), [(4, 4, 4, 2)], ["kernel"]),
    "Conv1DTranspose": Example(lambda: layers.Conv1DTranspose(4, 3), [(8, 2)], ["kernel"]),
    "Conv2DTranspose": Example(lambda: layers.Conv2DTranspose(4, 3), [(5, 5, 2)], ["kernel"]),
    "Conv3DTranspose": Example(lambda: layers.Conv3DTranspose(4, 2), [(4, 4, 4, 2)], ["kernel"]),
    "SeparableConv1D": Example(lambda: layers.SeparableConv1D(4, 3), [(8, 2)], ["pointwise_kernel"]),
    "SeparableConv2D": Example(lambda: layers.SeparableConv2D(4, 3), [(5, 5, 2)], ["pointwise_kernel"]),
    "Embedding": Example(lambda: layers.Embedding(9, 4), [TOKENS], ["embeddings"]),
    "ReversibleEmbedding": Example(lambda: layers.ReversibleEmbedding(9, 4), [TOKENS], ["embeddings"]),
    "MultiHeadAttention": Example(lambda: layers.MultiHeadAttention(2, 3), EMBEDDED, ["kernel"] * 4),
    "GroupQueryAttention": Example(lambda: layers.GroupQueryAttention(3, 4, 2), EMBEDDED, ["kernel"] * 4),
    "SimpleRNN": recurrent(layers.SimpleRNN),
    "GRU": recurrent(layers.GRU),
    "LSTM": recurrent(layers.LSTM, return_sequences=True),
    "ConvLSTM1D": recurrent(layers.ConvLSTM1D, 2),
    "ConvLSTM2D": recurrent(layers.ConvLSTM2D, 3),
    "ConvLSTM3D": recurrent(layers.ConvLSTM3D, 4),
    "RNN": Example(lambda: layers.RNN(layers.GRUCell(4)), [(3, 4)], ["kernel", "recurrent_kernel"]),
    "StackedRNNCells": Example(
        lambda: layers.RNN(layers.StackedRNNCells([layers.LSTMCell(4), layers.SimpleRNNCell(2)])),
        [(3, 4)],
        ["kernel", "recurrent_kernel"] * 2,
    ),
    "Bidirectional": Example(
        lambda: layers.Bidirectional(layers.LSTM(4)), [(3, 4)], ["kernel", "recurrent_kernel"] * 2
    ),
    "TimeDistributed": Example(
        lambda: layers.TimeDistributed(layers.Conv2D(4, 3)), [(2, 5, 5, 2)], ["kernel"]
    ),
    "SpectralNormalization": Example(
        lambda: layers.SpectralNormalization(layers.Dense(4)), [(6,)], ["kernel"]
    ),
}
NEVER_PRUNED = {
    "DepthwiseConv1D": Example(lambda: layers.DepthwiseConv1D(3), [(8, 2)], []),
    "DepthwiseConv2D": Example(lambda: layers.DepthwiseConv2D(3), [(5, 5, 2)], []),
    "BatchNormalization": Example(layers.BatchNormalization, [(6,)], []),
    "LayerNormalization": Example(layers.LayerNormalization, [(6,)], []),
    "GroupNormalization": Example(lambda: layers.GroupNormalization(2), [(6,)], []),
    "RMSNormalization": Example(lambda: layers.RMSNormalization(), [(6,)], []),
    "Normalization": Example(layers.Normalization, [(6,)], []),
    "STFTSpectrogram": Example(lambda: layers.STFTSpectrogram(frame_length=8), [(32, 1)], []),
    "PReLU": Example(layers.PReLU, [(6,)], []),
    "Attention": Example(lambda: layers.Attention(use_scale=True), [(4, 6), (4, 6)], []),
    "AdditiveAttention": Example(layers.AdditiveAttention, [(4, 6), (4, 6)], []),
}
# Older versions of Keras, which the library takes too, lack some.
PRUNED, NEVER_PRUNED = (
    {name: example for name, example in examples.items() if hasattr(layers, name)}
    for examples in (PRUNED, NEVER_PRUNED)
)
# A cell is an example inside its RNN.
CELLS = {"SimpleRNNCell", "GRUCell", "LSTMCell"}
# These hold what their user gives them.
HOLDERS = {"FlaxLayer", "JaxLayer", "TorchModuleWrapper", "TFSMLayer"}


def inputs_of(example):
    """Symbolic inputs for the example's layer."""
    specs = [spec if isinstance(spec[0], tuple) else (spec, "float32") for spec in example.inputs]
    return [keras.Input(shape, dtype=dtype) for shape, dtype in specs]


def call(layer, inputs):
    """Calls a layer on its inputs: attention without projections takes a list of them."""
    return layer(inputs) if isinstance(layer, layers.Attention) else layer(*inputs)
