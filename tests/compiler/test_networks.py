"""Whole networks of other kinds than classifiers of images, in the kernels, against Keras."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from tests.support.compiled_models import (
    assert_same,
    outputs_of,
    random_inputs,
    randomise,
    run_in_runtime,
)
from tfprune import runtime
from tfprune.compiler.compile import compile_model
from tfprune.compiler.paths import choose_paths


def u_net(transposed=True):
    image = keras.Input((16, 24, 3), dtype="uint8", name="image")
    x, skips = layers.Rescaling(1 / 255)(image), []
    for filters in (6, 8):
        x = layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
        skips.append(x)
        x = layers.MaxPooling2D()(x)
    x = layers.Conv2D(10, 3, padding="same", activation="relu")(x)
    for filters, skip in zip((8, 6), reversed(skips), strict=True):
        if transposed:
            x = layers.Conv2DTranspose(filters, 3, strides=2, padding="same", activation="relu")(x)
        else:
            x = layers.Conv2D(filters, 3, padding="same")(layers.UpSampling2D(interpolation="bilinear")(x))
        x = layers.Conv2D(filters, 3, padding="same", activation="relu")(layers.Concatenate()([skip, x]))
    return keras.Model(image, layers.Conv2D(4, 1, activation="softmax", name="classes")(x))


def audio():
    signal = keras.Input((64, 2), name="signal")
    x = layers.Conv1D(8, 5, strides=2, padding="same", activation="relu")(signal)
    x = layers.BatchNormalization()(layers.Conv1D(8, 3, padding="causal", dilation_rate=2)(x))
    x = layers.MaxPooling1D(2)(layers.LeakyReLU(negative_slope=0.1)(x))
    x = layers.SeparableConv1D(12, 3, padding="same")(layers.LayerNormalization()(x))
    x = layers.GlobalAveragePooling1D()(layers.Activation("mish")(x))
    return keras.Model(signal, layers.Dense(3, activation="softmax")(x))


def mlp():
    chain = [layers.Dense(32, activation="relu"), layers.BatchNormalization(), layers.Dropout(0.5)]
    return keras.Sequential([keras.Input((20,)), *chain, layers.Dense(16, "selu"), layers.Dense(1)])


def digits():
    """Images of 28x28 without channels."""
    image = keras.Input((28, 28), name="digit")
    x = layers.Conv2D(4, 3, strides=2)(layers.Reshape((28, 28, 1))(image))
    return keras.Model(image, layers.Dense(10)(layers.Flatten()(x)))


def two_inputs():
    image, facts = keras.Input((8, 8, 3), name="image"), keras.Input((5,), name="facts")
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(6, 3, activation="relu")(image))
    x = layers.Concatenate()([x, layers.Dense(4, activation="tanh")(facts)])
    return keras.Model({"image": image, "facts": facts}, layers.Dense(3)(x))


def two_outputs():
    image = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(6, 3, padding="same", activation="relu")(image)
    mask = layers.Conv2D(1, 1, activation="sigmoid", name="mask")(x)
    return keras.Model(image, [mask, layers.Dense(3, name="kind")(layers.GlobalMaxPooling2D()(x)), x])


def transformer():
    """Attention of one signal to itself and to another, one way in time."""
    x = signal = keras.Input((7, 6), name="tokens")
    memory = keras.Input((5, 4), name="memory")
    for _ in range(2):
        y = layers.LayerNormalization()(x)
        x = x + layers.MultiHeadAttention(2, 3)(y, y, use_causal_mask=True)
        x = x + layers.MultiHeadAttention(3, 2, value_dim=4, use_bias=False, dropout=0.1)(x, value=memory)
        y = layers.EinsumDense("abc,cd->abd", (None, 8), bias_axes="d", activation="gelu")(x)
        x = x + layers.Dense(6)(layers.Dropout(0.1)(y))
    x, scores = layers.MultiHeadAttention(2, 3, output_shape=4)(
        x, memory, key=memory, return_attention_scores=True
    )
    return keras.Model([signal, memory], [layers.GlobalAveragePooling1D()(x), scores])


def transformer_like():
    """What a block of ConvNeXt and a mixer do: normalization, permutation, dense layers, GELU."""
    x = signal = keras.Input((9, 8), name="tokens")
    y = layers.Permute((2, 1))(layers.LayerNormalization()(x))
    y = layers.Permute((2, 1))(layers.Dense(9, activation="gelu")(y))
    x = x + y
    y = layers.Dense(8)(layers.Dense(16, activation=keras.activations.gelu)(layers.LayerNormalization()(x)))
    return keras.Model(signal, ops.mean(x + y, axis=1))


def attentions():
    """Those without kernels, of grouped queries, and products of signals."""
    query, key = keras.Input((7, 6), name="query"), keras.Input((5, 6), name="values")
    x = layers.Attention(use_scale=True)([query, key], use_causal_mask=True)
    y, scores = layers.AdditiveAttention()([query, key, x[:, :5]], return_attention_scores=True)
    z = layers.Attention(score_mode="concat")([query, y])
    z = layers.GroupQueryAttention(3, 4, 2)(z, x) + ops.matmul(scores, key)
    dots = [layers.Dot(1)([x, y]), layers.Dot((2, 1))([z, ops.mean(y, axis=1)]), scores]
    return keras.Model([query, key], dots)


def words():
    """A text of 12 words of a hundred."""
    text = keras.Input((12,), dtype="int32", name="text")
    x = layers.Bidirectional(layers.GRU(6, return_sequences=True))(layers.Embedding(100, 8)(text))
    x = layers.SpectralNormalization(layers.Dense(4, activation="relu"))(x)
    return keras.Model(text, layers.Dense(3, activation="log_softmax")(layers.LSTM(5)(x)))


def padded_text():
    """A text that ends in zeros, or has some within: read by attention, cells and an average."""
    text = keras.Input((12,), dtype="int32", name="text")
    x = layers.Embedding(5, 8, mask_zero=True)(text)
    y = layers.MultiHeadAttention(2, 4, dropout=0.1)(x, x)
    x = layers.LayerNormalization()(layers.Add()([x, layers.Dense(8, activation="gelu")(y)]))
    x = layers.Bidirectional(layers.LSTM(6, return_sequences=True))(x)
    x = layers.Concatenate()([layers.GlobalAveragePooling1D()(x), layers.GRU(5)(x)])
    return keras.Model(text, layers.Dense(3, activation="softmax")(x))


def gestures():
    """A signal of sensors whose zeros stand for no measurement."""
    signal = keras.Input((20, 6), dtype="uint8", name="sensors")
    x = layers.Masking()(layers.Rescaling(0.5)(signal))
    x = layers.GRU(8, return_sequences=True)(
        layers.BatchNormalization()(layers.Dense(8, activation="relu")(x))
    )
    return keras.Model(signal, layers.Dense(4)(layers.LSTM(6)(layers.Dropout(0.3)(x))))


NETWORKS = {
    "U-Net": u_net,
    "U-Net that interpolates": lambda: u_net(transposed=False),
    "audio": audio,
    "MLP": mlp,
    "digits": digits,
    "two inputs": two_inputs,
    "two outputs": two_outputs,
    "attentions": attentions,
    "words": words,
    "padded text": padded_text,
    "gestures": gestures,
    "mixer": transformer_like,
    "transformer": transformer,
}


_LARGEST = {"padded text": 5, "gestures": 2}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name, tmp_path):
    """Also from a file, and with the paths measured."""
    model = randomise(NETWORKS[name](), sparsity=0.5)
    graph = compile_model(model)
    options = {
        # Of few numbers many are 0, which is masked.
        "high": _LARGEST.get(name) or {"uint8": 256, "int32": 100}.get(model.inputs[0].dtype, 2),
        "run": run_in_runtime,
        "tolerance": 1e-5,
    }
    assert_same(model, graph, **options)
    runtime.write_file(choose_paths(graph, rounds=1), tmp_path / "model.tfprune", "float32")
    read = runtime.read_file(tmp_path / "model.tfprune")
    assert_same(model, read, **options)


def test_several_inputs_and_outputs_have_names():
    model = randomise(two_inputs())
    compiled = runtime.Model(compile_model(model))
    assert compiled.inputs == {"facts": (5,), "image": (8, 8, 3)}
    facts, images = random_inputs(model, 4, -1, 1)
    expected = outputs_of(model, [facts, images])[0]
    for given in ([facts, images], {"image": images, "facts": facts}):
        np.testing.assert_allclose(compiled(given), expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    outputs = runtime.Model(compile_model(two_outputs()))(images)
    assert [array.shape for array in outputs.values()] == [(4, 8, 8, 1), (4, 3), (4, 8, 8, 6)]
    assert list(outputs)[:2] == ["mask", "kind"]


def test_the_same_tensor_twice_and_an_input_as_an_output():
    x = keras.Input((4,), name="x")
    y = layers.Dense(3)(x)
    model = randomise(keras.Model(x, {"b": y, "a": y, "c": x}))
    graph = compile_model(model)
    assert [output.name for output in graph.outputs] == ["a", "b", "c"]
    assert_same(model, graph, low=-1, high=1, run=run_in_runtime)


def test_integers_become_floats_in_the_model():
    image = keras.Input((6, 6, 2), dtype="int32")
    model = randomise(keras.Model(image, layers.Dense(3)(layers.Flatten()(layers.Rescaling(0.01)(image)))))
    graph = compile_model(model)
    assert_same(model, graph, run=run_in_runtime)
