import numpy as np
import pytest

from tests.support import networks
from tfprune.benchmark import memory
from tfprune.benchmark.memory import BASELINE, first_run
from tfprune.runtime.format.file import write_file


@pytest.fixture
def files(tmp_path):
    """A small network, and an image for it."""
    rng = np.random.default_rng(0)
    graph = networks.random_network(rng)
    write_file(graph, tmp_path / "model.tfprune")
    np.save(tmp_path / "image.npy", networks.random_images(rng, graph, 1, "uint8"))
    return str(tmp_path / "model.tfprune"), str(tmp_path / "image.npy")


@pytest.mark.slow
def test_a_fresh_process_does_not_count_what_this_one_holds(files):
    held = np.ones(300_000_000 // 8)
    assert memory.own_peak_bytes() > held.nbytes
    baseline = first_run(BASELINE, "", files[1])
    assert 5_000_000 < baseline.peak_bytes < held.nbytes
    assert first_run("tfprune", *files).peak_bytes > baseline.peak_bytes


@pytest.mark.slow
def test_its_process_imports_no_tensorflow(files, tmp_path, monkeypatch):
    """Nor Keras: modules of these names that cannot be imported come first on its path."""
    for name in ("tensorflow", "keras", "torch", "onnx"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('not here')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert first_run("tfprune", *files).seconds > 0
    with pytest.raises(RuntimeError, match="not here"):
        first_run("pytorch", *files)


def test_what_fails_is_said(files, tmp_path):
    with pytest.raises(RuntimeError, match="its process failed: .*absent"):
        first_run("tfprune", str(tmp_path / "absent.tfprune"), files[1])
