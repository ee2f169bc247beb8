"""Holds an exported file against the network and the masks that it was made from, by rules.

Files with float32 weights must give the network's logits, others its predictions; every removed weight must
be exactly zero in the file; a format may check more.
"""

import os
from typing import Any

import numpy as np

from tfprune.errors import UserError
from tfprune.export.formats.format import Format
from tfprune.export.network import Network, in_batches
from tfprune.export.sizes import artifact_bytes, gzip_bytes
from tfprune.quiet import native_stderr_captured
from tfprune.text import text_table

MAX_LOGIT_DIFFERENCE = 1e-4
MIN_EQUAL_PREDICTIONS_PERCENT = 99.0
# The runtimes' ways to refuse a file: a finding of the audit, not a crash of it.
_REFUSALS = (RuntimeError, ValueError, OSError)
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


class AuditError(UserError):
    """An exported file does not do what the network does; the message names the broken rules.

    Attributes:
        failures: A line for each broken rule: the file, the measured value, the rule.
    """

    def __init__(self, failures: list[str]) -> None:
        """Joins the failures into one message."""
        super().__init__("the export failed its audit: " + "; ".join(failures))
        self.failures = failures


def audit_file(
    file: Format, folder: str, network: Network, images: np.ndarray, reference: np.ndarray
) -> dict[str, Any]:
    """Measures one exported file and applies the rules to it.

    Args:
        file: The file.
        folder: The folder where it lies.
        network: The network that it was made from.
        images: uint8 test images `[n, height, width, 3]`.
        reference: The network's logits for them, `[n, classes]`.

    Returns:
        The file's entry of `export.json` without the ratios (see `export_model`).
    """
    path = os.path.join(folder, file.name)
    with native_stderr_captured():
        measured, failures = _measure_logits(file, path, images, reference)
        layers, found = _count_zeros(file, path, network)
        further, others = file.findings(path, network)
    failures += found + others
    return {
        "format": file.group,
        "weights": file.weights,
        "bytes": artifact_bytes(path),
        "gzip_bytes": gzip_bytes(path),
        **measured,
        "rule": rule_for(file.weights),
        "zeros": _sum_counts(list(layers.values())),
        "layers": layers,
        **further,
        "passed": not failures,
        "failures": [f"{file.name}: {failure}" for failure in failures],
    }


def rule_for(weights: str) -> str:
    """Returns the rule for the logits of a file, in words.

    Args:
        weights: As in `Format.weights`.
    """
    if weights == "float32":
        return f"largest logit difference <= {MAX_LOGIT_DIFFERENCE:g} of the largest logit"
    return f"equal predictions >= {MIN_EQUAL_PREDICTIONS_PERCENT:g} %"


