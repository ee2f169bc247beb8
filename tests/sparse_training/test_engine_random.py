"""Random networks: by the reference, whatever the threads."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.sparse_graphs import Builder
from tests.support.sparse_reference import check
from tfprune.sparse_training.graph import BatchNorm

pytestmark = pytest.mark.one_backend

FUNCTIONS = ("relu", "relu6", "leaky_relu", "tanh", "hard_silu")


@st.composite
def networks(draw):
    """Networks of operations on values drawn from those there are; a head that sees the last ones."""
    side = draw(st.sampled_from([1, 4, 5]))
    b = Builder((side, side, draw(st.integers(1, 3))), draw(st.integers(0, 99)))
    values = [b.conv(0, draw(st.integers(1, 6)))]

    def value():
        return draw(st.sampled_from(values[-4:]))

    def conv():
        outputs, density = draw(st.integers(1, 6)), draw(st.sampled_from([1.0, 0.4, 0.1]))
        strides, size = draw(st.sampled_from([1, 1, 2])), draw(st.sampled_from([1, 3]))
        trainable, bias = draw(st.booleans()) or draw(st.booleans()), draw(st.booleans())
        return b.conv(value(), outputs, size, strides, density=density, bias=bias, trainable=trainable)

    def norm():
        frozen = draw(st.sampled_from([False, False, True]))
        x = b.norm(value(), frozen, draw(st.booleans()), draw(st.booleans()), draw(st.booleans()))
        return b.activation(x, draw(st.sampled_from(FUNCTIONS))) if draw(st.booleans()) else x

    def alike(x):
        return [y for y in values if b.shape(y) == b.shape(x)]

    def total():
        x = value()
        others = draw(st.lists(st.sampled_from(alike(x)), min_size=1, max_size=2))
        x = b.sum(x, *others)
        return b.activation(x) if draw(st.booleans()) else x

    def product():
        x = value()
        if draw(st.booleans()):
            factor = b.activation(b.dense(b.global_pool(x), b.shape(x).channels), "sigmoid")
            return b.product(x, factor)
        return b.product(b.activation(x, "tanh"), draw(st.sampled_from(alike(x))))

    def joined():
        x = value()
        of_size = [y for y in values if b.shape(y)[:2] == b.shape(x)[:2]]
        return b.concatenate(x, *draw(st.lists(st.sampled_from(of_size), min_size=1, max_size=2)))

    def pooled():
        kind, counts = draw(st.sampled_from(["max", "average"])), draw(st.booleans())
        size, strides = draw(st.sampled_from([(2, 1), (3, 1), (3, 2)]))
        return b.pool(value(), kind, size, strides, (1, 1, 1, 1), counts)

    def padded():
        return b.pad(value(), draw(st.sampled_from([(1, 0, 0, 1), (0, 0, 1, 0)])))

    kinds = [conv, conv, norm, norm, total, product, joined, pooled, padded]
    for _ in range(draw(st.integers(1, 6))):
        values.append(draw(st.sampled_from(kinds))())
    ends = [b.global_pool(x, draw(st.sampled_from(["average", "max"]))) for x in values[-2:]]
    b.dense(b.concatenate(*ends), 3)
    return b.graph


@settings(max_examples=10, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(networks(), st.integers(2, 18), st.integers(0, 3))
def test_random_networks_are_the_references(graph, count, more):
    engines = [check(graph, count, count + more, threads, tolerance=5e-3) for threads in (1, 3)]
    for one, other in zip(*(state(engine) for engine in engines), strict=True):
        np.testing.assert_array_equal(one, other)


def state(engine):
    """Returns all numbers that training changes."""
    names = {node.moving_name for node in engine.graph.nodes if isinstance(node, BatchNorm)}
    return [engine.gradients, *(number for name in sorted(names) for number in engine.moving(name))]
