"""Whatever a loss of power leaves, what a file says of those before it is true: every writer is watched.

Two things are not meant: TensorBoard's events, which TensorFlow writes and nothing reads again, and the file
that a lock is, which is empty.
"""

import numpy as np
import pytest

from tests.support.canned import canned_record
from tests.support.disk import watched
from tests.support.networks import random_network
from tests.support.run_folders import RunFolders
from tests.support.small_experiments import Runs, small_resnet18
from tfprune import runtime, sparsity
from tfprune.benchmark.files import write_benchmark
from tfprune.compare import write_comparison, write_page
from tfprune.files import remove
from tfprune.lock import LOCK, OWNER, hold

LOCKS = (LOCK, OWNER, ".comparison.lock", ".comparison.lock.json")


def names_of(disk):
    """The names in the order in which they were given, without those of who holds a folder."""
    return [name for name in disk.named if not name.endswith("lock.json")]


@pytest.mark.slow
def test_a_run(tmp_path):
    runs = Runs(tmp_path)
    with small_resnet18(), watched(tmp_path) as disk:
        runs.run("dense", epochs=(2,), train_examples=64)
        flags = {"regime": "one_shot", "target_sparsity": 0.5, "train_examples": 64}
        runs.run("pruned", init_from="dense", epochs=(2,), **flags)
        # Interrupted behind the round's network: what is there is gone through again.
        last = tmp_path / "pruned" / "round_01"
        remove(last / "result.json")
        runs.run("pruned", init_from="dense", epochs=(2,), **flags)
    disk.assert_whole(*LOCKS, "tensorboard")
    fit = [
        "checkpoint_0001.keras",
        "history.csv",
        "checkpoint.json",
        "checkpoint_0002.keras",
        "history.csv",
        "checkpoint.json",
        "model.keras",
        "result.json",
    ]
    assert names_of(disk) == [
        "dense/flags.txt",
        *(f"dense/round_00/{name}" for name in fit),
        "pruned/flags.txt",
        *(f"pruned/round_00/{name}" for name in ("model.keras", "result.json")),
        *(f"pruned/round_01/{name}" for name in (*fit, *fit)),
    ]


@pytest.mark.one_backend
def test_a_comparison_and_its_page(tmp_path):
    folders = RunFolders(tmp_path, dataset="digits")
    folders.dense("dense", 90.0)
    folders.one_shot("pruned", "dense", 0.5, (50.0, 80.0))
    made = {path.name for path in tmp_path.rglob("*")}
    with watched(tmp_path) as disk:
        write_comparison(tmp_path)
        write_page(tmp_path)
        write_page(tmp_path / "new", status=[("a", "waiting", "")])
    disk.assert_whole(*LOCKS, *made)
    names = ["comparison.md", "comparison.csv", "comparison.png", "index.html", "new/index.html"]
    assert names_of(disk) == names


@pytest.mark.one_backend
def test_a_measurement_a_picture_a_runtime_file_and_a_lock(tmp_path):
    import keras

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, name="dense")])
    with watched(tmp_path) as disk:
        write_benchmark(canned_record(), tmp_path, "a network")
        sparsity.summarize(sparsity.prune_low_magnitude(model, None)).plot(tmp_path / "summary.png")
        runtime.write_file(random_network(np.random.default_rng(0)), tmp_path / "model.tfprune")
        with hold(tmp_path, "--output_dir=x"):
            pass
    disk.assert_whole(*LOCKS)
    names = ["benchmark.json", "benchmark.csv", "benchmark.png", "summary.png", "model.tfprune"]
    assert disk.named == names
