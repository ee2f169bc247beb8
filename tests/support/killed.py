"""Runs an experiment once whole and, in other folders, killed at many moments and taken up again."""

import os
import pathlib
import subprocess
import sys

from tfprune.runs.folder import RunFolder

PROGRAM = pathlib.Path(__file__).with_name("kill_runs.py")


def killed_runs(folder, config, kills, timeout):
    """The whole run, and each run that was killed beside the number of its kills."""
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(folder), str(kills), *config.to_flags().splitlines()],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    lines = [line.split() for line in done.stdout.splitlines() if line.startswith(str(folder))]
    name = config.experiment
    return RunFolder(folder / "whole" / name), [
        (RunFolder(pathlib.Path(run) / name), int(count)) for run, count in lines
    ]
