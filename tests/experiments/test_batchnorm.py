"""BatchNorm after pruning: silent where a filter has no weight left, measured anew on the pruned network."""

import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

from tfprune import sparsity
from tfprune.sparsity.batchnorm import recalibrate, reset_removed

CLASSES = 3


def make_network(use_bias=False):
    """Two convolutions with a BatchNorm each and one without; the same start on every backend."""
    inputs = keras.Input((6, 6, 2))
    x = keras.layers.Conv2D(4, 3, use_bias=use_bias, name="conv_a")(inputs)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization(momentum=0.9, name="other_name")(x))
    x = keras.layers.Conv2D(3, 3, use_bias=use_bias, name="conv_b")(x)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization(name="norm_b")(x))
    x = keras.layers.Conv2D(4, 1, name="bare")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, keras.layers.Dense(CLASSES)(x))
    random = np.random.default_rng(3)
    model.set_weights([random.uniform(0.2, 1.0, weights.shape) for weights in model.get_weights()])
    return model


def pruned(removed=(), **options):
    """With these output filters of `conv_a` and all the smaller half of `conv_b`'s weights gone."""
    model = make_network(**options)
    kernel = model.get_layer("conv_a").kernel
    values = np.array(kernel)
    values[..., list(removed)] *= 1e-3
    kernel.assign(values)
    model = sparsity.prune_low_magnitude(model, None, layers=keras.layers.Conv2D)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    sparsity.prune_to(model, {"conv_a": len(removed) / 4, "conv_b": 0.5})
    return model


def make_batches(sizes=(8, 8, 5)):
    random = np.random.default_rng(4)
    batches = []
    for i, size in enumerate(sizes):
        images = random.normal(i, 1 + i, (size, 6, 6, 2)).astype("float32")
        batches.append((images, random.integers(0, CLASSES, size)))
    return batches


def state(norm):
    names = ("gamma", "beta", "moving_mean", "moving_variance")
    return {name: np.array(keras.ops.convert_to_numpy(getattr(norm, name))) for name in names}


def convolve(model, name, inputs):
    wrapper = model.get_layer(f"prune_low_magnitude_{name}")
    return keras.ops.convert_to_numpy(wrapper(inputs)).astype("float64")


def normalize(values, norm):
    """As BatchNorm does in training, with the batch's own statistics."""
    mean, variance = values.mean(axis=(0, 1, 2)), values.var(axis=(0, 1, 2))
    kept = state(norm)
    return kept["gamma"] * (values - mean) / np.sqrt(variance + norm.epsilon) + kept["beta"]


def expected_statistics(model, batches):
    """Of both BatchNorms' inputs over all batches together."""
    first, second = [], []
    for images, _ in batches:
        first.append(convolve(model, "conv_a", images))
        x = np.maximum(normalize(first[-1], model.get_layer("other_name")), 0)
        second.append(convolve(model, "conv_b", x.astype("float32")))
    whole = [np.concatenate(values) for values in (first, second)]
    return [(values.mean(axis=(0, 1, 2)), values.var(axis=(0, 1, 2))) for values in whole]


def recalibrated():
    """What the statistics became, and what they had to become."""
    model, batches = pruned(removed=(1,)), make_batches()
    expected = expected_statistics(model, batches)
    recalibrate(model, batches)
    found = [state(model.get_layer(name)) for name in ("other_name", "norm_b")]
    return [(norm["moving_mean"], norm["moving_variance"]) for norm in found], expected


def main():
    found, expected = recalibrated()
    model = pruned(removed=(0, 2))
    silenced = reset_removed(model)
    close = [
        bool(np.allclose(a, b, rtol=1e-4, atol=1e-5))
        for pair in zip(found, expected, strict=True)
        for a, b in zip(*pair, strict=True)
    ]
    print(json.dumps({"backend": keras.backend.backend(), "close": close, "silenced": silenced}))


@pytest.mark.parametrize("training", [False, True])
def test_a_filter_without_weights_is_silent(training):
    model = pruned(removed=(0, 2))
    norm = model.get_layer("other_name")
    before, other = state(norm), state(model.get_layer("norm_b"))
    images = make_batches()[0][0]

    def channels():
        output = norm(convolve(model, "conv_a", images).astype("float32"), training=training)
        return np.array(output)

    assert np.all(channels()[..., [0, 2]] != 0)
    norm.set_weights(list(before.values()))  # Training mode has moved the statistics.
    assert reset_removed(model) == {"conv_a": 2}
    after = state(norm)
    assert np.all(channels()[..., [0, 2]] == 0)
    for name, silent in (("beta", 0.0), ("moving_mean", 0.0), ("moving_variance", 1.0)):
        np.testing.assert_array_equal(after[name][[0, 2]], silent)
        np.testing.assert_array_equal(after[name][[1, 3]], before[name][[1, 3]])
    np.testing.assert_array_equal(after["gamma"], before["gamma"])
    for name, value in state(model.get_layer("norm_b")).items():
        np.testing.assert_array_equal(value, other[name])


def test_a_filter_with_a_weight_left_is_as_it_was():
    model = pruned()
    before = model.get_weights()
    assert reset_removed(model) == {}
    for ours, theirs in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_filter_with_a_bias_is_not_silent():
    assert reset_removed(pruned(removed=(0,), use_bias=True)) == {}


def test_the_statistics_are_those_of_all_batches_together():
    found, expected = recalibrated()
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-4, atol=1e-5)
    assert found[0][0][1] == found[0][1][1] == 0  # The filter without weights.


def test_recalibration_moves_nothing_else():
    model = pruned(removed=(1,))
    before = [np.array(variable) for variable in model.variables]
    norms = [model.get_layer(name) for name in ("other_name", "norm_b")]
    recalibrate(model, make_batches())
    pairs = zip(model.variables, before, strict=True)
    moved = {variable.path for variable, value in pairs if np.any(np.array(variable) != value)}
    statistics = {norm.moving_mean.path for norm in norms} | {norm.moving_variance.path for norm in norms}
    assert moved == statistics
    assert [norm.momentum for norm in norms] == [0.9, 0.99]
    assert int(model.optimizer.iterations) == 0


def test_recalibration_needs_a_batch():
    model = pruned()
    with pytest.raises(ValueError, match="`batches` must have at least one batch. Received: none"):
        recalibrate(model, [])
    assert model.get_layer("other_name").momentum == 0.9


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_other_backends(backend):
    pytest.importorskip(backend)
    root = pathlib.Path(__file__).parents[2]
    environment = {"KERAS_BACKEND": backend, "PYTHONPATH": str(root), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, __file__],
        env={**os.environ, **environment},
        check=True,
        capture_output=True,
        text=True,
    )
    result = json.loads(done.stdout.splitlines()[-1])
    assert result == {"backend": backend, "close": [True] * 4, "silenced": {"conv_a": 2}}


if __name__ == "__main__":
    main()
