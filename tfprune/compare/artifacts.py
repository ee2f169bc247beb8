"""What a run folder holds besides results: flags, training curves, exported files and their latencies."""

import csv
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

from tfprune.errors import UserError
from tfprune.runs.folder import Run


@dataclasses.dataclass(frozen=True)
class Artifact:
    """An exported file (or folder): its size, and how well it agrees with the network.

    Attributes:
        name: Such as `model_int8.tflite`.
        weights: How its weights are stored, such as `float16 sparse`; `""` if not recorded.
        raw_bytes: Its size.
        times_smaller: How many times smaller than the dense float32 weights; `None` if not recorded.
        gzip_bytes: Compressed; `None` if not recorded.
        equal_predictions_percent: Test images on which its class is the network's; `None` if not recorded.
    """

    name: str
    weights: str
    raw_bytes: int
    times_smaller: float | None
    gzip_bytes: int | None
    equal_predictions_percent: float | None


@dataclasses.dataclass(frozen=True)
class Latency:
    """Time of a call of one runtime, in milliseconds: median and quartiles."""

    threads: int
    batch_size: int
    contender: str
    median_ms: float
    lower_ms: float
    upper_ms: float
    times_fastest_dense: float | None

    @property
    def setting(self) -> tuple[int, int]:
        """Threads and images a call: latencies of one setting compare."""
        return self.threads, self.batch_size


@dataclasses.dataclass(frozen=True)
class Epoch:
    """A line of `history.csv`; accuracies in percent, `None` where the epoch was not evaluated."""

    loss: float | None
    accuracy_percent: float | None
    test_loss: float | None
    test_accuracy_percent: float | None


def read_flags(run: Run) -> str | None:
    """The text of a run's `flags.txt`; `None` if there is none."""
    try:
        return (run.folder / "flags.txt").read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"{run.folder / 'flags.txt'}: {error.strerror or error}") from error


def read_history(run: Run, number: int) -> list[Epoch]:
    """The epochs of a finished round; none if it has no `history.csv` or did not train."""
    path = run.folder / f"round_{number:02d}" / "history.csv"
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            return [_epoch(row) for row in csv.DictReader(stream)]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path}: not a table of epochs: {error}") from error


def _epoch(row: dict[str, str | None]) -> Epoch:
    def number(name: str, factor: float = 1) -> float | None:
        value = float(row[name]) if row.get(name) else math.nan
        return value * factor if math.isfinite(value) else None

    return Epoch(number("loss"), number("accuracy", 100), number("val_loss"), number("val_accuracy", 100))


def read_export(run: Run) -> list[Artifact]:
    """The files that `export.json` describes; none if the run was not exported."""
    path = run.folder / "export" / "export.json"
    content = _read_json(path)
    try:
        dense = _optional(int, content.get("dense_weights_bytes"))
        return [
            Artifact(
                name=name,
                weights=str(entry.get("weights") or ""),
                raw_bytes=int(entry["bytes"]),
                times_smaller=dense / int(entry["bytes"]) if dense and entry["bytes"] else None,
                gzip_bytes=_optional(int, entry.get("gzip_bytes")),
                equal_predictions_percent=_optional(float, entry.get("equal_predictions_percent")),
            )
            for name, entry in content.get("artifacts", {}).items()
        ]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not an export's record: {error!r}") from error


def read_latencies(run: Run) -> list[Latency]:
    """Reads the latencies in `benchmark.json` but for runtimes that failed; none if nothing was measured."""
    path = run.folder / "export" / "benchmark.json"
    content = _read_json(path)
    try:
        titles = {entry["name"]: str(entry["title"]) for entry in content.get("contenders", ())}
        return [
            Latency(
                threads=int(setting["threads"]),
                batch_size=int(setting["batch_size"]),
                contender=titles.get(row["name"], str(row["name"])),
                median_ms=float(row["milliseconds"]["median"]),
                lower_ms=float(row["milliseconds"]["lower"]),
                upper_ms=float(row["milliseconds"]["upper"]),
                times_fastest_dense=_optional(float, (row.get("to_fastest_dense") or {}).get("median")),
            )
            for setting in content.get("latency", ())
            for row in setting["rows"]
            if row.get("milliseconds")
        ]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not a benchmark's record: {error!r}") from error


def read_machine(run: Run) -> str:
    """The machine of the benchmark in words; `""` if not recorded."""
    machine = _read_json(run.folder / "export" / "benchmark.json").get("machine")
    if not isinstance(machine, dict) or not machine.get("processor"):
        return ""
    cores = f", {machine['cores']} cores" if machine.get("cores") else ""
    return f"{machine['processor']}{cores}"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: truncated or not JSON: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: must hold a JSON object. Received: {type(content).__name__}")
    return content


def _optional(kind: type, value: Any) -> Any:
    return None if value is None else kind(value)
