from dataclasses import dataclass

import keras
import numpy as np
import pytest
from keras import layers, ops

from tfprune.sparsity import (
    ConstantSparsity,
    GeometricDecay,
    Groups,
    PolynomialDecay,
    PruneLowMagnitude,
    PruningSchedule,
    UpdatePruningStep,
    prune_low_magnitude,
    prune_to,
    pruned_layers,
    strip_pruning,
)

RNG = np.random.default_rng(0)


@keras.saving.register_keras_serializable("tests")
class EveryOther(PruningSchedule):
    """A custom schedule."""

    def __init__(self, sparsity):
        self.sparsity = sparsity

    def __call__(self, step):
        return step % 2 == 0, self.sparsity

    def get_config(self):
        return {"sparsity": self.sparsity}


@keras.saving.register_keras_serializable("tests")
class Block(layers.Layer):
    """A composite that is built in `call` alone."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(6)
        self.norm = layers.BatchNormalization()
        self.dropout = layers.Dropout(0.5)

    def call(self, x, training=None):
        return self.dropout(self.norm(self.dense(x), training=training), training=training)


@keras.saving.register_keras_serializable("tests")
@dataclass(frozen=True)
class Rows(Groups):
    """A custom pattern with an argument: `height` neighbouring rows of a matrix go together."""

    height: int = 1

    def _rows(self, array):
        return array.reshape(-1, self.height, array.shape[-1])

    def pool(self, scores):
        return self._rows(scores).mean(axis=(1, 2))

    def spread(self, groups, shape):
        return np.broadcast_to(np.repeat(groups, self.height)[:, None], shape)

    def sizes(self, mask):
        return self._rows(mask).sum(axis=(1, 2))


def reload(model, tmp_path):
    path = tmp_path / "model.keras"
    model.save(path)
    return keras.models.load_model(path)


@pytest.mark.parametrize(
    "schedule",
    [
        None,
        ConstantSparsity(0.5, 2, 30, 7),
        PolynomialDecay(0.1, 0.9, 2, 33, power=2, frequency=4),
        GeometricDecay(0.1, 0.9, 2, 33, frequency=4),
        EveryOther(0.25),
    ],
)
def test_round_trip_keeps_schedule_scope_and_masks(schedule, mlp, tmp_path, masks_of, kernels_of):
    wrapped = prune_low_magnitude(mlp(), schedule, scope="global", score="magnitude")
    prune_to(wrapped, 0.6)
    pruned_layers(wrapped)[0].pruning_step.assign(17)
    loaded = reload(wrapped, tmp_path)
    for old, new in zip(pruned_layers(wrapped), pruned_layers(loaded), strict=True):
        assert (new.name, new.layer.name) == (old.name, old.layer.name)
        assert (new.rule.scope, new.rule.score) == ("global", "magnitude")
        assert type(new.pruning_schedule) is type(schedule)
        assert schedule is None or new.pruning_schedule.get_config() == schedule.get_config()
    assert int(ops.convert_to_numpy(pruned_layers(loaded)[0].pruning_step)) == 17
    for old, new in zip(masks_of(wrapped), masks_of(loaded), strict=True):
        np.testing.assert_array_equal(old, new)
    for old, new in zip(kernels_of(wrapped), kernels_of(loaded), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_custom_pattern_survives_and_prunes_on(mlp, tmp_path, masks_of):
    wrapped = prune_low_magnitude(mlp(), None, layers="first", pattern=Rows(height=2))
    prune_to(wrapped, 0.4)
    loaded = reload(wrapped, tmp_path)
    (layer,) = pruned_layers(loaded)
    assert layer.rule.pattern == Rows(height=2)
    np.testing.assert_array_equal(masks_of(loaded)[0], masks_of(wrapped)[0])
    prune_to(loaded, 0.8)
    pairs = masks_of(loaded)[0].reshape(5, 2, 10)
    assert sorted(pairs.sum(axis=(1, 2))) == [0, 0, 0, 0, 20]


def attention_model():
    query, value = keras.Input((5, 8)), keras.Input((6, 8))
    return keras.Model([query, value], layers.MultiHeadAttention(2, 4)(query, value))


def recurrent_model():
    inputs = keras.Input((6,), dtype="int32")
    x = layers.Embedding(10, 8, mask_zero=True)(inputs)
    return keras.Model(inputs, layers.Bidirectional(layers.LSTM(4))(x))


def composite_model():
    return keras.Sequential([keras.Input((6,)), Block(name="block")])


def shared_and_nested_model():
    dense = layers.Dense(6, name="shared")
    inner = keras.Sequential([keras.Input((6,)), layers.Dense(6, name="inside")], name="inner")
    inputs = keras.Input((6,))
    return keras.Model(inputs, dense(inner(dense(inputs))) + inputs)


def separable_model():
    return keras.Sequential(
        [keras.Input((8, 8, 3)), layers.SeparableConv2D(4, 3), layers.Conv2DTranspose(2, 3)]
    )


@pytest.mark.parametrize(
    "make, shapes",
    [
        (attention_model, [(2, 5, 8), (2, 6, 8)]),
        (recurrent_model, [(2, 6)]),
        (composite_model, [(2, 6)]),
        (shared_and_nested_model, [(2, 6)]),
        (separable_model, [(2, 8, 8, 3)]),
    ],
)
def test_round_trip_of_many_kinds_of_layers(make, shapes, tmp_path, masks_of, to_numpy):
    wrapped = prune_low_magnitude(make(), None)
    prune_to(wrapped, 0.5)
    loaded = reload(wrapped, tmp_path)
    for old, new in zip(masks_of(wrapped), masks_of(loaded), strict=True):
        np.testing.assert_array_equal(old, new)
        assert np.count_nonzero(new) == new.size // 2
    inputs = [RNG.integers(0, 10, size=shape).astype("float32") for shape in shapes]
    inputs = inputs[0] if len(inputs) == 1 else inputs
    np.testing.assert_allclose(to_numpy(loaded(inputs)), to_numpy(wrapped(inputs)), atol=1e-6)
    np.testing.assert_allclose(to_numpy(strip_pruning(loaded)(inputs)), to_numpy(wrapped(inputs)), atol=1e-6)


def train(model, x, y, initial_epoch, epochs):
    model.fit(
        x,
        y,
        batch_size=4,
        initial_epoch=initial_epoch,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=[UpdatePruningStep()],
    )


@pytest.mark.slow
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_a_fit_resumed_in_mid_schedule_ends_as_one_that_was_not_interrupted(
    scope, mlp, data, tmp_path, masks_of, kernels_of, assert_exact_zeros
):
    x, y = data(4)

    def start():
        keras.utils.set_random_seed(3)
        schedule = PolynomialDecay(0.0, 0.8, begin_step=2, end_step=11, frequency=2)
        model = prune_low_magnitude(mlp(), schedule, scope=scope)
        model.compile(keras.optimizers.Adam(0.05), "mse", run_eagerly=True)
        return model

    whole = start()
    train(whole, x, y, 0, 3)
    parts = start()
    for epoch in range(3):  # After steps 4 and 8, between updates.
        train(parts, x, y, epoch, epoch + 1)
        parts = reload(parts, tmp_path)
        parts.run_eagerly = True
    for a, b in zip(masks_of(whole), masks_of(parts), strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(kernels_of(whole), kernels_of(parts), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert sum(np.count_nonzero(~mask) for mask in masks_of(parts)) == 112  # 0.8 of 140.
    if scope == "layer":
        assert_exact_zeros(parts, 0.8)


def test_weights_file_round_trip(mlp, tmp_path, masks_of):
    wrapped, other = (prune_low_magnitude(mlp(), None) for _ in range(2))
    prune_to(wrapped, 0.6)
    path = tmp_path / "model.weights.h5"
    wrapped.save_weights(path)
    other.load_weights(path)
    for a, b in zip(masks_of(wrapped), masks_of(other), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_file_has_exact_zeros_whatever_the_raw_weights(mlp, tmp_path, assert_exact_zeros):
    model = mlp()
    wrapped = prune_low_magnitude(model, None)
    prune_to(wrapped, 0.5)
    model.get_layer("first").kernel.assign(np.ones((10, 10)))
    assert_exact_zeros(reload(wrapped, tmp_path), 0.5)


@keras.saving.register_keras_serializable("tests")
class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.hidden = PruneLowMagnitude(layers.Dense(10), ConstantSparsity(0.5, 0))
        self.head = PruneLowMagnitude(layers.Dense(4), ConstantSparsity(0.5, 0))

    def call(self, x):
        return self.head(self.hidden(x))


def test_a_subclassed_model(data, tmp_path, assert_exact_zeros, to_numpy):
    x, _ = data(1)
    model = Subclassed()
    model(x)
    prune_to(model, 0.5)
    loaded = reload(model, tmp_path)
    assert_exact_zeros(loaded, 0.5)
    np.testing.assert_allclose(to_numpy(loaded(x)), to_numpy(model(x)), atol=1e-6)


def test_the_wrapper_rebuilds_from_its_config():
    layer = PruneLowMagnitude(layers.Dense(3), EveryOther(0.25), scope="global", name="mine")
    copy = PruneLowMagnitude.from_config(layer.get_config())
    assert (copy.name, copy.rule.scope, copy.layer.units) == ("mine", "global", 3)
    assert copy.pruning_schedule.get_config() == {"sparsity": 0.25}


def test_a_schedule_that_cannot_be_saved_is_an_error_that_shows_it(mlp, tmp_path):
    class Plain:
        def __call__(self, step):
            return False, 0.0

        def __repr__(self):
            return "the plain schedule"

    with pytest.raises(TypeError, match="the plain schedule"):
        prune_low_magnitude(mlp(), Plain()).save(tmp_path / "model.keras")
