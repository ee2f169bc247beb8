"""Data as a user has it, and a network for it, named `tests.support.own_data:NAME` by flags."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers

RNG = np.random.default_rng(0)
LABELS = np.arange(90) % 3
SIGNALS = (RNG.normal(size=(90, 6)) + LABELS[:, None]).astype("float32")
IMAGES = RNG.integers(0, 256, (90, 5, 7, 3)).astype("uint8")
TRAIN, TEST = slice(0, 60), slice(60, 90)


def signals():
    return (SIGNALS[TRAIN], LABELS[TRAIN]), (SIGNALS[TEST], LABELS[TEST])


def stream():
    """Gives single examples to train on, shuffled, and batches to test on."""
    train, test = (tf.data.Dataset.from_tensor_slices(split) for split in signals())
    return train.shuffle(60, seed=0), test.batch(8)


def images():
    return (IMAGES[TRAIN], LABELS[TRAIN]), (IMAGES[TEST], LABELS[TEST])


def image_stream():
    train, test = (tf.data.Dataset.from_tensor_slices(split) for split in images())
    return train, test


def sized(image_size):
    """Makes signals of a length that a flag says."""
    return tuple((np.repeat(x[:, :1], image_size, axis=1), y) for x, y in signals())


class Passes:
    """A generator of the training signals that changes in one of its passes.

    Attributes:
        passes: How many there were.
        last: The pass that changes.
        error: What it raises; None: it ends half-way.
    """

    passes, last, error = 0, 0, None

    @classmethod
    def elements(cls):
        cls.passes += 1
        for number, element in enumerate(zip(*signals()[0], strict=True)):
            if cls.passes == cls.last and number == 30:
                if cls.error:
                    raise cls.error
                return
            yield element


def changing():
    types = (tf.TensorSpec((6,), tf.float32), tf.TensorSpec((), tf.int64))
    return tf.data.Dataset.from_generator(Passes.elements, output_signature=types), signals()[1]


def network(classes, input_shape, seed):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input(input_shape),
            layers.Flatten(),
            layers.Rescaling(0.1),
            layers.Dense(8, "relu", name="first"),
            layers.BatchNormalization(name="norm"),
            layers.Dense(classes, name="last"),
        ]
    )
