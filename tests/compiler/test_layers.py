"""Each kind of layer: what it becomes, and what is refused."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from tests.support.compiled_models import assert_same, kinds, outputs_of, randomise, run_in_runtime
from tfprune.compiler.compile import compile_model
from tfprune.compiler.einsum import einsum_kernel
from tfprune.compiler.layers import LAYERS, Entry
from tfprune.errors import UserError
from tfprune.runtime.graph import ACTIVATIONS, LARGEST, Conv


def model_of(*chain, size=(9, 12), channels=4, head=True):
    """A model of the layers (or functions of a tensor) one after the other, then a flattening and a head."""
    image = x = keras.Input((*size, channels), name="image")
    for layer in chain:
        x = layer(x)
    if head:
        x = layers.Dense(3, name="head")(layers.Flatten()(x))
    return keras.Model(image, x)


def compile_and_compare(model):
    graph = compile_model(randomise(model))
    assert_same(model, graph, low=-2, high=2)
    return graph


CONVOLUTIONS = {
    "same": lambda: layers.Conv2D(5, 3, padding="same"),
    "strided same": lambda: layers.Conv2D(5, (3, 2), strides=(2, 3), padding="same"),
    "even same": lambda: layers.Conv2D(5, 4, strides=2, padding="same", use_bias=False),
    "valid": lambda: layers.Conv2D(5, (2, 5), strides=(3, 1)),
    "dilated same": lambda: layers.Conv2D(5, 3, dilation_rate=(2, 3), padding="same"),
    "dilated valid": lambda: layers.Conv2D(5, 3, dilation_rate=2),
    "grouped": lambda: layers.Conv2D(6, 3, groups=2, padding="same"),
    "wide stride": lambda: layers.Conv2D(5, 1, strides=4, padding="same"),
    "depthwise": lambda: layers.DepthwiseConv2D(3, padding="same"),
    "depthwise strided": lambda: layers.DepthwiseConv2D(3, strides=2, padding="same", use_bias=False),
    "depthwise multiplied": lambda: layers.DepthwiseConv2D(3, depth_multiplier=3, activation="relu"),
    "separable": lambda: layers.SeparableConv2D(5, 3, padding="same", depth_multiplier=2, activation="tanh"),
    "separable strided": lambda: layers.SeparableConv2D(5, 3, strides=2, padding="same", use_bias=False),
    "dense on images": lambda: layers.Dense(5, activation="relu"),
}


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_convolutions(kind):
    """Each with a BatchNorm behind it, which goes into it where no activation is between."""
    layer = CONVOLUTIONS[kind]()
    graph = compile_and_compare(model_of(layer, layers.BatchNormalization()))
    activated = layer.activation is not keras.activations.linear
    assert kinds(graph)["Conv"] == 2 + activated + (type(layer) is layers.SeparableConv2D)


@pytest.mark.parametrize("size", [(7, 7), (8, 11)])
@pytest.mark.parametrize("pool", [layers.MaxPooling2D, layers.AveragePooling2D])
def test_pools(pool, size):
    for arguments in ({"padding": "same"}, {}, {"strides": 1, "padding": "same"}, {"strides": (3, 2)}):
        graph = compile_and_compare(model_of(pool((3, 2), **arguments), size=size))
        assert not graph.nodes[1].padding_counts


@pytest.mark.parametrize("size", [(9, 12), (10, 7), (3, 4)])
@pytest.mark.parametrize("pool", [layers.AdaptiveMaxPooling2D, layers.AdaptiveAveragePooling2D])
def test_pools_to_a_size(pool, size):
    graph = compile_and_compare(model_of(pool((3, 4)), size=size))
    assert size != (9, 12) or kinds(graph) == {"Input": 1, "Pool": 1, "Flatten": 1, "Conv": 1}


@pytest.mark.parametrize("keepdims", [True, False])
@pytest.mark.parametrize("pool", [layers.GlobalMaxPooling2D, layers.GlobalAveragePooling2D])
def test_global_pools(pool, keepdims):
    graph = compile_and_compare(model_of(pool(keepdims=keepdims)))
    assert kinds(graph) == {"Input": 1, "GlobalPool": 1, "Conv": 1}


PADDING = ((1, 0), (2, 1))


@pytest.mark.parametrize(
    ("chain", "kinds_wanted"),
    [
        ([layers.Conv2D(5, 3, strides=2)], {"Conv": 2}),
        ([layers.Conv2D(5, 3, padding="same")], {"Conv": 2}),
        ([layers.DepthwiseConv2D(3)], {"Conv": 2}),
        ([layers.ZeroPadding2D(2), layers.Conv2D(5, 3)], {"Conv": 2}),
        ([layers.BatchNormalization(), layers.Conv2D(5, 3)], {"Conv": 3}),
        ([layers.MaxPooling2D(3)], {"Conv": 1, "Pool": 1}),
        ([layers.AveragePooling2D(3, strides=2)], {"Conv": 1, "Pool": 1}),
        # Zeros that count and a padding that does not: the zeros become a convolution.
        ([layers.AveragePooling2D(3, strides=2, padding="same")], {"Conv": 2, "Pool": 1}),
        ([layers.MaxPooling2D(2)], {"Conv": 2, "Pool": 1}),  # More zeros than the window has columns.
        ([layers.ReLU()], {"Conv": 2, "Activation": 1}),
        ([], {"Conv": 2}),
    ],
    ids=str,
)
def test_zero_padding(chain, kinds_wanted):
    chain = [layer.from_config(layer.get_config()) for layer in chain]
    graph = compile_and_compare(model_of(layers.ZeroPadding2D(PADDING), *chain))
    assert kinds(graph) == {"Input": 1, "Flatten": 1, **kinds_wanted}


def test_padding_used_twice_goes_into_both():
    def block(x):
        x = layers.ZeroPadding2D(1)(x)
        return layers.Concatenate()([layers.MaxPooling2D(3, 2)(x), layers.Conv2D(3, 3, strides=2)(x)])

    graph = compile_and_compare(model_of(block))
    assert kinds(graph) == {"Input": 1, "Pool": 1, "Concatenate": 1, "Flatten": 1, "Conv": 2}


# Names of Keras's functions of one argument.
NAMED = {name: name for name in ACTIVATIONS if hasattr(keras.activations, name)}
for left_out in ("threshold", "exponential"):  # With arguments; with the exponential of exponentials.
    del NAMED[left_out]
NAMED["hard_tanh"] = "clip"


@pytest.mark.parametrize("activation", NAMED)
def test_activations(activation):
    """In a layer, as a layer after a convolution, and alone."""
    head = layers.Dense(5, activation=activation)
    layer = layers.Activation(activation)
    if activation == "softmax":
        compile_and_compare(model_of(layers.Flatten(), head, layers.Softmax(), head=False))
        return
    conv = layers.Conv2D(5, 3)
    graph = compile_and_compare(model_of(conv, layer, layers.MaxPooling2D(), layer, layers.Flatten(), head))
    assert graph.nodes[1].activation == NAMED[activation]
    assert kinds(graph)["Activation"] == (activation != "linear")


@pytest.mark.parametrize(
    ("layer", "activation", "settings"),
    [
        (layers.ReLU(4), "general_relu", (0.0, 4.0, 0.0)),
        (layers.ReLU(6, negative_slope=0.25), "general_relu", (0.25, 6.0, 0.0)),
        (layers.ReLU(threshold=0.5), "general_relu", (0.0, LARGEST, 0.5)),
        (layers.ReLU(2.0, negative_slope=0.5, threshold=0.25), "general_relu", (0.5, 2.0, 0.25)),
        (layers.ReLU(negative_slope=0.1), "leaky_relu", (0.1,)),
        (layers.LeakyReLU(), "leaky_relu", (0.3,)),
        (layers.ELU(0.5), "elu", (0.5,)),
        (lambda x: ops.elu(x, 0.5), "elu", (0.5,)),
        (lambda x: ops.celu(x, 0.5), "celu", (0.5,)),
        (lambda x: ops.clip(x, 0, 1), "clip", (0.0, 1.0)),
        (lambda x: ops.clip(x, -1, 1), "clip", ()),
        (lambda x: keras.activations.gelu(x, approximate=True), "gelu_tanh", ()),
        (ops.gelu, "gelu_tanh", ()),
        (layers.Activation("selu"), "selu", ()),
        (layers.Activation("mish"), "mish", ()),
        (lambda x: ops.threshold(x, 0.5, -1), "threshold", (0.5, -1.0)),
        (lambda x: ops.hard_shrink(x, 0.25), "hard_shrink", (0.25,)),
        (lambda x: ops.soft_shrink(x, 0.25), "soft_shrink", (0.25,)),
        (lambda x: ops.squareplus(x, 2), "squareplus", (2.0,)),
        (ops.abs, "abs", ()),
        (ops.square, "square", ()),
        (ops.exp, "exponential", ()),
    ],
)
def test_activations_with_settings(layer, activation, settings):
    graph = compile_and_compare(model_of(layers.Conv2D(5, 3), layer))
    assert (graph.nodes[1].activation, graph.nodes[1].settings) == (activation, settings)
    assert kinds(graph) == {"Input": 1, "Conv": 2, "Flatten": 1}


@pytest.mark.parametrize(
    "layer",
    [
        layers.Activation("glu"),
        layers.Dense(6, activation="glu"),
        layers.Conv2D(6, 3, activation=layers.Activation("glu")),
        lambda x: ops.glu(x, axis=2),
        layers.Activation("log_softmax"),
        layers.Dense(6, activation="log_softmax"),
        layers.Conv2DTranspose(6, 3, strides=2, activation="log_softmax"),
        lambda x: ops.log_softmax(x, axis=1),
    ],
)
def test_activations_across_channels(layer):
    """At the end: Keras's layers do not say that a gated linear unit halves the channels."""
    model = randomise(model_of(layer, head=False))
    assert_same(model, compile_model(model), low=-2, high=2, run=run_in_runtime, tolerance=1e-5)


