"""Nested and shared models, and each model and layer that the compiler refuses."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from tests.support import reference
from tests.support.compiled_models import assert_same, kinds, randomise
from tfprune.compiler.compile import compile_model
from tfprune.errors import UserError
from tfprune.sparsity import prune_low_magnitude, strip_pruning


def block(name, filters=4, size=(None, None)):
    x = image = keras.Input((*size, filters), name=f"{name}_input")
    x = layers.BatchNormalization()(layers.Conv2D(filters, 3, padding="same", name="conv")(x))
    return keras.Model(image, layers.ReLU()(layers.Add()([x, image])), name=name)


def test_nested_models_are_taken_apart():
    """A functional model of open size, inside a Sequential one, called twice."""
    inner = block("inner")
    middle = keras.Sequential([layers.Conv2D(4, 1, name="first"), inner, inner], name="middle")
    image = keras.Input((8, 10, 3), name="image")
    x = layers.GlobalMaxPooling2D()(middle(image, training=False))
    model = keras.Model(image, layers.Dense(3, name="head")(x))
    graph = compile_model(randomise(model))
    names = [node.name for node in graph.nodes]
    assert names[:4] == ["image", "middle/first", "middle/inner/conv", "middle/inner/conv"]
    assert kinds(graph) == {"Input": 1, "Conv": 4, "GlobalPool": 1}
    assert_same(model, graph, low=-2, high=2)


def test_a_shared_layer_is_two_nodes():
    image = keras.Input((8, 8, 4), name="image")
    conv, norm = layers.Conv2D(4, 3, padding="same"), layers.BatchNormalization()
    x = layers.Flatten()(norm(conv(layers.ReLU()(norm(conv(image))))))
    model = keras.Model(image, layers.Dense(3)(x))
    graph = compile_model(randomise(model))
    assert kinds(graph) == {"Input": 1, "Conv": 3, "Flatten": 1}
    assert graph.nodes[1].activation == "relu" and graph.nodes[2].activation == "linear"
    assert_same(model, graph, low=-2, high=2)


def test_a_nested_model_with_several_inputs_and_outputs():
    a, b = keras.Input((6, 6, 2)), keras.Input((6, 6, 3))
    unused = layers.Conv2D(2, 3)(a)
    inner = keras.Model([a, b], [layers.Concatenate()([b, a]), unused, layers.ReLU()(b)], name="inner")
    image = keras.Input((6, 6, 3), name="image")
    joined, _, positive = inner([layers.Conv2D(2, 1)(image), image])
    x = layers.Concatenate()([joined, positive])
    model = keras.Model(image, layers.Dense(3)(layers.Flatten()(x)))
    graph = compile_model(randomise(model))
    assert "inner/conv2d" not in [node.name for node in graph.nodes[2:]]
    assert kinds(graph) == {"Input": 1, "Conv": 2, "Concatenate": 2, "Activation": 1, "Flatten": 1}
    assert_same(model, graph, low=-2, high=2)


def test_a_model_of_open_size_is_compiled_for_each_size():
    image = keras.Input((None, None, 3), name="image")
    x = layers.Conv2D(4, 3, strides=2, padding="same", activation="relu")(image)
    y = layers.Conv2DTranspose(3, 3, strides=2, padding="same")(layers.GroupNormalization(2)(x))
    x = layers.Dense(3)(ops.mean(x, axis=(1, 2)))
    model = randomise(keras.Model(image, [x, y]))
    for size in ((8, 6, 3), (10, 12, 3)):
        graph = compile_model(model, sizes={"image": size})
        images = np.random.default_rng(0).normal(size=(2, *size)).astype(np.float32)
        expected = model(images, training=False)
        for found, wanted in zip(reference.run_all(graph, [images]).values(), expected, strict=True):
            np.testing.assert_allclose(found, ops.convert_to_numpy(wanted), rtol=0, atol=1e-5)
    for wrong in ((8, 6), (8, 6, 4), (8, 0, 3), (8, 6.0, 3)):
        with pytest.raises(UserError, match="`sizes` must fit input 'image'.*Received: "):
            compile_model(model, sizes={"image": wrong})


def test_a_part_of_a_model():
    """Its first tensor is no `Input` of the user's."""
    chain = [layers.Conv2D(4, 3, name="conv"), layers.ReLU(), layers.Conv2D(2, 3), layers.Flatten()]
    model = keras.Sequential([keras.Input((8, 8, 3)), *chain])
    part = keras.Model(model.get_layer("conv").output, model.outputs[0])
    assert_same(randomise(part), compile_model(part), low=-2, high=2)


