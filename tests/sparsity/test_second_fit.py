"""A second fit reuses what the first compiled, and a forgotten callback is an error in every fit."""

import gc

import keras
import numpy as np
import pytest
from keras import layers

from tfprune.sparsity import (
    ConstantSparsity,
    PolynomialDecay,
    Pruner,
    UpdatePruningStep,
    prune_low_magnitude,
)

pytestmark = pytest.mark.slow

BACKEND = keras.backend.backend()
TRACED = []


@keras.saving.register_keras_serializable("tests")
class Counted(layers.Layer):
    """Counts how often Python runs it in training."""

    def call(self, inputs, training=False):
        if training:
            TRACED.append(True)
        return inputs


@pytest.fixture(params=["compiled", "eager", *(["graph"] if BACKEND == "tensorflow" else [])])
def mode(request):
    """Arguments of `compile`."""
    return {
        "compiled": {"jit_compile": True} if BACKEND != "torch" else {},
        "eager": {"run_eagerly": True},
        "graph": {"jit_compile": False},
    }[request.param]


@pytest.fixture
def make(mlp):
    """A function that makes a wrapped, compiled model that counts its traces."""

    def made(schedule=None, **compiled):
        TRACED.clear()
        model = keras.Sequential([mlp(), Counted()])
        model = prune_low_magnitude(model, schedule or PolynomialDecay(0.0, 0.6, 1, 6, frequency=1, power=1))
        model.compile("sgd", "mse", **compiled)
        return model

    return made


def fit(model, data, *callbacks, batches=2):
    x, y = data(batches)
    model.fit(x, y, batch_size=4, shuffle=False, verbose=0, callbacks=list(callbacks))


@pytest.mark.skipif(BACKEND == "torch", reason="Keras compiles nothing on PyTorch by default")
def test_later_fits_trace_nothing_and_see_new_masks(make, data, masks_of, assert_exact_zeros):
    model = make()
    fit(model, data, UpdatePruningStep())
    traced = len(TRACED)
    assert traced
    removed = []
    for _ in range(2):
        fit(model, data, UpdatePruningStep())
        removed.append(int(np.count_nonzero(~masks_of(model)[0])))
    assert len(TRACED) == traced
    assert removed == [36, 60]  # At steps 4 and 6.
    assert_exact_zeros(model, 0.6)


@pytest.mark.skipif(BACKEND == "torch", reason="Keras compiles nothing on PyTorch by default")
def test_what_is_compiled_anew_is_traced_anew(make, data):
    model = make()
    fit(model, data, UpdatePruningStep())
    traced = len(TRACED)
    model.compile("sgd", "mse")
    fit(model, data, UpdatePruningStep())
    assert len(TRACED) > traced


class Stop(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        raise InterruptedError


def again(model, data, tmp_path, compiled):
    fit(model, data)


def with_another_callback(model, data, tmp_path, compiled):
    fit(model, data, keras.callbacks.LambdaCallback())


def on_a_batch(model, data, tmp_path, compiled):
    model.train_on_batch(*data(1))


def in_twice_as_large_batches(model, data, tmp_path, compiled):
    x, y = data(4)
    model.fit(x, y, batch_size=8, verbose=0)


def compiled_anew(model, data, tmp_path, compiled):
    model.compile("sgd", "mse", **compiled)
    fit(model, data)


def made_anew(model, data, tmp_path, compiled):
    model.make_train_function(force=True)
    fit(model, data)


def loaded(model, data, tmp_path, compiled):
    model.save(tmp_path / "model.keras")
    fit(keras.models.load_model(tmp_path / "model.keras"), data)


def cloned(model, data, tmp_path, compiled):
    clone = keras.models.clone_model(model)
    clone.compile("sgd", "mse", **compiled)
    fit(clone, data)


def in_another_model(model, data, tmp_path, compiled):
    outer = keras.Sequential([keras.Input((10,)), model, layers.Dense(4)])
    outer.compile("sgd", "mse", **compiled)
    fit(outer, data)


def a_model_inside(model, data, tmp_path, compiled):
    inner = model.layers[0]
    inner.compile("sgd", "mse", **compiled)
    fit(inner, data)


WAYS = [
    again,
    with_another_callback,
    on_a_batch,
    in_twice_as_large_batches,
    compiled_anew,
    made_anew,
    loaded,
    cloned,
    in_another_model,
    a_model_inside,
]


# On JAX Keras has taken the variables' values away by the time that a step fails.
LOST = BACKEND == "jax"


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_no_way_to_forget_the_callback_is_silent(way, mode, make, data, tmp_path):
    model = make(**mode)
    fit(model, data, UpdatePruningStep())
    for _ in range(1 if LOST else 2):  # An error does not make the next one pass.
        with pytest.raises(RuntimeError, match="UpdatePruningStep"):
            way(model, data, tmp_path, mode)
    if not LOST:
        fit(model, data, UpdatePruningStep())  # And with the callback it goes on.


@pytest.mark.parametrize("way", [again, on_a_batch, compiled_anew, loaded], ids=lambda way: way.__name__)
def test_nor_after_a_fit_that_an_exception_ended(way, mode, make, data, tmp_path):
    model = make(**mode)
    callback = UpdatePruningStep()  # The object is still there.
    with pytest.raises(InterruptedError):
        fit(model, data, callback, Stop())
    with pytest.raises(RuntimeError, match="UpdatePruningStep"):
        way(model, data, tmp_path, mode)


def test_a_pruner_that_is_gone_is_missed_in_compiled_steps_too(make, data, mode):
    model = make(**mode)
    x, y = data(1)
    pruner = Pruner(model)
    for _ in range(2):
        pruner.before_step()
        model.train_on_batch(x, y)
        pruner.after_step()
    del pruner
    gc.collect()
    with pytest.raises(RuntimeError, match="Pruner"):
        model.train_on_batch(x, y)
    if not LOST:
        with pytest.raises(RuntimeError, match="Pruner"):
            fit(model, data)
        fit(model, data, UpdatePruningStep())


def test_a_callback_takes_over_from_a_pruner_and_back(make, data, mode, masks_of):
    model = make(ConstantSparsity(0.5, 3), **mode)
    x, y = data(1)
    pruner = Pruner(model)
    pruner.before_step()
    model.train_on_batch(x, y)
    pruner.after_step()
    fit(model, data, UpdatePruningStep())
    assert np.count_nonzero(~masks_of(model)[0]) == 50
    pruner = Pruner(model)
    assert pruner.steps_taken == 3
    model.train_on_batch(x, y)
    fit(model, data, UpdatePruningStep())
    with pytest.raises(RuntimeError, match="Pruner"):  # The fit has ended the first watch.
        model.train_on_batch(x, y)
