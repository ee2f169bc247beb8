"""The variance of outputs, brought back after pruning without a correction."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from tfprune import sparsity
from tfprune.sparsity.reconstruction import make_problem
from tfprune.sparsity.variance import variance_factors
from tfprune.sparsity.with_data import prune_with_data

RANDOM = np.random.default_rng(0)
LAYERS = {
    "dense": ((6,), lambda: layers.Dense(4)),
    "dense of steps": ((5, 6), lambda: layers.Dense(4, activation="relu")),
    "conv1d": ((9, 4), lambda: layers.Conv1D(4, 3, padding="causal")),
    "conv2d": ((6, 6, 4), lambda: layers.Conv2D(4, 3, strides=2, padding="same")),
    "conv3d": ((4, 4, 4, 2), lambda: layers.Conv3D(3, 2)),
    "grouped": ((6, 6, 4), lambda: layers.Conv2D(4, 3, groups=2)),
    "separable": ((6, 6, 4), lambda: layers.SeparableConv2D(4, 3)),
    "transposed": ((4, 4, 3), lambda: layers.Conv2DTranspose(4, 3, strides=2)),
    "einsum": ((5, 6), lambda: layers.EinsumDense("abc,cde->abde", (None, 2, 3), bias_axes="de")),
}


def alone(shape, make):
    """Returns a model of a layer with a bias that is not zero."""
    keras.utils.set_random_seed(0)
    layer = make()
    model = keras.Sequential([keras.Input(shape), layer])
    layer.bias.assign(RANDOM.normal(size=layer.bias.shape))
    return model


def linear_outputs(model, images):
    """Returns the outputs before the activation, `[rows, channels]`."""
    (layer,) = model.layers
    activation, layer.activation = layer.activation, None
    values = ops.convert_to_numpy(layer(ops.convert_to_tensor(images)))
    layer.activation = activation
    return values.reshape(-1, int(np.prod(layer.bias.shape)))


@pytest.mark.parametrize("shape, make", LAYERS.values(), ids=LAYERS)
def test_each_output_is_that_of_magnitude_times_the_factor_of_brute_force(shape, make):
    images = RANDOM.normal(1, 1, (64, *shape)).astype("float32")
    model = alone(shape, make)
    state = model.get_weights()
    dense = linear_outputs(model, images)
    options = {"method": "magnitude", "verbose": 0}
    prune_with_data(model, 0.5, images, variance=False, **options)
    plain = linear_outputs(model, images)
    zeros = [weights == 0 for weights in model.get_weights()]
    model.set_weights(state)
    (report,) = prune_with_data(model, 0.5, images, **options).layers
    found = linear_outputs(model, images)

    rows = len(dense)
    factor = np.ones(dense.shape[1])
    for channel in np.flatnonzero(plain.std(0) > 1e-3 * dense.std(0)):
        was, now = dense[:, channel], plain[:, channel]
        correlation = np.corrcoef(was, now)[0, 1]
        explained = 1 - (1 - correlation**2) * (rows - 1) / (rows - 2)
        if correlation > 0 and explained > 0:
            factor[channel] += np.sqrt(explained) * (was.std() / now.std() - 1)
    assert (factor > 1.02).any()
    expected = dense.mean(0) + factor * (plain - plain.mean(0))
    assert np.allclose(found, expected, atol=1e-3 * np.abs(expected).max())
    assert all(np.array_equal(w == 0, zero) for w, zero in zip(model.get_weights(), zeros, strict=True))
    error = np.square(found - dense).mean() / dense.var(0).mean()
    assert report.error_after == pytest.approx(error, rel=1e-2)


def problem_of(given, weights):
    given = given - given.mean(0)
    wanted, rows = given @ weights, len(given)
    products = (given.T @ given / rows)[None], (given.T @ wanted / rows)[None]
    return make_problem(*products, (wanted**2).mean(0)[None], weights[None], rows)


def test_all_variance_is_back_where_outputs_correlate_and_less_where_that_may_be_chance():
    weights = RANDOM.normal(size=(8, 3))
    left = np.where(RANDOM.random((8, 3)) < 0.5, weights, 0)
    left[0] = weights[0]
    one_source = RANDOM.normal(size=(500, 1)) * RANDOM.random((1, 8))
    given = one_source - one_source.mean(0)
    (factors,) = variance_factors(problem_of(one_source, weights), left[None], 500)
    sign = (given @ weights * (given @ left)).sum(0) > 0
    assert sign.any() and not (sign.all() and np.allclose(factors, 1))
    assert np.allclose((given @ left).std(0)[sign] * factors[sign], (given @ weights).std(0)[sign])
    assert np.allclose(factors[~sign], 1)  # What has turned round is not made larger.

    apart = RANDOM.normal(size=(500, 8))
    (many,), (few,), (two,) = (
        variance_factors(problem_of(apart, weights), left[None], rows) for rows in (10**9, 4, 2)
    )
    ratio = (apart @ weights).std(0) / (apart @ left).std(0)
    changed = np.abs(ratio - 1) > 1e-6
    assert changed.any()
    assert (np.abs(many - 1) < np.abs(ratio - 1))[changed].all()
    assert (np.abs(few - 1) < np.abs(many - 1))[changed].all()
    assert np.array_equal(two, np.ones(3))


def test_outputs_without_variance_are_finite_and_stay_as_they_are():
    given = RANDOM.normal(size=(50, 4))
    given[:, 3] = 2.0
    weights = RANDOM.normal(size=(4, 3))
    weights[:3, 1] = 0  # An output that was constant.
    left = weights.copy()
    left[:3, 0] = 0  # One that is constant now.
    (factors,) = variance_factors(problem_of(given, weights), left[None], 50)
    assert np.allclose(factors, 1)


def network(norm):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(6, 3, name="conv")])
    if norm:
        model.add(layers.BatchNormalization())
    shared = layers.Dense(6, name="shared")
    outputs = shared(layers.ReLU()(shared(layers.ReLU()(model.outputs[0]))))
    return keras.Model(model.inputs[0], layers.Dense(4, use_bias=False)(layers.Flatten()(outputs)))


IMAGES = RANDOM.normal(size=(48, 8, 8, 3)).astype("float32")


def test_what_goes_into_batch_norm_is_left_to_it():
    kernels = {}
    for norm in (True, False):
        for variance in (True, False):
            model = network(norm)
            prune_with_data(model, 0.5, IMAGES, method="wanda", variance=variance, layers="conv", verbose=0)
            kernels[norm, variance] = model.get_layer("conv").get_weights()
    for one, other in zip(kernels[True, True], kernels[True, False], strict=True):
        assert np.array_equal(one, other)
    for one, other in zip(kernels[False, True], kernels[False, False], strict=True):
        assert not np.allclose(one, other, rtol=1e-2)


@pytest.mark.parametrize("method", ["magnitude", "wanda", "reconstruct"])
def test_patterns_hold_in_layers_that_are_called_twice_and_nothing_removed_is_nothing_changed(method):
    model = network(False)
    before = model.get_weights()
    prune_with_data(model, 0.0, IMAGES, method=method, variance=True, verbose=0)
    for one, other in zip(before, model.get_weights(), strict=True):
        assert np.allclose(one, other, atol=1e-4)
    options = {"layers": "shared", "pattern": sparsity.MOfN(2, 4), "verbose": 0}
    prune_with_data(model, 0.5, IMAGES, method=method, variance=True, **options)
    kernel = model.get_layer("shared").get_weights()[0]
    assert (np.count_nonzero(kernel[:4], axis=0) == 2).all()
    assert np.isfinite(ops.convert_to_numpy(model(IMAGES))).all()
