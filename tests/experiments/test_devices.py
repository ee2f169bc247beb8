"""An experiment on two devices or in two processes is the experiment on one, to rounding."""

import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import zipfile

import h5py
import keras
import numpy as np
import pytest

from tests.support import run_on_devices
from tfprune.data import datasets
from tfprune.errors import UserError
from tfprune.experiments.devices import ONE_DEVICE, Devices
from tfprune.experiments.environment import hardware
from tfprune.experiments.run import run_experiment
from tfprune.runs.result import read_result
from tfprune.training.checkpoint import read_checkpoint

pytestmark = pytest.mark.slow

PROGRAM = pathlib.Path(run_on_devices.__file__)
PROCESSES = {
    "distributed": True,
    "coordinator_address": "localhost:1",
    "process_count": 2,
    "process_index": 0,
}


def start(backend, how, folder, names, *arguments, **environment):
    """Starts the program in a process of its own: devices are set before a backend starts."""
    devices = 2 if how == "two_devices" else 1
    environment = {
        **os.environ,
        "KERAS_BACKEND": backend,
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        **environment,
    }
    return subprocess.Popen(
        [sys.executable, str(PROGRAM), how, str(folder), ",".join(names), *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def start_two_processes(folder, names, **of_process_0):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    return [
        start("jax", "two_processes", folder, names, number, address, **({} if number else of_process_0))
        for number in (0, 1)
    ]


def finish(processes, status=0):
    """Waits for the processes, ends all where one hangs, and returns what they printed."""
    try:
        outputs = [process.communicate(timeout=900)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, output in zip(processes, outputs, strict=True):
        if status == 0:
            assert process.returncode == 0, output[-4000:]
        else:
            assert process.returncode != 0, output[-4000:]
    return outputs


@pytest.fixture(scope="module")
def tensorflow_alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tensorflow")
    names = ["dense", "iterative", "gradual"]
    if keras.backend.backend() == "tensorflow":
        with run_on_devices.small_resnet18():
            run_on_devices.run(folder, names)
    else:
        finish([start("tensorflow", "one", folder, names)])
    return folder


@pytest.fixture(scope="module")
def jax_alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("jax")
    finish([start("jax", "one", folder, run_on_devices.EXPERIMENTS)])
    return folder


def read_model(path):
    """The weights of a `.keras` file by their names in it, and its config."""
    values = {}

    def keep(name, item):
        if isinstance(item, h5py.Dataset):
            values[name] = np.array(item)

    with zipfile.ZipFile(path) as archive:
        with archive.open("model.weights.h5") as weights, h5py.File(weights) as file:
            file.visititems(keep)
        return values, archive.read("config.json").decode()


def assert_same_experiment(ours, theirs, name):
    config = run_on_devices.Runs(theirs).config(
        name, **run_on_devices.DATA, **run_on_devices.EXPERIMENTS[name]
    )
    for number in range(config.last_round + 1):
        ours_round, theirs_round = (folder / name / f"round_{number:02d}" for folder in (ours, theirs))
        values, model_config = read_model(ours_round / "model.keras")
        expected, _ = read_model(theirs_round / "model.keras")
        assert '"synchronized": true' not in model_config  # JAX and PyTorch could not load it.
        assert values.keys() == expected.keys()
        for key, value in expected.items():
            if value.dtype == bool:
                np.testing.assert_array_equal(values[key], value, err_msg=key)
            else:
                # Adam divides rounding by the gradient's size, which may be small.
                np.testing.assert_allclose(values[key], value, atol=5e-5, err_msg=key)
        result, other = (read_result(path / "result.json", number) for path in (ours_round, theirs_round))
        for same in ("sparsity", "metric_at_end", "metric_after_pruning", "steps"):
            assert getattr(result, same) == getattr(other, same)
        if result.epochs:
            history, expected_history = (
                np.genfromtxt(path / "history.csv", delimiter=",", names=True)
                for path in (ours_round, theirs_round)
            )
            for figure in ("loss", "val_loss"):
                np.testing.assert_allclose(history[figure], expected_history[figure], rtol=1e-5)
    # The reference is no empty one.
    assert config.regime == "dense" or result.sparsity > 0.79


def test_mirrored(tensorflow_alone, tmp_path):
    names = ["dense", "iterative", "gradual"]
    [output] = finish([start("tensorflow", "mirrored", tmp_path, names)])
    assert "2 devices share each batch" in output
    for name in names:
        assert_same_experiment(tmp_path, tensorflow_alone, name)


def test_two_devices_of_jax(jax_alone, tmp_path):
    shutil.copytree(jax_alone / "dense", tmp_path / "dense")
    names = ["taught", "gradual"]
    [output] = finish([start("jax", "two_devices", tmp_path, names)])
    assert "2 devices share each batch" in output
    for name in names:
        assert_same_experiment(tmp_path, jax_alone, name)


def test_two_processes_of_jax_after_a_kill(jax_alone, tmp_path):
    """Process 0 dies in the second epoch of a round; process 1 ends too; the same commands go on."""
    shutil.copytree(jax_alone / "dense", tmp_path / "dense")
    killed = start_two_processes(tmp_path, ["iterative"], DIE_AT="iterative,2,2")
    finish(killed, status=1)
    assert killed[0].returncode == -signal.SIGKILL
    assert read_checkpoint(tmp_path / "iterative" / "round_01").epochs_done == 1

    outputs = finish(start_two_processes(tmp_path, ["iterative"]))
    assert "2 devices of 2 processes share each batch" in outputs[0]
    assert "iterative round 1: goes on after epoch 1" in outputs[0]
    assert "iterative" not in outputs[1]  # Process 0 alone prints.
    assert_same_experiment(tmp_path, jax_alone, "iterative")
    assert not [path for path in tmp_path.rglob("*") if "checkpoint" in path.name or ".keras." in path.name]


@pytest.mark.parametrize(
    "flags, message",
    [
        ({"process_count": 2}, "--process_count=2: has no effect without --distributed"),
        (
            {**PROCESSES, "process_count": 0},
            "--process_count=0: must be given too with --coordinator_address",
        ),
        ({**PROCESSES, "process_count": -1}, "--process_count=-1: must be at least 1"),
        (
            {**PROCESSES, "process_index": 2},
            "--process_index=2: must be at least 0 and below --process_count=2",
        ),
        ({**PROCESSES, "process_index": -2}, "--process_index=-2: must be at least 0"),
        ({**PROCESSES, "coordinator_address": "host"}, "--coordinator_address=host: must be HOST:PORT"),
    ],
)
def test_flags_that_do_not_fit(flags, message, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(UserError) as caught:
        Devices(**flags).check()
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    "backend, flags, message",
    [
        ("torch", {"data_parallel": True}, "--data_parallel=True: must be False with KERAS_BACKEND=torch"),
        ("torch", PROCESSES, "--distributed=True: must be False with KERAS_BACKEND=torch"),
        ("tensorflow", PROCESSES, "--distributed=True: must be False with KERAS_BACKEND=tensorflow"),
    ],
)
def test_backends_that_cannot(backend, flags, message, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: backend)
    with pytest.raises(UserError) as caught:
        Devices(**flags).check()
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    "flags, message",
    [
        (
            {"batch_size": 63},
            "--batch_size=63: must be a multiple of the 2 devices that share each batch: pass ",
        ),
        (
            {"train_examples": 241},
            "--train_examples=241: must leave a last batch that 2 devices share evenly, but of 241 training "
            "images in batches of 64 the last has 49: pass --train_examples=240",
        ),
        ({"test_examples": 99}, "--test_examples=99: must leave a last batch that 2 devices share evenly"),
        ({"pruning_engine": "tfmot"}, "--pruning_engine=tfmot: must be tfprune on several devices"),
    ],
)
def test_batches_that_devices_cannot_share(runs, flags, message, monkeypatch):
    monkeypatch.setattr(Devices, "count", 2)
    config = runs.config("uneven", **{**run_on_devices.DATA, **flags})
    dataset = datasets.load(
        "digits", train_examples=config.train_examples, test_examples=config.test_examples
    )
    with pytest.raises(UserError) as caught:
        Devices(data_parallel=True).check_experiment(config, dataset)
    assert str(caught.value).startswith(message)


def test_a_request_that_cannot_be_met_leaves_no_folder(runs, monkeypatch):
    monkeypatch.setattr(Devices, "count", 3)
    config = runs.config("three_devices", **run_on_devices.DATA)
    with pytest.raises(UserError, match="must be a multiple of the 3 devices"):
        run_experiment(config, log=lambda line: None, devices=Devices(data_parallel=True))
    assert not config.folder.exists()


def test_one_device_shares_nothing():
    assert (ONE_DEVICE.count, ONE_DEVICE.shard, ONE_DEVICE.writes, str(ONE_DEVICE)) == (1, (0, 1), True, "")
    ONE_DEVICE.wait_for_all("here")


def test_hardware_is_named():
    found = hardware()
    assert list(found) == ["processor", "cores", "memory_gib", "devices"]
    assert found["processor"] and 1 <= found["cores"] <= os.cpu_count()
    assert found["memory_gib"] > 0.1
    assert found["devices"] and all(isinstance(name, str) for name in found["devices"])