def test_a_logarithm_of_shares_that_are_none():
    """Far below what exp gives a number for; also of a vector."""
    image = keras.Input((2, 3, 4))
    x = layers.Rescaling(200.0)(image)
    model = keras.Model(image, [ops.log_softmax(x), layers.Activation("log_softmax")(layers.Flatten()(x))])
    assert_same(model, compile_model(model), low=-1, high=1, run=run_in_runtime, tolerance=1e-6)


EINSUMS = [
    ((4,), "ab,bcd->acd", (2, 3), "cd"),
    ((4,), "ab,bcd->acd", (2, 3), "c"),
    ((5, 4), "abc,cd->abd", (None, 6), "d"),
    ((5, 4), "abc,cde->abed", (None, 3, 2), "ed"),
    ((5, 4), "abc,bd->adc", (6, 4), "dc"),
    ((5, 4), "abc,bcd->ad", (6,), "d"),
    ((5, 4), "abc,dbc->ad", (6,), "d"),
    ((5, 4), "...c,cd->...d", (6,), "d"),
    ((5, 4), "abc,dc->adb", (6, 5), None),
    ((5, 4), "abc,c->abc", (None, 4), "c"),
    ((5, 4), "abc,bc->acb", (4, 5), "b"),
    ((5, 4, 3), "abcd,cde->abe", (None, 6), "e"),
    ((5, 4, 3), "abcd,de->aecb", (6, 4, 5), None),
    ((5, 4, 3), "abcd,be->aecd", (6, 4, 3), "ec"),
]


