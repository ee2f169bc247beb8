"""Layers whose `call` has `training=True` as default: Keras hands it on to the layers behind them."""

import keras
import numpy as np
import pytest
from keras import layers

from tfprune.sparsity import (
    PolynomialDecay,
    UpdatePruningStep,
    prune_low_magnitude,
    strip_pruning,
    summarize,
)

IMAGES = np.random.default_rng(0).random((8, 12, 12, 3)).astype("float32")


class Projection(layers.Dense):
    """A layer of one's own with the default."""

    def call(self, inputs, training=True):
        return super().call(inputs)


FIRST = {
    "Resizing": lambda: layers.Resizing(12, 12),
    "CenterCrop": lambda: layers.CenterCrop(12, 12),
    "RandomFlip": layers.RandomFlip,
    "RandomRotation": lambda: layers.RandomRotation(0.1),
    "RandomCrop": lambda: layers.RandomCrop(12, 12),
    "RandomBrightness": lambda: layers.RandomBrightness(0.1),
    "own": lambda: Projection(3),
    "none": lambda: layers.Rescaling(2.0),
}
SCHEDULE = PolynomialDecay(0.0, 0.5, 0, 2, frequency=1)


def network(first):
    inputs = keras.Input((12, 12, 3))
    x = layers.Conv2D(4, 3, name="conv")(first()(inputs))
    return keras.Model(inputs, layers.Dense(2, name="head")(layers.GlobalAveragePooling2D()(x)))


class Subclassed(keras.Model):
    def __init__(self, first):
        super().__init__()
        self.first, self.conv = first(), layers.Conv2D(4, 3)
        self.inner = keras.Sequential([layers.GlobalAveragePooling2D(), layers.Dense(2)])

    def call(self, inputs, training=None):
        return self.inner(self.conv(self.first(inputs)))


def wrapped(first, kind="functional"):
    if kind == "functional":
        return prune_low_magnitude(network(first), SCHEDULE)
    if kind == "nested":
        inner = prune_low_magnitude(network(layers.Identity), SCHEDULE)
        return keras.Sequential([keras.Input((12, 12, 3)), first(), inner])
    model = Subclassed(first)
    model(IMAGES)
    return prune_low_magnitude(model, SCHEDULE)


# In a nested model a layer of one's own first would not be pruned.
CASES = [(first, kind) for first in FIRST for kind in ("functional", "nested", "subclassed")]


@pytest.mark.slow
@pytest.mark.parametrize(("first", "kind"), CASES)
def test_inference_is_no_training(first, kind):
    model = wrapped(FIRST[first], kind)
    model(IMAGES)
    model.predict(IMAGES, verbose=0)
    if kind == "functional":
        keras.Model(model.inputs, model.layers[-1].output)(IMAGES)
    assert summarize(model).macs


@pytest.mark.slow
@pytest.mark.parametrize(("first", "kind"), CASES)
def test_training_without_a_pruner_is_an_error_still(first, kind):
    message = "without a pruning callback"
    with pytest.raises(RuntimeError, match=message):
        wrapped(FIRST[first], kind)(IMAGES, training=True)
    if kind == "subclassed" and keras.backend.backend() == "jax":
        return  # There `fit` runs `call` alone, and no layer hears of training that `call` does not tell.
    model = wrapped(FIRST[first], kind)
    model.compile("sgd", "mse")
    with pytest.raises(RuntimeError, match=message):
        model.fit(IMAGES, np.zeros((8, 2)), verbose=0)


@pytest.mark.slow
@pytest.mark.parametrize("first", FIRST)
def test_fit_strip_and_call(first):
    model = wrapped(FIRST[first])
    model.compile("sgd", "mse")
    model.fit(IMAGES, np.zeros((8, 2)), batch_size=2, verbose=0, callbacks=[UpdatePruningStep()])
    assert summarize(model).sparsity == pytest.approx(0.5, abs=0.05)
    if first in ("Resizing", "CenterCrop", "own", "none"):  # The others are random.
        before = keras.ops.convert_to_numpy(model(IMAGES))
        after = keras.ops.convert_to_numpy(strip_pruning(model)(IMAGES))
        np.testing.assert_allclose(after, before, atol=1e-6)


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow's functions and files")
@pytest.mark.parametrize("first", ["Resizing", "RandomFlip"])
def test_a_wrapped_model_is_exported_and_traced(first, tmp_path):
    import tensorflow as tf

    model = wrapped(FIRST[first])
    tf.function(lambda images: model(images))(IMAGES)
    with pytest.raises(RuntimeError, match="without a pruning callback"):
        tf.function(lambda images: model(images, training=True))(IMAGES)
    model.export(tmp_path / "model", verbose=False)
