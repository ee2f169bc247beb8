"""Killed with SIGKILL at 20 moments, a run ends as one that was never stopped."""

import os
import pathlib
import subprocess
import sys

import pytest

from tests.support.interrupted_runs import assert_same_rounds, left_over
from tests.support.small_experiments import FLAGS, state_of
from tfprune.runs.config import ExperimentConfig
from tfprune.runs.folder import RunFolder

pytestmark = pytest.mark.slow

PROGRAM = pathlib.Path(__file__).resolve().parents[1] / "support" / "kill_runs.py"
KILLS = 20


def files_of(run):
    """Names of a run's files but for those that a kill may leave: TensorBoard's, and who held the lock."""
    paths = (path.relative_to(run.path) for path in run.path.rglob("*"))
    return {path for path in paths if "tensorboard" not in path.parts and path.name != ".lock.json"}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the program forks")
def test_twenty_kills_lose_nothing(tmp_path):
    flags = {
        **FLAGS,
        "train_examples": 128,
        "regime": "iterative",
        "schedule": "geometric",
        "target_sparsity": 0.9,
        "rounds": 2,
        "epochs": (2,),
    }
    config = ExperimentConfig("run", **flags)
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(tmp_path), str(KILLS), *config.to_flags().splitlines()],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1500,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    lines = [line.split() for line in done.stdout.splitlines() if line.startswith(str(tmp_path))]
    assert sum(int(kills) for _, kills in lines) == KILLS
    whole = RunFolder(tmp_path / "whole" / "run")
    assert len(state_of(whole.round(2))) > 20
    files = files_of(whole)
    for folder, _ in lines:
        run = RunFolder(pathlib.Path(folder) / "run")
        assert_same_rounds(run, whole, range(3))
        assert not left_over(run)
        assert files_of(run) == files
