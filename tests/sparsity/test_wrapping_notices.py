"""What wrapping says, and does, of zeros that are there, frozen layers, and layers of unknown classes."""

import keras
import numpy as np
import pytest
from keras import layers

from tfprune.sparsity import (
    ConstantSparsity,
    PolynomialDecay,
    RigL,
    UpdatePruningStep,
    masks_of,
    prune_low_magnitude,
    prune_to,
    pruned_layers,
    strip_pruning,
    summarize,
)


@pytest.fixture
def told(recwarn):
    """A function that wraps, and returns the result and what this library warned of."""

    def wrap(*args, **options):
        recwarn.clear()
        result = prune_low_magnitude(*args, **options)
        return result, [str(w.message) for w in recwarn if w.category is UserWarning]

    return wrap


@pytest.fixture
def sparse(mlp):
    """A function that makes a stripped network, 0.8 of whose weights are zero."""

    def make(**options):
        model = prune_low_magnitude(mlp(), None, **options)
        prune_to(model, 0.8)
        return strip_pruning(model)

    return make


def trained(model, data, *callbacks):
    # Operation by operation is the quickest for a few steps, but not on JAX.
    model.compile("sgd", "mse", run_eagerly=keras.backend.backend() != "jax")
    x, y = data(3)
    model.fit(x, y, batch_size=4, verbose=0, callbacks=list(callbacks))
    return model


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"granularity": "channel"}, {"scope": "erk"}], ids=str)
def test_zeros_that_are_there_stay(sparse, told, data, options):
    stripped = sparse(**options)
    before = [np.array(layer.kernel) != 0 for layer in stripped.layers]
    model, (message,) = told(stripped, None)
    zeros = 140 - sum(map(np.count_nonzero, before))
    assert f"{zeros} of 140 weights" in message and "of layers 'first', 'second'" in message
    assert "`keep_zeros=False`" in message
    trained(model, data)
    for mask, kept in zip(masks_of(model).values(), before, strict=True):
        np.testing.assert_array_equal(mask, kept)
    assert summarize(model).sparsity == pytest.approx(zeros / 140)
    prune_to(model, 0.9)
    assert summarize(strip_pruning(model)).sparsity == pytest.approx(0.9, abs=0.03)


@pytest.mark.slow
def test_zeros_stay_or_train_in_silence_if_asked(sparse, told, data):
    model, messages = told(sparse(), None, keep_zeros=True)
    assert messages == [] and summarize(trained(model, data)).sparsity == pytest.approx(0.8)
    model, messages = told(sparse(), None, keep_zeros=False)
    assert messages == [] and all(mask.all() for mask in masks_of(model).values())
    assert summarize(trained(model, data)).sparsity < 0.2


def test_single_layers_lists_and_nested_models_keep_their_zeros(sparse, told):
    first, second = sparse().layers
    wrapper, messages = told(first, None)
    assert len(messages) == 1 and np.mean(np.array(wrapper.masks[0])) == pytest.approx(0.2)
    (wrapper, _), messages = told([second, layers.Dense(3)], None)
    assert len(messages) == 1 and "32 of 40" in messages[0]
    nested, messages = told(keras.Sequential([keras.Input((10,)), sparse(), layers.Dense(2)]), None)
    assert "112 of 140" in messages[0]
    assert sum(mask.sum() for mask in masks_of(nested).values()) == 28 + 8


def test_a_kernel_of_zeros_alone_and_a_dense_one_are_not_touched(mlp, told):
    model, messages = told(mlp(kernel_initializer="zeros"), None)
    assert messages == [] and all(mask.all() for mask in masks_of(model).values())


@pytest.mark.slow
def test_a_schedule_goes_on_from_the_zeros(sparse, told, data):
    model, _ = told(sparse(), PolynomialDecay(0.0, 0.9, 0, 3, frequency=1))
    before = masks_of(model)
    trained(model, data, UpdatePruningStep())
    for name, mask in masks_of(model).items():
        assert not (mask & ~before[name]).any() and np.mean(mask) == pytest.approx(0.1)


@pytest.mark.slow
def test_regrowth_starts_from_the_zeros(sparse, told, data):
    schedule = ConstantSparsity(0.8, 0, end_step=100, frequency=100)
    model, _ = told(sparse(), schedule, regrowth=RigL())
    before = masks_of(model)
    trained(model, data, UpdatePruningStep(gradient_data=[data(1)]))
    shared = sum((mask & before[name]).sum() for name, mask in masks_of(model).items())
    assert shared >= 0.6 * 28  # Random masks would share a fifth.


def test_wrapping_again_keeps_the_masks(sparse, told):
    model, _ = told(sparse(), None, keep_zeros=False)
    again, messages = told(model, ConstantSparsity(0.5, 0))
    assert messages == [] and all(mask.all() for mask in masks_of(again).values())


def freeze_layer(model):
    model.layers[0].trainable = False


