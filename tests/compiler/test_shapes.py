"""Layers and operations that move numbers, join tensors and compute along axes; each against Keras."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from tests.support.compiled_models import assert_same, kinds, randomise
from tfprune.compiler.compile import compile_model


def compiled(*chain, size=(5, 6, 4)):
    """Compiles the layers (or functions of a tensor) one after the other, and compares."""
    image = x = keras.Input(size, name="image")
    for layer in chain:
        x = layer(x)
    model = randomise(keras.Model(image, x))
    graph = compile_model(model)
    assert_same(model, graph, low=-2, high=2)
    return graph


MOVES = {
    "slices": lambda x: x[:, 1:, ::2, :3],
    "reversed channels": lambda x: x[..., ::-1],
    "a row": lambda x: x[:, 2],
    "a column": lambda x: x[:, :, -1],
    "a channel": lambda x: x[..., 1],
    "one number": lambda x: x[:, 1, 2:3, 0],
    "a new axis": lambda x: x[:, 0, None],
    "from the end": lambda x: x[:, -3:, :-1],
    "flip": lambda x: ops.flip(x, axis=(1, -1)),
    "roll": lambda x: ops.roll(x, 2, axis=2),
    "repeat": lambda x: ops.repeat(x, 3, axis=1),
    "repeat of each": lambda x: ops.repeat(x, [1, 0, 2, 1], axis=3),
    "tile": lambda x: ops.tile(x, (1, 2, 1, 3)),
    "take": lambda x: ops.take(x, [3, 0, 0], axis=3),
    "take one": lambda x: ops.take(x, 2, axis=1),
    "permute": layers.Permute((3, 1, 2)),
    "permute back": lambda x: layers.Permute((2, 1, 3))(layers.Permute((2, 1, 3))(x)),
    "transpose": lambda x: ops.transpose(x, (0, 2, 3, 1)),
    "swapaxes": lambda x: ops.swapaxes(x, 1, -1),
    "moveaxis": lambda x: ops.moveaxis(x, 3, 1),
    "cropping": layers.Cropping2D(((1, 0), (2, 1))),
    "center": layers.CenterCrop(3, 3),
    "enlarged": layers.UpSampling2D((2, 3)),
    "to a signal": layers.Reshape((30, 4)),
    "to another image": layers.Reshape((4, 5, 6)),
    "columns cut": layers.Reshape((15, 8)),
    "reshape": lambda x: ops.reshape(x, (-1, 10, 12)),
    "squeeze": lambda x: ops.expand_dims(ops.squeeze(x[:, :1], 1), -2),
    "stack": lambda x: ops.stack([x[..., 0], x[..., 2]], axis=1),
    "split": lambda x: layers.Concatenate()(ops.split(x, 2, axis=2)),
    "split by places": lambda x: ops.split(x, [1, 3], axis=-1)[1],
    "rows below rows": lambda x: layers.Concatenate(axis=1)([x, x[:, :2], x]),
    "columns beside": lambda x: ops.concatenate([x, x[:, :, 1:2]], axis=2),
}


@pytest.mark.parametrize("move", MOVES)
def test_moves(move):
    graph = compiled(MOVES[move])
    assert set(kinds(graph)) <= {"Input", "Gather", "Flatten", "Concatenate"}


def test_moves_of_signals_and_vectors():
    compiled(lambda x: x[:, ::-1, 1:], layers.Permute((2, 1)), layers.UpSampling1D(2), size=(7, 3))
    compiled(layers.Cropping1D((1, 2)), layers.ZeroPadding1D(2), layers.Flatten(), size=(7, 3))
    compiled(layers.RepeatVector(3), lambda x: ops.tile(x, (1, 2, 1)), size=(5,))
    compiled(layers.Reshape((2, 3, 2)), size=(12,))
    compiled(lambda x: x[:, 2:], lambda x: ops.concatenate([x, x], axis=-1), size=(12,))


def gate(x):
    """Spatial attention: each pixel's mean and maximum over the channels make a factor for it."""
    means = [ops.mean(x, axis=-1, keepdims=True), ops.max(x, axis=-1, keepdims=True)]
    plane = layers.Conv2D(1, 3, padding="same", activation="sigmoid")(layers.Concatenate()(means))
    return layers.Multiply()([x, plane])


