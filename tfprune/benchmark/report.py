"""A measurement as text for the terminal."""

import textwrap
from collections.abc import Sequence
from typing import Any

from tfprune.benchmark.contenders import DENSE_TFLITE, OURS, OURS_NAME
from tfprune.text import text_table

_WIDTH = 120
_PATHS = ("sparse", "dense", "int8")
_LATENCY = (
    "Latency: milliseconds a call, median and quartiles of the rounds. Speed: how many times as fast as a"
    " dense network, the median and quartiles of the ratios within the rounds."
)
_DIFFERENCE = "Logit difference: the largest from the network in Keras, relative to its largest logit."
_MEMORY = "Peak memory of a fresh process that runs one example with one thread, in MB (10^6 bytes)."


def format_benchmark(record: dict[str, Any], *, layers: bool = False) -> str:
    """Returns a measurement as tables.

    Args:
        record: The return value of `tfprune.benchmark.measure.measure`, or a parsed `benchmark.json`.
        layers: Whether to add the table of layers.

    Returns:
        Lines, the last without a line feed.
    """
    machine = record["machine"]
    parts = ["\n".join(_wrap(headline(record)))]
    parts += [f"{machine['processor']}, {machine['cores']} cores; {inputs_title(record['inputs'])}"]
    parts += [f"{setting_title(setting)}\n\n{_latency(record, setting)}" for setting in record["latency"]]
    absent = [row for row in record["contenders"] if row["reason"]]
    if absent:
        parts.append("\n".join(["Not timed, or not in every setting:", *(_absent(row) for row in absent)]))
    parts.append("\n".join([*_wrap(_LATENCY), *_wrap(_DIFFERENCE)]))
    parts.append("Size, bytes and times smaller than the dense float32 weights\n\n" + _sizes(record))
    if record["memory"]:
        parts.append(f"{_MEMORY}\n\n{_memory(record)}")
    if layers and record["layers"]:
        parts.append(format_layers(record["layers"]))
    return "\n\n".join(parts)


def inputs_title(inputs: Sequence[dict[str, Any]]) -> str:
    """Returns the form of an example: `images 32x32x3`, or `inputs a float32 13, b int64 4`.

    Args:
        inputs: Of the record, as `measure` has them.
    """
    if len(inputs) == 1 and inputs[0]["dtype"] == "uint8" and len(inputs[0]["shape"]) == 3:
        return f"images {_size(inputs[0]['shape'])}"
    forms = [" ".join(filter(None, [one["name"], one["dtype"], _size(one["shape"])])) for one in inputs]
    return f"input{'s' if len(forms) > 1 else ''} {', '.join(forms)}"


def headline(record: dict[str, Any]) -> str:
    """Returns what the first setting says of `model.tfprune`, in a sentence or two.

    Args:
        record: From `tfprune.benchmark.measure.measure`, or a parsed `benchmark.json`.
    """
    titles = {row["name"]: row["title"] for row in record["contenders"]}
    setting = record["latency"][0]
    ours = next((row for row in setting["rows"] if row["name"] == OURS_NAME and not row["failure"]), None)
    size = next((size["raw"] for size in record["sizes"]["artifacts"] if size["name"] == OURS), None)
    parts = []
    if ours is None:
        parts.append(f"{OURS} was not timed")
    else:
        taken = _milliseconds(ours["milliseconds"]["median"])
        parts.append(f"{OURS} takes {taken} ms a call ({setting_title(setting)})")
        fastest = setting["fastest_dense"]
        for name, key in ((DENSE_TFLITE, "to_tflite_dense"), (fastest, "to_fastest_dense")):
            if ours[key] is not None and not (key == "to_fastest_dense" and fastest == DENSE_TFLITE):
                what = "" if key == "to_tflite_dense" else ", the fastest dense runtime measured"
                parts.append(f"{ours[key]['median']:.1f} times as fast as {titles[name]}{what}")
    text = ", ".join(parts)
    if size is not None:
        dense = record["sizes"]["dense_weights_bytes"]
        text += f". It has {size:,} bytes: {dense / size:.1f} times smaller than the dense float32 weights"
    return f"{text}."


def setting_title(setting: dict[str, Any]) -> str:
    """Returns `"2 threads, batch 8"`."""
    threads = setting["threads"]
    return f"{threads} thread{'s' if threads > 1 else ''}, batch {setting['batch_size']}"


