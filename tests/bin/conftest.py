import os
import pathlib
import subprocess
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pytest

from tests.support import small_experiments

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    return small_experiments.shared_runs(tmp_path_factory.getbasetemp() / "runs")


@pytest.fixture(autouse=True)
def small_resnet18():
    with small_experiments.small_resnet18():
        yield


@pytest.fixture
def binary():
    """Runs `python -m tfprune.bin.NAME` as a user does, without this process's environment for TensorFlow."""

    def run(name, *arguments):
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        environment.pop("TF_CPP_MIN_LOG_LEVEL", None)
        return subprocess.run(
            [sys.executable, "-m", f"tfprune.bin.{name}", *arguments],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run