JOINS = {
    "difference": lambda x: layers.Subtract()([x, layers.Conv2D(4, 1)(x)]),
    "average": lambda x: layers.Average()([x, layers.ReLU()(x), layers.Conv2D(4, 1)(x)]),
    "maximum": lambda x: layers.Maximum()([x, layers.Conv2D(4, 1)(x), 0.5 * x]),
    "minimum": lambda x: layers.Minimum()([x, layers.Conv2D(4, 1)(x)]),
    "operations": lambda x: ops.maximum(x, 1 - x) - ops.minimum(x, 2 * x) * ops.negative(x),
    "quotient": lambda x: x / (ops.abs(layers.Conv2D(4, 1)(x)) + 1.0),
    "inverse": lambda x: 2.0 / (ops.square(x) + 1.0),
    "powers": lambda x: (x**2 + 1.0) ** 0.5 * ops.power(ops.abs(x) + 1.0, -0.5),
    "with numbers": lambda x: ops.maximum(ops.minimum(x, 0.5), -0.25),
    "with a number a channel": lambda x: ops.maximum(x, np.float32([0, 1, -1, 0.5])),
    "a constant image": lambda x: x + np.linspace(0, 1, 120, dtype="float32").reshape(5, 6, 4),
    "a number a column": lambda x: 3.0 - x * np.linspace(0, 1, 6, dtype="float32").reshape(1, 6, 1),
    "a number a row": lambda x: ops.subtract(np.linspace(0, 1, 5, dtype="float32").reshape(1, 5, 1, 1), x),
    "a vector added": lambda x: layers.Add()([layers.GlobalMaxPooling2D(keepdims=True)(x), x]),
    "a vector first": lambda x: layers.Subtract()([layers.GlobalMaxPooling2D(keepdims=True)(x), x]),
    "a plane": gate,
    "a plane added": lambda x: layers.Conv2D(1, 1)(x) + x,
    "rows and columns": lambda x: x[:, :1] * x[:, :, :1],
    "one number": lambda x: ops.maximum(x, ops.mean(x, axis=(1, 2, 3), keepdims=True)),
    "slopes": lambda x: with_slopes(layers.PReLU())(x),
    "slopes of columns": lambda x: with_slopes(layers.PReLU(shared_axes=[1]))(x),
}


def with_slopes(layer):
    def call(x):
        y = layer(x)
        layer.alpha.assign(np.random.default_rng(0).normal(size=layer.alpha.shape))
        return y

    return call


@pytest.mark.parametrize("join", JOINS)
def test_joins(join):
    compiled(JOINS[join])


def test_a_difference_goes_into_the_convolution():
    graph = compiled(lambda x: x - layers.Conv2D(4, 3, padding="same")(x), layers.ReLU(), layers.Flatten())
    assert kinds(graph) == {"Input": 1, "Conv": 1, "Flatten": 1}


@pytest.mark.parametrize("function", [ops.mean, ops.sum, ops.max, ops.min])
@pytest.mark.parametrize("axis", [1, 2, -1, (1, 2), (1, 3), (1, 2, 3)])
def test_reductions(function, axis):
    for keepdims in (True, False) if axis != (1, 2, 3) else (True,):
        compiled(lambda x, keepdims=keepdims: function(x, axis=axis, keepdims=keepdims))


def test_reductions_of_signals_and_vectors():
    compiled(lambda x: ops.mean(x, axis=1), layers.Dense(3), size=(7, 3))
    compiled(lambda x: ops.max(x, axis=2), size=(7, 3))
    compiled(lambda x: ops.max(x, axis=-1, keepdims=True), size=(7,))


NORMALIZATIONS = {
    "layer": lambda: layers.LayerNormalization(epsilon=0.01),
    "layer, plain": lambda: layers.LayerNormalization(center=False, scale=False),
    "layer, all": lambda: layers.LayerNormalization(axis=(1, 2, 3)),
    "layer, pixels": lambda: layers.LayerNormalization(axis=(1, 2)),
    "layer, columns": lambda: layers.LayerNormalization(axis=2),
    "group": lambda: layers.GroupNormalization(2),
    "instance": lambda: layers.GroupNormalization(-1, center=False),
    "group of rows": lambda: layers.GroupNormalization(5, axis=1, scale=False),
    "root of mean squares": lambda: layers.RMSNormalization(),
    "root of mean squares, all": lambda: layers.RMSNormalization(axis=(1, 2, 3)),
    "unit": lambda: layers.UnitNormalization(),
    "unit, all": lambda: layers.UnitNormalization(axis=(1, 2, 3)),
    "batch, rows": lambda: layers.BatchNormalization(axis=1),
    "shares": lambda: layers.Softmax(),
    "shares of rows": lambda: layers.Softmax(axis=1),
    "shares of a convolution": lambda: layers.Conv2D(3, 1, activation="softmax"),
}


