import numpy as np
import pytest

from tfprune.benchmark.layers import dense_operations, layer_times
from tfprune.runtime.graph import Add, Conv, GlobalPool, Graph, Input


def network():
    kernel = np.zeros((3, 3, 2, 4), np.float32)
    kernel[0, 0] = 1
    image = Input("image", (), (5, 6, 2), np.ones(2, np.float32), np.zeros(2, np.float32))
    conv = Conv(
        "conv",
        (0,),
        kernel,
        np.zeros(4, np.float32),
        padding=(1, 1, 1, 1),
        costs={"sparse": 3.0, "dense": 9.0},
    )
    graph = Graph((image, conv, Add("one", (1, 1)), Add("two", (2, 1)), GlobalPool("pool", (3,), "max")))
    graph.shapes()
    return graph


def test_rows_of_convolutions_and_of_the_rest():
    conv, *others = layer_times(network(), [1.0, 5.0, 2.0, 2.0, 0.0], batch_size=2)
    assert (conv.name, conv.kernel, conv.output, conv.path) == ("conv", (3, 3, 2, 4), (5, 6, 4), "sparse")
    assert conv.sparsity == pytest.approx(8 / 9)
    assert conv.costs == {"sparse": 3.0, "dense": 9.0}
    assert conv.share == 0.5
    # 2 images of 30 positions of 72 multiplications and additions in 5 microseconds.
    assert conv.dense_gflops == pytest.approx(2 * 30 * 72 * 2 / 5e-6 / 1e9)
    assert [(row.name, row.microseconds, row.share) for row in others] == [
        ("Input x1", 1.0, 0.1),
        ("Add x2", 4.0, 0.4),
        ("GlobalPool x1", 0.0, 0.0),
    ]


def test_dense_operations():
    assert dense_operations(network().nodes[1], (5, 6, 4)) == 2 * 30 * 72
