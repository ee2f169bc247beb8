"""Scores: random, Taylor, Fisher and one's own; and the measuring of gradients."""

import dataclasses

import keras
import numpy as np
import pytest
from keras import layers

from tfprune.sparsity import (
    ConstantSparsity,
    PolynomialDecay,
    UpdatePruningStep,
    needs_gradients,
    prune_low_magnitude,
    prune_to,
    pruned_layers,
)
from tfprune.sparsity.gradients import GradientMeter
from tfprune.sparsity.scores import Tensor, lamp, random

SEEN = {}


@keras.saving.register_keras_serializable("tests")
def farthest_from_one(tensor):
    return np.abs(tensor.weights - 1)


@keras.saving.register_keras_serializable("tests")
@needs_gradients
def recorded(tensor):
    SEEN[tensor.name] = dataclasses.replace(tensor, weights=tensor.weights.copy())
    return tensor.gradients.mean_square


def remove_smallest(score, count):
    """The mask that leaves out the `count` smallest."""
    mask = np.ones(score.size, bool)
    mask[np.argsort(score.ravel(), kind="stable")[:count]] = False
    return mask.reshape(score.shape)


def test_random_numbers_are_of_the_seed_the_name_and_the_step():
    def draw(name="a", seed=1, step=0):
        return Tensor(name, np.zeros((4, 5)), seed=seed).generator(step).random((4, 5))

    np.testing.assert_array_equal(draw(), draw())
    first, second = (random(Tensor("a", weights, seed=1)) for weights in (np.zeros(9), np.ones(9)))
    np.testing.assert_array_equal(first, second)
    for other in (draw(name="b"), draw(seed=2), draw(step=1)):
        assert not np.isin(other, draw()).any()


def test_lamp_by_hand():
    weights = np.array([[3.0, -1.0], [0.0, 2.0], [-2.0, 0.0]], "float32")
    expected = [[9 / 9, 1 / 18], [0, 4 / 13], [4 / 17, 0]]  # Of the two 2s the first has the larger.
    np.testing.assert_allclose(lamp(Tensor("a", weights)), expected, rtol=1e-12)
    np.testing.assert_array_equal(lamp(Tensor("a", np.zeros((2, 3), "float32"))), np.zeros((2, 3)))


def test_lamp_keeps_some_of_a_layer_of_small_weights(kernels_of, masks_of):
    """The order within a layer is the magnitude's, and a layer's scale does not count."""
    counts = {}
    for score in ("magnitude", "lamp"):
        keras.utils.set_random_seed(3)
        model = keras.Sequential([keras.Input((20,)), layers.Dense(20, name="a"), layers.Dense(20, name="b")])
        model.layers[1].kernel.assign(model.layers[1].kernel * 1e-3)
        wrapped = prune_low_magnitude(model, None, score=score, scope="global")
        before = kernels_of(wrapped)
        prune_to(wrapped, 0.95)
        counts[score] = [np.count_nonzero(mask) for mask in masks_of(wrapped)]
        for weights, mask in zip(before, masks_of(wrapped), strict=True):
            np.testing.assert_array_equal(mask, remove_smallest(np.abs(weights), np.count_nonzero(~mask)))
    assert counts["magnitude"] == [39, 1]  # One always stays.
    assert sum(counts["lamp"]) == 40 and min(counts["lamp"]) > 10


def test_random_masks_are_seeded_and_differ_from_layer_to_layer(masks_of):
    def masks(seed):
        keras.utils.set_random_seed(seed)
        model = keras.Sequential([keras.Input((10,)), layers.Dense(10, name="a"), layers.Dense(10, name="b")])
        wrapped = prune_low_magnitude(model, None, score="random")
        prune_to(wrapped, 0.5)
        return masks_of(wrapped)

    (a, b), (c, d), (e, _) = masks(0), masks(0), masks(1)
    assert all(np.count_nonzero(mask) == 50 for mask in (a, b, e))
    np.testing.assert_array_equal([a, b], [c, d])
    assert (a != b).any() and (a != e).any()