def format_layers(rows: Sequence[dict[str, Any]]) -> str:
    """Returns the time of each layer of `model.tfprune` as a table.

    Args:
        rows: `layers` of the record.

    Returns:
        A title, a table and an explanation.
    """
    paths = [path for path in _PATHS if any(path in row["costs"] for row in rows)] or _PATHS[:2]
    cells = [
        (
            row["name"],
            _size(row["kernel"]) or "-",
            _size(row["output"]) or "-",
            "-" if row["sparsity"] is None else f"{row['sparsity']:.4f}",
            row["path"] or "-",
            *(_number(row["costs"].get(path), "{:,.0f}") for path in paths),
            f"{row['microseconds']:,.0f}",
            f"{100 * row['share']:.1f} %",
            f"{row['dense_gflops']:,.1f}" if row["kernel"] else "-",
        )
        for row in rows
    ]
    header = (
        "layer",
        "kernel",
        "output",
        "sparsity",
        "path",
        *(f"{path} us" for path in paths),
        "us now",
        "share",
        "GFLOP/s",
    )
    note = (
        "us: microseconds; those of paths as measured when the file was made. GFLOP/s: what a dense"
        " convolution would have to do in the same time."
    )
    lines = [f"Layers of {OURS}, 1 thread, batch 1", "", *text_table(header, cells), "", *_wrap(note)]
    return "\n".join(lines)


def _latency(record: dict[str, Any], setting: dict[str, Any]) -> str:
    known = {row["name"]: row for row in record["contenders"]}
    best = setting["fastest_dense"]
    best_title = known[best]["title"] if best else "none"
    dense = known[DENSE_TFLITE]["title"] if DENSE_TFLITE in known else "TFLite float32"
    header = ("", "logit diff.", "ms", "(quartiles)", f"to {dense}", f"to {best_title}, fastest dense")
    rows = []
    for row in setting["rows"]:
        about = known[row["name"]]
        difference = _number(about["largest_logit_difference_relative"], "{:.1e}")
        if row["failure"]:
            rows.append((about["title"], difference, "not timed", "-", "-", "-"))
            continue
        taken = row["milliseconds"]
        quartiles = f"({_milliseconds(taken['lower'])} to {_milliseconds(taken['upper'])})"
        speeds = [_speed(row[key]) for key in ("to_tflite_dense", "to_fastest_dense")]
        rows.append((about["title"], difference, _milliseconds(taken["median"]), quartiles, *speeds))
    return "\n".join(text_table(header, rows))


def _speed(summary: dict[str, float] | None) -> str:
    if summary is None:
        return "-"
    return f"{summary['median']:.2f}x ({summary['lower']:.2f} to {summary['upper']:.2f})"


def _absent(row: dict[str, Any]) -> str:
    return f"  {row['title']}: {row['reason']}"


def _sizes(record: dict[str, Any]) -> str:
    sizes = record["sizes"]
    dense = sizes["dense_weights_bytes"]

    def pair(count: int | None) -> tuple[str, str]:
        return ("-", "-") if count is None else (f"{count:,}", f"{dense / count:.1f}x")

    rows = [("dense float32 weights", *pair(dense), "-", "-", "-", "-")]
    for size in sizes["artifacts"]:
        rows.append((size["name"], *pair(size["raw"]), *pair(size["gzip"]), *pair(size["zstd"])))
    gzipped = {size["name"]: size["gzip"] for size in sizes["artifacts"]}.get("model_float32.tflite")
    if gzipped is not None:
        # What users ask first: does not gzip alone do it?
        rows.append(("the masked dense float32 file, gzip", *pair(gzipped), "-", "-", "-", "-"))
    lines = text_table(("", "raw", "", "gzip -6", "", "zstd -19", ""), rows)
    if not sizes["zstd_installed"]:
        lines.append("zstd: not installed (pip install zstandard)")
    return "\n".join(lines)


def _memory(record: dict[str, Any]) -> str:
    titles = {row["name"]: row["title"] for row in record["contenders"]}
    memory = record["memory"]
    baseline = memory["baseline_bytes"]
    rows = [("Python with NumPy", _megabytes(baseline), "-", "-")]
    for row in memory["rows"]:
        if row["failure"]:
            rows.append((titles[row["name"]], "failed", "-", "-"))
            continue
        rows.append(
            (
                titles[row["name"]],
                _megabytes(row["peak_bytes"]),
                _megabytes(row["above_baseline_bytes"]),
                f"{row['first_result_seconds']:.2f}",
            )
        )
    failures = [f"{titles[row['name']]}: {row['failure']}" for row in memory["rows"] if row["failure"]]
    header = ("", "peak", "above Python", "seconds to the first result")
    return "\n".join([*text_table(header, rows), *failures])


def _milliseconds(value: float) -> str:
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f}"


def _number(value: float | None, pattern: str) -> str:
    return "-" if value is None else pattern.format(value)


def _size(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def _wrap(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, break_on_hyphens=False)
