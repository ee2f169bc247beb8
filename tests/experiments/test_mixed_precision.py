"""Experiments in 16 bits: weights stay float32, masks exact, and a stopped run ends where it would."""

import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

from tests.support.interrupted_runs import Interrupt, run_until, without_rounds
from tests.support.small_experiments import kernels_of, measured_accuracy_percent, state_of
from tfprune import sparsity
from tfprune.experiments.networks import load_model
from tfprune.experiments.run import run_experiment
from tfprune.runs.folder import RunFolder
from tfprune.training.checkpoint import read_checkpoint

pytestmark = pytest.mark.slow

FLAGS = {
    "regime": "gradual",
    "schedule": "polynomial",
    "target_sparsity": 0.8,
    "frequency": 2,
    "epochs": (2,),
    "head_learning_rate": 6e-3,
}
OPTIMIZERS = {"float16": "LossScaleOptimizer", "bfloat16": "TorchAdam"}


@pytest.fixture(scope="module", params=OPTIMIZERS)
def trained(request, runs):
    precision = request.param
    return precision, runs.run(precision, mixed_precision=precision, **FLAGS)


@pytest.fixture(autouse=True)
def float32_afterwards():
    yield
    keras.config.set_dtype_policy("float32")


def test_it_prunes_and_keeps_float32_weights(trained):
    precision, run = trained
    assert run.round(1).read_result().sparsity == pytest.approx(0.8, abs=1e-3)
    values = state_of(run.round(1))
    assert {value.dtype.name for value in values.values()} <= {"float32", "bool", "int32"}
    assert all(np.isfinite(value).all() for value in values.values())
    for name, (kernel, mask) in kernels_of(run.round(1)).items():
        np.testing.assert_array_equal(kernel == 0, ~mask, err_msg=name)


def test_it_computes_in_16_bits_and_gives_float32_logits(trained):
    precision, run = trained
    model = load_model(run.round(1))
    layers = {getattr(layer, "layer", layer).name: layer for layer in model.layers}
    assert getattr(layers["stem_conv"], "layer", layers["stem_conv"]).compute_dtype == precision
    assert layers["stem_bn"].compute_dtype == precision
    for name in ("normalization", "head"):
        assert layers[name].compute_dtype == "float32"
    stripped = sparsity.strip_pruning(model)
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3)).astype("uint8")
    logits = stripped(images, training=False)
    assert keras.backend.standardize_dtype(logits.dtype) == "float32"
    # One image may stand on the edge: how a batch is cut changes the last of few bits.
    recorded = run.round(1).read_result().metric_at_end
    assert measured_accuracy_percent(stripped) == pytest.approx(recorded, abs=1.01)


def test_it_goes_on_after_an_interruption(trained, runs):
    """With float16 the checkpoint holds the scale of the loss too."""
    precision, uninterrupted = trained
    config = without_rounds(runs, uninterrupted, f"{precision}_interrupted", 1)
    run_until(config, 1, Interrupt(epoch=2, step=2))
    run = RunFolder(config.folder)
    optimizer = read_checkpoint(run.round(1).path).load_model().optimizer
    assert type(optimizer).__name__ == OPTIMIZERS[precision]
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    assert inner.get_config()["learning_rate_multipliers"] == {"(.*/)?head/.*": 2.0}
    assert sorted(set(inner._multipliers)) == [1.0, 2.0]
    run_experiment(config, log=lambda line: None)
    expected = state_of(uninterrupted.round(1))
    for name, value in state_of(run.round(1)).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="the tests on TensorFlow start the others"
)
@pytest.mark.parametrize(
    "backend, tests",
    [
        ("jax", "[float16] and not interruption"),  # Which takes a minute to compile again.
        ("torch", "[float16]"),
    ],
)
def test_on_another_backend(backend, tests, tmp_path):
    """With float16, which has a scale of the loss besides."""
    root = pathlib.Path(__file__).resolve().parents[2]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        f"--basetemp={tmp_path / 'tests'}",
    ]
    done = subprocess.run(
        [*command, str(pathlib.Path(__file__)), "-k", tests],
        env={**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": str(root)},
        cwd=root,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout[-4000:]
