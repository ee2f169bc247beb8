"""Writes a measurement: `benchmark.json`, `benchmark.csv` and `benchmark.png`."""

import csv
import io
from pathlib import Path
from typing import Any

from tfprune.benchmark.plot import plot_benchmark
from tfprune.files import write_bytes, write_json, write_text
from tfprune.text import csv_cell

_SUMMARIES = (
    ("milliseconds", "milliseconds"),
    ("to_tflite_dense", "times_as_fast_as_tflite_dense"),
    ("to_fastest_dense", "times_as_fast_as_fastest_dense"),
)
_PARTS = (("median", ""), ("lower", "_lower_quartile"), ("upper", "_upper_quartile"))


def write_benchmark(record: dict[str, Any], folder: str | Path, title: str) -> list[Path]:
    """Writes the three files, each whole or not at all.

    Args:
        record: The return value of `tfprune.benchmark.measure.measure`.
        folder: The folder; it must exist.
        title: A name of the network, for the picture.

    Returns:
        Their paths.
    """
    folder = Path(folder)
    png = io.BytesIO()
    plot_benchmark(record, title).savefig(png, format="png")
    paths = [folder / f"benchmark.{suffix}" for suffix in ("json", "csv", "png")]
    write_json(paths[0], record)
    write_text(paths[1], to_csv(record))
    write_bytes(paths[2], png.getvalue())
    return paths


def to_csv(record: dict[str, Any]) -> str:
    """Returns latencies and peak memory as CSV, a line for each contender in each setting.

    A cell is empty where there is no value.

    Args:
        record: The return value of `tfprune.benchmark.measure.measure`.

    Returns:
        CSV with a header line.
    """
    about = {row["name"]: row for row in record["contenders"]}
    memory = {row["name"]: row for row in (record["memory"] or {"rows": []})["rows"]}
    columns = ["threads", "batch_size", "contender", "kind", "largest_logit_difference_relative"]
    columns += [name + suffix for _, name in _SUMMARIES for _, suffix in _PARTS]
    columns += ["fastest_dense", "peak_memory_bytes", "peak_memory_above_baseline_bytes", "not_timed"]
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns, lineterminator="\n")
    writer.writeheader()
    for setting in record["latency"]:
        rows = {row["name"]: row for row in setting["rows"]}
        for name, contender in about.items():
            row = rows.get(name, {"failure": contender["reason"]})
            values = {
                "threads": setting["threads"],
                "batch_size": setting["batch_size"],
                "contender": name,
                "kind": contender["kind"],
                "largest_logit_difference_relative": contender["largest_logit_difference_relative"],
                "fastest_dense": setting["fastest_dense"],
                "peak_memory_bytes": memory.get(name, {}).get("peak_bytes"),
                "peak_memory_above_baseline_bytes": memory.get(name, {}).get("above_baseline_bytes"),
                "not_timed": row["failure"],
            }
            for key, column in _SUMMARIES:
                for part, suffix in _PARTS:
                    values[column + suffix] = (row.get(key) or {}).get(part)
            writer.writerow({column: csv_cell(value) for column, value in values.items()})
    return stream.getvalue()
