"""Training on two devices or in two processes gives the masks, losses and weights of training on one."""

import os
import pathlib
import socket
import subprocess
import sys

import keras
import numpy as np
import pytest

from tests.support import distributed_training

PROGRAM = pathlib.Path(distributed_training.__file__)
HOW = {"tensorflow": ["mirrored"], "jax": ["two_devices", "two_processes"]}.get(keras.backend.backend(), [])
RUNS = ["global", "rigl"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not HOW, reason="Keras distributes training on TensorFlow and JAX only"),
]


def start(how, *arguments):
    """Starts the program in a process of its own: devices are set before a backend starts."""
    devices = 2 if how == "two_devices" else 1
    environment = {**os.environ, "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    # The library of this process, wherever it came from.
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    return subprocess.Popen(
        [sys.executable, str(PROGRAM), how, *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(processes):
    """Waits for the processes; where one fails or hangs, ends all."""
    try:
        outputs = [process.communicate(timeout=240)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 0, output[-4000:]


@pytest.fixture(scope="module")
def on_one_device(tmp_path_factory):
    """Folder of the runs in this process, on one device."""
    folder = tmp_path_factory.mktemp("one")
    assert list(distributed_training.RUNS) == RUNS
    for run in RUNS:
        distributed_training.train(run, folder / f"{run}_0.npz")
    return folder


@pytest.fixture(scope="module", params=HOW)
def on_two(request, tmp_path_factory):
    """Folder of the runs on two devices, and the numbers of the processes that wrote them."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param != "two_processes":
        finish([start(request.param, folder)])
        return folder, [0]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    finish([start(request.param, folder, number, address) for number in (0, 1)])
    return folder, [0, 1]


@pytest.mark.parametrize("run", RUNS)
def test_two_devices_prune_and_train_as_one(run, on_one_device, on_two):
    folder, numbers = on_two
    one = np.load(on_one_device / f"{run}_0.npz")
    removed = [np.count_nonzero(~masks) for masks in one["masks"]]
    # The reference is no empty one: 60 % of 140 weights go, in several updates.
    assert removed[0] == 0 and removed[-1] == 84
    assert len(np.unique(one["masks"], axis=0)) >= 3
    for number in numbers:
        two = np.load(folder / f"{run}_{number}.npz")
        np.testing.assert_array_equal(two["masks"], one["masks"])
        np.testing.assert_array_equal(two["steps"], [8, 8])
        np.testing.assert_allclose(two["losses"], one["losses"], rtol=1e-4)
        np.testing.assert_allclose(two["kernels"], one["kernels"], atol=1e-4)
        assert not two["wrong"].any()
        np.testing.assert_array_equal(two["kernels"] == 0, ~two["last_masks"])
        np.testing.assert_array_equal(two["last_masks"], one["masks"][-1])
