"""Processes that work on one study, one of which is killed, for test_study_shared.

python share_study.py FOLDER

Writes flagfiles and runs their study by `tfprune-reproduce` in three processes, in FOLDER/runs. The first one
in the second epoch of `pruned` is killed there. What each says goes to FOLDER/PROCESS.txt. Prints a line a
process: its name, id and status.

Processes are forked, after the imports, which take longer than the training: TensorFlow starts its threads
only when it first computes. No graph is traced, which would take longer than all steps, and of the live page
there is a line alone.
"""

import os
import pathlib
import signal
import sys
import time
import traceback
import types

import keras

from tests.support.quick_tensorflow import without_graphs
from tfprune.bin import flagfiles, reproduce
from tfprune.compare import report  # noqa: F401
from tfprune.errors import UserError
from tfprune.experiments.methods import method

BASE = """--dataset=tests.support.own_networks:images
--model=tests.support.own_networks:sequence
--image_size=8
--autoaugment=none
--batch_size=8
--learning_rate=1e-2
--weight_decay=0
"""
EXPERIMENTS = {
    "dense": "--epochs=1",
    "pruned": "--epochs=2 --init_from=dense --regime=one_shot --target_sparsity=0.5",
    "rounds": "--epochs=1 --init_from=dense --regime=iterative --schedule=geometric --rounds=2 "
    "--target_sparsity=0.75",
    "onwards": "--epochs=1 --init_from=rounds/round_01 --regime=one_shot --target_sparsity=0.8",
}
STOPPED = "stopped"


class Stop(keras.callbacks.Callback):
    """Waits to be killed in the second epoch, if no process did before."""

    def __init__(self, file):
        super().__init__()
        self._file = file

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 1:
            try:
                descriptor = os.open(self._file, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            except FileExistsError:
                return
            os.write(descriptor, str(os.getpid()).encode())
            time.sleep(600)


def stop_in_pruned(file):
    fit = method.fit

    def stopping_fit(model, settings, *, folder, callbacks, **arguments):
        if folder.parent.name == "pruned":
            callbacks = [*callbacks, Stop(file)]
        return fit(model, settings, folder=folder, callbacks=callbacks, **arguments)

    method.fit = stopping_fit


def start(folder, name):
    """Runs the study in a process of its own; returns its id."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        log = os.open(folder / f"{name}.txt", os.O_CREAT | os.O_WRONLY)
        os.dup2(log, 1)
        os.dup2(log, 2)
        values = {
            "profile": "plain",
            "experiments": [*EXPERIMENTS],
            "seeds": ["0"],
            "extra_flagfile": "",
            "output_dir": str(folder / "runs"),
            "data_dir": "",
            "data_parallel": False,
            "training_engine": "keras",
            "wait": True,
            "dry_run": False,
        }
        reproduce.write_live_page = lambda output_dir, status, ended: print(f"page: {ended}")
        reproduce.flags = types.SimpleNamespace(FLAGS=types.SimpleNamespace(**values))
        with without_graphs():
            reproduce.main()
        status = 0
    except UserError as error:
        print(f"error: {error}")
        status = 2
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def write_flagfiles(folder):
    (folder / "profiles").mkdir(parents=True)
    (folder / "profiles" / "plain.flags").write_text("# Nothing.\n")
    (folder / "base.flags").write_text(BASE)
    for name, words in EXPERIMENTS.items():
        lines = ["--flagfile=base.flags", f"--experiment={name}", *words.split()]
        (folder / f"{name}.flags").write_text("\n".join(lines))


def main(folder):
    flagfiles.FLAGS_FOLDER = folder / "flags"
    write_flagfiles(flagfiles.FLAGS_FOLDER)
    stopped = folder / STOPPED
    stop_in_pruned(stopped)
    children = {name: start(folder, name) for name in ("first", "second", "third")}
    while not stopped.exists() or not stopped.read_text():
        time.sleep(0.01)
    os.kill(int(stopped.read_text()), signal.SIGKILL)
    for name, child in children.items():
        print(name, child, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
