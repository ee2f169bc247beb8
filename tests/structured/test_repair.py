"""What is cut out of a network is moved into what stays of it."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from tfprune.channels.cut import build_smaller
from tfprune.channels.groups import Traced
from tfprune.sparsity import ConstantSparsity, masks_of, prune_low_magnitude, prune_to
from tfprune.structured.plan import plan
from tfprune.structured.regression import METHODS
from tfprune.structured.repair import repaired

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(40, 6, 6, 3)).astype("float32")
VECTORS = np.random.default_rng(1).normal(size=(40, 8)).astype("float32")
STEPS = RNG.normal(size=(40, 5, 8)).astype("float32")


def duplicated(kernel):
    """Each odd channel is a multiple of the channel before it."""
    kernel[..., 1::2] = kernel[..., ::2] * np.array([0.5, 2.0, 3.0, 1.0], "float32")


def combined(kernel):
    """Each odd channel is a sum of two even ones."""
    even = kernel[..., ::2]
    kernel[..., 1::2] = 0.5 * even - 2 * np.roll(even, 1, -1)


def constant(kernel):
    """Each odd channel is its bias."""
    kernel[..., 1::2] = 0


def functional(inputs, *stack):
    x = inputs
    for layer in stack:
        x = layer(x)
    return keras.Model(inputs, x)


def first(units=8, **arguments):
    return layers.Dense(units, name="first", **arguments)


def image_model(*stack):
    return functional(keras.Input((6, 6, 3)), layers.Conv2D(8, 3, name="first"), *stack)


def step_model(*stack):
    return functional(keras.Input((5, 8)), first(), *stack)


MODELS = {
    "dense": lambda: functional(keras.Input((8,)), first(), layers.Dense(4)),
    "dense without bias": lambda: functional(keras.Input((8,)), first(), layers.Dense(4, use_bias=False)),
    "convolution": lambda: image_model(layers.Conv2D(5, 2, strides=2), layers.Flatten(), layers.Dense(3)),
    "convolution and BatchNorm": lambda: image_model(
        layers.Conv2D(5, 3, use_bias=False), layers.BatchNormalization(), layers.ReLU(), layers.Dense(2)
    ),
    "convolution without bias": lambda: image_model(layers.Conv2D(5, 3, use_bias=False, activation="tanh")),
    "transposed": lambda: image_model(layers.Conv2DTranspose(5, 2, strides=2)),
    "separable": lambda: image_model(layers.SeparableConv2D(5, 3, depth_multiplier=2)),
    "flattened": lambda: image_model(layers.Flatten(), layers.Dense(4)),
    "depthwise": lambda: image_model(layers.AveragePooling2D(2), layers.Conv2D(5, 1)),
    "einsum": lambda: step_model(
        layers.EinsumDense("abc,cde->abde", (5, 3, 2), bias_axes="de"), layers.Reshape((5, 6))
    ),
    "lstm": lambda: step_model(layers.LSTM(4)),
    "gru": lambda: step_model(layers.GRU(4, return_sequences=True), layers.Dense(2)),
    "bidirectional": lambda: step_model(layers.Bidirectional(layers.SimpleRNN(4))),
    "time distributed": lambda: step_model(layers.TimeDistributed(layers.Dense(3))),
    "nested": lambda: step_model(functional(keras.Input((5, 8)), layers.Dense(6, activation="relu"))),
}


def inputs_of(model):
    shape = model.inputs[0].shape[1:]
    return IMAGES if shape == (6, 6, 3) else STEPS if shape == (5, 8) else STEPS[:, 0]


def made(kind, change=None):
    keras.utils.set_random_seed(0)
    model = MODELS[kind]()
    layer = model.get_layer("first")
    kernel = ops.convert_to_numpy(layer.kernel).copy()
    if change is not None:
        change(kernel)
    layer.kernel.assign(kernel)
    if change is constant:
        layer.bias.assign(RNG.normal(size=8))
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.moving_mean.assign(RNG.normal(size=layer.moving_mean.shape))
            layer.moving_variance.assign(RNG.uniform(0.5, 2, layer.moving_mean.shape))
        if isinstance(layer, layers.SeparableConv2D):  # Alike for all channels, which so stay alike.
            layer.depthwise_kernel.assign(RNG.normal(size=(3, 3, 1, 2)) + np.zeros((3, 3, 8, 2)))
    return model


def without_odd(model, of="first"):
    """The channels of a model, and which sets stay without the odd channels of the layer."""
    traced = Traced(model)
    (labels,) = (
        one.labels
        for one in traced.slices
        if one.layer.name == of and one.role == "makes" and len(one.variable.shape) > 1
    )
    stays = np.ones(traced.count, bool)
    stays[traced.sets[labels[1::2]]] = False
    return traced, stays


def error(model, small):
    """The largest difference of the outputs on inputs that the repair has not seen."""
    inputs = RNG.permuted(inputs_of(model).reshape(-1)).reshape(inputs_of(model).shape)
    expected = ops.convert_to_numpy(model(inputs))
    return np.abs(ops.convert_to_numpy(small(inputs)) - expected).max() / np.abs(expected).max()


# The others' NumPy is the same on every backend, and JAX takes seconds to compile their layers.
EVERYWHERE = ("convolution and BatchNorm", "einsum")
EXACT = [(constant, "constant"), (duplicated, "merge"), (combined, "ridge")]


def check(kind, change, method):
    model = made(kind, change)
    traced, stays = without_odd(model)
    before = [ops.convert_to_numpy(weight).copy() for weight in model.weights]
    small = repaired(traced, stays, inputs_of(model), method)
    for weight, values in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(weight), values)
    # Ridge regression shrinks a little.
    assert error(model, small) < (1e-2 if method == "ridge" else 1e-5), (change.__name__, method)
    assert small.count_params() < model.count_params()


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    [kind if kind in EVERYWHERE else pytest.param(kind, marks=pytest.mark.one_backend) for kind in MODELS],
)
def test_exact_cases_of_each_kind_of_layer(kind):
    for change, method in EXACT:
        if (kind, change) != ("transposed", constant):  # Each output meets other weights.
            check(kind, change, method)


@pytest.mark.parametrize(
    ("change", "method"), [(constant, "merge"), (constant, "ridge"), (duplicated, "ridge")]
)
def test_exact_cases_of_stronger_methods(change, method):
    check("convolution and BatchNorm", change, method)


def test_the_constant_goes_into_the_mean_of_the_only_taker_or_into_a_new_bias():
    model = made("convolution and BatchNorm", constant)
    small = repaired(*without_odd(model), IMAGES, "constant")
    assert not small.layers[2].use_bias
    # No variance is lost with a constant.
    old, new = (ops.convert_to_numpy(one.layers[3].moving_variance) for one in (model, small))
    np.testing.assert_allclose(new, old, rtol=1e-4)
    assert not np.allclose(*(ops.convert_to_numpy(one.layers[3].moving_mean) for one in (small, model)))
    small = repaired(*without_odd(made("convolution without bias", constant)), IMAGES, "constant")
    assert small.layers[2].use_bias


def test_the_variance_of_a_batch_norm_is_that_of_what_is_left():
    model = made("convolution and BatchNorm")
    small = repaired(*without_odd(model), IMAGES, "constant")
    inputs = []
    for one in (model, small):
        part = keras.Model(one.inputs[0], one.layers[2].output)
        inputs.append(ops.convert_to_numpy(part(IMAGES)).reshape(-1, 5))
    for moment, name in [(np.var, "moving_variance"), (np.mean, "moving_mean")]:
        old, new = (ops.convert_to_numpy(getattr(one.layers[3], name)) for one in (model, small))
        whole, left = (moment(values, axis=0) for values in inputs)
        changed = old * left / whole if name == "moving_variance" else old + left - whole
        np.testing.assert_allclose(new, changed, rtol=1e-3, atol=1e-5)
        assert not np.allclose(new, old, rtol=1e-2)


@pytest.mark.slow
@pytest.mark.one_backend
def test_heads_of_attention():
    """A removed head is a copy of another one: what takes it takes the other twice."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((5, 8))
    attention = layers.MultiHeadAttention(4, 3, name="first")
    model = keras.Model(inputs, attention(inputs, inputs))
    for name in ("query", "key", "value"):
        part = getattr(attention, f"_{name}_dense")
        kernel = ops.convert_to_numpy(part.kernel).copy()
        kernel[:, 1::2] = kernel[:, ::2]
        part.kernel.assign(kernel)
    traced = Traced(model)
    labels = next(
        one.labels
        for one in traced.slices
        if one.variable is attention._query_dense.kernel and one.role == "makes"
    )
    stays = np.ones(traced.count, bool)
    stays[traced.sets[labels[1::2]]] = False
    for method, tolerance in [("merge", 1e-5), ("ridge", 5e-3)]:
        assert error(model, repaired(traced, stays, STEPS, method)) < tolerance


