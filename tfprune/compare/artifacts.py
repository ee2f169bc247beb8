"""What a run folder holds besides results: flags, training curves, exported files and their latencies."""

import csv
import dataclasses
import io
import math
import os
from typing import Any

from tfprune.reading import json_of, reading, text_of
from tfprune.records import is_number, reject, values_of
from tfprune.runs.folder import Run
from tfprune.runs.metric import Metric
from tfprune.settings import ABOVE_0, AT_LEAST_1, PERCENT, measured


@dataclasses.dataclass(frozen=True, kw_only=True)
class Artifact:
    """An exported file (or folder): its size, and how well it agrees with the network.

    Attributes:
        name: Such as `model_int8.tflite`.
        weights: How its weights are stored, such as `float16 sparse`; `""` if not recorded.
        raw_bytes: Its size.
        times_smaller: How many times smaller than the dense float32 weights, those of channels that were cut
            too; `None` if not recorded.
        gzip_bytes: Compressed; `None` if not recorded.
        equal_predictions_percent: Test images on which its class is the network's; `None` if not recorded.
    """

    name: str
    weights: str = measured(default="")
    raw_bytes: int = measured(AT_LEAST_1)
    times_smaller: float | None = measured(ABOVE_0)
    gzip_bytes: int | None = measured(AT_LEAST_1, default=None)
    equal_predictions_percent: float | None = measured(PERCENT, default=None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Latency:
    """Time of a call of one runtime, in milliseconds: median and quartiles."""

    threads: int = measured(AT_LEAST_1)
    batch_size: int = measured(AT_LEAST_1)
    contender: str
    median_ms: float = measured(ABOVE_0)
    lower_ms: float = measured(ABOVE_0)
    upper_ms: float = measured(ABOVE_0)
    times_fastest_dense: float | None = measured(ABOVE_0)

    @property
    def setting(self) -> tuple[int, int]:
        """Threads and images a call: latencies of one setting compare."""
        return self.threads, self.batch_size


@dataclasses.dataclass(frozen=True, kw_only=True)
class Epoch:
    """A line of `history.csv`: the loss and the run's metric; `None` where the epoch was not evaluated."""

    loss: float | None
    metric: float | None
    test_loss: float | None
    test_metric: float | None


def read_flags(run: Run) -> str | None:
    """Returns the text of a run's `flags.txt`; None if there is none.

    Raises:
        FileError: If it is no text.
    """
    path = run.folder / "flags.txt"
    if not os.path.exists(path):
        return None
    with reading(path, "flagfile of a run", "write it again, or remove the folder"):
        return text_of(path)


def read_history(run: Run, number: int, metric: Metric) -> list[Epoch]:
    """Returns the epochs of a finished round; none if it has no `history.csv` or did not train.

    Args:
        run: The run.
        number: The round.
        metric: That of the round.

    Raises:
        FileError: If it is no table of epochs.
    """
    path = run.folder / f"round_{number:02d}" / "history.csv"
    if not os.path.exists(path):
        return []
    with reading(path, "history of a round", "remove it, or the round's folder to run the round anew"):
        rows = list(csv.DictReader(io.StringIO(text_of(path), newline=""), strict=True))
        for line, row in enumerate(rows, start=2):
            if None in row or None in row.values():
                raise ValueError(f"its line {line} has another number of cells than its first")
        return [_epoch(row, metric) for row in rows]


def _epoch(row: dict[str, str], metric: Metric) -> Epoch:
    def number(name: str, factor: float = 1) -> float | None:
        value = float(row[name]) if row.get(name) else math.nan
        return value * factor if math.isfinite(value) else None

    factor, on_test = 100 if metric.in_percent else 1, f"val_{metric.name}"
    found = Epoch(
        loss=number("loss"),
        metric=number(metric.name, factor),
        test_loss=number("val_loss"),
        test_metric=number(on_test, factor),
    )
    metric.check(metric.name, found.metric)
    metric.check(on_test, found.test_metric)
    return found


def read_export(run: Run) -> list[Artifact]:
    """Returns the files that `export.json` describes; none if the run was not exported.

    Raises:
        FileError: If it is no record of an export.
    """
    path = run.folder / "export" / "export.json"
    if not os.path.exists(path):
        return []
    with reading(path, "record of an export", "export that experiment anew, or remove the file"):
        content = _object(json_of(path))
        dense = content.get("dense_weights_bytes")
        if dense is not None and not (is_number(dense) and dense > 0):
            reject("dense_weights_bytes", dense, "must be above 0")
        result = run.rounds[-1]
        if dense and result.is_cut:
            dense /= result.size.share_of(result.whole, "parameters")
        return [
            _artifact(name, _object(entry), dense)
            for name, entry in _object(content.get("artifacts", {})).items()
        ]


def _artifact(name: str, entry: dict[str, Any], dense: float | None) -> Artifact:
    size = entry["bytes"]
    smaller = dense / size if dense and is_number(size) and size else None
    return Artifact(
        **values_of(Artifact, {**entry, "name": name, "raw_bytes": size, "times_smaller": smaller})
    )


def read_latencies(run: Run) -> list[Latency]:
    """Returns the latencies in `benchmark.json` but for runtimes that failed; none if nothing was measured.

    Raises:
        FileError: If it is no record of a benchmark.
    """
    path = run.folder / "export" / "benchmark.json"
    if not os.path.exists(path):
        return []
    with reading(path, "record of a benchmark", "measure that experiment anew, or remove the file"):
        content = _object(json_of(path))
        titles = {entry["name"]: entry["title"] for entry in map(_object, content.get("contenders", ()))}
        return [
            _latency(setting, row, titles.get(row["name"], row["name"]))
            for setting in map(_object, content.get("latency", ()))
            for row in map(_object, setting["rows"])
            if row.get("milliseconds")
        ]


def _latency(setting: dict[str, Any], row: dict[str, Any], title: Any) -> Latency:
    milliseconds = {f"{name}_ms": value for name, value in _object(row["milliseconds"]).items()}
    times = _object(row.get("to_fastest_dense") or {}).get("median")
    found = Latency(
        **values_of(Latency, {**setting, **milliseconds, "contender": title, "times_fastest_dense": times})
    )
    if not found.lower_ms <= found.median_ms <= found.upper_ms:
        reject("median", found.median_ms, f"must be between {found.lower_ms} and {found.upper_ms}")
    return found


def read_machine(run: Run) -> str:
    """Returns the machine of the benchmark in words; `""` if not recorded.

    Raises:
        FileError: If there is a record, and it is damaged.
    """
    path = run.folder / "export" / "benchmark.json"
    if not os.path.exists(path):
        return ""
    with reading(path, "record of a benchmark", "measure that experiment anew, or remove the file"):
        machine = _object(_object(json_of(path)).get("machine") or {})
        processor, cores = machine.get("processor"), machine.get("cores")
        if not processor:
            return ""
        if not isinstance(processor, str):
            reject("processor", processor, "must be a string")
        if cores is not None and (type(cores) is not int or cores < 1):
            reject("cores", cores, "must be a whole number of at least 1")
        return f"{processor}, {cores} cores" if cores else processor


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"it must have a JSON object there. Received: {type(value).__name__}")
    return value
