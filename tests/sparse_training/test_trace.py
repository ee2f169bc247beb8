"""A Keras model as a graph: each layer computes what Keras does; what cannot be trained is named."""

import collections

import keras
import numpy as np
import pytest
from keras import layers, ops

from tests.support.compiled_models import randomise
from tests.support.training_reference import ReferenceEngine
from tfprune.models.resnet import build_resnet
from tfprune.sparse_training.errors import UnsupportedError
from tfprune.sparse_training.graph import BatchNorm, Conv, Dropout
from tfprune.sparse_training.trace import trace
from tfprune.sparsity import masks_of, prune_low_magnitude, prune_to

pytestmark = pytest.mark.one_backend


def model_of(*chain, size=(6, 7), channels=4, head=True):
    """A model of layers (or functions of a tensor) one after the other, then a flattening and a head."""
    image = x = keras.Input((*size, channels) if size else (channels,), name="image")
    for layer in chain:
        x = layer(x)
    if head:
        x = layers.Dense(3, name="head")(layers.Flatten()(x))
    return keras.Model(image, x)


def kinds(model):
    return collections.Counter(type(node).__name__ for node in trace(model).graph.nodes)


def ended(traced, outputs):
    """What the backend makes of the outputs of a graph."""
    outputs = ops.reshape(ops.convert_to_tensor(outputs), (-1, *traced.output_shape))
    for function in traced.ending:
        outputs = function(outputs)
    return ops.convert_to_numpy(outputs)


def assert_same(model, training=True):
    """The graph computes what the model does, in evaluation and in training, statistics too."""
    traced = trace(randomise(model))
    engine = ReferenceEngine(traced.graph, 3)
    images = np.random.default_rng(1).uniform(-2, 2, (3, *model.input_shape[1:]))
    if "float" not in traced.input_dtype:
        images = images * 60 + 128
    images = images.astype(traced.input_dtype)
    for mode in (False, True)[: 1 + training]:
        expected = ops.convert_to_numpy(model(images, training=mode))
        np.testing.assert_allclose(
            ended(traced, engine.forward(images, training=mode)), expected, rtol=2e-4, atol=2e-4
        )
    for name, statistics in traced.statistics.items():
        for found, wanted in zip(engine.moving(name), (statistics.mean, statistics.variance), strict=True):
            np.testing.assert_allclose(found, ops.convert_to_numpy(wanted), rtol=1e-4, atol=1e-5)
    return traced


CHAINS = {
    "same": lambda: [layers.Conv2D(5, 3, padding="same")],
    "strided same": lambda: [layers.Conv2D(5, (3, 2), strides=(2, 3), padding="same", activation="relu")],
    "valid": lambda: [layers.Conv2D(5, (2, 5), strides=(3, 1), use_bias=False)],
    "dilated": lambda: [layers.Conv2D(5, 3, dilation_rate=(2, 3), padding="same")],
    "grouped": lambda: [layers.Conv2D(6, 3, groups=2, padding="same")],
    "depthwise": lambda: [layers.DepthwiseConv2D(3, depth_multiplier=2, strides=2, padding="same")],
    "separable": lambda: [layers.SeparableConv2D(5, 3, depth_multiplier=2, activation="tanh")],
    "dense on images": lambda: [layers.Dense(5, activation="silu")],
    "normalized": lambda: [layers.Conv2D(5, 3), layers.BatchNormalization(momentum=0.9), layers.ReLU()],
    "plain normalization": lambda: [layers.BatchNormalization(scale=False, center=False, epsilon=0.1)],
    "frozen normalization": lambda: [layers.BatchNormalization(trainable=False)],
    "normalized vectors": lambda: [layers.GlobalAveragePooling2D(), layers.BatchNormalization()],
    "pools": lambda: [layers.MaxPooling2D(3, 2, padding="same"), layers.AveragePooling2D(2, padding="same")],
    "padded pool": lambda: [layers.ZeroPadding2D(((1, 0), (2, 1))), layers.MaxPooling2D(2)],
    "padded mean": lambda: [layers.ZeroPadding2D(1), layers.AveragePooling2D(2)],
    "padded same pool": lambda: [layers.ZeroPadding2D(1), layers.MaxPooling2D(2, padding="same")],
    "padded convolution": lambda: [layers.ZeroPadding2D(1), layers.ZeroPadding2D(1), layers.Conv2D(5, 3)],
    "global maximum": lambda: [layers.GlobalMaxPooling2D(keepdims=True), layers.Dense(4)],
    "flat": lambda: [layers.Flatten(), layers.Activation("tanh"), layers.Dense(8, activation="relu6")],
    "reshaped": lambda: [layers.Reshape((-1,)), layers.Reshape((6, 7, 4)), layers.Reshape((168,))],
    "activations": lambda: [
        layers.LeakyReLU(negative_slope=0.1),
        layers.ReLU(negative_slope=0.3),
        ops.sigmoid,
        layers.Activation("hard_silu"),
        layers.Activation("hard_sigmoid"),
        ops.relu6,
    ],
    "residual": lambda: [
        lambda x: layers.Add()([layers.Conv2D(4, 3, padding="same")(x), x, x]),
        lambda x: x + layers.ReLU()(x),
    ],
    "squeeze": lambda: [
        lambda x: layers.Multiply()([layers.GlobalAveragePooling2D(keepdims=True)(x), x]),
        lambda x: x * ops.tanh(x),
    ],
    "concatenated": lambda: [lambda x: layers.Concatenate()([x, layers.Conv2D(2, 1)(x), x])],
    "arithmetic": lambda: [lambda x: 2.0 - layers.ReLU()(x / 3.0 + 1.0) * 0.5],
    "identity": lambda: [layers.Identity(), layers.Dropout(0.0)],
}


