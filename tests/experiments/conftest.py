import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pytest

# For `small_experiments`, which tests/bin uses, too.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import small_experiments


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    return small_experiments.shared_runs(tmp_path_factory.getbasetemp() / "runs")


@pytest.fixture(autouse=True)
def small_resnet18():
    with small_experiments.small_resnet18():
        yield