@pytest.mark.parametrize(("shape", "equation", "output", "bias"), EINSUMS)
def test_einstein_sums(shape, equation, output, bias):
    x = keras.Input(shape)
    layer = layers.EinsumDense(equation, output, bias_axes=bias, activation="tanh", name="sum")
    model = keras.Model(x, layer(x))
    for weight in layer.weights:
        weight.assign(np.random.default_rng(0).normal(size=weight.shape))
    graph = compile_model(model)
    assert_same(model, graph, low=-1, high=1, run=run_in_runtime, tolerance=1e-5)
    for node in graph.nodes:
        if node.name == "sum" and isinstance(node, Conv):
            np.testing.assert_array_equal(einsum_kernel(node.kernel, layer), layer.kernel)


@pytest.mark.parametrize("shape", [(7,), (3, 4)])
def test_embeddings(shape):
    """Of integers, of floats that are cut, and of numbers counted from the end."""
    words, numbers = keras.Input(shape, dtype="int32"), keras.Input(shape)
    table = layers.Embedding(9, 5)
    model = keras.Model([words, numbers], [table(words), layers.ReversibleEmbedding(9, 5)(numbers)])
    graph = compile_model(randomise(model))
    rng = np.random.default_rng(0)
    given = [
        rng.integers(-9, 9, (3, *shape)).astype(np.int32),
        rng.uniform(-0.9, 9, (3, *shape)).astype(np.float32),
    ]
    found = run_in_runtime(graph, given).values()
    for made, wanted in zip(found, outputs_of(model, given), strict=True):
        np.testing.assert_array_equal(made, wanted)
    given[0][0] = 9
    assert np.isnan(next(iter(run_in_runtime(graph, given).values()))[0]).all()