@pytest.mark.parametrize("kind", CHAINS)
def test_layers_compute_what_keras_does(kind):
    assert_same(model_of(*CHAINS[kind]()))


def test_zeros_around_images_go_into_windows():
    assert kinds(model_of(*CHAINS["padded convolution"]())) == {"Input": 1, "Conv": 2}
    assert kinds(model_of(*CHAINS["padded mean"]())) == {"Input": 1, "Pool": 1, "Conv": 1}
    assert kinds(model_of(*CHAINS["padded same pool"]()))["Pad"] == 1  # Zeros count, the others do not.


def test_a_dense_layer_of_a_flattened_image_is_a_window_of_all_of_it():
    traced = assert_same(model_of(size=(5, 4)))
    (conv,) = (node for node in traced.graph.nodes if isinstance(node, Conv))
    assert conv.kernel.shape == (5, 4, 4, 3)


def test_pixels_are_scaled_by_the_input():
    image = keras.Input((6, 6, 3), dtype="uint8")
    x = layers.Normalization(mean=[10.0, 20.0, 30.0], variance=[4.0, 9.0, 16.0])(image)
    x = layers.Rescaling(0.5, offset=1.0)(x)
    model = keras.Model(image, layers.Dense(3)(layers.Flatten()(x * 2.0)))
    assert_same(model)
    assert kinds(model) == {"Input": 1, "Conv": 1}


