"""Peak memory: a fresh process loads a file, classifies one image, and says how much it ever held.

    python -m tfprune.benchmark.memory LOADER PATH IMAGE.npy

prints as JSON the peak of its resident memory, and how long the first logits took; with LOADER `none` what
Python with NumPy holds.
"""

import dataclasses
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from tfprune.benchmark import child

BASELINE = "none"
_ANSWER = "first run: "
_SECONDS = 600


@dataclasses.dataclass(frozen=True)
class FirstRun:
    """What a fresh process needed for its first image, with one thread.

    Attributes:
        peak_bytes: The largest resident memory: Python, NumPy and the runtime's code included.
        seconds: From Python with NumPy to the logits: imports, loading, compiling, running.
    """

    peak_bytes: int
    seconds: float


def first_run(loader: str, path: str, image_path: str) -> FirstRun:
    """Measures in a process of its own.

    Args:
        loader: One of `tfprune.benchmark.loaders.LOADERS`, or `BASELINE`.
        path: The file to load.
        image_path: A `.npy` file with uint8 `[1, height, width, channels]`.

    Raises:
        RuntimeError: The process failed; has its last line.
    """
    done = subprocess.run(
        child.command("tfprune.benchmark.memory", loader, path, image_path),
        capture_output=True,
        text=True,
        errors="replace",
        timeout=_SECONDS,
        env=child.environment(),
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
    loader, path, image_path = arguments
    image = np.load(image_path)
    start = time.perf_counter()
    if loader != BASELINE:
        from tfprune.benchmark.loaders import load

        load(loader, path, 1, 1)(image)
    answer = FirstRun(seconds=time.perf_counter() - start, peak_bytes=own_peak_bytes())
    # On a line of its own, whatever a runtime has printed.
    print(f"\n{_ANSWER}{json.dumps(dataclasses.asdict(answer))}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
