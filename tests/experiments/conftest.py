import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pytest

from tests.support import small_experiments


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    return small_experiments.shared_runs(tmp_path_factory.getbasetemp() / "runs")


@pytest.fixture(autouse=True)
def small_resnet18():
    with small_experiments.small_resnet18():
        yield