@pytest.mark.parametrize("function", [ops.log, ops.sqrt, ops.rsqrt, ops.reciprocal])
def test_functions_of_what_is_positive(function):
    compile_and_compare(model_of(layers.Conv2D(5, 3), lambda x: function(ops.abs(x) + 0.5)))


def test_prelu_of_each_channel():
    graph = compile_and_compare(model_of(layers.Conv2D(5, 3), with_slopes(layers.PReLU(shared_axes=[1, 2]))))
    assert kinds(graph) == {"Input": 1, "Conv": 4, "Activation": 1, "Flatten": 1}


def with_slopes(layer):
    def call(x):
        y = layer(x)
        layer.alpha.assign(np.random.default_rng(0).normal(size=layer.alpha.shape))
        return y

    return call


@pytest.mark.parametrize(
    ("layer", "activation"),
    [
        (layers.ReLU(), "relu"),
        (layers.ReLU(6), "relu6"),
        (layers.ReLU(negative_slope=0.2), "leaky_relu"),
        (layers.LeakyReLU(negative_slope=0.2), "leaky_relu"),
        (layers.ELU(), "elu"),
        (layers.Activation(layers.ReLU(6.0)), "relu6"),
        (keras.activations.relu, "relu"),
        (keras.activations.gelu, "gelu"),
        (ops.silu, "silu"),
        (ops.tanh, "tanh"),
        (ops.leaky_relu, "leaky_relu"),
        (lambda x: layers.ReLU(6)(x + 3) * (1 / 6), "hard_sigmoid"),
    ],
)
def test_activation_layers_and_operations(layer, activation):
    graph = compile_and_compare(model_of(layers.Conv2D(5, 3), layer))
    assert graph.nodes[1].activation == activation
    assert kinds(graph) == {"Input": 1, "Conv": 2, "Flatten": 1}


@pytest.mark.parametrize(
    "chain",
    [
        [layers.Normalization(mean=[1.0, 2.0, 3.0, 4.0], variance=[4.0, 3.0, 2.0, 1.0])],
        [layers.Normalization(mean=2.0, variance=4.0, invert=True)],
        [layers.Normalization(axis=None, mean=2.0, variance=4.0)],
        [layers.Rescaling([0.1, 0.2, 0.3, 0.4], offset=1.0), layers.BatchNormalization()],
        [lambda x: 2.0 - (x / 3.0 - 1.0) * np.float32([1.0, 2.0, 3.0, 4.0])],
        [layers.GaussianNoise(0.1), layers.Rescaling(0.5), layers.Dropout(0.1), layers.Identity()],
    ],
)
def test_normalization_goes_into_the_input(chain):
    graph = compile_and_compare(model_of(*chain))
    assert kinds(graph) == {"Input": 1, "Flatten": 1, "Conv": 1}


