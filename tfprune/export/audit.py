"""Holds an exported file against the network and the masks that it was made from, by rules.

Files with float32 weights must give the network's outputs, others its predictions or outputs close to its
own; every removed weight must be exactly zero in the file; a format may check more.
"""

import dataclasses
import os
from typing import Any

import numpy as np

from tfprune.errors import UserError
from tfprune.export.arrays import Arrays, by_name
from tfprune.export.formats.format import Format
from tfprune.export.network import Network, in_batches
from tfprune.export.signature import BATCH_SIZE, Port
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
    "difference",
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


@dataclasses.dataclass(frozen=True)
class OutputRule:
    """The rule for an output of a file.

    An output of integers or booleans must be equal. Any other must be close to the network's where the
    weights are float32. Smaller weights move it: there it must be close, or have its largest value of the
    last axis in the same place. A network of images with classes, run on real images, is held to these places
    alone: they are its predictions.

    Attributes:
        weights: How the file's weights are stored, as in `Format.weights`.
        largest_difference: How far smaller weights may move the output, relative to the largest.
        exact: Whether it is of integers or booleans.
        predictions: Whether its predictions are judged: `"alone"`, `"too"` or `"none"`.
        noun: What its values are called.
    """

    weights: str
    largest_difference: float
    exact: bool = False
    predictions: str = "alone"
    noun: str = "logit"

    def __str__(self) -> str:
        equal = f">= {MIN_EQUAL_PREDICTIONS_PERCENT:g} %"
        if self.exact:
            return f"equal values {equal}"
        if self.weights != "float32" and self.predictions == "alone":
            return f"equal predictions {equal}"
        close = f"largest {self.noun} difference <= {self._most:g} of the largest {self.noun}"
        return f"{close}, or equal predictions {equal}" if self._either else close

    @property
    def _most(self) -> float:
        return MAX_LOGIT_DIFFERENCE if self.weights == "float32" else self.largest_difference

    @property
    def _either(self) -> bool:
        return self.weights != "float32" and self.predictions == "too"

    def failure(self, measured: dict[str, float | None]) -> str | None:
        """Returns the measured value and the rule; None if the rule holds.

        Args:
            measured: The return value of `compare_outputs`.
        """
        relative = measured["largest_logit_difference_relative"]
        percent = measured["equal_predictions_percent"]
        by_place = self.exact or (self.weights != "float32" and self.predictions == "alone")
        equal = percent is not None and percent >= MIN_EQUAL_PREDICTIONS_PERCENT
        close = relative <= self._most  # A NaN is not.
        if equal if by_place else close or (self._either and equal):
            return None
        shown = [] if by_place else [f"{relative:.3g} of the largest {self.noun}"]
        if measured["largest_logit_difference"] == np.inf:
            shown = [f"a {self.noun} that is not finite where the network's is"]
        shown += [f"{percent:.2f} % equal"] if by_place or self._either else []
        return f"measured {', '.join(shown)}, the rule is {self}"


def rule_for(file: Format, output: Port, network: Network) -> OutputRule:
    """Returns the rule for an output of a file."""
    signature = network.signature
    exact = "float" not in output.dtype
    has_classes = not exact and len(output.shape) > 1 and (output.shape[-1] or 0) > 1
    predictions = "none" if not has_classes else "alone" if signature.images and signature.examples else "too"
    noun = "logit" if signature.images else "output"
    return OutputRule(file.weights, file.largest_difference, exact, predictions, noun)


def audit_file(
    file: Format, folder: str, network: Network, inputs: Arrays, reference: Arrays
) -> dict[str, Any]:
    """Measures one exported file and applies the rules to it.

    Args:
        file: The file.
        folder: The folder where it lies.
        network: The network that it was made from.
        inputs: The examples, an array or arrays by input.
        reference: The network's outputs for them, an array or arrays by output.

    Returns:
        The file's entry of `export.json` without the ratios (see `export_model`).
    """
    path = os.path.join(folder, file.name)
    with native_stderr_captured():
        measured, failures = _measure_outputs(file, path, network, inputs, reference)
        layers, found = _count_zeros(file, path, network)
        further, others = file.findings(path, network) if not failures or measured else ({}, [])
    failures += found + others
    rules = {output.name: str(rule_for(file, output, network)) for output in network.signature.outputs}
    return {
        "format": file.group,
        "weights": file.weights,
        "bytes": artifact_bytes(path),
        "gzip_bytes": gzip_bytes(path),
        **_worst(measured),
        **({"outputs": measured} if len(measured) > 1 else {}),
        "rule": _joined(rules),
        "zeros": _sum_counts(list(layers.values())),
        "layers": layers,
        **further,
        "weights_passed": not (found or others),
        "passed": not failures,
        "failures": [f"{file.name}: {failure}" for failure in failures],
    }


