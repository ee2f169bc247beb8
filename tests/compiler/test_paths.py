"""The choice between the sparse and the dense path."""

import numpy as np
import pytest

from tfprune import runtime
from tfprune.compiler.paths import choose_paths
from tfprune.runtime.graph import Conv, GlobalPool, Graph, Input


def network(sparsities, channels=64, size=24):
    rng = np.random.default_rng(0)
    ones, zeros = np.ones(3, np.float32), np.zeros(3, np.float32)
    nodes = [Input("image", (), shape=(size, size, 3), scale=ones, shift=zeros)]
    for sparsity in sparsities:
        inner = 3 if len(nodes) == 1 else channels
        kernel = rng.normal(size=(3, 3, inner, channels)) * (rng.random((3, 3, inner, channels)) >= sparsity)
        bias = np.zeros(channels, np.float32)
        name, source = f"conv{len(nodes)}", (len(nodes) - 1,)
        kernel = (0.05 * kernel).astype(np.float32)
        nodes.append(Conv(name, source, kernel=kernel, bias=bias, padding=(1, 1, 1, 1), path="dense"))
    nodes.append(GlobalPool("pool", (len(nodes) - 1,), kind="average"))
    return Graph(tuple(nodes))


def test_each_convolution_takes_the_path_that_was_measured_faster():
    chosen = choose_paths(network([0.0, 0.85, 0.0, 0.85]), rounds=2)
    for node in chosen.nodes[1:-1]:
        assert set(node.costs) == {"sparse", "dense"} and min(node.costs.values()) > 0
        assert node.path == min(node.costs, key=node.costs.get)


def test_a_cost_is_the_median_of_the_rounds_after_the_first(monkeypatch):
    """Of the second convolution the dense path is the faster one."""
    times = {
        "sparse": iter([[0, 0, 0, 0], [0, 3, 7, 0], [0, 9, 1, 0], [0, 4, 6, 0]]),
        "dense": iter([[0, 0, 0, 0], [0, 1, 5, 0], [0, 5, 9, 0], [0, 5, 2, 0]]),
    }
    monkeypatch.setattr(
        runtime.Model, "time_nodes", lambda model, images, rounds: next(times[model.graph.nodes[1].path])
    )
    first, second = choose_paths(network([0.5, 0.5], channels=4, size=4), rounds=3).nodes[1:3]
    assert (first.costs, first.path) == ({"sparse": 4, "dense": 5}, "sparse")
    assert (second.costs, second.path) == ({"sparse": 6, "dense": 5}, "dense")


def test_nothing_else_changes():
    graph = network([0.5, 0.9], channels=8, size=6)
    chosen = choose_paths(graph, rounds=1)
    for before, after in zip(graph.nodes, chosen.nodes, strict=True):
        assert (before.name, before.inputs) == (after.name, after.inputs)
        if isinstance(before, Conv):
            assert before.kernel is after.kernel and before.bias is after.bias
            assert before.path == "dense" and before.costs == {}
    images = np.random.default_rng(1).uniform(0, 1, (2, 6, 6, 3)).astype(np.float32)
    found, wanted = (runtime.Model(g, threads=1)(images) for g in (chosen, graph))
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)


def test_rounds_are_checked():
    with pytest.raises(ValueError, match="`rounds` must be at least 1. Received: rounds=0"):
        choose_paths(network([0.5], channels=4, size=4), rounds=0)