@pytest.mark.slow
def test_a_random_schedule_goes_on_after_a_reload_as_if_nothing_had_happened(
    mlp, data, tmp_path, masks_of, assert_exact_zeros
):
    x, y = data(4)
    schedule = PolynomialDecay(0.2, 0.8, begin_step=1, end_step=8, power=1, frequency=2)
    model = prune_low_magnitude(mlp(), schedule, score="random")
    model.compile("sgd", "mse")
    options = {"batch_size": 4, "shuffle": False, "verbose": 0, "callbacks": [UpdatePruningStep()]}
    model.fit(x, y, **options)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert np.count_nonzero(masks_of(loaded)[0]) == 100 - 37
    for each in (model, loaded):
        each.fit(x, y, **options)
    assert_exact_zeros(loaded, 0.8)
    for mask, expected in zip(masks_of(loaded), masks_of(model), strict=True):
        np.testing.assert_array_equal(mask, expected)


@pytest.fixture
def linear():
    """Data, and a function that makes a compiled `x @ w` of 4 inputs and 3 outputs, wrapped."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 5, 4)).astype("float32")
    y = rng.normal(size=(3, 5, 3)).astype("float32")

    def make(score=recorded, options=None, **compiled):
        layer = layers.Dense(3, use_bias=False, name="linear", **(options or {}))
        model = prune_low_magnitude(keras.Sequential([keras.Input((4,)), layer]), None, score=score)
        layer.kernel.assign(np.random.default_rng(1).normal(size=(4, 3)))
        model.compile("sgd", "mse", **compiled)
        return model

    return make, list(zip(x, y, strict=True))


def by_hand(w, batches):
    """Gradients of the mean over batch and outputs of (x @ w - y)^2, one for each batch."""
    return np.stack([2 / y.size * x.T @ (x @ w - y) for x, y, *_ in batches])


@pytest.mark.slow
@pytest.mark.parametrize("run_eagerly", [True, False])
def test_gradients_are_those_by_hand(run_eagerly, linear, kernels_of, masks_of):
    make, batches = linear
    model = make(run_eagerly=run_eagerly)
    for sparsity in (0.25, 0.5):  # The second time some weights are gone; their gradients are not.
        w = kernels_of(model)[0]
        expected = by_hand(w, batches)
        prune_to(model, sparsity, gradient_data=batches)
        (seen,) = SEEN.values()
        np.testing.assert_array_equal(seen.weights, w)
        np.testing.assert_allclose(seen.gradients.mean_abs, np.abs(expected).mean(0), rtol=1e-4)
        np.testing.assert_allclose(seen.gradients.mean_square, (expected**2).mean(0), rtol=1e-4)
    assert (np.abs(seen.gradients.mean_abs)[w == 0] > 1e-3).all() and np.count_nonzero(w == 0) == 3
    prune_to(model, 0.5, gradient_data=iter(batches), gradient_batches=1)
    expected = np.abs(by_hand(kernels_of(model)[0], batches[:1])[0])
    np.testing.assert_allclose(SEEN[seen.name].gradients.mean_abs, expected, rtol=1e-4)


@pytest.mark.parametrize("score", ["taylor", "fisher"])
def test_taylor_and_fisher_remove_what_costs_least(score, linear, kernels_of, masks_of):
    make, batches = linear
    model = make(score)
    w = kernels_of(model)[0]
    g = by_hand(w, batches)
    value = {"taylor": np.abs(g * w).mean(0), "fisher": np.square(w) * np.square(g).mean(0) / 2}
    prune_to(model, 0.5, gradient_data=batches)
    np.testing.assert_array_equal(masks_of(model)[0], remove_smallest(value[score], 6))
    assert (masks_of(model)[0] != remove_smallest(np.abs(w), 6)).any()


L2 = keras.regularizers.L2(0.1)


@pytest.mark.parametrize(
    "options, gradient",
    [
        ({"kernel_regularizer": L2}, lambda w, x: 0.2 * w),
        ({"activity_regularizer": L2}, lambda w, x: 0.2 / len(x) * x.T @ x @ w),
    ],
)
def test_sample_weights_and_regularizers_count(options, gradient, linear, kernels_of):
    make, batches = linear
    weight = np.array([1, 0, 2, 0.5, 3], "float32")
    model = make(options=options)
    w = kernels_of(model)[0]
    prune_to(model, 0.0, gradient_data=[(x, y, weight) for x, y in batches])
    expected = [2 / y.size * (x.T * weight) @ (x @ w - y) + gradient(w, x) for x, y in batches]
    (seen,) = SEEN.values()
    np.testing.assert_allclose(seen.gradients.mean_abs, np.abs(expected).mean(0), rtol=1e-4)


def test_gradients_in_half_precision_are_not_lost_to_the_loss_scale(linear, kernels_of):
    """With Keras's first loss scale, 32768, these are infinite in float16."""
    make, batches = linear
    keras.config.set_dtype_policy("mixed_float16")
    model = make()
    batches = [(x, 30 * y) for x, y in batches]
    expected = by_hand(kernels_of(model)[0], batches)
    prune_to(model, 0.5, gradient_data=batches)
    (seen,) = SEEN.values()
    np.testing.assert_allclose(seen.gradients.mean_abs, np.abs(expected).mean(0), rtol=0.02, atol=0.02)


