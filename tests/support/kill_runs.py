"""Trains one experiment under SIGKILLs, for test_kill.

python kill_runs.py FOLDER KILLS FLAG...

Trains the experiment of the flags in FOLDER/whole. Then trains it in FOLDER/killed_00, killed_01, ..., each
attempt in a process of its own that is killed at a random moment and started again; where one comes to its
end, the next folder begins, until there were KILLS kills and the last folder's run is at its end. Every other
kill is at one of the next files written, just before or just after it gets its name. Prints a line a folder:
its name and the number of kills.

Processes are forked, after the imports, which take longer than the training: TensorFlow starts its threads
only when it first computes. No graph is traced, which would take longer than all steps, and would get most of
the kills.
"""

import itertools
import math
import os
import pathlib
import random
import signal
import sys
import time
import traceback
from dataclasses import replace

from tests.support.quick_tensorflow import without_graphs
from tfprune.experiments.run import run_experiment
from tfprune.runs.config import ExperimentConfig


def start(config, write=None):
    """Runs an experiment in a process of its own; returns its id. `write`: (number, before) of its last."""
    child = os.fork()
    if child:
        return child
    try:
        if write:
            die_at(*write)
        with without_graphs():
            run_experiment(config, log=lambda line: None)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def die_at(number, before):
    replace_file, writes = os.replace, itertools.count(1)

    def dying(source, target):
        last = next(writes) == number
        if not (last and before):
            replace_file(source, target)
        if last:
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = dying


def wait(child, seconds=math.inf):
    """Waits for the end of a process, so long, then kills it; returns whether it came to its end."""
    until = time.monotonic() + seconds
    while not (ended := os.waitpid(child, os.WNOHANG))[0] and time.monotonic() < until:
        time.sleep(0.005)
    if not ended[0]:
        os.kill(child, signal.SIGKILL)
        ended = os.waitpid(child, 0)
    if ended[1] not in (0, signal.SIGKILL):
        sys.exit(f"the run failed with status {ended[1]}")
    return ended[1] == 0


def main(folder, kills, config):
    began = time.monotonic()
    wait(start(replace(config, output_dir=f"{folder}/whole")))
    whole = time.monotonic() - began
    draw = random.Random(0)
    done = number = 0
    while done < kills:
        attempt = replace(config, output_dir=f"{folder}/killed_{number:02d}")
        here = 0
        while True:
            if done == kills:
                over = wait(start(attempt))
            elif done % 2:
                over = wait(start(attempt, write=(draw.randint(1, 6), draw.random() < 0.5)))
            else:
                over = wait(start(attempt), draw.uniform(0.0, 0.9 * whole))
            if over:
                break
            done, here = done + 1, here + 1
        print(attempt.output_dir, here, flush=True)
        number += 1


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), int(sys.argv[2]), ExperimentConfig.from_flags("\n".join(sys.argv[3:])))
