"""Networks, data, losses and metrics as a user has them, named `tests.support.own_networks:NAME` by flags."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

N, STEPS = 32, 6
RNG = np.random.default_rng(0)
SIGNALS = RNG.normal(size=(2 * N, STEPS, 3)).astype("float32")
PIXELS = RNG.integers(0, 256, (2 * N, 8, 8, 3)).astype("uint8")
CLASSES = PIXELS.reshape(2 * N, -1).mean(axis=1).argsort().argsort().astype("int32") % 3
SUMS = SIGNALS.sum(axis=(1, 2))


def _split(*arrays):
    return tuple(part[:N] for part in arrays), tuple(part[N:] for part in arrays)


# Data.


def images():
    return *_split(PIXELS, CLASSES), ("a", "b", "c")


def images_of_two():
    return *_split(PIXELS, CLASSES % 2), ("a", "b")


def signals():
    return _split(SIGNALS, SUMS)


def signal_batches():
    return tuple(
        tf.data.Dataset.from_tensor_slices((x, y, np.ones(N, "float32"))).batch(5)
        for x, y in _split(SIGNALS, SUMS)
    )


def masks():
    return _split(PIXELS, (PIXELS[..., 0] > 128).astype("int32"))


def several():
    data = [
        ({"signal": x, "image": image}, {"sum": y, "kind": kind})
        for x, image, y, kind in _split(SIGNALS, PIXELS, SUMS, CLASSES)
    ]
    return tuple(data)


# Networks.


def sequence(classes, input_shape, seed):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input(input_shape),
            layers.Rescaling(1 / 255),
            layers.Conv2D(8, 3, activation="relu"),
            layers.BatchNormalization(),
            layers.GlobalAveragePooling2D(),
            layers.Dense(classes, activation="softmax"),
        ]
    )


def residual(classes, input_shape, seed, mean, std):
    """A stem and a block around which it goes, too: two groups of channels."""
    keras.utils.set_random_seed(seed)
    image = keras.Input(input_shape, dtype="uint8")
    x = layers.Normalization(mean=mean, variance=[s**2 for s in std], dtype="float32", name="normalization")(
        image
    )
    x = layers.BatchNormalization(name="norm")(layers.Conv2D(8, 3, padding="same", name="stem")(x))
    block = layers.Conv2D(12, 3, padding="same", activation="relu", name="wide")(x)
    x = layers.Add()([x, layers.Conv2D(8, 1, name="narrow")(block)])
    return keras.Model(image, layers.Dense(classes, name="head")(layers.GlobalAveragePooling2D()(x)))


@keras.saving.register_keras_serializable("own_networks")
class Subclassed(keras.Model):
    """A model that makes its weights when it sees its first example."""

    def __init__(self, classes, **options):
        super().__init__(**options)
        self.classes = classes
        self.convolution = layers.Conv2D(8, 3, activation="relu")
        self.norm = layers.BatchNormalization()
        self.pool = layers.GlobalAveragePooling2D()
        self.classifier = layers.Dense(classes)

    def call(self, images, training=None):
        x = self.convolution(ops.cast(images, self.compute_dtype) / 255)
        return self.classifier(self.pool(self.norm(x, training=training)))

    def get_config(self):
        return {**super().get_config(), "classes": self.classes}


@keras.saving.register_keras_serializable("own_networks")
class OnGraph(keras.Model):
    """A class of its own on a functional graph."""

    def __init__(self, classes, **options):
        image = keras.Input((8, 8, 3), dtype="uint8")
        x = layers.Conv2D(8, 3, activation="relu", name="first")(layers.Rescaling(1 / 255)(image))
        x = layers.Dense(classes, name="last")(layers.Flatten()(x))
        super().__init__(image, x, **options)
        self.classes = classes

    def kept(self):
        return "a method of its own"

    def get_config(self):
        return {"classes": self.classes}


def subclassed(classes):
    return Subclassed(classes)


def on_graph(classes):
    return OnGraph(classes)


def recurrent(input_shape):
    x = keras.Input(input_shape)
    return keras.Model(x, layers.Dense(1, name="sum")(layers.LSTM(6, name="lstm")(x)))


def attention(input_shape):
    x = keras.Input(input_shape)
    y = layers.MultiHeadAttention(2, 4, name="attention")(x, x)
    return keras.Model(x, layers.Dense(1, name="sum")(layers.Flatten()(y)))


def per_pixel(input_shape):
    x = keras.Input(input_shape)
    y = layers.Conv2D(6, 3, padding="same", activation="relu", name="body")(layers.Rescaling(1 / 255)(x))
    return keras.Model(x, layers.Conv2D(2, 1, name="pixels")(y))


def two_in_two_out():
    signal, image = keras.Input((STEPS, 3), name="signal"), keras.Input((8, 8, 3), name="image")
    x = layers.Concatenate()(
        [layers.Conv1D(4, 3, name="steps")(signal)[:, 0], layers.Conv2D(4, 8, name="pixels")(image)[:, 0, 0]]
    )
    outputs = {"sum": layers.Dense(1, name="sum")(x), "kind": layers.Dense(3, name="kind")(x)}
    return keras.Model({"signal": signal, "image": image}, outputs)


class Unregistered(layers.Layer):
    def call(self, x):
        return x


def unregistered(classes, input_shape):
    return keras.Sequential(
        [keras.Input(input_shape), Unregistered(), layers.Flatten(), layers.Dense(classes)]
    )


@keras.saving.register_keras_serializable("own_networks")
class Forgetful(layers.Layer):
    """A layer whose configuration lacks an argument."""

    def __init__(self, units):
        super().__init__()
        self.inner = layers.Dense(units)

    def call(self, x):
        return self.inner(x)


def forgetful(input_shape):
    return keras.Sequential([keras.Input(input_shape), layers.Flatten(), Forgetful(4), layers.Dense(1)])


# Losses and metrics.


def cubed(y_true, y_pred):
    return ops.mean(ops.abs(ops.reshape(y_true, ops.shape(y_pred)) - y_pred) ** 3, axis=-1)


def known_by_name_alone(y_true, y_pred):  # No test computes it: it is registered by its name, or not at all.
    return cubed(y_true, y_pred)


def near(y_true, y_pred):
    return ops.mean(
        ops.cast(ops.abs(ops.reshape(y_true, ops.shape(y_pred)) - y_pred) < 1, "float32"), axis=-1
    )


near.higher_is_better = True


def undecided(y_true, y_pred):
    return ops.mean(y_pred, axis=-1)
