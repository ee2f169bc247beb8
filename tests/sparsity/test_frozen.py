"""Freezing and unfreezing, before and after wrapping, reloading and stripping, as in plain Keras."""

import keras
import numpy as np
import pytest
from keras import layers

from tfprune.sparsity import PruneLowMagnitude, prune_low_magnitude, pruned_layers, strip_pruning

pytestmark = pytest.mark.slow


def network():
    base = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(5, name="a"),
            layers.BatchNormalization(name="n"),
            layers.Dense(4, name="b"),
        ],
        name="base",
    )
    inputs = keras.Input((6,))
    return keras.Model(inputs, layers.Dense(2, name="head")(base(inputs)))


def base_of(model):
    return model.get_layer("base")


def set_all(model, value):
    model.trainable = value


def set_base(model, value):
    base_of(model).trainable = value


def set_by_loop(model, value):
    for layer in base_of(model).layers:
        layer.trainable = value


def set_last(model, value):
    base_of(model).layers[-1].trainable = value


def set_head(model, value):
    model.layers[-1].trainable = value


WAYS = [set_all, set_base, set_by_loop, set_last, set_head]


def reloaded(model, folder):
    model.save(folder / "model.keras")
    return keras.models.load_model(folder / "model.keras")


def wrap(model, folder):
    return prune_low_magnitude(model, None, prune_frozen=True)


def wrap_and_reload(model, folder):
    return reloaded(wrap(model, folder), folder)


def wrap_and_strip(model, folder):
    return strip_pruning(wrap(model, folder))


def wrap_reload_and_strip(model, folder):
    return strip_pruning(wrap_and_reload(model, folder))


def strip_and_reload(model, folder):
    return reloaded(wrap_and_strip(model, folder), folder)


# What is done to the pruned model -> whether plain Keras's goes through a file too.
PATHS = {
    wrap: False,
    wrap_and_reload: True,
    wrap_and_strip: False,
    wrap_reload_and_strip: True,
    strip_and_reload: True,
}


def flags(model):
    """The flag of each layer at any depth, wrappers left out, and the weights that are trained."""
    found = []

    def visit(layer):
        if isinstance(layer, PruneLowMagnitude):
            assert layer.trainable == layer.layer.trainable
            layer = layer.layer
        if not isinstance(layer, keras.layers.InputLayer):
            found.append((type(layer).__name__, layer.trainable))
        for inner in getattr(layer, "layers", []):
            visit(inner)

    visit(model)
    return found, [(v.name, tuple(v.shape)) for v in model.trainable_variables]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.__name__)
@pytest.mark.parametrize("freeze", WAYS, ids=lambda way: way.__name__)
def test_unfreezing_is_that_of_plain_keras(freeze, path, tmp_path):
    for unfreeze in WAYS:
        plain, model = network(), network()
        freeze(plain, False)
        freeze(model, False)
        if PATHS[path]:
            plain = reloaded(plain, tmp_path)
        model = path(model, tmp_path)
        assert flags(model) == flags(plain)
        unfreeze(plain, True)
        unfreeze(model, True)
        assert flags(model) == flags(plain), unfreeze.__name__
        freeze(plain, False)
        freeze(model, False)
        assert flags(model) == flags(plain), unfreeze.__name__


@pytest.mark.parametrize("freeze", WAYS, ids=lambda way: way.__name__)
def test_freezing_a_wrapped_model_outlives_the_wrappers(freeze, tmp_path):
    plain, model = network(), wrap(network(), None)
    freeze(plain, False)
    freeze(model, False)
    assert flags(strip_pruning(model)) == flags(plain)
    assert flags(strip_pruning(reloaded(model, tmp_path))) == flags(reloaded(plain, tmp_path))


def test_a_frozen_base_moves_when_it_is_trained_again(data):
    model = network()
    set_base(model, False)
    model = wrap(model, None)
    x, y = data(4)
    kernels = [np.array(w.layer.kernel) for w in pruned_layers(model)]

    def moved():
        model.compile("sgd", "mse")
        model.fit(x[:, :6], y[:, :2], verbose=0)
        now = [np.array(w.layer.kernel) for w in pruned_layers(model)]
        return [bool((a != b).any()) for a, b in zip(kernels, now, strict=True)]

    assert moved() == [False, False, True]
    set_base(model, True)
    assert moved() == [True, True, True]


def test_the_wrappers_flag_is_the_layers():
    layer = layers.Dense(3)
    layer.build((None, 2))
    wrapper = PruneLowMagnitude(layer, None, trainable=False)
    assert not layer.trainable and not wrapper.trainable_variables
    layer.trainable = True
    assert wrapper.trainable and len(wrapper.trainable_variables) == 2
    again = PruneLowMagnitude.from_config({**wrapper.get_config(), "trainable": False})
    assert again.trainable and again.layer.trainable
