"""Stops runs half-way and compares them with runs that nothing stopped."""

import dataclasses
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest

from tests.support.small_experiments import state_of
from tfprune.experiments.methods import method
from tfprune.experiments.run import run_experiment
from tfprune.runs.folder import RunFolder

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPT = pathlib.Path(__file__).with_name("train_small.py")
TIMINGS = ("train_seconds", "images_per_second", "data_wait_percent")


class Interrupted(Exception):
    """Stands for whatever ends a process."""


class Interrupt(keras.callbacks.Callback):
    def __init__(self, epoch, step):
        super().__init__()
        self.stop_at = (epoch - 1, step - 1)

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == self.stop_at:
            raise Interrupted


def run_until(config, number, callback, **how):
    """Runs an experiment until the callback interrupts it in a round; `how` as for `run_experiment`."""
    fit = method.fit

    def interrupted_fit(model, settings, *, folder, callbacks, **arguments):
        if folder.name == f"round_{number:02d}":
            callbacks = [*callbacks, callback]
        return fit(model, settings, folder=folder, callbacks=callbacks, **arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(method, "fit", interrupted_fit)
        with pytest.raises(Interrupted):
            run_experiment(config, log=lambda line: None, **how)


def without_rounds(runs, uninterrupted, name, first):
    """Copies a run as it was before its round `first`; returns the copy's config."""
    config = runs.copy(uninterrupted, name)
    for number in range(first, config.last_round + 1):
        shutil.rmtree(RunFolder(config.folder).round(number).path)
    return config


def assert_same_rounds(run, uninterrupted, numbers):
    for number in numbers:
        ours, theirs = state_of(run.round(number)), state_of(uninterrupted.round(number))
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            assert np.array_equal(ours[name], value), (number, name)
        ours, theirs = (one.round(number).read_result() for one in (run, uninterrupted))
        assert untimed(ours) == untimed(theirs)


def untimed(result):
    """A result without what the clock, the run's name and its folder say; a `.keras` has its date, too."""
    config = dataclasses.replace(result.config, experiment="", output_dir="")
    nothing = dict.fromkeys((*TIMINGS, "seconds", "network"))
    return dataclasses.replace(result, config=config, **nothing)


def loss_history(round_folder):
    lines = (round_folder.path / "history.csv").read_text().splitlines()
    names = lines[0].split(",")
    untimed = [i for i, name in enumerate(names) if name not in TIMINGS]
    return [[line.split(",")[i] for i in untimed] for line in lines]


def left_over(run):
    return [path for path in run.path.rglob("*") if "checkpoint" in path.name]


class InterruptAtOnce(keras.callbacks.Callback):
    def on_train_begin(self, logs=None):
        raise Interrupted


def train(config, preexec_fn=None, **environment):
    command = [sys.executable, str(SCRIPT), *config.to_flags().splitlines()]
    return subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        cwd=ROOT,
        preexec_fn=preexec_fn,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def train_killed(config, stop_at, stopped):
    """Trains in a process, ends it by SIGKILL at a step, "ROUND,EPOCH,STEP", and returns it.

    The file `stopped` is written when it gets there.
    """
    process = train(config, STOP_AT=stop_at, STOP_FILE=str(stopped))
    deadline = time.monotonic() + 300
    while not stopped.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    output, _ = process.communicate()
    assert stopped.exists(), output
    return process
