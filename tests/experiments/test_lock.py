"""One process at a time works in a run folder, and a disk that cannot be written loses nothing."""

import errno
import os
import pathlib
import resource
import signal
import subprocess
import sys

import keras
import pytest

from tests.support.interrupted_runs import assert_same_rounds, left_over, train
from tests.support.small_experiments import no_training
from tfprune.errors import UserError
from tfprune.experiments.run import run_experiment
from tfprune.files import writing
from tfprune.lock import OWNER
from tfprune.runs.folder import RunFolder

pytestmark = pytest.mark.slow

HOLDER = """
import pathlib, sys, time
from tfprune.lock import hold
with hold(pathlib.Path(sys.argv[1]), "--experiment=x"):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder():
    """Starts processes that hold a folder; ends those that a test leaves."""
    started = []

    def start(folder):
        command = [sys.executable, "-c", HOLDER, str(folder)]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        assert started[-1].stdout.readline() == "held\n"
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_second_process_is_told_who_holds_the_run(runs, holder):
    config = runs.copy(runs.one_shot, "held")
    (RunFolder(config.folder).round(1).path / "result.json").unlink()
    process = holder(config.folder)
    with no_training(), pytest.raises(UserError) as caught:
        run_experiment(config, log=lambda line: None)
    message = str(caught.value)
    assert message.startswith(f"--experiment=held: {config.folder} is in use by process {process.pid} on ")
    # However it ends, the folder is free, and who held it is no longer said.
    process.send_signal(signal.SIGKILL)
    process.wait()
    run_experiment(config, log=lambda line: None)
    assert_same_rounds(RunFolder(config.folder), runs.one_shot, (0, 1))
    assert not (config.folder / OWNER).exists()


def test_a_finished_run_can_be_read_while_it_is_held(runs, holder):
    config = runs.copy(runs.one_shot, "held_finished")
    holder(config.folder)
    with no_training():
        assert len(run_experiment(config, log=lambda line: None)) == 2


def test_two_at_once_begin_one_run(runs):
    """Of two processes that both find no folder one trains; the other's error names it, or it comes later."""
    config = runs.config("at_once", **runs.one_shot_flags)
    processes = [train(config) for _ in range(2)]
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    codes = sorted(process.returncode for process in processes)
    assert codes in ([0, 2], [0, 0]), outputs
    if codes == [0, 2]:
        refused = next(output for output in outputs if "error: " in output)
        assert f"--experiment=at_once: {config.folder} is in use by " in refused
    assert_same_rounds(RunFolder(config.folder), runs.one_shot, (0, 1))


def test_a_loser_leaves_the_winners_flags(runs, holder):
    """It found no folder, and the other made and holds it when it comes to make it."""
    config = runs.config("lost", **runs.one_shot_flags)

    def log(line):
        if not config.folder.exists():
            config.folder.mkdir()
            holder(config.folder)

    with no_training(), pytest.raises(UserError, match="is in use by process"):
        run_experiment(config, log=log)
    assert not (config.folder / "flags.txt").exists()


def test_a_full_disk_is_a_clear_error_and_loses_nothing(runs):
    """Files may be as large as the network's, not as a checkpoint, which has the optimizer's state too."""
    assert runs.one_shot.round(1).finished
    limit = int(1.2 * (runs.one_shot.round(0).path / "model.keras").stat().st_size)
    config = runs.config("full_disk", **runs.one_shot_flags)
    process = train(
        config, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    )
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 2, output
    message = output.splitlines()[-1]
    assert message.startswith(f"error: {config.folder}")
    assert f"cannot be written: {os.strerror(errno.EFBIG)}; finished rounds and epochs are intact" in message
    run = RunFolder(config.folder)
    assert run.round(0).finished and not run.round(1).finished
    run_experiment(config, log=lambda line: None)
    assert_same_rounds(run, runs.one_shot, (0, 1))
    assert not left_over(run)


def test_keras_on_a_full_disk_raises_what_is_caught(tmp_path):
    """The real error of the writer that the experiments use."""
    if not pathlib.Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(3)])
    path = tmp_path / "model.keras"
    path.symlink_to("/dev/full")
    with pytest.raises(UserError, match=os.strerror(errno.ENOSPC)), writing(tmp_path, "make room"):
        model.save(path)