def compare_logits(logits: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Compares a file's logits with the network's.

    Args:
        logits: The file's, `[n, classes]`.
        reference: The network's, `[n, classes]`, finite.

    Returns:
        `largest_logit_difference`, the same over the largest absolute reference logit
        (`largest_logit_difference_relative`), and `equal_predictions_percent`. A logit that is
        not finite differs infinitely, and its image counts as predicted otherwise.
    """
    finite = np.isfinite(logits)
    difference = np.abs(np.where(finite, logits, np.inf) - reference).max()
    largest = np.abs(reference).max()
    relative = difference / largest if largest > 0 else (0.0 if difference == 0 else np.inf)
    equal = (logits.argmax(1) == reference.argmax(1)) & finite.all(1)
    return {
        "largest_logit_difference": float(difference),
        "largest_logit_difference_relative": float(relative),
        "equal_predictions_percent": float(100.0 * equal.mean()),
    }


def logits_failure(weights: str, measured: dict[str, float]) -> str | None:
    """Applies `rule_for(weights)`.

    Args:
        weights: As in `Format.weights`.
        measured: The return value of `compare_logits`.

    Returns:
        None if the rule holds, else the measured value and the rule.
    """
    relative = measured["largest_logit_difference_relative"]
    percent = measured["equal_predictions_percent"]
    if weights == "float32":
        passed, text = relative <= MAX_LOGIT_DIFFERENCE, f"{relative:.3g} of the largest logit"
    else:
        passed, text = percent >= MIN_EQUAL_PREDICTIONS_PERCENT, f"{percent:.2f} % equal"
    return None if passed else f"measured {text}, the rule is {rule_for(weights)}"


def zeros_failure(path: str, counts: list[dict[str, int]], most: int) -> str | None:
    """Checks that a masked layer was found, and that its removed weights are exactly zero.

    Args:
        path: The layer.
        counts: The counts of each stored copy of its kernel.
        most: The largest allowed number of copies (see `Network.allowed_copies`).

    Returns:
        None if both hold, else the measured value and the rule.
    """
    if not 1 <= len(counts) <= most:
        return (
            f"layer {path!r}: {len(counts)} stored tensors match its kernel, the rule is"
            f" {'1' if most == 1 else f'1 to {most}'}"
        )
    wrong = sum(count["masked"] - count["masked_zero"] for count in counts)
    if wrong:
        return f"layer {path!r}: {wrong} masked weights are not zero, the rule is 0"
    return None


def format_audit(audit: dict[str, Any]) -> str:
    """Returns an audit as a table.

    Args:
        audit: The return value of `export_model`, or a parsed `export.json`.

    Returns:
        Lines without a trailing newline. "to float32" is the share of the dense network's float32
        weights, uncompressed; where the audit knows the dense network's own files, columns with
        the share of these, raw to raw and gzipped to gzipped, follow each.
    """
    entries = audit["artifacts"]
    with_dense = any(entry["bytes_to_dense_artifact"] is not None for entry in entries.values())
    header = list(_HEADER)
    rows = [_row(name, entry) for name, entry in entries.items()]
    if with_dense:
        header[3:3], header[6:6] = ["to dense file"], ["to dense gzip"]
        for row, entry in zip(rows, entries.values(), strict=True):
            row[3:3] = [_ratio(entry["bytes_to_dense_artifact"])]
            row[6:6] = [_ratio(entry["gzip_to_dense_artifact"])]
    title = (
        f"{audit['parameters']:,} parameters, {audit['dense_weights_bytes']:,} bytes as dense"
        f" float32; {100 * audit['sparsity_all_weights']:.2f} % of them removed"
        f" ({100 * audit['sparsity']:.2f} % of the masked kernels); {audit['images']} test images"
    )
    return "\n".join([title, *text_table(header, rows)])


def _measure_logits(
    file: Format, path: str, images: np.ndarray, reference: np.ndarray
) -> tuple[dict[str, float | None], list[str]]:
    try:
        logits = in_batches(file.load(path), images)
    except _REFUSALS as error:
        return {}, [f"its runtime does not run it: {error}"]
    measured = compare_logits(logits, reference)
    failure = logits_failure(file.weights, measured)
    # JSON knows no infinity.
    finite = {key: value if np.isfinite(value) else None for key, value in measured.items()}
    return finite, [failure] if failure else []


def _count_zeros(file: Format, path: str, network: Network) -> tuple[dict[str, dict[str, int]], list[str]]:
    if not network.masks:
        return {}, []
    try:
        kernels = file.kernels(path, network)
    except _REFUSALS as error:
        return {}, [f"its weights cannot be decoded: {error}"]
    layers, failures = {}, []
    allowed = network.allowed_copies()
    for layer, mask in network.masks.items():
        counts = [_counts(values, np.asarray(mask) == 0) for values in kernels[layer]]
        failure = zeros_failure(layer, counts, allowed[layer])
        failures += [failure] if failure else []
        layers[layer] = {"tensors": len(counts), **_sum_counts(counts)}
    return layers, failures


def _counts(values: np.ndarray, masked: np.ndarray) -> dict[str, int]:
    return {
        "weights": int(values.size),
        "zeros": int((values == 0).sum()),
        "masked": int(masked.sum()),
        "masked_zero": int((values[masked] == 0).sum()),
    }


def _sum_counts(counts: list[dict[str, int]]) -> dict[str, int]:
    keys = ("weights", "zeros", "masked", "masked_zero")
    return {key: sum(count[key] for count in counts) for key in keys}


def _row(name: str, entry: dict[str, Any]) -> list[str]:
    zeros = entry["zeros"]
    return [
        name,
        f"{entry['bytes']:,}",
        _ratio(entry["bytes_to_dense_weights"]),
        f"{entry['gzip_bytes']:,}",
        _ratio(entry["gzip_to_dense_weights"]),
        _number(entry.get("largest_logit_difference_relative"), "{:.1e}"),
        _number(entry.get("equal_predictions_percent"), "{:.2f} %"),
        f"{zeros['masked_zero']:,} of {zeros['masked']:,}" if zeros["masked"] else "no masks",
        "ok" if entry["passed"] else "FAILED",
    ]


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _number(value: float | None, pattern: str) -> str:
    return "-" if value is None else pattern.format(value)