def test_an_embeddings_gradient():
    tokens = np.array([[0, 1, 1]])
    model = keras.Sequential([keras.Input((3,), dtype="int32"), layers.Embedding(4, 2, name="table")])
    model = prune_low_magnitude(model, None, score=recorded)
    pruned_layers(model)[0].layer.embeddings.assign(np.ones((4, 2)))
    model.compile("sgd", "mse")
    prune_to(model, 0.5, gradient_data=[(tokens, np.zeros((1, 3, 2)))])
    (seen,) = SEEN.values()
    # Mean of six squares of 1: each has the gradient 1/3, row 1 twice, rows 2 and 3 none.
    np.testing.assert_allclose(seen.gradients.mean_abs, np.outer([1 / 3, 2 / 3, 0, 0], [1, 1]), rtol=1e-5)


def test_a_score_of_ones_own_in_a_few_lines(mlp, tmp_path, masks_of, kernels_of):
    model = prune_low_magnitude(mlp(), None, score=farthest_from_one)
    expected = [remove_smallest(np.abs(w - 1), w.size // 2) for w in kernels_of(model)]
    model.save(tmp_path / "model.keras")
    for each in (model, keras.models.load_model(tmp_path / "model.keras")):
        assert all(layer.rule.score is farthest_from_one for layer in pruned_layers(each))
        prune_to(each, 0.5)
        for mask, other in zip(masks_of(each), expected, strict=True):
            np.testing.assert_array_equal(mask, other)


def test_a_score_that_is_not_finite_is_an_error_that_names_the_layer(mlp):
    model = prune_low_magnitude(mlp(), None, score=lambda tensor: np.log(tensor.weights * 0))
    with pytest.raises(ValueError, match="finite.*layer 'first'"), np.errstate(divide="ignore"):
        prune_to(model, 0.5)


@pytest.fixture(autouse=True)
def nothing_seen():
    SEEN.clear()


@pytest.mark.parametrize("as_function", [False, True])
@pytest.mark.parametrize("gradient_batches, used", [(1, 1), (2, 2), (None, 3)])
def test_fit_takes_batches_or_a_function_of_the_step(as_function, gradient_batches, used, linear, kernels_of):
    make, batches = linear
    schedule = ConstantSparsity(0.5, begin_step=2, end_step=4, frequency=2)
    model = prune_low_magnitude(make(), schedule, score=recorded)
    model.compile(keras.optimizers.SGD(0.0), "mse")
    steps = []

    def data_at(step):
        steps.append(step)
        return iter(batches)

    given = data_at if as_function else batches
    callback = UpdatePruningStep(gradient_data=given, gradient_batches=gradient_batches)
    x, y = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    model.fit(x[:8], y[:8], batch_size=2, verbose=0, callbacks=[callback])
    assert steps == ([2, 4] if as_function else [])
    # As the second update, at step 4, saw it: the weights have not changed since the first.
    (seen,) = SEEN.values()
    expected = by_hand(kernels_of(model)[0], batches[:used])
    np.testing.assert_allclose(seen.gradients.mean_abs, np.abs(expected).mean(0), rtol=1e-4)


def everything(model):
    """All the state there is: weights, seeds, statistics, slots, and metrics with their parts."""
    found = [*model.variables, *model.optimizer.variables, *model.metrics_variables]
    return [np.array(keras.ops.convert_to_numpy(variable)) for variable in found]


@pytest.mark.slow
@pytest.mark.parametrize("run_eagerly", [True, False])
def test_measuring_leaves_the_model_as_it_was(run_eagerly, data):
    inputs = keras.Input((10,))
    x = layers.Dropout(0.5, seed=1)(layers.BatchNormalization()(layers.Dense(6, name="first")(inputs)))
    outputs = [layers.Dense(4, name="a")(x), layers.Dense(4, name="b")(x)]
    model = prune_low_magnitude(keras.Model(inputs, outputs), None, score="taylor")
    optimizer = keras.optimizers.Adam(0.01)
    model.compile(optimizer, ["mse", "mae"], metrics=[["mae"], []], run_eagerly=run_eagerly)
    x, y = data(1)
    model.train_on_batch(x, [y, y])
    before, loss, built = everything(model), model.compute_loss, model.train_function
    meter = GradientMeter(model, pruned_layers(model))
    first = meter.measure([(x, [y, y])] * 2)
    for value, expected in zip(everything(model), before, strict=True):
        np.testing.assert_array_equal(value, expected)
    assert (model.optimizer, model.compute_loss, model.train_function) == (optimizer, loss, built)
    assert all(layer.masked for layer in pruned_layers(model))
    # Dropout's seeds are as they were, so the same numbers come again; nothing is added up.
    again = meter.measure([(x, [y, y])] * 2)
    assert len(first) == 3
    for key, gradients in first.items():
        assert gradients.mean_abs.max() > 0
        np.testing.assert_allclose(again[key].mean_abs, gradients.mean_abs, rtol=1e-5)


def test_a_batch_that_fails_leaves_the_model_as_it_was(linear):
    make, batches = linear
    model = make()
    before = everything(model)
    with pytest.raises(Exception):  # noqa: B017  (Each backend has its own.)
        prune_to(model, 0.5, gradient_data=[batches[0], (np.ones((2, 7)), np.ones((2, 3)))])
    assert all(layer.masked for layer in pruned_layers(model))
    for value, expected in zip(everything(model), before, strict=True):
        np.testing.assert_array_equal(value, expected)


def test_what_gradients_need(mlp, data):
    x, y = data(2)
    model = prune_low_magnitude(mlp(), ConstantSparsity(0.5, 0), score="taylor")
    with pytest.raises(ValueError, match="must be compiled"):
        prune_to(model, 0.5, gradient_data=[(x, y)])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="Layer 'first'.*gradient_data=None"):
        prune_to(model, 0.5)
    with pytest.raises(ValueError, match="score='taylor'.*for layer 'first'"):
        model.fit(x, y, verbose=0, callbacks=[UpdatePruningStep()])
    with pytest.raises(ValueError, match="at least one batch"):
        prune_to(model, 0.5, gradient_data=[])
    nan = (np.full_like(x, np.nan), y)
    with pytest.raises(ValueError, match="NaN or infinity in layer 'first'"):
        prune_to(model, 0.5, gradient_data=[nan])


def test_a_layer_that_does_not_train_has_no_gradients(mlp, data, masks_of):
    x, y = data(1)
    model = mlp()
    model.get_layer("second").trainable = False
    model = prune_low_magnitude(model, None, score="taylor")
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="'second' is ranked by gradients, so it must be trainable"):
        prune_to(model, 0.5, gradient_data=[(x, y)])
    prune_to(model, {"first": 0.5}, gradient_data=[(x, y)])
    assert [np.count_nonzero(mask) for mask in masks_of(model)] == [50, 40]
