"""Killed with SIGKILL at 20 moments, a run ends as one that was never stopped."""

import os

import pytest

from tests.support.interrupted_runs import assert_same_rounds, left_over
from tests.support.killed import killed_runs
from tests.support.small_experiments import FLAGS, state_of
from tfprune.runs.config import ExperimentConfig

pytestmark = pytest.mark.slow

KILLS = 20


def files_of(run):
    """Names of a run's files but for those that a kill may leave: TensorBoard's, and who held the lock."""
    paths = (path.relative_to(run.path) for path in run.path.rglob("*"))
    return {path for path in paths if "tensorboard" not in path.parts and path.name != ".lock.json"}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the program forks")
def test_twenty_kills_lose_nothing(tmp_path):
    flags = {
        **{name: value for name, value in FLAGS.items() if name not in ("width", "stem", "weights")},
        "model": "tests.support.own_networks:residual",
        "train_examples": 128,
        "regime": "iterative",
        "schedule": "geometric",
        "target_sparsity": 0.9,
        "rounds": 2,
        "epochs": (2,),
    }
    config = ExperimentConfig("run", **flags)
    whole, killed = killed_runs(tmp_path, config, KILLS, timeout=1500)
    assert sum(kills for _, kills in killed) == KILLS
    assert len(state_of(whole.round(2))) > 15
    files = files_of(whole)
    for run, _ in killed:
        assert_same_rounds(run, whole, range(3))
        assert not left_over(run)
        assert files_of(run) == files
