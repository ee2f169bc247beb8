"""A NaN in an image is in the logits that it reaches in Keras, wherever weights have been removed."""

import keras
import numpy as np
import pytest
from keras import layers

from tests.support import reference
from tests.support.compiled_models import randomise
from tests.support.networks import random_images, random_network
from tfprune.compiler.compile import compile_model
from tfprune.runtime.graph import (
    ACROSS_CHANNELS,
    ACTIVATIONS,
    Activation,
    Constant,
    Conv,
    Flatten,
    GlobalPool,
    Graph,
    Input,
    Pool,
)
from tfprune.runtime.machine import host
from tfprune.runtime.model import Model
from tfprune.runtime.plan.lowering import make_plan

one_backend = pytest.mark.one_backend


def graph_of(shape, *nodes):
    scale = np.ones(shape[2], np.float32)
    return Graph((Input("image", (), shape, scale, 0 * scale), *nodes))


def by_the_kernels_alone(graph):
    """A model that knows only its plan, so that a NaN is where the kernels bring it."""
    return Model.from_plan(make_plan(graph, host()), 1)


@one_backend
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("seed", range(30))
def test_nan_is_where_the_formulas_have_it(seed):
    rng = np.random.default_rng(seed)
    graph = random_network(rng, extra=seed % 8)
    images = random_images(rng, graph, 4)
    for image in images[:2]:
        image[tuple(rng.integers(size) for size in image.shape)] = np.nan
    images[2] = np.nan  # Some of the pixels may be left out by a `Gather`.
    expected = np.isnan(reference.run(graph, images))
    constant = any(isinstance(node, Constant) for node in graph.nodes)  # Perhaps all that is left.
    assert (expected.any() or constant) and not expected[3].any()
    for threads in (1, 3):
        logits = Model(graph, threads)(images)
        np.testing.assert_array_equal(np.isnan(logits), expected)
    images[:3] = 0
    np.testing.assert_array_equal(logits[3], Model(graph, 1)(images)[3])


@one_backend
@pytest.mark.parametrize("kind", ["max", "average"])
@pytest.mark.parametrize("stride, size", [(1, (3, 3)), (2, (3, 3)), (2, (2, 2)), (3, (3, 2)), (1, (6, 6))])
def test_pools_keep_nan_at_each_place_of_a_window(kind, stride, size):
    """By rows of vectors, and by plain loops: strides of 3, windows of more than 25."""
    graph = graph_of((13, 35, 1), Pool("pool", (0,), kind, size, (stride, stride)), Flatten("flat", (1,)))
    model = by_the_kernels_alone(graph)
    plain = np.random.default_rng(0).uniform(0, 255, (1, 13, 35, 1)).astype(np.float32)
    for row in range(8):
        for column in range(12, 20):
            image = plain.copy()
            image[0, row, column] = np.nan
            expected = np.isnan(reference.run(graph, image))
            np.testing.assert_array_equal(np.isnan(model(image)), expected)
    assert not np.isnan(model(plain)).any()


@one_backend
@pytest.mark.parametrize("kind", ["max", "average"])
def test_global_pools_keep_nan_at_each_pixel(kind):
    graph = graph_of((5, 9, 2), GlobalPool("pool", (0,), kind))
    model = by_the_kernels_alone(graph)
    for pixel in range(45):
        image = np.ones((1, 5, 9, 2), np.float32)
        image[0, pixel // 9, pixel % 9, 1] = np.nan
        np.testing.assert_array_equal(np.isnan(model(image)), [[False, True]])


@one_backend
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_keep_nan(activation):
    graph = graph_of((1, 1, 5), Activation("activation", (0,), activation))
    image = np.float32([1, np.nan, 0.5, 0.25, 2]).reshape(1, 1, 1, 5)
    expected = [activation in ACROSS_CHANNELS or place == 1 for place in range(5)]
    if activation == "nonzero":  # NaN is not 0.
        expected = [False] * 5
    np.testing.assert_array_equal(np.isnan(by_the_kernels_alone(graph)(image)), [expected])
    np.testing.assert_array_equal(np.isnan(Model(graph, 1)(image)), [expected])


@one_backend
@pytest.mark.parametrize("path", ["sparse", "dense"])
def test_removed_weights_are_as_zeros(path):
    """In convolutions, strided ones and dense layers; a pixel that no window reads reaches nothing."""
    none = np.zeros(3, np.float32)
    empty = np.zeros((1, 1, 2, 3), np.float32)
    conv = Conv("conv", (0,), empty, none, strides=(2, 2), path=path)
    last = Conv("last", (2,), np.zeros((1, 1, 3, 2), np.float32), none[:2], path=path)
    model = Model(graph_of((4, 4, 2), conv, GlobalPool("pool", (1,), "max"), last), 1)
    image = np.zeros((4, 4, 4, 2), np.float32)
    image[0, 1, 2], image[1, 2, 1], image[2, 2, 2, 0] = np.nan, np.nan, np.nan
    np.testing.assert_array_equal(np.isnan(model(image)), [[place == 2] * 2 for place in range(4)])


@pytest.mark.slow
def test_keras_has_nan_where_the_runtime_has():
    """Not of max pools: TensorFlow's leave a NaN out, unlike those of the other backends."""
    inputs = keras.Input((9, 9, 3))
    x = layers.Conv2D(6, 3, strides=2, padding="same", activation="relu")(inputs)
    x = layers.BatchNormalization()(layers.DepthwiseConv2D(3, activation="relu6")(x))
    x = layers.Add()([layers.Conv2D(6, 1, activation="silu")(x), x])
    x = layers.Flatten()(layers.AveragePooling2D(2)(x))
    model = randomise(keras.Model(inputs, layers.Dense(4)(x)), sparsity=0.95)
    images = np.random.default_rng(0).uniform(0, 255, (9, 9, 9, 3)).astype(np.float32)
    for place in range(9):
        images[place, place, (3 * place) % 9, place % 3] = np.nan
    expected = np.isnan(keras.ops.convert_to_numpy(model(images)))
    assert expected.any()
    np.testing.assert_array_equal(np.isnan(Model(compile_model(model), 1)(images)), expected)
