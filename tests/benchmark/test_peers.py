"""The same network in other runtimes, against plain NumPy."""

import importlib.util

import numpy as np
import pytest

from tests.support import networks, reference
from tfprune.benchmark.contenders import contender_of, prepare
from tfprune.runtime.graph import Conv, GlobalPool, Graph, Input, Pool, nonnegative_values

SEEDS = range(12)


def write(name, graph, folder):
    """The file of a contender that is installed."""
    prepared = prepare(contender_of(name), str(folder), str(folder), graph, np.zeros((1, 1, 1, 1), "uint8"))
    if prepared.reason.startswith("not installed"):
        pytest.skip(prepared.reason)
    assert prepared.reason == ""
    return prepared.path


def check(kind, graph, folder, tolerance, batch_size=3):
    images = networks.random_images(np.random.default_rng(1), graph, batch_size, "uint8")
    expected = reference.run(graph, images)
    network = contender_of(kind).load(write(kind, graph, folder), 1, batch_size)
    for _ in range(2):  # The second call finds what the first has left.
        logits = network(images)
        assert logits.shape == expected.shape
        assert np.abs(logits - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.parametrize("kind", ["onnxruntime", "pytorch"])
@pytest.mark.parametrize("seed", SEEDS)
def test_every_kind_of_node(kind, seed, tmp_path):
    check(kind, networks.random_network(np.random.default_rng(seed)), tmp_path, 1e-5)


@pytest.mark.parametrize("kind", ["mnn", "mnn_sparse"])
@pytest.mark.parametrize("seed", range(4))
def test_every_kind_of_node_of_version_1_in_mnn(kind, seed, tmp_path):
    # MNN approximates some activations, to about 3e-3.
    check(kind, networks.random_network(np.random.default_rng(seed), version=1), tmp_path, 1e-2)


def pooled(activation, **pool):
    """A graph whose pool sees values of both signs, or of one."""
    rng = np.random.default_rng(0)
    image = Input("image", (), (7, 7, 2), np.full(2, 0.01, np.float32), np.full(2, -1.3, np.float32))
    kernel = networks.random_kernel(rng, (1, 1, 2, 4), 0.0)
    conv = Conv("conv", (0,), kernel, np.full(4, -1.0, np.float32), activation=activation)
    graph = Graph((image, conv, Pool("pool", (1,), **pool), GlobalPool("vector", (2,), "average")))
    graph.shapes()
    return graph


@pytest.mark.parametrize("kind", ["onnxruntime", "pytorch"])
@pytest.mark.parametrize("activation", ["linear", "relu"])
@pytest.mark.parametrize("pool", ["max", "average"])
@pytest.mark.parametrize("counts", [False, True])
@pytest.mark.parametrize("padding", [(1, 1, 1, 1), (0, 1, 0, 1), (2, 2, 2, 2)])
def test_padding_of_pools(kind, activation, pool, counts, padding, tmp_path):
    graph = pooled(activation, kind=pool, size=(3, 3), strides=(2, 2), padding=padding, padding_counts=counts)
    check(kind, graph, tmp_path, 1e-5)


def test_which_values_cannot_be_negative():
    pool = {"kind": "max", "size": (3, 3), "strides": (2, 2)}
    assert nonnegative_values(pooled("relu", **pool)) == [False, True, True, True]
    assert nonnegative_values(pooled("linear", **pool)) == [False] * 4
    assert nonnegative_values(pooled("silu", **pool)) == [False] * 4


def test_a_bad_onnx_file_is_said_by_mnn(tmp_path):
    # Not imported to find out: with TensorFlow and ONNX in this process it would end it.
    if importlib.util.find_spec("_tools") is None:
        pytest.skip("MNN is not installed")
    from tfprune.benchmark.mnn_peer import convert_to_mnn

    (tmp_path / "stale.mnn").write_bytes(b"of another network")
    with pytest.raises(RuntimeError, match="wrote no file"):
        convert_to_mnn(str(tmp_path / "absent.onnx"), str(tmp_path / "stale.mnn"), sparse=False)


def test_unknown_image_types_and_contenders():
    pytest.importorskip("onnx")
    from tfprune.benchmark.onnx_peer import to_onnx

    with pytest.raises(ValueError, match="`image_type` must be uint8 or float32"):
        to_onnx(networks.random_network(np.random.default_rng(0)), "int8")
    with pytest.raises(ValueError, match="`name` must be one of tfprune, .*tflite_int8, onnxruntime"):
        contender_of("keras")