def test_a_scaled_input_with_another_use_stays():
    model = model_of(lambda x: layers.Rescaling(2.0)(x) + x)
    assert_same(model)
    assert kinds(model)["Affine"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("stem", ["imagenet", "cifar"])
def test_resnet(stem):
    model = build_resnet("resnet18", classes=5, image_size=32, width=2, stem=stem, seed=1)
    pruned = prune_low_magnitude(model, None)
    traced = trace(pruned)
    assert_same(pruned, training=False)
    made = kinds(pruned)
    # Nothing but what the engine computes in few passes: no zeros, no scales.
    assert set(made) == {"Input", "Conv", "BatchNorm", "Activation", "Add", "GlobalPool"} | (
        {"Pool"} if made["Pool"] else set()
    )
    assert len(traced.masks) == made["Conv"] and len(traced.statistics) == made["BatchNorm"]


@pytest.mark.slow
def test_mobilenet():
    model = keras.applications.MobileNetV2((32, 32, 3), alpha=0.35, weights=None, classes=4)
    traced = assert_same(model, training=False)
    assert len(traced.ending) == 1  # The softmax.


def test_mlp():
    traced = assert_same(model_of(layers.Dense(7, activation="relu"), layers.Dropout(0.0), size=None))
    assert traced.graph.nodes[0].shape == (1, 1, 4)


def test_nested_models_are_taken_apart():
    inner = keras.Sequential(
        [keras.Input((6, 7, 4)), layers.Conv2D(4, 3, padding="same", name="conv")], name="block"
    )
    model = model_of(inner, keras.Sequential([layers.ReLU(name="relu")], name="act"))
    traced = assert_same(model)
    assert [node.name for node in traced.graph.nodes] == ["image", "block/conv", "act/relu", "head"]


def test_shared_layers_have_one_kernel():
    conv = layers.Conv2D(4, 3, padding="same")
    traced = assert_same(model_of(conv, layers.ReLU(), conv))
    first, second = (
        node for node in traced.graph.nodes if isinstance(node, Conv) if node.kernel.shape[0] == 3
    )
    assert first.kernel is second.kernel and first.bias is second.bias
    assert len(traced.variables) == 4


def test_masks_say_which_weights_stay():
    pruned = prune_low_magnitude(randomise(model_of(layers.Conv2D(5, 3, name="conv"))), None)
    prune_to(pruned, 0.75)
    traced = trace(pruned)
    mask = masks_of(pruned)["conv/kernel"]
    kernel = next(node for node in traced.graph.nodes if isinstance(node, Conv)).kernel
    np.testing.assert_array_equal(kernel.positions, np.flatnonzero(mask))
    variable = traced.variables[kernel.name]
    np.testing.assert_array_equal(kernel.values, ops.convert_to_numpy(variable)[mask])
    assert kernel.density == 0.25
    assert_same(pruned, training=False)


def test_kernels_without_removed_weights_are_dense():
    pruned = prune_low_magnitude(model_of(layers.Conv2D(5, 3)), None)
    assert all(node.kernel.positions is None for node in trace(pruned).graph.nodes if isinstance(node, Conv))


def test_what_is_frozen_does_not_learn():
    model = model_of(layers.Conv2D(4, 3, trainable=False), layers.BatchNormalization(trainable=False))
    graph = trace(model).graph
    assert [parameter.trainable for parameter in graph.parameters] == [False] * 4 + [True] * 2
    assert [node.frozen for node in graph.nodes if isinstance(node, BatchNorm)] == [True]


def test_dropout_draws_by_the_seed_of_its_layer():
    model = model_of(
        layers.Dropout(0.3, seed=7),
        layers.SpatialDropout2D(0.5, seed=8),
        layers.Dropout(0.1, noise_shape=(None, 1, 1, 1)),
    )
    one, other, whole = (node for node in trace(model).graph.nodes if isinstance(node, Dropout))
    assert (one.rate, one.whole_channels, one.seed) == (0.3, False, 7)
    assert (other.rate, other.whole_channels, other.seed) == (0.5, True, 8)
    assert whole.whole_images and not (one.whole_images or other.whole_images)


@pytest.mark.parametrize(
    ("activation", "functions"),
    [("softmax", 1), ("linear", 0), ("sigmoid", 1), ("gelu", 1), (keras.activations.softplus, 1)],
)
def test_the_last_activation_is_the_backends(activation, functions):
    traced = assert_same(model_of(layers.Flatten(), layers.Dense(4, activation=activation), head=False))
    assert len(traced.ending) == functions
    assert kinds(model_of(layers.Flatten(), layers.Dense(4, activation=activation), head=False)) == {
        "Input": 1,
        "Conv": 1,
    }


def test_outputs_may_be_images():
    assert_same(model_of(layers.Conv2D(3, 3), layers.Softmax(), head=False))
    assert_same(model_of(layers.Conv2D(3, 3), layers.Flatten(), head=False))


class Own(layers.Dense):
    """May compute anything."""


REFUSED = {
    "class": ([layers.LayerNormalization()], "'layer_normalization", "its class is none"),
    "subclass": ([Own(3)], "(Own)", "its class is none"),
    "operation": ([ops.sin], "(Sin)", "its class is none"),
    "activation": ([layers.Conv2D(3, 3, activation="gelu")], "must be one of relu", "Received: gelu"),
    "own activation": ([layers.Activation(lambda x: x * x)], "must be one of relu", "Received: <lambda>"),
    "elu": ([layers.ELU(0.5)], "must be one of relu", "Received: elu"),
    "clipping": ([lambda x: ops.clip(x, 0, 1)], "must be one of relu", "Received: clip"),
    "first": (
        [layers.GlobalAveragePooling2D(data_format="channels_first")],
        "'channels_last'",
        "",
    ),
    "precision": ([layers.Dense(3, dtype="mixed_bfloat16")], "compute in float32", "mixed_bfloat16"),
    "regularizer": ([layers.Dense(3, kernel_regularizer="l2")], "no regularizer", ""),
    "activity": ([layers.Dense(3, activity_regularizer="l2")], "no regularizer", ""),
    "constraint": ([layers.Dense(3, bias_constraint="non_neg")], "no constraint", ""),
    "axis": ([layers.BatchNormalization(axis=1)], "`axis` must be the last one", "axis=1"),
    "flattened": ([layers.Flatten(), layers.BatchNormalization()], "must not take a flattened image", ""),
    "reshape": ([layers.Reshape((7, 6, 4))], "the image of it again", "(6, 7, 4) to (7, 6, 4)"),
    "noise": ([layers.Dropout(0.5, noise_shape=(None, 6, 1, 1))], "`noise_shape` must be None", ""),
    "axes": ([layers.Reshape((42, 4))], "2 or 4 axes", "Received: 3"),
    "difference": ([lambda x: x - ops.relu(x)], "one operand must be a constant", ""),
    "inverse": ([lambda x: 1.0 / x], "a constant divided by a tensor", ""),
    "broadcast": ([lambda x: x + layers.GlobalMaxPooling2D(keepdims=True)(x)], "the same shape", ""),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_trained_is_named(kind):
    chain, *said = REFUSED[kind]
    with pytest.raises(UnsupportedError) as error:
        trace(model_of(*chain))
    assert all(words in str(error.value) for words in ["the sparse trainer cannot train it", "layer", *said])


def test_all_that_cannot_be_trained_is_named_at_once():
    image = keras.Input((6, 6, 3))
    x = layers.LayerNormalization(name="one")(image)
    x = layers.Conv2D(4, 3, activation="gelu", name="two")(x)
    x = layers.Reshape((16, 4), name="three")(x)
    x = layers.Conv1D(4, 3, name="four")(x)
    x = layers.GlobalAveragePooling1D(name="five")(x)
    x = layers.Dense(4, name="six")(x)
    with pytest.raises(UnsupportedError) as error:
        trace(keras.Model(image, layers.Dense(3, kernel_constraint="max_norm", name="seven")(x)))
    named = [
        word for word in ("one", "two", "three", "four", "five", "six", "seven") if word in str(error.value)
    ]
    assert named == ["one", "two", "three", "four", "five", "seven"]


def test_shared_statistics_are_refused():
    norm = layers.BatchNormalization()
    with pytest.raises(UnsupportedError, match="must be called once"):
        trace(model_of(norm, layers.ReLU(), norm))
    norm.trainable = False
    assert_same(model_of(norm, layers.ReLU(), norm))


def test_integers_must_be_scaled_first():
    image = keras.Input((6, 6, 3), dtype="uint8")
    with pytest.raises(UnsupportedError, match="rescale or cast the integers first"):
        trace(keras.Model(image, layers.MaxPooling2D()(image)))


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (lambda: keras.Sequential([layers.Dense(3)]), "built"),
        (lambda: model_of(lambda x: [x, ops.relu(x)], head=False), "one input and one output"),
        (lambda: model_of(size=(None, 4), head=False), "of a fixed size"),
        (lambda: type("Subclassed", (keras.Model,), {})(), "without a `call` of its own"),
    ],
)
def test_other_models_are_refused(model, said):
    with pytest.raises(UnsupportedError, match=said):
        trace(model())
