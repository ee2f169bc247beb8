"""What several benchmarks do with networks: write them for both runtimes, and time them by turns."""

import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tfprune.export import export_sparse
from tfprune.export.formats.sparse import Sparse
from tfprune.export.formats.tflite import CONVERSIONS, TFLite
from tfprune.export.network import Network
from tfprune.timing import Timings, time_rounds

TFLITE = TFLite(next(each for each in CONVERSIONS if each.weights == "float32"))
RUNTIMES = {"TFLite float32": TFLITE, "tfprune": Sparse()}

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
"""Seconds that pass, and those that all threads compute: where other programs compute too, for one thread."""


def write_files(model: Any, folder: Path, runtimes: Iterable[str]) -> dict[str, Path]:
    """Writes a network as it is, without making it smaller, for each runtime.

    Returns:
        Runtime -> its file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for runtime in runtimes:
        paths[runtime] = folder / RUNTIMES[runtime].name
        if RUNTIMES[runtime] is TFLITE:
            with tempfile.TemporaryDirectory() as work:
                TFLITE.write(Network(model, {}, work), str(paths[runtime]))
        else:
            export_sparse(model, paths[runtime])
    return paths


def time_files(
    paths: Mapping[str, Mapping[str, Path]],
    images: np.ndarray,
    threads: int,
    rounds: int,
    clock: str = "wall",
) -> dict[str, Timings]:
    """Times the files of several networks in each runtime, in interleaved rounds of one process.

    Args:
        paths: Network -> runtime -> file.
        images: What each call takes.
        threads: Of each runtime.
        rounds: How often each is timed.
        clock: One of `CLOCKS`.

    Returns:
        Runtime -> the seconds of each network.
    """
    calls: dict[str, dict[str, Callable[[], object]]] = {}
    for network, files in paths.items():
        for runtime, path in files.items():
            run = RUNTIMES[runtime].load_batch(str(path), threads, len(images))
            calls.setdefault(runtime, {})[network] = lambda run=run: run(images)
    return {runtime: time_rounds(each, rounds, clock=CLOCKS[clock]) for runtime, each in calls.items()}
