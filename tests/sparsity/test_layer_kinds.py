"""Every built-in Keras layer with a kernel or an embedding table, and none of the other weights."""

import inspect
import re
import sys
from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
import pytest
from keras import layers, ops

from tfprune.sparsity import prune_low_magnitude, prune_to, pruned_layers, strip_pruning
from tfprune.sparsity.layer_selection import is_prunable

RNG = np.random.default_rng(0)
TOKENS = ((5,), "int32")


class Kind(NamedTuple):
    """How to make a layer, the shape (and dtype) of each input, and the names of what is pruned in it."""

    make: Callable[[], keras.layers.Layer]
    inputs: list
    pruned: list[str]


def recurrent(cls, rank=1, **options):
    shape = [(3, 4), (3, 6, 2), (3, 6, 6, 2), (3, 4, 4, 4, 2)][rank - 1]
    size = (4,) if shape == (3, 4) else (2, 3)
    return Kind(lambda: cls(*size, **options), [shape], ["kernel", "recurrent_kernel"])


EMBEDDED = [(4, 8), (5, 8)]
KINDS = {
    "Dense": Kind(lambda: layers.Dense(4), [(6,)], ["kernel"]),
    "EinsumDense": Kind(lambda: layers.EinsumDense("abc,cde->abde", (None, 2, 3)), [(4, 6)], ["kernel"]),
    "Conv1D": Kind(lambda: layers.Conv1D(4, 3), [(8, 2)], ["kernel"]),
    "Conv2D": Kind(lambda: layers.Conv2D(4, 3), [(5, 5, 2)], ["kernel"]),
    "Conv3D": Kind(lambda: layers.Conv3D(4, 2), [(4, 4, 4, 2)], ["kernel"]),
    "Conv1DTranspose": Kind(lambda: layers.Conv1DTranspose(4, 3), [(8, 2)], ["kernel"]),
    "Conv2DTranspose": Kind(lambda: layers.Conv2DTranspose(4, 3), [(5, 5, 2)], ["kernel"]),
    "Conv3DTranspose": Kind(lambda: layers.Conv3DTranspose(4, 2), [(4, 4, 4, 2)], ["kernel"]),
    "SeparableConv1D": Kind(lambda: layers.SeparableConv1D(4, 3), [(8, 2)], ["pointwise_kernel"]),
    "SeparableConv2D": Kind(lambda: layers.SeparableConv2D(4, 3), [(5, 5, 2)], ["pointwise_kernel"]),
    "Embedding": Kind(lambda: layers.Embedding(9, 4), [TOKENS], ["embeddings"]),
    "ReversibleEmbedding": Kind(lambda: layers.ReversibleEmbedding(9, 4), [TOKENS], ["embeddings"]),
    "MultiHeadAttention": Kind(lambda: layers.MultiHeadAttention(2, 3), EMBEDDED, ["kernel"] * 4),
    "GroupQueryAttention": Kind(lambda: layers.GroupQueryAttention(3, 4, 2), EMBEDDED, ["kernel"] * 4),
    "SimpleRNN": recurrent(layers.SimpleRNN),
    "GRU": recurrent(layers.GRU),
    "LSTM": recurrent(layers.LSTM, return_sequences=True),
    "ConvLSTM1D": recurrent(layers.ConvLSTM1D, 2),
    "ConvLSTM2D": recurrent(layers.ConvLSTM2D, 3),
    "ConvLSTM3D": recurrent(layers.ConvLSTM3D, 4),
    "RNN": Kind(lambda: layers.RNN(layers.GRUCell(4)), [(3, 4)], ["kernel", "recurrent_kernel"]),
    "StackedRNNCells": Kind(
        lambda: layers.RNN(layers.StackedRNNCells([layers.LSTMCell(4), layers.SimpleRNNCell(2)])),
        [(3, 4)],
        ["kernel", "recurrent_kernel"] * 2,
    ),
    "Bidirectional": Kind(
        lambda: layers.Bidirectional(layers.LSTM(4)), [(3, 4)], ["kernel", "recurrent_kernel"] * 2
    ),
    "TimeDistributed": Kind(lambda: layers.TimeDistributed(layers.Conv2D(4, 3)), [(2, 5, 5, 2)], ["kernel"]),
    "SpectralNormalization": Kind(lambda: layers.SpectralNormalization(layers.Dense(4)), [(6,)], ["kernel"]),
}

NEVER = {
    "DepthwiseConv1D": (lambda: layers.DepthwiseConv1D(3), (8, 2)),
    "DepthwiseConv2D": (lambda: layers.DepthwiseConv2D(3), (5, 5, 2)),
    "BatchNormalization": (lambda: layers.BatchNormalization(), (6,)),
    "LayerNormalization": (lambda: layers.LayerNormalization(), (6,)),
    "GroupNormalization": (lambda: layers.GroupNormalization(2), (6,)),
    "RMSNormalization": (lambda: layers.RMSNormalization(), (6,)),
    "Normalization": (lambda: layers.Normalization(), (6,)),
    "STFTSpectrogram": (lambda: layers.STFTSpectrogram(frame_length=8), (32, 1)),  # A Fourier transform.
    "PReLU": (lambda: layers.PReLU(), (6,)),
    "Attention": (lambda: layers.Attention(use_scale=True), None),
    "AdditiveAttention": (lambda: layers.AdditiveAttention(), None),
}

# A cell is pruned inside its RNN; the others hold what their user gives them.
PARTS = {"SimpleRNNCell", "GRUCell", "LSTMCell"}
HOLDERS = {"FlaxLayer", "JaxLayer", "TorchModuleWrapper"}


