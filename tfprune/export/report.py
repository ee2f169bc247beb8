"""The audit as a table for the terminal."""

from typing import Any

_HEADER = (
    "artifact",
    "bytes",
    "to float32",
    "gzip",
    "to float32",
    "logit diff.",
    "equal pred.",
    "zeros checked",
    "",
)


def format_audit(audit: dict[str, Any]) -> str:
    """Formats an audit as text.

    Args:
        audit: What `export_model` returned, or a parsed `export.json`.

    Returns:
        Lines without a trailing newline. "to float32" is the share of the dense network's float32
        weights, uncompressed; where the audit knows the dense network's own artifacts, columns with
        the share of these, raw to raw and gzipped to gzipped, follow each.
    """
    with_dense = any(entry["bytes_to_dense_artifact"] is not None for entry in audit["artifacts"].values())
    rows = [_HEADER, *(_row(name, entry) for name, entry in audit["artifacts"].items())]
    if with_dense:
        same = [
            ("to dense file", "to dense gzip"),
            *(
                (_ratio(entry["bytes_to_dense_artifact"]), _ratio(entry["gzip_to_dense_artifact"]))
                for entry in audit["artifacts"].values()
            ),
        ]
        rows = [
            (*row[:3], raw, *row[3:5], gzipped, *row[5:])
            for row, (raw, gzipped) in zip(rows, same, strict=True)
        ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        f"{audit['parameters']:,} parameters, {audit['dense_weights_bytes']:,} bytes as dense"
        f" float32; {100 * audit['sparsity_all_weights']:.2f} % of them removed"
        f" ({100 * audit['sparsity']:.2f} % of the masked kernels); {audit['images']} test images"
    ]
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _row(name: str, entry: dict[str, Any]) -> tuple[str, ...]:
    zeros = entry["zeros"]
    return (
        name,
        f"{entry['bytes']:,}",
        _ratio(entry["bytes_to_dense_weights"]),
        f"{entry['gzip_bytes']:,}",
        _ratio(entry["gzip_to_dense_weights"]),
        _number(entry.get("largest_logit_difference_relative"), "{:.1e}"),
        _number(entry.get("equal_predictions_percent"), "{:.2f} %"),
        f"{zeros['masked_zero']:,} of {zeros['masked']:,}" if zeros["masked"] else "no masks",
        "ok" if entry["passed"] else "FAILED",
    )


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _number(value: float | None, pattern: str) -> str:
    return "-" if value is None else pattern.format(value)