def freeze_model(model):
    """Sets the flag of the model; that of a layer inside is back to True, without effect."""
    model.trainable = False
    model.layers[0].trainable = True


@pytest.mark.parametrize(
    ("freeze", "names"), [(freeze_layer, ["first"]), (freeze_model, ["first", "second"])]
)
def test_frozen_layers_are_told_pruned_or_left_out(mlp, told, freeze, names):
    model = mlp()
    freeze(model)
    wrapped, (message,) = told(model, None)
    assert ", ".join(map(repr, names)) in message and "`prune_frozen=False`" in message
    assert len(pruned_layers(wrapped)) == 2
    wrapped, messages = told(model, None, prune_frozen=True)
    assert messages == [] and len(pruned_layers(wrapped)) == 2
    if names == ["first"]:
        wrapped, messages = told(model, None, prune_frozen=False)
        assert messages == []
        assert [wrapper.layer.name for wrapper in pruned_layers(wrapped)] == ["second"]
        assert summarize(wrapped).left_out == {"first": "not wrapped"}
    else:
        with pytest.raises(ValueError, match="frozen ones: first, second"):
            told(model, None, prune_frozen=False)


def test_frozen_layers_that_are_not_built_or_inside_others(told):
    frozen = layers.Dense(3, trainable=False, name="frozen")
    (_, messages) = told([frozen, layers.Dense(3)], None)
    assert len(messages) == 1 and "'frozen'" in messages[0]
    cell = layers.Bidirectional(layers.LSTM(3), name="both")
    model = keras.Sequential([keras.Input((4, 2)), cell, layers.Dense(2, name="head")])
    cell.trainable = False
    wrapped, _ = told(model, None, prune_frozen=False)
    assert [wrapper.layer.name for wrapper in pruned_layers(wrapped)] == ["head"]


class Own(layers.Layer):
    def build(self, input_shape):
        self.kernel = self.add_weight(shape=(input_shape[-1], 8), name="kernel")
        self.scale = self.add_weight(shape=(8,), name="scale")

    def call(self, inputs):
        return keras.ops.matmul(inputs, self.kernel) * self.scale


class Silent(Own):
    def get_prunable_weights(self):
        return []


class Block(layers.Layer):
    """A known layer beside a kernel of its own."""

    def __init__(self, **options):
        super().__init__(**options)
        self.dense = layers.Dense(4)

    def build(self, input_shape):
        self.dense.build(input_shape)
        self.mix = self.add_weight(shape=(4, 4), name="mix")

    def call(self, inputs):
        return keras.ops.matmul(self.dense(inputs), self.mix)


def test_layers_of_unknown_classes_that_stay_dense_are_told(told):
    def network(layer):
        return keras.Sequential([keras.Input((5,)), layer, layers.Dense(2, name="head")])

    _, (message,) = told(network(Own(name="mine")), None)
    assert "Layer 'mine'" in message and "Own: kernel (5, 8)" in message
    assert "`get_prunable_weights`" in message
    _, (message,) = told(network(Block(name="block")), None)
    assert "Layer 'block'" in message and "mix (4, 4)" in message
    for layer in (Silent(), layers.BatchNormalization(), layers.Dense(3)):
        assert told(network(layer), None)[1] == []
    assert told(network(Own()), None, layers="head")[1] == []


@pytest.mark.parametrize("name", ["keep_zeros", "prune_frozen"])
def test_choices_are_checked(mlp, name):
    with pytest.raises(ValueError, match=f"`{name}` must be True, False or None"):
        prune_low_magnitude(mlp(), None, **{name: "yes"})


def dense_files(model, folder):
    model.save_weights(folder / "model.weights.h5")
    model.save(folder / "model.keras")
    return [folder / "model.weights.h5", folder / "model.keras"]


def test_weights_of_a_dense_model_say_load_before_wrapping(mlp, tmp_path):
    for path in dense_files(mlp(), tmp_path):
        plain = mlp()
        model = prune_low_magnitude(plain, None)
        with pytest.raises(ValueError, match="Load before wrapping"):
            model.load_weights(path)
        plain.load_weights(path)  # It shares its weights with the wrapped one.
        np.testing.assert_array_equal(
            np.array(pruned_layers(model)[0].layer.kernel), np.array(plain.layers[0].kernel)
        )


@pytest.mark.slow
def test_weights_of_dense_nested_and_subclassed_models_say_so_too(mlp, tmp_path):
    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.inner = mlp()
            self.head = layers.Dense(2)

        def call(self, inputs):
            return self.head(self.inner(inputs))

    nested = [keras.Sequential([keras.Input((10,)), mlp(), layers.Dense(2)]) for _ in range(2)]
    own = [Net(), Net()]
    for model in own:
        model(np.zeros((1, 10), "float32"))
    for dense, other in (nested, own):
        dense.save_weights(tmp_path / "dense.weights.h5")
        with pytest.raises(ValueError, match="Load before wrapping"):
            prune_low_magnitude(other, None).load_weights(tmp_path / "dense.weights.h5")
