"""Subclassed models: wrapped and stripped in place."""

from typing import NamedTuple

import keras
import numpy as np
import pytest
from keras import layers

from tfprune.sparsity import (
    ConstantSparsity,
    PruneLowMagnitude,
    Pruner,
    UpdatePruningStep,
    prune_low_magnitude,
    prune_to,
    pruned_layers,
    strip_pruning,
)

RUN_EAGERLY = keras.backend.backend() != "jax"  # Where it is the faster one.


class Pair(NamedTuple):
    layer: keras.layers.Layer
    factor: float


class Tower(keras.Model):
    """A nested model with a tuple in a list, a named tuple, and a dictionary in a dictionary."""

    def __init__(self, shared, **kwargs):
        super().__init__(**kwargs)
        self.shared = shared
        self.listed = [(layers.Dense(6, name="listed"), layers.ReLU()), shared]
        self.paired = Pair(layers.Dense(6, name="paired"), 3.0)
        self.named = {"a": {"b": layers.Dense(6, name="in_dict")}, "scale": 0.5}

    def call(self, x):
        for layer in (*self.listed[0], self.listed[1]):
            x = layer(x)
        x = self.paired.layer(x) * self.paired.factor
        return self.named["a"]["b"](x) * self.named["scale"] + self.shared(x)


