"""The whole measurement of a folder of exported files, as one record."""

import dataclasses
import gc
import importlib.metadata
import os
import platform
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tfprune.benchmark import process
from tfprune.benchmark.contenders import (
    CONTENDERS,
    DENSE_TFLITE,
    OURS,
    OURS_NAME,
    Prepared,
    chosen_contenders,
    prepare,
)
from tfprune.benchmark.layers import layer_times
from tfprune.benchmark.memory import BASELINE, first_run
from tfprune.benchmark.report import setting_title
from tfprune.export.arrays import Arrays, by_name, count_of, part_of
from tfprune.export.formats import all_files
from tfprune.export.formats.format import Run
from tfprune.export.sizes import measure_sizes, zstd_installed
from tfprune.machine import available_cores, processor_name
from tfprune.runtime.format.file import read_file
from tfprune.runtime.graph import Graph
from tfprune.timing import (
    Timings,
    describe_failure,
    fastest,
    paired_speedup,
    summarize,
    time_rounds,
)


@dataclasses.dataclass(frozen=True)
class Plan:
    """The settings of a measurement.

    Attributes:
        rounds: How often each contender is timed in each setting.
        batch_sizes: Examples a call.
        threads: Numbers of threads; with the batch sizes they make the settings.
        contenders: Names of `tfprune.benchmark.contenders`, or `"all"`.
        zstd: Whether sizes with zstd are measured, too.
        memory: Whether peak memory is measured.
    """

    rounds: int = 15
    batch_sizes: tuple[int, ...] = (1, 8)
    threads: tuple[int, ...] = dataclasses.field(
        default_factory=lambda: tuple(sorted({1, available_cores()}))
    )
    contenders: tuple[str, ...] = ("all",)
    zstd: bool = True
    memory: bool = True