def test_normalization_elsewhere_is_a_depthwise_convolution():
    graph = compile_and_compare(model_of(layers.MaxPooling2D(), layers.Rescaling(2.0, 1.0), layers.ReLU()))
    assert kinds(graph) == {"Input": 1, "Pool": 1, "Conv": 2, "Flatten": 1}
    assert graph.nodes[2].groups == 4 and graph.nodes[2].activation == "relu"


def test_batch_norm_of_a_value_that_is_used_twice():
    def block(x):
        y = layers.Conv2D(4, 3)(x)
        return layers.Concatenate()([y, layers.BatchNormalization()(y)])

    assert kinds(compile_and_compare(model_of(block)))["Conv"] == 3


def residual(*branches, add=None):
    def block(x):
        inputs = [branch(x) for branch in branches]
        return layers.ReLU()((add or layers.Add())(inputs))

    return block


@pytest.mark.parametrize(
    ("block", "wanted"),
    [
        (residual(layers.Conv2D(4, 3, padding="same"), lambda x: x), {"Conv": 2}),
        (
            residual(lambda x: x, layers.Conv2D(4, 1), layers.MaxPooling2D(1)),
            {"Conv": 2, "Add": 1, "Pool": 1},
        ),
        (residual(lambda x: x, lambda x: x), {"Conv": 1, "Add": 1}),
        (residual(layers.Conv2D(4, 1, activation="relu"), lambda x: x), {"Conv": 2, "Add": 1}),
        (residual(layers.Conv2D(4, 1), lambda x: x, add=lambda xs: xs[0] + xs[1]), {"Conv": 2}),
        (residual(layers.Conv2D(4, 1), layers.ZeroPadding2D(0)), {"Conv": 2}),
    ],
)
def test_sums(block, wanted):
    graph = compile_and_compare(model_of(block))
    assert kinds(graph) == {"Input": 1, "Flatten": 1, **wanted}


def test_a_convolution_added_to_itself_stays():
    def block(x):
        y = layers.Conv2D(4, 1)(x)
        return layers.Add()([y, y])

    assert kinds(compile_and_compare(model_of(block)))["Add"] == 1


def test_products():
    def block(x):
        factor = layers.Dense(4, activation="sigmoid")(layers.GlobalAveragePooling2D()(x))
        y = layers.Multiply()([factor, x, layers.ReLU()(x)])  # A vector times images.
        return y * layers.Reshape((1, 1, 4))(factor)

    assert kinds(compile_and_compare(model_of(block)))["Multiply"] == 3


@pytest.mark.parametrize("shape", [(1, 1, -1), (4,), (-1,)])
def test_reshape_of_a_vector_is_nothing(shape):
    graph = compile_and_compare(model_of(layers.GlobalMaxPooling2D(), layers.Reshape(shape)))
    assert kinds(graph) == {"Input": 1, "GlobalPool": 1, "Conv": 1}


def test_reshape_to_a_vector_flattens():
    graph = compile_and_compare(model_of(layers.Reshape((-1,)), layers.Dense(4), head=False))
    assert kinds(graph) == {"Input": 1, "Flatten": 1, "Conv": 1}


def test_uint8_images_are_padded_before_they_are_normalized():
    image = keras.Input((8, 8, 3), dtype="uint8")
    x = layers.Normalization(mean=100.0, variance=900.0)(layers.ZeroPadding2D(1)(image))
    model = keras.Model(image, layers.Dense(3)(layers.Flatten()(layers.Conv2D(4, 3)(x))))
    assert_same(model, compile_model(randomise(model)))


def test_a_kind_of_layer_is_one_entry(monkeypatch):
    """A `Lambda` that changes nothing."""
    model = model_of(layers.Lambda(lambda x: x), layers.Conv2D(3, 2))
    with pytest.raises(UserError, match=r"\(Lambda\).*it runs Activation, .*ZeroPadding2D"):
        compile_model(model)
    monkeypatch.setitem(LAYERS, "Lambda", Entry(lambda draft, call: call.input.node))
    assert kinds(compile_and_compare(model)) == {"Input": 1, "Conv": 2, "Flatten": 1}