@pytest.mark.parametrize("kind", NORMALIZATIONS)
def test_normalizations(kind):
    compiled(NORMALIZATIONS[kind]())


@pytest.mark.parametrize("size", [(6,), (7, 6)])
def test_normalizations_of_signals_and_vectors(size):
    for layer in (layers.LayerNormalization(), layers.GroupNormalization(3), layers.RMSNormalization()):
        compiled(layers.Dense(6), layer, size=size)
    compiled(layers.BatchNormalization(), layers.UnitNormalization(), layers.Softmax(), size=size)


TRANSPOSED = {
    "plain": dict(kernel_size=3),
    "same": dict(kernel_size=3, strides=2, padding="same"),
    "even": dict(kernel_size=4, strides=2, padding="same", activation="relu"),
    "valid": dict(kernel_size=(3, 2), strides=(2, 3)),
    "small": dict(kernel_size=1, strides=2),
    "wide strides": dict(kernel_size=2, strides=3, padding="same", use_bias=False),
    "stride 1": dict(kernel_size=4, padding="same"),
    "one stride": dict(kernel_size=3, strides=(2, 1), padding="same"),
    "output padding": dict(kernel_size=3, strides=2, padding="valid", output_padding=1),
    "shares": dict(kernel_size=2, strides=2, activation="softmax"),
}


@pytest.mark.parametrize("kind", TRANSPOSED)
def test_transposed_convolutions(kind):
    compiled(layers.Conv2DTranspose(3, **TRANSPOSED[kind]))


def test_dilated_transposed_convolutions():
    """Keras has them on an accelerator alone: one of a wider kernel with zeros in it is the same."""
    image, options = keras.Input((5, 6, 4)), {"padding": "same", "use_bias": False}
    dilated = randomise(keras.Model(image, layers.Conv2DTranspose(3, 3, dilation_rate=2, **options)(image)))
    wide = keras.Model(image, layers.Conv2DTranspose(3, 5, **options)(image))
    kernel = np.zeros(wide.weights[0].shape)
    kernel[::2, ::2] = dilated.get_weights()[0]
    wide.set_weights([kernel])
    assert_same(wide, compile_model(dilated), low=-2, high=2)


def test_transposed_convolutions_of_signals_and_pixels():
    compiled(layers.Conv1DTranspose(3, 4, strides=2, padding="same"), size=(5, 2))
    compiled(layers.Conv1DTranspose(3, 3), size=(1, 2))
    compiled(layers.Conv2DTranspose(3, 4), layers.Conv2DTranspose(2, 3, strides=2), size=(1, 1, 5))
    compiled(layers.DepthwiseConv2D(3, padding="same"), layers.Conv2D(3, 2, padding="same"), size=(1, 1, 5))


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos3"])
def test_resizing(interpolation):
    compiled(layers.Resizing(8, 3, interpolation=interpolation))
    compiled(layers.UpSampling2D((2, 3), interpolation=interpolation))
    compiled(layers.Resizing(3, 4, interpolation=interpolation, antialias=True))


SIGNALS = {
    "same": lambda: layers.Conv1D(5, 3, padding="same"),
    "causal": lambda: layers.Conv1D(5, 3, padding="causal", dilation_rate=2),
    "strided": lambda: layers.Conv1D(5, 4, strides=2, activation="relu"),
    "grouped": lambda: layers.Conv1D(6, 3, groups=3),
    "depthwise": lambda: layers.DepthwiseConv1D(3, padding="same", depth_multiplier=2),
    "separable": lambda: layers.SeparableConv1D(5, 3, strides=2, padding="same"),
    "dense": lambda: layers.Dense(5, activation="tanh"),
    "maximum": lambda: layers.MaxPooling1D(3, padding="same"),
    "average": lambda: layers.AveragePooling1D(2, strides=1),
    "largest": lambda: layers.GlobalMaxPooling1D(),
    "mean": lambda: layers.GlobalAveragePooling1D(keepdims=True),
    "dropout": lambda: layers.SpatialDropout1D(0.5),
}


@pytest.mark.parametrize("kind", SIGNALS)
def test_signals(kind):
    compiled(SIGNALS[kind](), size=(11, 3))


def test_random_layers_do_nothing_at_inference():
    compiled(layers.RandomFlip(), layers.RandomRotation(0.5), layers.RandomContrast(0.5))