def test_a_nested_model_casts_pixels():
    inner = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(4, 3), layers.MaxPooling2D()])
    image = keras.Input((8, 8, 3), dtype="uint8")
    model = keras.Model(image, layers.Dense(3)(layers.Flatten()(inner(layers.Dropout(0.5)(image)))))
    assert_same(randomise(model), compile_model(model))


@pytest.mark.parametrize("rescale", [lambda x: x * 0.1 - 4, lambda x: x / 20, lambda x: 4.0 - x])
def test_arithmetic_that_makes_pixels_floats(rescale):
    image = keras.Input((8, 8, 3), dtype="uint8")
    x = layers.Conv2D(4, 3)(rescale(layers.ZeroPadding2D(1)(image)))
    model = keras.Model(image, layers.Dense(3)(layers.Flatten()(x)))
    assert_same(randomise(model), compile_model(model))


def test_a_call_with_training_is_as_inference_has_it():
    """Behind a `Resizing` Keras hands a True on to all layers, which `predict` overrules."""
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3)(layers.Resizing(6, 6)(image))
    x = layers.Dropout(0.5)(layers.BatchNormalization()(x), training=True)
    model = keras.Model(image, layers.Dense(3)(layers.Flatten()(x)))
    assert_same(randomise(model), compile_model(model), low=-2, high=2)


def test_a_stripped_model_compiles():
    model = keras.Sequential([keras.Input((6, 6, 3)), layers.Conv2D(4, 3), layers.GlobalMaxPooling2D()])
    wrapped = prune_low_magnitude(model)
    with pytest.raises(UserError, match="'prune_low_magnitude_conv.*wrapped for pruning.*strip_pruning"):
        compile_model(wrapped)
    stripped = strip_pruning(wrapped)
    assert_same(stripped, compile_model(stripped), low=-2, high=2)


class Doubled(layers.Conv2D):
    def call(self, inputs):
        return 2 * super().call(inputs)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__(name="subclassed")
        self.conv = layers.Conv2D(4, 3)

    def call(self, inputs):
        return self.conv(inputs)


class OwnCall(keras.Model):
    def call(self, inputs):
        return 2 * super().call(inputs)


def two_ranks(x):
    return layers.GlobalMaxPooling2D()(x) + x


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (layers.Masking(np.inf, name="mask"), r"layer 'mask' \(Masking\).*must be one finite number"),
        (layers.RandomCrop(4, 4, name="crop"), r"'crop' \(RandomCrop\)"),
        (layers.LayerNormalization(axis=(1, 3)), "`axis` must be one, all, or all but the last"),
        (
            lambda x: layers.EinsumDense("abcd,bde->abce", (8, 8, 4))(x),
            "`equation` must be a dense layer of some axes, or a product",
        ),
        (lambda x: layers.MultiHeadAttention(2, 3)(x, x), "its inputs must be signals"),
        (layers.CenterCrop(9, 4), "must be at least as large"),
        (layers.Resizing(4, 4, crop_to_aspect_ratio=True), "`crop_to_aspect_ratio` must be False"),
        (layers.Lambda(lambda x: 2 * x, output_shape=(8, 8, 4)), "Lambda"),
        (Doubled(4, 3, name="twice"), r"'twice' \(Doubled\)"),
        (Subclassed(), r"'subclassed' \(Subclassed\)"),
        (ops.sin, "Sin"),
        (lambda x: ops.clip(x, np.zeros(4), 1), "`activation` must be one of .* Received: Clip"),
        (two_ranks, "same number of axes"),
        (lambda x: keras.activations.relu(x, threshold=-1.0), "`threshold` must be at least 0"),
        (layers.Conv2DTranspose(4, 3, activation="glu"), r"\(Conv2DTranspose\).*Received: glu"),
        (layers.Conv2D(4, 3, activation=lambda x: x), "Received: <lambda>"),
        (layers.Softmax(axis=(1, 2)), "`axis` must be one axis"),
        (lambda x: ops.mean(x, axis=(0, 1)), "`axis` must be one of an example's, not the batch's"),
        (lambda x: x**3.0, "the exponent must be one of -1, -0.5, 0.5, 1, 2. Received: 3"),
        (lambda x: ops.roll(x, (1, 2), axis=(1, 2)), "`shift` must be one number"),
        (layers.Normalization(axis=(1, 3)), "each channel as a whole"),
        (layers.Reshape((2, 2, 16, 4)), "2 to 4 axes"),
        (layers.MaxPooling2D(data_format="channels_first"), "channels_last"),
    ],
)
def test_refused_layers(layer, message):
    image = keras.Input((8, 8, 4))
    model = keras.Model(image, layers.Dense(3)(layers.Flatten()(layer(image))))
    with pytest.raises(UserError, match=f"(?s){message}"):
        compile_model(model)


