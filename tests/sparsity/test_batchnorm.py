"""BatchNorm after pruning: silent where a filter has no weight left, measured anew on the pruned network."""

import keras
import numpy as np
import pytest

from tfprune import sparsity
from tfprune.sparsity import recalibrate, reset_removed

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
    values = np.array(keras.ops.convert_to_numpy(kernel))
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


@pytest.mark.parametrize("training", [False, True])
def test_a_filter_without_weights_is_silent(training):
    model = pruned(removed=(0, 2))
    norm = model.get_layer("other_name")
    before, other = state(norm), state(model.get_layer("norm_b"))
    images = make_batches()[0][0]

    def channels():
        output = norm(convolve(model, "conv_a", images).astype("float32"), training=training)
        return keras.ops.convert_to_numpy(output)

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


@pytest.mark.slow
def test_the_statistics_are_those_of_all_batches_together():
    found, expected = recalibrated()
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-4, atol=1e-5)
    assert found[0][0][1] == found[0][1][1] == 0  # The filter without weights.


def test_recalibration_moves_nothing_else(to_numpy):
    model = pruned(removed=(1,))
    before = [to_numpy(variable) for variable in model.variables]
    norms = [model.get_layer(name) for name in ("other_name", "norm_b")]
    recalibrate(model, make_batches())
    pairs = zip(model.variables, before, strict=True)
    moved = {variable.path for variable, value in pairs if np.any(to_numpy(variable) != value)}
    statistics = {norm.moving_mean.path for norm in norms} | {norm.moving_variance.path for norm in norms}
    assert moved == statistics
    assert [norm.momentum for norm in norms] == [0.9, 0.99]
    assert int(model.optimizer.iterations) == 0


def test_recalibration_needs_a_batch():
    model = pruned()
    with pytest.raises(ValueError, match="`batches` must have at least one batch. Received: none"):
        recalibrate(model, [])
    assert model.get_layer("other_name").momentum == 0.9


@pytest.mark.slow
def test_recalibration_restores_seeds_and_metrics(to_numpy):
    model = make_network()
    dropped = keras.layers.Dropout(0.5, seed=1)(model.output)
    model = keras.Model(model.input, [dropped, dropped])
    losses = [keras.losses.SparseCategoricalCrossentropy(from_logits=True)] * 2
    model.compile("sgd", losses, metrics=[["accuracy"], []])
    images, labels = make_batches()[0]
    model.train_on_batch(images, [labels, labels])
    state = [*model.non_trainable_variables, *model.metrics_variables]
    before = {variable.path: to_numpy(variable) for variable in state if "moving" not in variable.path}
    assert any("seed" in path for path in before)
    recalibrate(model, [(images, [labels, labels])])
    after = {variable.path: to_numpy(variable) for variable in state if variable.path in before}
    for path, value in before.items():
        np.testing.assert_array_equal(after[path], value)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.conv = keras.layers.Conv2D(4, 3, name="conv")
        self.norm = keras.layers.BatchNormalization(name="norm")
        self.head = keras.layers.Dense(CLASSES)

    def call(self, x, training=None):
        x = self.norm(self.conv(x), training=training)
        return self.head(keras.ops.mean(x, axis=(1, 2)))


def test_a_subclassed_model_is_recalibrated():
    model = Subclassed()
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    batches = make_batches()
    model(batches[0][0])
    recalibrate(model, batches)
    outputs = keras.ops.convert_to_numpy(model.conv(np.concatenate([images for images, _ in batches])))
    found = state(model.norm)
    np.testing.assert_allclose(found["moving_mean"], outputs.mean(axis=(0, 1, 2)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["moving_variance"], outputs.var(axis=(0, 1, 2)), rtol=1e-4)


def test_a_model_that_is_not_compiled_cannot_be_recalibrated():
    with pytest.raises(ValueError, match="`model` must be compiled"):
        recalibrate(make_network(), make_batches())


def without_channel(layer, nested=False):
    """A network of one layer with a BatchNorm, in which the layer's output channel 1 has no weight."""
    inputs = keras.Input((6, 6, 2))
    x = layer(inputs)
    x = keras.layers.BatchNormalization(name="norm", beta_initializer="ones")(x)
    model = keras.Model(inputs, x)
    if nested:
        outer = keras.Input((6, 6, 2))
        model = keras.Model(outer, model(outer))
    wrapped = sparsity.prune_low_magnitude(model, None)
    (wrapper,) = sparsity.pruned_layers(wrapped)
    mask = np.ones(wrapper.masks[0].shape, bool)
    axis = -2 if isinstance(layer, keras.layers.Conv2DTranspose) else -1
    np.moveaxis(mask, axis, 0)[1] = False
    wrapper.masks[0].assign(mask)
    return wrapped


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("cls", [keras.layers.Conv2D, keras.layers.Conv2DTranspose])
def test_output_channels_are_those_of_the_layer(cls, nested):
    """A transposed convolution numbers them by its last axis but one; here it has as many inputs."""
    model = without_channel(cls(2, 3, use_bias=False, name="conv"), nested)
    assert reset_removed(model) == {"conv": 1}
    images = make_batches()[0][0]
    outputs = keras.ops.convert_to_numpy(model(images))
    assert not outputs[..., 1].any() and outputs[..., 0].all()


@pytest.mark.parametrize("activation, silenced", [("relu", {"conv": 1}), ("sigmoid", {}), ("softplus", {})])
def test_a_layer_whose_activation_makes_something_of_nothing_is_left_out(activation, silenced):
    layer = keras.layers.Conv2D(3, 3, use_bias=False, activation=activation, name="conv")
    assert reset_removed(without_channel(layer)) == silenced


def test_the_connections_must_be_known():
    with pytest.raises(ValueError, match="`model` must be a built functional or Sequential model"):
        reset_removed(Subclassed())


def test_a_model_with_a_schedule_is_recalibrated_without_a_pruner(to_numpy):
    """Nobody trains it; training without the callback stays an error."""
    model = sparsity.prune_low_magnitude(make_network(), sparsity.ConstantSparsity(0.5, begin_step=0))
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x = np.random.default_rng(0).normal(size=(8, 6, 6, 2)).astype("float32")
    y = np.arange(8) % CLASSES
    before = to_numpy(model.get_layer("norm_b").moving_mean)
    recalibrate(model, [(x, y)])
    assert not np.array_equal(to_numpy(model.get_layer("norm_b").moving_mean), before)
    with pytest.raises(RuntimeError, match="without a pruning callback"):
        model.fit(x, y, verbose=0)
