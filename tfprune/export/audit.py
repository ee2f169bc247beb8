"""Holds an exported artifact against the network and the masks it was made from."""

import os
from typing import Any

import keras
import numpy as np

from tfprune.export.artifacts import Artifact
from tfprune.export.rules import (
    MAX_STORED_TO_WEIGHTS_BYTES,
    compare_logits,
    logits_failure,
    rule_for,
    zeros_failure,
)
from tfprune.export.runtimes import artifact_logits
from tfprune.export.sizes import artifact_bytes, gzip_bytes
from tfprune.export.stored_kernels import (
    allowed_copies,
    saved_model_tensor_bytes,
    stored_kernels,
)
from tfprune.quiet import native_stderr_captured


def audit_artifact(
    artifact: Artifact,
    folder: str,
    model: keras.Model,
    masks: dict[str, np.ndarray],
    images: np.ndarray,
    reference: np.ndarray,
) -> dict[str, Any]:
    """Measures one artifact and applies the rules to it.

    Args:
        artifact: Which.
        folder: Where it lies.
        model: The network it was made from.
        masks: Layer path to the 0/1 mask of its kernel.
        images: uint8 test images `[n, height, width, 3]`.
        reference: The network's logits for them, `[n, classes]`.

    Returns:
        The artifact's entry of `export.json` without the ratios (see `export_model`).
    """
    path = os.path.join(folder, artifact.name)
    failures = []
    with native_stderr_captured():
        measured, failure = _measure_logits(artifact, folder, images, reference)
        failures += [failure] if failure else []
        layers, found = _count_zeros(artifact, folder, model, masks)
        failures += found
    entry = {
        "format": artifact.format,
        "weights": artifact.weights,
        "bytes": artifact_bytes(path),
        "gzip_bytes": gzip_bytes(path),
        **measured,
        "rule": rule_for(artifact.weights),
        "zeros": _sum_counts(layers),
        "layers": layers,
    }
    if artifact.format == "saved_model":
        stored, weights = saved_model_tensor_bytes(path), weights_bytes(model)
        entry["variables_bytes"] = artifact_bytes(os.path.join(path, "variables"))
        entry["stored_to_weights_bytes"] = stored / weights
        if stored > MAX_STORED_TO_WEIGHTS_BYTES * weights:
            failures.append(
                f"its variables hold {stored} bytes, the rule is at most"
                f" {MAX_STORED_TO_WEIGHTS_BYTES} x the weights' {weights}"
            )
    entry["passed"] = not failures
    entry["failures"] = [f"{artifact.name}: {failure}" for failure in failures]
    return entry


def weights_bytes(model: keras.Model) -> int:
    """Returns the bytes of all weights of a network, trainable or not, as they are in memory.

    Args:
        model: The network.

    Returns:
        Bytes; for float32 weights four times their number.
    """
    return sum(int(np.asarray(weight).nbytes) for weight in model.weights)


def _measure_logits(
    artifact: Artifact, folder: str, images: np.ndarray, reference: np.ndarray
) -> tuple[dict[str, float | None], str | None]:
    try:
        logits = artifact_logits(artifact, folder, images)
    except (RuntimeError, ValueError, OSError) as error:
        # The runtimes' ways to refuse a file: a finding of the audit, not a crash of it.
        return {}, f"its runtime does not run it: {error}"
    measured = compare_logits(logits, reference)
    failure = logits_failure(artifact.weights, measured)
    # JSON knows no infinity.
    return {key: value if np.isfinite(value) else None for key, value in measured.items()}, failure


def _count_zeros(
    artifact: Artifact, folder: str, model: keras.Model, masks: dict[str, np.ndarray]
) -> tuple[dict[str, dict[str, int]], list[str]]:
    if not masks:
        return {}, []
    try:
        kernels = stored_kernels(artifact, folder, model, masks)
    except (RuntimeError, ValueError, OSError) as error:
        return {}, [f"its weights cannot be decoded: {error}"]
    layers, failures = {}, []
    allowed = allowed_copies(model, masks)
    for path, mask in masks.items():
        counts = [_counts(values, np.asarray(mask) == 0) for values in kernels[path]]
        failure = zeros_failure(path, counts, allowed[path])
        failures += [failure] if failure else []
        layers[path] = {"tensors": len(counts), **_sum_counts(dict(enumerate(counts)))}
    return layers, failures


def _counts(values: np.ndarray, masked: np.ndarray) -> dict[str, int]:
    return {
        "weights": int(values.size),
        "zeros": int((values == 0).sum()),
        "masked": int(masked.sum()),
        "masked_zero": int((values[masked] == 0).sum()),
    }


def _sum_counts(counts: dict[Any, dict[str, int]]) -> dict[str, int]:
    keys = ("weights", "zeros", "masked", "masked_zero")
    return {key: sum(count[key] for count in counts.values()) for key in keys}