def flat_model(image, x=None):
    return keras.Model(image, layers.Dense(3)(layers.GlobalMaxPooling2D()(image if x is None else x)))


def doubled_pixels(double):
    image = keras.Input((8, 8, 3), dtype="uint8")
    return flat_model(image, double(layers.ZeroPadding2D(1)(image)))


def casting_model():
    inner_image = keras.Input((4, 4, 3), dtype="uint8")
    inner = keras.Model(inner_image, layers.Rescaling(2.0)(inner_image), name="inner")
    image = keras.Input((4, 4, 3))
    return flat_model(image, inner(image))


def quantized_model():
    model = keras.Sequential([keras.Input((4, 4, 3)), layers.Flatten(), layers.Dense(3)])
    model.quantize("int8")
    return model


def infinite_model():
    model = keras.Sequential([keras.Input((4, 4, 3)), layers.Flatten(), layers.Dense(3, name="head")])
    model.get_layer("head").bias.assign([1.0, np.nan, 2.0])
    return model


def overflowing_model():
    model = keras.Sequential([keras.Input((4, 4, 3)), layers.Flatten(), layers.Dense(3, name="head")])
    model.add(layers.Rescaling(1e30))
    model.get_layer("head").bias.assign([1.0, 1e30, 2.0])
    return model


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: flat_model(keras.Input((None, 8, 3))), "fixed size. Received: .None, None, 8, 3"),
        (lambda: keras.Sequential([keras.Input((8, 8, 2, 2)), layers.Dense(3)]), "fixed size. Received: "),
        (lambda: keras.Sequential([layers.Dense(3)], name="open"), "model 'open'.*built"),
        (lambda: flat_model(keras.Input((8, 8, 3), dtype="int32")), "floating-point numbers: rescale"),
        (lambda: flat_model(keras.Input((8, 8, 3), dtype="uint8")), "floating-point numbers: rescale"),
        (Subclassed, "model 'subclassed'.*Received: Subclassed"),
        (
            lambda: OwnCall(*(lambda x: (x, layers.Flatten()(x)))(keras.Input((4, 4, 3)))),
            "`call` of their own",
        ),
        (lambda: doubled_pixels(lambda x: x * 2), "floating-point numbers: rescale"),
        (lambda: doubled_pixels(lambda x: layers.Add()([x, x])), "floating-point numbers: rescale"),
        (casting_model, "'inner'.*casts its input to uint8"),
        (quantized_model, "quantized to int8"),
        (infinite_model, "'head'.*`bias` must be finite"),
        (overflowing_model, "'head'.*`bias` must be finite"),
    ],
)
def test_refused_models(build, message):
    with pytest.raises(UserError, match=f"(?s){message}"):
        compile_model(build())