def measure(
    folder: str,
    *,
    inputs: Arrays,
    outputs: Arrays,
    dense_weights_bytes: int,
    plan: Plan,
    progress: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Measures latency, size and memory of a network's exported files and of its peers.

    In each setting all contenders are loaded, their outputs are compared with the network's, and those
    that agree are timed by turns (`time_rounds`). Other runtimes get the network from `model.tfprune`. One
    that cannot take such inputs is not timed, and says why.

    Args:
        folder: The exported files.
        inputs: Examples, at least as many as the largest batch: an array, or arrays by the name of the input.
        outputs: The network's own for them: an array, or arrays by the name of the output.
        dense_weights_bytes: The bytes of all weights as float32, with which sizes are compared.
        plan: The settings.
        progress: Receives a line for each step.

    Returns:
        `machine`, `versions`, `plan`; `inputs`: `name`, `dtype`, `shape` of an example; `contenders`:
        `name`, `title`, `kind`, `reason` why it is not timed (empty if it is) and
        `largest_logit_difference_relative` over the settings; `latency`: for each setting `threads`,
        `batch_size`, `fastest_dense` (a name) and `rows` (see
        `setting_record`); `sizes`: `dense_weights_bytes` and `artifacts` (`name`, `raw`, `gzip`, `zstd`);
        `memory`: `baseline_bytes` and `rows`; `layers`: see `LayerTime`, one thread, batch 1.

    Raises:
        ValueError: An unknown contender, none that can be measured, too few examples, or a `model.tfprune`
            that is not sound.
    """
    if count_of(inputs) < max(plan.batch_sizes):
        raise ValueError(
            f"`inputs` must be at least {max(plan.batch_sizes)}, the largest batch. "
            f"Received: {count_of(inputs)}"
        )
    first = part_of(inputs, slice(0, 1))
    contenders = chosen_contenders(plan.contenders)
    ours = os.path.join(folder, OURS)
    graph = read_file(ours) if os.path.exists(ours) else None
    with tempfile.TemporaryDirectory() as work:
        prepared = []
        for contender in contenders:
            prepared.append(prepare(contender, folder, work, graph, first))
        reasons = {entry.timing.name: entry.reason for entry in prepared}
        if all(reasons.values()):
            listed = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
            raise ValueError(f"there is nothing to measure: {listed}")
        differences: dict[str, float] = {}
        latency = []
        for threads in plan.threads:
            for batch_size in plan.batch_sizes:
                title = setting_title({"threads": threads, "batch_size": batch_size})
                progress(f"latency, {title}: {plan.rounds} rounds ...")
                batch, expected = (part_of(arrays, slice(0, batch_size)) for arrays in (inputs, outputs))
                networks, failures = _load_all(prepared, threads, batch, expected, differences)
                timings = time_rounds(_calls(networks, batch), plan.rounds)
                failures |= {name: f"failed: {reason}" for name, reason in timings.failures.items()}
                for name, failure in failures.items():
                    reasons[name] = reasons[name] or failure
                kinds = {entry.timing.name: entry.timing.kind for entry in prepared}
                latency.append(setting_record(threads, batch_size, timings, kinds, failures))
                del networks
                gc.collect()
        memory = _memory(prepared, first, work, progress) if plan.memory else None
        layers = _layers(graph, ours, first, plan.rounds) if _timed(latency, OURS_NAME) else []
    progress("sizes ...")
    names = [file.name for file in all_files()]
    return {
        "machine": describe_machine(),
        "versions": installed_versions(),
        "plan": dataclasses.asdict(plan),
        "inputs": [
            {"name": name, "dtype": str(array.dtype), "shape": list(array.shape[1:])}
            for name, array in by_name(inputs, "").items()
        ],
        "contenders": [
            {
                "name": entry.timing.name,
                "title": entry.timing.title,
                "kind": entry.timing.kind,
                "reason": reasons[entry.timing.name],
                "largest_logit_difference_relative": differences.get(entry.timing.name),
            }
            for entry in prepared
        ],
        "latency": latency,
        "sizes": {
            "dense_weights_bytes": dense_weights_bytes,
            "zstd_installed": zstd_installed(),
            "artifacts": [dataclasses.asdict(size) for size in measure_sizes(folder, names, zstd=plan.zstd)],
        },
        "memory": memory,
        "layers": layers,
    }


def setting_record(
    threads: int, batch_size: int, timings: Timings, kinds: dict[str, str], failures: dict[str, str]
) -> dict[str, Any]:
    """Makes the record of one setting from the seconds of its rounds.

    Args:
        threads: The setting's number of threads.
        batch_size: The setting's examples a call.
        timings: From `time_rounds`.
        kinds: Name to `Timing.kind`, in the order of the rows.
        failures: Name to reason, of those that were not timed here.

    Returns:
        `threads`, `batch_size`, `fastest_dense` and `rows`: `name`, `milliseconds`, `to_tflite_dense`,
        `to_fastest_dense` (each `median`, `lower`, `upper`: median and quartiles; the last two say how many
        times faster and are null where the baseline was not timed), `seconds` of every round, `failure`.
    """
    seconds = timings.seconds
    best = fastest(seconds, [name for name, kind in kinds.items() if kind == "dense"])

    def against(baseline: str | None, name: str) -> dict[str, float] | None:
        if baseline not in seconds:
            return None
        return dataclasses.asdict(paired_speedup(seconds[baseline], seconds[name]))

    rows: list[dict[str, Any]] = [
        {
            "name": name,
            "milliseconds": dataclasses.asdict(summarize([1e3 * value for value in values])),
            "to_tflite_dense": against(DENSE_TFLITE, name),
            "to_fastest_dense": against(best, name),
            "seconds": values,
            "failure": "",
        }
        for name, values in seconds.items()
    ]
    rows += [{"name": name, "failure": failure} for name, failure in failures.items()]
    rows.sort(key=lambda row: list(kinds).index(row["name"]))
    return {"threads": threads, "batch_size": batch_size, "fastest_dense": best, "rows": rows}


def _load_all(
    prepared: Sequence[Prepared],
    threads: int,
    batch: Arrays,
    outputs: Arrays,
    differences: dict[str, float],
) -> tuple[dict[str, Run], dict[str, str]]:
    """Loads all that can run and keeps those whose outputs are the network's; updates `differences`."""
    networks, failures = {}, {}
    for entry in prepared:
        if entry.reason:
            continue
        name = entry.timing.name
        try:
            network = _load(entry, threads, count_of(batch))
            difference = largest_difference(network(batch), outputs)
        except Exception as error:
            # Whatever a runtime raises concerns that one alone.
            failures[name] = f"failed: {describe_failure(error)}"
            continue
        differences[name] = max(difference, differences.get(name, 0.0))
        most = entry.contender.largest_difference(entry.path)
        if difference <= most:
            networks[name] = network
        else:
            failures[name] = (
                f"not timed: its outputs differ by {difference:.1e} of the largest, more than {most:g}"
            )
    return networks, failures


def _load(entry: Prepared, threads: int, batch_size: int) -> Run:
    if entry.timing.own_process:
        return process.start(entry.timing.name, entry.path, threads, batch_size)
    return entry.contender.load(entry.path, threads, batch_size)


def largest_difference(outputs: Arrays, reference: Arrays) -> float:
    """Returns the largest difference relative to the largest value, of the output where it is the largest.

    Args:
        outputs: The outputs of a contender, an array or arrays by output.
        reference: The network's.

    Returns:
        Infinity if not all values are finite.

    Raises:
        ValueError: The outputs or their shapes are others.
    """
    (first, *_) = reference if isinstance(reference, dict) else ("",)
    found, expected = by_name(outputs, first), by_name(reference, first)
    if found.keys() != expected.keys():
        raise ValueError(f"outputs must be {', '.join(expected)}. Received: {', '.join(found)}")
    return max(_difference(np.asarray(found[name]), expected[name]) for name in expected)


def _difference(values: np.ndarray, reference: np.ndarray) -> float:
    if values.shape != reference.shape:
        raise ValueError(f"outputs must be {reference.shape}. Received: {values.shape}")
    if not np.isfinite(values).all():
        return float("inf")
    values, reference = values.astype(np.float64), reference.astype(np.float64)
    difference = float(np.abs(values - reference).max())
    largest = float(np.abs(reference).max())
    return difference / largest if largest else (0.0 if not difference else float("inf"))


def _calls(networks: dict[str, Run], batch: Arrays) -> dict[str, Callable[[], object]]:
    return {name: lambda network=network: network(batch) for name, network in networks.items()}


def _timed(latency: Sequence[dict[str, Any]], name: str) -> bool:
    return any(row["name"] == name and not row["failure"] for record in latency for row in record["rows"])


def _memory(
    prepared: Sequence[Prepared], example: Arrays, work: str, progress: Callable[[str], None]
) -> dict[str, Any]:
    progress("peak memory: a process for each ...")
    path = os.path.join(work, "example.npz" if isinstance(example, dict) else "example.npy")
    if isinstance(example, dict):
        np.savez(path, **example)
    else:
        np.save(path, example)
    baseline = first_run(BASELINE, "", path).peak_bytes
    rows = []
    for entry in prepared:
        if entry.reason:
            continue
        row: dict[str, Any] = {"name": entry.timing.name}
        try:
            result = first_run(entry.timing.name, entry.path, path)
        except (RuntimeError, OSError, ValueError, subprocess.TimeoutExpired) as error:
            rows.append(row | {"failure": describe_failure(error)})
            continue
        row |= {"peak_bytes": result.peak_bytes, "above_baseline_bytes": result.peak_bytes - baseline}
        rows.append(row | {"first_result_seconds": result.seconds, "failure": ""})
    return {"baseline_bytes": baseline, "rows": rows}


def describe_machine() -> dict[str, Any]:
    """Returns `processor`, `architecture`, `system`, and the `cores` that this process may use."""
    return {
        "processor": processor_name(),
        "architecture": platform.machine(),
        "system": platform.system(),
        "cores": available_cores(),
    }


def installed_versions() -> dict[str, str]:
    """Returns the versions of Python, of this project and of the runtimes that are installed."""
    packages = [name for contender in CONTENDERS for name in contender.timing.packages.split()]
    versions = {"python": platform.python_version()}
    for package in dict.fromkeys(["tfprune", "numpy", *packages]):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _layers(graph: Graph, path: str, image: np.ndarray, rounds: int) -> list[dict[str, Any]]:
    from tfprune import runtime

    model = runtime.load(path, threads=1)
    return [row.to_record() for row in layer_times(graph, model.time_nodes(image, rounds))]
