"""Small networks that are trained twice, by Keras and by the sparse trainer, and must end alike."""

import keras
import numpy as np
from keras import layers, ops

from tests.support.compiled_models import randomise
from tfprune.sparse_training import SparseTrainer
from tfprune.sparsity import prune_low_magnitude, prune_to

LOGITS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def residual(sparsity=0.6, schedule=None, dropout=0.0, wrap=True):
    """A network of images with all that a ResNet has, of smooth activations, so that errors stay small."""
    image = keras.Input((8, 8, 3), dtype="uint8", name="image")
    x = layers.Normalization(mean=[120.0] * 3, variance=[3600.0] * 3, name="scale")(image)
    x = layers.ZeroPadding2D(1, name="pad")(x)
    x = layers.Conv2D(6, 3, strides=2, use_bias=False, name="conv1")(x)
    x = layers.BatchNormalization(momentum=0.9, name="bn1")(x)
    x = shortcut = layers.Activation("silu", name="act1")(x)
    x = layers.Conv2D(6, 3, padding="same", name="conv2")(x)
    x = layers.BatchNormalization(momentum=0.9, name="bn2")(x)
    x = layers.Activation("tanh", name="act2")(layers.Add(name="add")([x, shortcut]))
    x = layers.Dropout(dropout, seed=3, name="dropout")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    model = randomise(keras.Model(image, layers.Dense(4, name="head")(x)))
    return _pruned(model, sparsity, schedule) if wrap else model


def perceptron(sparsity=0.5, schedule=None, last=None, outputs=3, wrap=True):
    """A network of vectors, quick to compile."""
    chain = [
        keras.Input((6,)),
        # A bias before a normalization would learn from rounding alone.
        layers.Dense(8, use_bias=False, name="one"),
        layers.BatchNormalization(name="norm"),
        layers.Activation("tanh", name="act"),
        layers.Dense(outputs, activation=last, name="head"),
    ]
    model = randomise(keras.Sequential(chain))
    return _pruned(model, sparsity, schedule) if wrap else model


def _pruned(model, sparsity, schedule):
    pruned = prune_low_magnitude(model, schedule)
    if schedule is None:
        prune_to(pruned, sparsity)
    return pruned


def images(count, classes=4, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 8, 8, 3), np.uint8), rng.integers(0, classes, count)


def vectors(count, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, 6)).astype("float32"), rng.integers(0, classes, count)


def numbers(variables):
    return [np.array(ops.convert_to_numpy(variable)) for variable in variables]


def assert_alike(one, other, tolerance=1e-4, slots=True):
    """Two models have the same weights, statistics, masks and optimizers; relative to the largest number."""
    pairs = [(one.variables, other.variables), (one.optimizer.variables, other.optimizer.variables)]
    for ours, theirs in pairs if slots else pairs[:1]:
        for a, b, variable in zip(numbers(ours), numbers(theirs), ours, strict=True):
            if "seed_generator" in variable.path:  # Each draws its own numbers.
                continue
            if a.dtype == bool or tolerance == 0:
                np.testing.assert_array_equal(a, b, variable.path)
            else:
                limit = tolerance * max(np.abs(a).max(), 1e-6)
                np.testing.assert_allclose(b, a, rtol=0, atol=limit, err_msg=variable.path)


def compile_quickly(model, optimizer, loss, **options):
    """Compiles a model whose few steps take TensorFlow less time than a graph of them does."""
    model.compile(optimizer, loss, run_eagerly=keras.backend.backend() == "tensorflow", **options)


def fit_both(make, optimizer, data, loss=LOGITS, metrics=("accuracy",), weighted=None, **options):
    """Trains two models from `make` with the same arguments, by Keras and by the sparse trainer.

    Returns:
        The histories, and the models.
    """
    models = make(), make()
    for model in models:
        compile_quickly(model, optimizer(), loss, metrics=list(metrics), weighted_metrics=weighted)
    fits = models[0].fit, SparseTrainer(models[1], threads=1).fit
    options = {"batch_size": 8, "shuffle": False, "verbose": 0, **options}
    histories = [fit(*data, **options).history for fit in fits]
    return histories, models


def assert_same_training(make, optimizer, data, tolerance=1e-4, slots=True, **options):
    histories, models = fit_both(make, optimizer, data, **options)
    assert list(histories[0]) == list(histories[1])
    for name, values in histories[0].items():
        np.testing.assert_allclose(histories[1][name], values, rtol=tolerance, atol=1e-6, err_msg=name)
    assert_alike(*models, tolerance, slots)
    return models