def has_weights(cls):
    """Whether a class of Keras makes weights, or layers that have some, or wraps a layer."""
    makes = re.compile(r"add_weight\(|add_variable\(|\b(Dense|EinsumDense|Embedding|Conv\w*|\w*Cell)\(")
    own = [c for c in cls.__mro__ if c.__module__.startswith("keras.src.layers.") and c is not layers.Layer]
    sources = {inspect.getsource(sys.modules[c.__module__]) for c in own}
    code = "".join(re.sub(r'"""[\s\S]*?"""', "", source) for source in sources)
    return bool(makes.search(code)) or layers.Wrapper in own[1:]


def test_every_layer_of_keras_that_has_weights_is_known_here():
    """Fails when a new release of Keras brings a layer that this table does not decide upon."""
    public = {
        cls: name
        for name, cls in sorted(vars(layers).items(), reverse=True)  # "Conv1D" after "Convolution1D".
        if inspect.isclass(cls) and issubclass(cls, layers.Layer) and cls is not layers.Layer
    }
    found = {name for cls, name in public.items() if has_weights(cls)}
    assert len(found) > 30
    known = {*KINDS, *NEVER, *PARTS, *HOLDERS}
    assert found - known == set()
    assert known - set(public.values()) == set()


@pytest.fixture(autouse=True)
def initializers_in_numpy(monkeypatch):
    """JAX would compile its random numbers anew for each shape, at a second each."""

    def draw(self, shape, dtype=None, **options):
        return ops.convert_to_tensor(RNG.normal(size=shape), dtype)

    for cls in (keras.initializers.VarianceScaling, keras.initializers.OrthogonalInitializer):
        monkeypatch.setattr(cls, "__call__", draw)


def make(name):
    kind = KINDS[name]
    specs = [spec if isinstance(spec[0], tuple) else (spec, "float32") for spec in kind.inputs]
    inputs = [keras.Input(shape, dtype=dtype) for shape, dtype in specs]
    layer = kind.make()
    model = keras.Model(inputs, layers.GlobalAveragePooling1D()(layers.Reshape((-1, 2))(layer(*inputs))))
    x = [RNG.uniform(0, 2, size=(6, *shape)).astype(dtype) for shape, dtype in specs]
    return model, layer, x


@pytest.mark.parametrize("name", KINDS)
def test_pruned_trained_saved_and_stripped(name, tmp_path, masks_of, to_numpy, assert_exact_zeros):
    model, layer, x = make(name)
    assert is_prunable(KINDS[name].make())  # As an unbuilt layer too.
    wrapped = prune_low_magnitude(model, None)
    wrapper = pruned_layers(wrapped)[0]
    assert wrapper.layer is layer
    assert [variable.name for variable in wrapper.prunable_variables] == KINDS[name].pruned

    prune_to(wrapped, 0.5)
    before = {id(v): to_numpy(v) for v in layer.trainable_variables}
    wrapped.compile(
        keras.optimizers.SGD(0.5, momentum=0.9), "mse", run_eagerly=keras.backend.backend() != "jax"
    )
    wrapped.train_on_batch(x, np.ones((6, 2), "float32"))
    assert_exact_zeros(wrapped, 0.5)
    # It trains: of each kind of weight some moved.
    moved = [v.name for v in layer.trainable_variables if (to_numpy(v) != before[id(v)]).any()]
    assert set(KINDS[name].pruned) <= set(moved)

    wrapped.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for old, new in zip(masks_of(wrapped), masks_of(loaded), strict=True):
        np.testing.assert_array_equal(old, new)
    expected = to_numpy(wrapped(x))
    np.testing.assert_allclose(to_numpy(loaded(x)), expected, atol=1e-5)
    np.testing.assert_allclose(to_numpy(strip_pruning(loaded)(x)), expected, atol=1e-5)


def test_a_reverse_table_of_its_own_is_pruned_too(to_numpy):
    layer = layers.ReversibleEmbedding(9, 4, tie_weights=False)
    tokens = keras.Input((5,), dtype="int32")
    model = prune_low_magnitude(keras.Model(tokens, layer(layer(tokens), reverse=True)), None)
    prune_to(model, 0.5)
    assert [v.name for v in pruned_layers(model)[0].prunable_variables] == [
        "embeddings",
        "reverse_embeddings",
    ]
    for variable in (layer.embeddings, layer.reverse_embeddings):
        assert np.count_nonzero(to_numpy(variable)) == 18
    table = to_numpy(layer.embeddings)[[[0, 1, 2, 3, 8]]]
    np.testing.assert_allclose(
        to_numpy(model(np.array([[0, 1, 2, 3, 8]]))), table @ to_numpy(layer.reverse_embeddings), atol=1e-6
    )


@pytest.mark.parametrize("name", NEVER)
def test_never_wrapped(name):
    make_layer, shape = NEVER[name]
    inputs = keras.Input(shape or (4, 6))
    layer = make_layer()
    x = layer(inputs) if shape else layer([inputs, inputs])
    model = keras.Model(inputs, layers.Dense(2, name="head")(layers.Flatten()(x)))
    assert layer.variables
    wrapped = prune_low_magnitude(model, None)
    assert [wrapper.layer.name for wrapper in pruned_layers(wrapped)] == ["head"]
    assert any(each is layer for each in wrapped.layers)
    with pytest.raises(ValueError, match="Nothing to prune"):
        prune_low_magnitude(model, None, layers=type(layer))
