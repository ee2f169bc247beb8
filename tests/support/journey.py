"""A network's whole way, with whatever versions are installed: run by path, in an environment of its own.

Prunes, fits, saves, reloads, goes on, strips and summarizes; where the extra [runtime] is
installed, exports and runs. Needs the installed package alone.
"""

import importlib.util
import os
import tempfile

import keras
import numpy as np

import tfprune
from tfprune.sparsity import (
    PolynomialDecay,
    UpdatePruningStep,
    masks_of,
    prune_low_magnitude,
    pruned_layers,
    strip_pruning,
    summarize,
)

BATCHES = 8


def main() -> None:
    """Goes the whole way; an `AssertionError` or any other exception is a finding."""
    assert os.path.dirname(os.path.dirname(tfprune.__file__)) != os.getcwd(), "that is no installed package"
    folder = tempfile.mkdtemp()
    keras.utils.set_random_seed(0)
    random = np.random.default_rng(0)
    images = random.normal(size=(16 * BATCHES, 8, 8, 3)).astype("float32")
    labels = random.integers(0, 4, 16 * BATCHES)

    pruned = prune_low_magnitude(network(), PolynomialDecay(0.0, 0.75, 0, 2 * BATCHES, frequency=1))
    fit(pruned, images, labels)
    half_way = summarize(pruned).sparsity
    assert 0.5 < half_way < 0.75, half_way

    path = os.path.join(folder, "pruned.keras")
    pruned.save(path)
    again = keras.models.load_model(path)
    assert np.array_equal(pruned.predict(images, verbose=0), again.predict(images, verbose=0))
    assert all(np.array_equal(mask, masks_of(again)[name]) for name, mask in masks_of(pruned).items())
    again.fit(images, labels, batch_size=16, verbose=0, callbacks=[UpdatePruningStep()])
    summary = summarize(again)
    assert summary.sparsity == 0.75, summary.sparsity
    assert summary.sparse_macs < summary.macs, summary

    plain = strip_pruning(again)
    assert not pruned_layers(plain)
    assert summarize(plain).sparsity == 0.75
    assert np.allclose(again.predict(images, verbose=0), plain.predict(images, verbose=0), atol=1e-5)
    path = os.path.join(folder, "plain.keras")
    plain.save(path)
    loaded = keras.models.load_model(path)
    assert np.array_equal(plain.predict(images, verbose=0), loaded.predict(images, verbose=0))
    if importlib.util.find_spec("llvmlite") is not None:
        export_and_run(plain, images, os.path.join(folder, "model.tfprune"))


def network() -> keras.Model:
    """Returns a network with the layers that most have: convolutions, BatchNorm, a join, a dense head."""
    layers = keras.layers
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(16, 3, padding="same", use_bias=False, name="first")(inputs)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    y = layers.Conv2D(16, 3, padding="same", name="second")(x)
    x = layers.GlobalAveragePooling2D()(layers.Add()([x, y]))
    return keras.Model(inputs, layers.Dense(4, name="head")(x))


def fit(model: keras.Model, images: np.ndarray, labels: np.ndarray) -> None:
    """Compiles a pruned network, and trains it for an epoch."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss, metrics=["accuracy"])
    model.fit(images, labels, batch_size=16, verbose=0, callbacks=[UpdatePruningStep()])


def export_and_run(model: keras.Model, images: np.ndarray, path: str) -> None:
    """Exports a stripped network for the sparse runtime, and holds its outputs against Keras's."""
    from tfprune import runtime
    from tfprune.export import export_sparse

    export_sparse(model, path, "float32")
    outputs, expected = runtime.load(path)(images), model.predict(images, verbose=0)
    assert np.allclose(outputs, expected, atol=1e-4), np.abs(outputs - expected).max()


if __name__ == "__main__":
    main()