def compare_outputs(values: np.ndarray, reference: np.ndarray) -> dict[str, float | None]:
    """Compares an output of a file with the network's.

    Args:
        values: The file's, `[n, ...]`.
        reference: The network's, of the same shape, finite.

    Returns:
        `largest_logit_difference`, the same over the largest absolute reference value
        (`largest_logit_difference_relative`), and `equal_predictions_percent`: the share of places where the
        largest value of the last axis is the same one; of equal values, if they are no floating-point
        numbers; None if that axis has a single value. A value that is not finite differs infinitely, and its
        place counts as predicted otherwise.
    """
    if reference.dtype.kind in "biu":
        equal = values == reference
        values, reference = values.astype(np.float64), reference.astype(np.float64)
    elif reference.ndim > 1 and reference.shape[-1] > 1:
        equal = (values.argmax(-1) == reference.argmax(-1)) & np.isfinite(values).all(-1)
    else:
        equal = None
    finite = np.isfinite(values)
    difference = np.abs(np.where(finite, values, np.inf) - reference).max()
    largest = np.abs(reference).max()
    relative = difference / largest if largest > 0 else (0.0 if difference == 0 else np.inf)
    return {
        "largest_logit_difference": float(difference),
        "largest_logit_difference_relative": float(relative),
        "equal_predictions_percent": None if equal is None else float(100.0 * equal.mean()),
    }


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
        Lines without a trailing newline; the second says what was cut, the last ones how many convolutions
        read values of 8 bits, where these were asked for, and what was left out. "to float32" is the share of
        the dense network's float32 weights, uncompressed; where the audit knows the dense network's own
        files, columns with the share of these, raw to raw and gzipped to gzipped, follow each.
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
    dense = audit["dense_weights_bytes"] // 4
    wider = f" of the dense network's {dense:,}" if dense != audit["parameters"] else ""
    title = (
        f"{audit['parameters']:,} parameters{wider}, {audit['dense_weights_bytes']:,} bytes as dense"
        f" float32; {100 * audit['sparsity_all_weights']:.2f} % of them removed"
        f" ({100 * audit['sparsity']:.2f} % of the masked kernels); {_examples(audit)}"
    )
    in_8_bits = [
        f"{name}: {entry['int8_convolutions']} of {entry['convolutions']} convolutions read values of 8 bits;"
        " the others compute in float32, as fast here or because they must"
        for name, entry in entries.items()
        if "int8_convolutions" in entry
    ]
    left_out = [f"left out: {name}: {reason}" for name, reason in audit["left_out"].items()]
    return "\n".join([title, *cut_line(audit), *text_table(header, rows), *in_8_bits, *left_out])


def cut_line(audit: dict[str, Any]) -> list[str]:
    """Returns the lines that say what was cut of the network, or why not; none if nothing is dead."""
    cut = audit.get("cut")
    if not cut:
        return []
    if cut["reason"]:
        return [f"no channel cut: {cut['reason']}"]
    count = len(cut.get("narrowed", ()))
    if not cut["removed"] and not cut.get("gone") and not count:
        return []
    macs = ""
    if cut["macs_before"] is not None and cut["macs"] is not None:
        macs = f" and {cut['macs']:,} of {cut['macs_before']:,} multiply-accumulates"
    gone = len(cut.get("gone", ()))
    layers = f", and {gone:,} layer{'s' * (gone != 1)} altogether" if gone else ""
    narrowed = f" {count:,} convolution{'s' * (count != 1)} narrowed;" if count else ""
    reason = cut.get("not_narrowed")
    return [
        f"cut: {cut['removed']:,} of {cut['channels']:,} channels, which change no output{layers};{narrowed}"
        f" {cut['parameters']:,} of {audit['parameters']:,} parameters{macs} stay; of these"
        f" parameters {100 * cut['sparsity_all_weights']:.2f} % are removed"
        f" ({100 * cut['sparsity']:.2f} % of the masked kernels)",
        *([f"no convolution narrowed: {reason}"] if reason else []),
    ]


def _measure_outputs(
    file: Format, path: str, network: Network, inputs: Arrays, reference: Arrays
) -> tuple[dict[str, dict[str, float | None]], list[str]]:
    """Returns what was measured of each output, and a line for each broken rule."""
    signature = network.signature
    first = signature.outputs[0].name
    try:
        found = in_batches(file.load_for_audit(path, network), inputs, signature.batch_size or BATCH_SIZE)
    except _REFUSALS as error:
        return {}, [f"its runtime does not run it: {error}"]
    found, expected = by_name(found, first), by_name(reference, first)
    measured, failures = {}, []
    for output in signature.outputs:
        name, several = output.name, f"output {output.name!r}: " if len(signature.outputs) > 1 else ""
        shape = np.shape(found.get(name))
        if shape != expected[name].shape:
            failures.append(f"{several}its shape is {list(shape)}, the rule is {list(expected[name].shape)}")
            continue
        values = compare_outputs(found[name], expected[name])
        failure = rule_for(file, output, network).failure(values)
        failures += [f"{several}{failure}"] if failure else []
        # JSON knows no infinity.
        measured[name] = {
            key: value if value is not None and np.isfinite(value) else None for key, value in values.items()
        }
    return measured, failures


def _worst(measured: dict[str, dict[str, float | None]]) -> dict[str, float | None]:
    """Returns the worst of all outputs in each measure; what was infinite is None."""
    if not measured:
        return {}
    worst = {}
    for key in next(iter(measured.values())):
        values = [values[key] for values in measured.values()]
        if key == "equal_predictions_percent":
            worst[key] = min((value for value in values if value is not None), default=None)
        else:
            worst[key] = None if None in values else max(values)
    return worst


def _joined(rules: dict[str, str]) -> str:
    """Returns the rules in a line: one for all outputs, or one for each."""
    if len(set(rules.values())) == 1:
        return next(iter(rules.values()))
    return "; ".join(f"{name}: {rule}" for name, rule in rules.items())


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


def _examples(audit: dict[str, Any]) -> str:
    if "images" in audit and not audit["random_inputs"]:
        return f"{audit['images']} test images"
    return f"{audit['examples']} {'random ' if audit['random_inputs'] else ''}examples"


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
