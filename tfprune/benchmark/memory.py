"""Peak memory: a fresh process loads a file, runs it on one example, and tells the most that it ever held.

    python -m tfprune.benchmark.memory CONTENDER PATH EXAMPLE.npy|npz

prints as JSON the peak of its resident memory, and how long the first outputs took; with CONTENDER `none` the
memory of Python with NumPy.
"""

import dataclasses
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from tfprune.benchmark import process

BASELINE = "none"
_ANSWER = "first run: "
_SECONDS = 600


@dataclasses.dataclass(frozen=True)
class FirstRun:
    """The needs of a fresh process for its first example, with one thread.

    Attributes:
        peak_bytes: The largest resident memory: Python, NumPy and the runtime's code included.
        seconds: From Python with NumPy to the outputs: imports, loading, compiling, running.
    """

    peak_bytes: int
    seconds: float


def first_run(contender: str, path: str, example_path: str) -> FirstRun:
    """Measures a contender in a process of its own.

    Args:
        contender: A name of `tfprune.benchmark.contenders`, or `BASELINE`.
        path: The file to load.
        example_path: A `.npy` file with a batch of one example, or a `.npz` file with the arrays of one.

    Raises:
        RuntimeError: The process failed; has its last line.
    """
    done = subprocess.run(
        process.command("tfprune.benchmark.memory", contender, path, example_path),
        capture_output=True,
        text=True,
        errors="replace",
        timeout=_SECONDS,
        env=process.environment(),
    )
    answers = [line for line in done.stdout.splitlines() if line.startswith(_ANSWER)]
    if done.returncode or not answers:
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise RuntimeError(f"its process failed: {reason}")
    return FirstRun(**json.loads(answers[-1].removeprefix(_ANSWER)))


def own_peak_bytes() -> int:
    """Returns the largest resident memory that this process had.

    On Linux from `VmHWM`, which starts anew with the program. `ru_maxrss`, taken elsewhere, would there
    begin at the memory of the process that started this one.
    """
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def main(arguments: list[str]) -> None:
    """Loads, runs once, prints."""
    contender, path, example_path = arguments
    example = np.load(example_path)
    if not isinstance(example, np.ndarray):
        example = dict(example)
    start = time.perf_counter()
    if contender != BASELINE:
        from tfprune.benchmark.contenders import contender_of

        contender_of(contender).load(path, 1, 1)(example)
    answer = FirstRun(seconds=time.perf_counter() - start, peak_bytes=own_peak_bytes())
    # On a line of its own, whatever a runtime has printed.
    print(f"\n{_ANSWER}{json.dumps(dataclasses.asdict(answer))}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
