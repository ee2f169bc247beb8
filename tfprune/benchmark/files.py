"""Writes a measurement: `benchmark.json`, `benchmark.csv` and `benchmark.png`."""

import io
from pathlib import Path
from typing import Any

from tfprune.benchmark.csv_table import to_csv
from tfprune.benchmark.plot import plot_benchmark
from tfprune.files import replacing, write_json, write_text


def write_benchmark(record: dict[str, Any], folder: str | Path, title: str) -> list[Path]:
    """Writes the three files, each whole or not at all.

    Args:
        record: From `tfprune.benchmark.measure.measure`.
        folder: Where; it must exist.
        title: What network it is, for the picture.

    Returns:
        Their paths.
    """
    folder = Path(folder)
    png = io.BytesIO()
    plot_benchmark(record, title).savefig(png, format="png")
    paths = [folder / f"benchmark.{suffix}" for suffix in ("json", "csv", "png")]
    write_json(paths[0], record)
    write_text(paths[1], to_csv(record))
    with replacing(paths[2]) as temporary:
        temporary.write_bytes(png.getvalue())
    return paths
