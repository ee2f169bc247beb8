"""Runs whose masks are learned in training: exact, and the same to the bit after a stop."""

import numpy as np
import pytest

from tests.support.interrupted_runs import Interrupt, assert_same_rounds, run_until, train, train_killed
from tfprune import sparsity
from tfprune.experiments.networks import load_model
from tfprune.runs.folder import RunFolder

pytestmark = pytest.mark.slow

PHASES = {"method": "acdc", "schedule": "constant", "frequency": 3}


def flags_of(runs, **flags):
    return {**runs.gradual_flags, "power": 9.0, **flags}


@pytest.mark.parametrize("flags", [{"method": "dst"}, PHASES], ids=["dst", "acdc"])
def test_a_run_that_an_exception_stopped_ends_as_one_that_was_not(runs, flags):
    flags = flags_of(runs, **flags)
    if flags["method"] == "acdc":
        del flags["power"]
    run = runs.run(flags["method"], **flags)
    model = load_model(run.round(1))
    masks = sparsity.masks_of(model).values()
    kept, size = sum(map(np.count_nonzero, masks)), sum(mask.size for mask in masks)
    assert kept == size - round(0.85 * size)
    result = run.round(1).read_result()
    assert result.config.method == flags["method"]
    assert result.sparsity == pytest.approx(0.85, abs=1e-3)

    config = runs.config(f"{flags['method']}_stopped", **flags)
    run_until(config, 1, Interrupt(epoch=2, step=2))
    assert_same_rounds(runs.run(config.experiment, **flags), run, (0, 1))


def test_a_run_that_was_killed_ends_as_one_that_was_not(runs, tmp_path):
    flags = flags_of(runs, method="cs")
    run = runs.run("cs", **flags)
    config = runs.config("cs_killed", **flags)
    train_killed(config, "1,2,3", tmp_path / "stopped")
    process = train(config)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert "cs_killed round 1: goes on after epoch 1" in output
    assert_same_rounds(RunFolder(config.folder), run, (0, 1))