@pytest.mark.slow
@pytest.mark.one_backend
def test_better_methods_are_nearer():
    inputs = keras.Input((6, 6, 3))
    x = layers.Conv2D(16, 3, padding="same", name="first", activation="relu")(inputs)
    y = layers.Conv2D(16, 3, padding="same", use_bias=False)(x)
    y = layers.ReLU()(layers.BatchNormalization()(y))
    x = layers.LayerNormalization()(layers.Add()([x, y]))
    model = keras.Model(inputs, layers.Dense(4)(layers.GlobalAveragePooling2D()(x)))
    rng = np.random.default_rng(1)
    for weight in model.trainable_weights:
        if len(weight.shape) > 1:  # Channels have much in common.
            some = rng.normal(size=(*weight.shape[:-1], 3)) @ rng.normal(size=(3, weight.shape[-1]))
            weight.assign((some + 0.3 * rng.normal(size=weight.shape)) / np.prod(weight.shape[:-1]) ** 0.5)
    traced, stays = without_odd(model)
    cut = build_smaller(model, traced.trace.cuts, lambda labels: stays[traced.sets[labels]])
    images = np.abs(rng.normal(size=(200, 6, 6, 3))).astype("float32")
    expected = ops.convert_to_numpy(model(images[150:]))
    errors = [np.square(ops.convert_to_numpy(cut(images[150:])) - expected).mean()]
    for method in METHODS:
        small = repaired(traced, stays, images[:150], method)
        errors.append(np.square(ops.convert_to_numpy(small(images[150:])) - expected).mean())
    assert errors[0] > 2 * errors[1] and errors[1] > errors[2] and errors[2] > errors[3], errors