class Net(keras.Model):
    """Has all that a model is made of: layers, nested models of all three kinds, normalisation, dropout."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        shared = layers.Dense(6, activation="tanh", name="shared")
        self.tower = Tower(shared, name="tower")
        self.sequential = keras.Sequential([keras.Input((6,)), layers.Dense(6, name="in_sequential"), shared])
        inputs = keras.Input((6,))
        self.functional = keras.Model(inputs, inputs + layers.Dense(6, name="in_functional")(inputs))
        self.branches = [self.functional, self.tower]  # Each a second time.
        self.norm = layers.BatchNormalization(name="norm")
        self.dropout = layers.Dropout(0.1)
        self.head = layers.Dense(2, name="head")

    def call(self, x, training=None):
        x = self.functional(self.sequential(self.tower(x)))
        return self.head(self.dropout(self.norm(x, training=training), training=training))


NAMES = {"shared", "listed", "paired", "in_dict", "in_sequential", "in_functional", "head"}


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    return rng.normal(size=(8, 6)).astype("float32"), rng.normal(size=(8, 2)).astype("float32")


@pytest.fixture
def built(batch):
    def make():
        model = Net()
        model(batch[0])
        return model

    return make


def paths(variables):
    return [variable.path for variable in variables]


def layer_names(model):
    return [layer.name for layer in model._flatten_layers() if not isinstance(layer, layers.InputLayer)]


def test_every_layer_is_wrapped_where_it_stands(built, batch, to_numpy, assert_exact_zeros):
    model = built()
    expected = to_numpy(model(batch[0]))
    wrapped = prune_low_magnitude(model, None)
    assert wrapped is model
    assert sorted(layer.layer.name for layer in pruned_layers(model)) == sorted(NAMES)
    tower = model.tower
    for place in (tower.listed[0][0], tower.paired.layer, tower.named["a"]["b"], tower.shared, model.head):
        assert isinstance(place, PruneLowMagnitude)
    assert (tower.paired.factor, tower.named["scale"], len(tower.listed)) == (3.0, 0.5, 2)
    assert isinstance(tower.paired, Pair) and isinstance(tower.listed[0], tuple)
    assert isinstance(model.norm, layers.BatchNormalization)
    assert model.branches[0] is model.functional and model.branches[1] is tower
    # One wrapper, one mask, wherever the shared layer stands.
    assert tower.listed[1] is tower.shared is model.sequential.layers[-1]
    np.testing.assert_allclose(to_numpy(model(batch[0])), expected, atol=1e-5)

    prune_to(model, 0.5)
    assert_exact_zeros(model, 0.5)
    assert np.abs(to_numpy(model(batch[0])) - expected).max() > 1e-3


def test_stripping_gives_the_model_back_as_it_was(built, batch, to_numpy):
    model = built()
    before = [paths(model.variables), paths(model.trainable_variables), paths(model.weights)]
    ids = [id(variable) for variable in model.variables]
    trainable = [id(variable) for variable in model.trainable_variables]
    names = layer_names(model)
    wrapped = prune_low_magnitude(model, None)
    assert [id(variable) for variable in wrapped.trainable_variables] == trainable
    prune_to(wrapped, 0.5)
    expected = to_numpy(wrapped(batch[0]))
    assert strip_pruning(wrapped) is model
    assert pruned_layers(model) == []
    assert [paths(model.variables), paths(model.trainable_variables), paths(model.weights)] == before
    assert [id(variable) for variable in model.variables] == ids
    assert layer_names(model) == names
    np.testing.assert_allclose(to_numpy(model(batch[0])), expected, atol=1e-6)
    assert np.count_nonzero(to_numpy(model.tower.shared.kernel)) == 18
    with pytest.raises(ValueError, match="no pruned layers"):
        prune_to(model, 0.7)


def test_wrapped_before_it_is_built(batch, assert_exact_zeros):
    model = prune_low_magnitude(Net(), ConstantSparsity(0.5, begin_step=0))
    assert sorted(layer.layer.name for layer in pruned_layers(model)) == sorted(NAMES)
    with pytest.raises(ValueError, match="must be built"):
        Pruner(model)
    model(batch[0])
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), "mse", run_eagerly=RUN_EAGERLY)
    model.fit(*batch, batch_size=4, epochs=2, verbose=0, callbacks=[UpdatePruningStep()])
    assert_exact_zeros(model, 0.5)


def test_the_same_layer_wrapped_by_an_earlier_call_keeps_its_mask(built, masks_of):
    model = prune_low_magnitude(built(), None)
    prune_to(model, 0.5)
    before = masks_of(model)
    again = prune_low_magnitude(model, ConstantSparsity(0.75, 0))
    assert again is model and len(pruned_layers(again)) == len(NAMES)
    for mask, expected in zip(masks_of(again), before, strict=True):
        np.testing.assert_array_equal(mask, expected)
    assert {layer.pruning_schedule.target_sparsity for layer in pruned_layers(again)} == {0.75}


def test_only_the_layers_selected(built):
    model = prune_low_magnitude(built(), None, layers="in_.*|head")
    names = {layer.layer.name for layer in pruned_layers(model)}
    assert names == {"in_dict", "in_sequential", "in_functional", "head"}
    spared = prune_low_magnitude(built(), None, spare_ends=True)
    assert {layer.layer.name for layer in pruned_layers(spared)} < NAMES - {"head"}


@pytest.mark.slow
def test_a_compiled_model_keeps_its_optimizer_and_trains_on(built, batch, to_numpy, assert_exact_zeros):
    model = built()
    optimizer = keras.optimizers.SGD(0.01, momentum=0.9)
    model.compile(optimizer, "mse", metrics=["mae"])
    model.fit(*batch, epochs=2, verbose=0)
    steps, momentum = int(to_numpy(optimizer.iterations)), to_numpy(optimizer.momentums[0])
    assert steps == 2 and np.abs(momentum).max() > 0
    before = to_numpy(model(batch[0]))

    prune_low_magnitude(model, ConstantSparsity(0.5, begin_step=1, frequency=1))
    assert model.optimizer is optimizer
    np.testing.assert_array_equal(to_numpy(optimizer.momentums[0]), momentum)
    np.testing.assert_allclose(model.predict(batch[0], verbose=0), before, atol=1e-5)
    # What `fit` traced before would train the layers without their masks, and without an error.
    # (On JAX Keras does not tell the layers of a subclassed model that they train, if its `call` does not.)
    if keras.backend.backend() != "jax":
        with pytest.raises(RuntimeError, match="without a pruning callback"):
            model.fit(*batch, verbose=0)
    model.fit(*batch, epochs=2, verbose=0, callbacks=[UpdatePruningStep()])
    assert_exact_zeros(model, 0.5)
    assert int(to_numpy(optimizer.iterations)) == 4
    strip_pruning(model)
    assert model.optimizer is optimizer
    model.fit(*batch, verbose=0)  # Dense training again: no mask, no callback.
    assert np.count_nonzero(to_numpy(model.head.kernel)) == 12


def test_weights_files_after_wrapping(built, batch, tmp_path, masks_of, kernels_of, to_numpy):
    model = prune_low_magnitude(built(), None)
    prune_to(model, 0.5)
    model.save_weights(tmp_path / "pruned.weights.h5")
    other = prune_low_magnitude(built(), None)
    assert any((a != b).any() for a, b in zip(kernels_of(other), kernels_of(model), strict=True))
    other.load_weights(tmp_path / "pruned.weights.h5")
    for found, expected in ((masks_of(other), masks_of(model)), (kernels_of(other), kernels_of(model))):
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_array_equal(a, b)
    np.testing.assert_allclose(to_numpy(other(batch[0])), to_numpy(model(batch[0])), atol=1e-6)


@pytest.mark.slow
def test_a_stripped_models_weights_go_into_a_model_never_wrapped(built, batch, tmp_path, to_numpy):
    model = prune_low_magnitude(built(), None)
    prune_to(model, 0.5)
    strip_pruning(model).save_weights(tmp_path / "stripped.weights.h5")
    plain = built()
    plain.load_weights(tmp_path / "stripped.weights.h5")
    np.testing.assert_allclose(to_numpy(plain(batch[0])), to_numpy(model(batch[0])), atol=1e-6)
    assert np.count_nonzero(to_numpy(plain.head.kernel)) == 6


@keras.saving.register_keras_serializable("tests")
class WrapsItself(keras.Model):
    """Its layers are wrapped in `__init__`, so that Keras can make it anew."""

    def __init__(self, sparsity, **kwargs):
        super().__init__(**kwargs)
        self.sparsity = sparsity
        schedule = ConstantSparsity(sparsity, begin_step=0, frequency=1)
        self.listed = [prune_low_magnitude(layers.Dense(6), schedule), layers.BatchNormalization()]
        self.head = prune_low_magnitude(layers.Dense(2), schedule)

    def call(self, x, training=None):
        return self.head(self.listed[1](self.listed[0](x), training=training))

    def get_config(self):
        return {**super().get_config(), "sparsity": self.sparsity}


@pytest.mark.slow
def test_a_model_that_wraps_its_layers_itself_is_saved_whole(
    batch, tmp_path, masks_of, to_numpy, assert_exact_zeros
):
    model = WrapsItself(0.75)
    model(batch[0])
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), "mse")
    model.fit(*batch, batch_size=4, verbose=0, callbacks=[UpdatePruningStep()])
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert [int(to_numpy(layer.pruning_step)) for layer in pruned_layers(loaded)] == [2, 2]
    for mask, expected in zip(masks_of(loaded), masks_of(model), strict=True):
        np.testing.assert_array_equal(mask, expected)
    np.testing.assert_allclose(to_numpy(loaded(batch[0])), to_numpy(model(batch[0])), atol=1e-6)
    loaded.fit(*batch, batch_size=4, verbose=0, callbacks=[UpdatePruningStep()])
    assert_exact_zeros(loaded, 0.75)


def test_a_functional_model_around_a_subclassed_one(built, batch, assert_exact_zeros, to_numpy):
    inner = built()
    inputs = keras.Input((6,))
    model = keras.Model(inputs, layers.Dense(2, name="last")(inner(inputs)))
    wrapped = prune_low_magnitude(model, None)
    assert {layer.layer.name for layer in pruned_layers(wrapped)} == NAMES | {"last"}
    prune_to(wrapped, 0.5)
    assert_exact_zeros(wrapped, 0.5)
    expected = to_numpy(wrapped(batch[0]))
    np.testing.assert_allclose(to_numpy(strip_pruning(wrapped)(batch[0])), expected, atol=1e-6)
