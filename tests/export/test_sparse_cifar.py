"""A network that this project trained and pruned on CIFAR-10, in the sparse runtime."""

from unittest import mock

import numpy as np
import pytest

from tfprune import runtime
from tfprune.compiler.compile import compile_model
from tfprune.data import datasets
from tfprune.experiments.deployment import strip_round
from tfprune.experiments.run import run_experiment
from tfprune.export.network import keras_logits
from tfprune.models import resnet
from tfprune.runs.config import ExperimentConfig
from tfprune.runs.folder import RunFolder

pytestmark = pytest.mark.slow

FLAGS = {
    "dataset": "cifar10",
    "train_examples": 1500,
    "test_examples": 1000,
    "image_size": 32,
    "autoaugment": "none",
    "model": "resnet18",
    "width": 16,
    "stem": "cifar",
    "batch_size": 50,
    "learning_rate": 3e-3,
    "epochs": (1,),
}
# One block in each of two stages: a network that compiles in seconds.
BLOCKS = (1, 1, 0, 0)


@pytest.fixture(scope="module")
def pruned(cifar_data_dir, tmp_path_factory):
    """The stripped network, its masks, and 1,000 test images."""
    flags = FLAGS | {"output_dir": str(tmp_path_factory.mktemp("runs")), "data_dir": str(cifar_data_dir)}
    dense = ExperimentConfig(experiment="dense", weights="none", **flags)
    one_shot = ExperimentConfig(
        experiment="one_shot", init_from="dense", regime="one_shot", target_sparsity=0.9, **flags
    )
    with mock.patch.dict(resnet.BLOCKS_PER_STAGE, {"resnet18": BLOCKS}):
        for config in (dense, one_shot):
            run_experiment(config, log=lambda line: None)
    network = strip_round(RunFolder(one_shot.folder).round(1))
    test = datasets.load("cifar10", data_dir=str(cifar_data_dir), test_examples=1000).test
    return network, np.asarray(test.inputs)


def test_the_same_logits_and_predictions_on_1000_images(pruned, tmp_path):
    network, images = pruned
    expected = keras_logits(network, images)
    assert len(np.unique(expected.argmax(1))) > 3  # It has learnt to tell some classes apart.
    graph = compile_model(network)
    runtime.write_file(graph, tmp_path / "model.tfprune", "float32")
    for threads in (1, 2):
        logits = runtime.load(tmp_path / "model.tfprune", threads)(images)
        assert np.abs(logits - expected).max() <= 1e-4
        np.testing.assert_array_equal(logits.argmax(1), expected.argmax(1))


def test_float16_moves_the_logits_by_its_rounding_alone(pruned, tmp_path):
    network, images = pruned
    expected = keras_logits(network, images[:200])
    runtime.write_file(compile_model(network), tmp_path / "model.tfprune", "float16")
    logits = runtime.load(tmp_path / "model.tfprune")(images[:200])
    difference = np.abs(logits - expected).max() / np.abs(expected).max()
    assert 1e-6 < difference < 5e-3
