"""The engine beside float64 references made by the definitions."""

import numpy as np
import pytest

from tests.support.sparse_graphs import Builder, resnet
from tests.support.sparse_reference import Reference, whole
from tfprune.sparse_training.engine import Engine
from tfprune.sparse_training.graph import ACTIVATIONS

pytestmark = pytest.mark.one_backend


def images_of(graph, count, seed=0):
    shape = graph.shapes()[0]
    return np.random.default_rng(seed).normal(size=(count, *shape)).astype(np.float32)


def close(found, expected, tolerance=2e-4, scale=1e-3):
    scale = max(scale, np.abs(expected).max(initial=0))
    np.testing.assert_allclose(found / scale, expected / scale, rtol=0, atol=tolerance)


def check(graph, count=20, batch_size=None, threads=2, tolerance=2e-4):
    """Compares two steps of training and an evaluation with the reference."""
    engine = Engine(graph, batch_size or count, threads)
    reference = Reference(graph)
    images = images_of(graph, count)
    close(engine.forward(images).reshape(-1), reference.forward(images, training=False).reshape(-1))
    for step in range(2):
        images = images_of(graph, count, step)
        outputs = engine.forward(images, training=True)
        expected = reference.forward(images, training=True)
        close(outputs.reshape(-1), expected.reshape(-1), tolerance)
        gradient = np.random.default_rng(step).normal(size=outputs.shape).astype(np.float32)
        engine.backward(gradient)
        reference.backward(gradient.reshape(expected.shape))
        # A bias before a normalization has the gradient zero, but for rounding of its parts.
        largest = max(np.abs(gradient).max() for gradient in reference.gradients.values())
        for parameter in graph.parameters:
            if parameter.trainable:
                found = whole(parameter, engine.gradients[engine.slice_of(parameter.name)])
                wanted = reference.gradients[parameter.name]
                if getattr(parameter, "positions", None) is not None:
                    wanted = wanted * (whole(parameter, np.ones(len(parameter.values))) > 0)
                close(found, wanted, tolerance, largest / 20)
        for name, (mean, variance) in reference.moving.items():
            close(engine.moving(name).mean, mean)
            close(engine.moving(name).variance, variance)
    return engine


def test_a_residual_network_is_the_references():
    check(resnet())


def after_conv(make, channels=6, side=6, density=0.5):
    """Returns a network: a convolution, what `make` adds, and a head."""
    b = Builder((side, side, 3), seed=3)
    x = b.conv(0, channels, density=density, bias=True)
    b.dense(make(b, x), 4)
    return b.graph


PARTS = {
    "activation of a normalization": lambda b, x: b.activation(b.norm(x), "relu6"),
    "normalization alone": lambda b, x: b.norm(x),
    "no gamma": lambda b, x: b.activation(b.norm(x, gamma=False)),
    "no beta": lambda b, x: b.activation(b.norm(x, beta=False)),
    "neither": lambda b, x: b.activation(b.norm(x, gamma=False, beta=False)),
    "frozen": lambda b, x: b.activation(b.norm(x, frozen=True, trainable=False)),
    "frozen, gamma learns": lambda b, x: b.activation(b.norm(x, frozen=True)),
    "vectors fixed": lambda b, x: b.activation(b.norm(x, trainable=False)),
    "constant": lambda b, x: b.activation(b.affine(x), "leaky_relu"),
    "affine of normalization": lambda b, x: b.activation(b.affine(b.norm(x))),
    "normalization behind activation": lambda b, x: b.norm(b.activation(x)),
    "two normalizations of a value": lambda b, x: b.sum(b.norm(x), b.norm(x)),
    "residual": lambda b, x: b.activation(b.sum(b.norm(b.conv(x, 6)), x)),
    "residual without norm": lambda b, x: b.activation(b.sum(x, b.conv(x, 6))),
    "sum with silu": lambda b, x: b.activation(b.sum(b.norm(b.conv(x, 6)), b.norm(x)), "silu"),
    "twice": lambda b, x: b.activation(b.sum(x, x)),
    "three times": lambda b, x: b.sum(x, b.norm(x), x, x),
    "sum of three": lambda b, x: b.activation(b.sum(b.conv(x, 6), x, b.norm(x)), "hard_silu"),
    "read inside": lambda b, x: b.sum(b.activation(n := b.norm(x)), n),
    "preactivation": lambda b, x: b.sum(x, b.conv(b.activation(b.norm(x)), 6)),
    "concatenation": lambda b, x: b.activation(b.concatenate(x, b.conv(x, 3), x)),
    "dense block": lambda b, x: b.norm(b.concatenate(x, b.activation(b.norm(b.conv(x, 4))))),
    "product": lambda b, x: b.product(b.conv(x, 6), b.activation(x, "sigmoid")),
    "square": lambda b, x: b.product(x, x),
    "squeeze and excite": lambda b, x: b.product(
        x, b.activation(b.dense(b.activation(b.dense(b.global_pool(x), 3)), 6), "sigmoid")
    ),
    "maximum": lambda b, x: b.pool(b.activation(x), size=3, padding=(1, 1, 1, 1)),
    "maximum with zeros": lambda b, x: b.pool(x, size=3, padding=(1, 0, 1, 0), counts=True),
    "overlapping maxima": lambda b, x: b.sum(b.pool(x, size=3, strides=1, padding=(1, 1, 1, 1)), x),
    "average": lambda b, x: b.pool(x, "average", size=3, padding=(0, 1, 0, 1)),
    "average with zeros": lambda b, x: b.pool(x, "average", size=3, padding=(1, 1, 1, 1), counts=True),
    "global maximum": lambda b, x: b.global_pool(x, "max"),
    "pad": lambda b, x: b.activation(b.norm(b.conv(b.pad(x, (1, 2, 0, 1)), 5, padding=(0,) * 4))),
    "stride": lambda b, x: b.activation(b.norm(b.conv(x, 8, strides=2))),
    "stride without window": lambda b, x: b.sum(b.conv(x, 5, 1, strides=2), b.conv(x, 5, strides=2)),
    "depthwise": lambda b, x: b.activation(b.norm(b.conv(b.activation(b.norm(x)), 6, groups=6)), "relu6"),
    "groups": lambda b, x: b.conv(x, 9, groups=3, strides=2),
    "dilation": lambda b, x: b.conv(x, 4, dilation=2, padding=(2,) * 4),
    "fixed kernel": lambda b, x: b.activation(b.norm(b.conv(x, 6, trainable=False))),
    "no dropout": lambda b, x: b.dropout(x, rate=0.0),
}


@pytest.mark.parametrize("name", PARTS)
def test_an_operation_is_the_references(name):
    check(after_conv(PARTS[name]), count=7, batch_size=20)


@pytest.mark.parametrize("function", ACTIVATIONS)
def test_an_activation_is_the_references(function):
    check(after_conv(lambda b, x: b.activation(b.norm(x), function)), count=5)
