"""Compares a Keras model with random weights and the graph compiled from it; for the compiler's tests."""

import collections

import keras
import numpy as np
from keras import layers

from tests.support import reference


def randomise(model, sparsity=0.0, seed=0):
    """Gives every weight a value that shows if it is lost, and BatchNorm statistics of both signs."""
    rng = np.random.default_rng(seed)
    for layer in model._flatten_layers():
        if isinstance(layer, layers.BatchNormalization):
            n = layer.moving_mean.shape[0]
            if layer.scale:
                layer.gamma.assign(rng.choice([-1.0, 1.0], n) * rng.uniform(0.5, 1.5, n))
            if layer.center:
                layer.beta.assign(rng.normal(size=n))
            layer.moving_mean.assign(rng.normal(size=n))
            layer.moving_variance.assign(rng.uniform(0.5, 2.0, n))
        elif isinstance(
            layer, layers.Conv2D | layers.DepthwiseConv2D | layers.SeparableConv2D | layers.Dense
        ):
            for weight in layer.weights:
                value = rng.normal(size=weight.shape) * 0.3
                if len(weight.shape) > 1:
                    one_channel = isinstance(layer, layers.DepthwiseConv2D) or "depthwise" in weight.path
                    fan_in = np.prod(weight.shape[: 2 if one_channel else -1])
                    kept = rng.random(weight.shape) >= sparsity
                    value = rng.normal(size=weight.shape) * kept * np.sqrt(2 / fan_in)
                weight.assign(value)
    return model


def assert_same(model, graph, count=3, low=0, high=256):
    """The graph and the model give the same output for random images."""
    images = np.random.default_rng(1).uniform(low, high, (count, *model.inputs[0].shape[1:]))
    images = images.astype(model.inputs[0].dtype)
    expected = keras.ops.convert_to_numpy(model(images, training=False)).reshape(count, -1)
    found = reference.run(graph, images)
    assert expected.std(axis=0).max() > 1e-3, "the network must tell the images apart"
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * max(1.0, np.abs(expected).max()))


def kinds(graph):
    return collections.Counter(type(node).__name__ for node in graph.nodes)