def test_a_wrapped_model_stays_wrapped_and_its_removed_weights_removed():
    model = prune_low_magnitude(made("dense", duplicated), ConstantSparsity(0.5, begin_step=0))
    prune_to(model, 0.5)
    traced, stays = without_odd(model)
    small = repaired(traced, stays, STEPS[:, 0], "ridge")
    plain = build_smaller(model, traced.trace.cuts, lambda labels: stays[traced.sets[labels]])
    assert masks_of(small).keys() == masks_of(model).keys()
    for name, mask in masks_of(small).items():
        np.testing.assert_array_equal(mask, masks_of(plain)[name])
    expected = ops.convert_to_numpy(model(STEPS[:, 1]))
    errors = [np.square(ops.convert_to_numpy(one(STEPS[:, 1])) - expected).mean() for one in (small, plain)]
    assert errors[0] < errors[1]


@pytest.mark.parametrize(
    ("images", "method", "message"),
    [
        (IMAGES, "mean", "`repair` must be None or one of constant, merge, ridge. Received: repair='mean'"),
        (None, "ridge", "`images` must be inputs of the model, for a repair. Received: images=None"),
        (5, "ridge", "`images` must be inputs of the model, or batches of them. Received: images=5"),
        (iter([]), "ridge", "`images` must have at least one batch. Received: none"),
        (iter([IMAGES[0]]), "ridge", r"inputs, \[\(None, 6, 6, 3\)\]. Received: \[\(6, 6, 3\)\]"),
        (IMAGES[:1], "constant", r"`images` must be two at least, as many for each input. Received: \[1\]"),
        (IMAGES[0], "ridge", r"inputs, \[\(None, 6, 6, 3\)\]. Received: \[\(6, 6, 3\)\]"),
        (IMAGES[:3], "ridge", "4 at layer 'pooled'. Received: 3 images that give 3 "),
        (IMAGES[:3], "merge", "a sample for each 8 channels that stay, for repair='merge': 4 at"),
        (
            IMAGES[:3] * np.nan,
            "constant",
            "finite values. Received: images that give others at layer 'pooled'",
        ),
    ],
)
def test_errors(images, method, message):
    model = functional(
        keras.Input((6, 6, 3)),
        layers.Conv2D(64, 3, name="first"),
        layers.GlobalAveragePooling2D(),
        layers.Dense(2, name="pooled"),
    )
    with pytest.raises(ValueError, match=message):
        repaired(*without_odd(model), images, method)


@pytest.mark.slow
def test_a_plan_is_applied_with_a_repair():
    model = made("convolution", duplicated)
    planned = plan(model, params=0.5)
    traced, stays, found = planned.traced, planned.stays, planned.apply(repair="ridge", images=IMAGES)
    for one, other in zip(found.weights, repaired(traced, stays, IMAGES, "ridge").weights, strict=True):
        np.testing.assert_allclose(*map(ops.convert_to_numpy, (one, other)), rtol=1e-6)
    assert found.count_params() == planned.after.parameters
    with pytest.raises(ValueError, match="`images` must be None without `repair`"):
        planned.apply(images=IMAGES)


def test_images_may_come_in_batches_with_labels_or_without():
    cut = without_odd(made("dense", duplicated))
    whole = repaired(*cut, VECTORS, "ridge").get_weights()
    parts = [VECTORS[start : start + 17] for start in range(0, len(VECTORS), 17)]
    for batches in (iter(parts), ((part, np.zeros(len(part))) for part in parts), map(ops.array, parts)):
        for one, other in zip(whole, repaired(*cut, batches, "ridge").get_weights(), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_three_images_are_enough_where_they_have_positions():
    model = functional(keras.Input((6, 6, 3)), layers.Conv2D(64, 3, name="first"), layers.Conv2D(2, 1))
    assert repaired(*without_odd(model), IMAGES[:3], "ridge").layers[1].filters == 32
