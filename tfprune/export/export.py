"""Writes a network's artifacts and their audit: all of them, or none."""

import contextlib
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ai_edge_litert
import keras
import numpy as np
import tensorflow as tf

from tfprune.compiler.compile import compile_model
from tfprune.export.artifacts import (
    ARTIFACTS,
    FORMATS,
    Artifact,
    chosen_artifacts,
    write_artifact,
    write_saved_model,
)
from tfprune.export.audit import audit_artifact, weights_bytes
from tfprune.export.deployable import deployable_copy, masked_kernels
from tfprune.export.rules import AuditError
from tfprune.export.runtimes import keras_logits
from tfprune.files import write_json
from tfprune.quiet import native_stderr_captured
from tfprune.runtime import Graph

AUDIT_FILE = "export.json"
FAILED_AUDIT_FILE = "export_failed.json"
# What `tfprune.benchmark` measured of the files that are replaced.
_MEASUREMENTS = ("benchmark.json", "benchmark.csv", "benchmark.png")
_UNFINISHED = ".unfinished"


def export_model(
    model: keras.Model,
    masks: dict[str, np.ndarray],
    out_dir: str,
    *,
    images: np.ndarray,
    formats: Sequence[str] = FORMATS,
    sparse_weights: str = "float16",
    dense_audit: dict[str, Any] | None = None,
    progress: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Exports a network and audits every artifact on real images.

    Everything is written and audited in a temporary folder below `out_dir`. Only when all pass do
    the artifacts replace those of an earlier export, and `export.json` comes last. While
    `export.json` is there, it describes the files beside it and they have passed. If one fails,
    the artifacts of an earlier export stay, without `export.json`, and the failing audit is in
    `export_failed.json`. Measurements of an earlier export (`benchmark.json`, ...) are removed.

    The audit (`export.json`) holds

    - `passed`, `model`, `input_shape`, `parameters`, `images`, `largest_logit` (absolute, of the
      network), `versions`;
    - `sparsity` (removed share of the masked kernels), `sparsity_all_weights` (of all weights,
      trainable or not);
    - `dense_weights_bytes`: the weights as float32, four bytes each, trainable or not. Pruning
      does not change their number, so this is the dense network's size too;
    - `artifacts`: for each name `format`, `weights`, `bytes`, `gzip_bytes`,
      `largest_logit_difference` (absolute), `largest_logit_difference_relative` (to
      `largest_logit`), `equal_predictions_percent`, `rule`, `passed`, `failures`, `zeros` and
      `layers` (counts of `weights`, `zeros`, `masked`, `masked_zero`; in total, by layer), and
      the ratios `bytes_to_dense_weights`, `gzip_to_dense_weights` (to `dense_weights_bytes`),
      `bytes_to_dense_artifact`, `gzip_to_dense_artifact` (to the artifact of the same name in
      `dense_audit`, raw to raw and gzipped to gzipped; null where `dense_comparison` says "none"
      and why: no `dense_audit`, or of a network that is not this one's dense ancestor by its
      parameters and sparsity). The first pair compares
      with the usual float32 file, and so counts the smaller number format as a gain; the second
      shows what the zeros alone gain. `saved_model` also has `variables_bytes` and
      `stored_to_weights_bytes` (1 when each weight is stored once).

    Args:
        model: A stripped functional or Sequential model with one uint8 input `[n, h, w, 3]` and
            logits `[n, classes]`. It is not changed. Mixed precision is exported as float32.
        masks: Path of a layer (its name; within nested models the names joined with `/`) to the
            0/1 mask of its kernel. Empty for a dense network.
        out_dir: Where to write; made if missing.
        images: uint8 test images `[n, h, w, 3]`, at least one.
        formats: Which of `"keras"`, `"saved_model"`, `"tflite"`, `"sparse"` (`model.tfprune`, for
            `tfprune.runtime`). Artifacts of the other formats from an earlier export are removed.
        sparse_weights: How `model.tfprune` stores its weights: `"float16"` or `"float32"`. Either way it
            computes in float32.
        dense_audit: The parsed `export.json` of the dense network this one was pruned from.
        progress: Receives a line for each artifact.

    Returns:
        The audit.

    Raises:
        AuditError: An artifact failed.
        UserError: The Keras backend is not TensorFlow, or the sparse runtime cannot run a layer.
        ValueError: An argument does not fit the model or the list above.
    """
    network = deployable_copy(model)
    masked_kernels(network, masks)
    _check_images(images, network)
    dense_artifacts, dense_comparison = _dense_artifacts(dense_audit, network)
    artifacts = chosen_artifacts(formats, sparse_weights)
    reference = keras_logits(network, images)
    if not np.isfinite(reference).all():
        raise AuditError(["the network itself: its logits are not all finite"])
    # Before anything is written: it refuses a layer that the sparse runtime cannot run.
    graph = compile_model(network) if "sparse" in formats else None

    work = os.path.join(out_dir, _UNFINISHED)
    shutil.rmtree(work, ignore_errors=True)
    os.makedirs(work)
    for name in (AUDIT_FILE, FAILED_AUDIT_FILE, *_MEASUREMENTS):
        _remove(os.path.join(out_dir, name))
    try:
        entries = {}
        _write_all(artifacts, network, graph, work)
        for artifact in artifacts:
            entry = audit_artifact(artifact, work, network, masks, images, reference)
            entries[artifact.name] = entry | _ratios(entry, network, dense_artifacts.get(artifact.name))
            progress(_progress_line(artifact, entry))
        audit = _describe(network, masks, images, reference)
        audit |= {"dense_comparison": dense_comparison, "artifacts": entries}
        failures = [line for entry in entries.values() for line in entry["failures"]]
        audit = {"passed": not failures} | audit
        if failures:
            write_json(Path(out_dir, FAILED_AUDIT_FILE), audit)
            raise AuditError(failures)
        _move_into_place(artifacts, work, out_dir)
        write_json(Path(out_dir, AUDIT_FILE), audit)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return audit


def _write_all(artifacts: list[Artifact], network: keras.Model, graph: Graph | None, work: str) -> None:
    wanted = any(artifact.format == "saved_model" for artifact in artifacts)
    # TFLite files are converted from a SavedModel; one that was not asked for is not kept.
    source = os.path.join(work, "saved_model" if wanted else "conversion_source")
    with native_stderr_captured():
        for artifact in artifacts:
            if artifact.format == "tflite" and not os.path.exists(source):
                write_saved_model(network, source)
            write_artifact(artifact, network, work, source, graph)


def _dense_artifacts(dense_audit: dict[str, Any] | None, network: keras.Model) -> tuple[dict[str, Any], str]:
    """Returns the dense network's artifacts by name, none where it is not comparable, and why."""
    if dense_audit is None:
        return {}, "none: no audit of the dense network"
    parameters = network.count_params()
    if dense_audit["parameters"] != parameters:
        # The ancestor of a transfer to another dataset has another head.
        return {}, f"none: {dense_audit['parameters']} parameters in the dense network, {parameters} here"
    if dense_audit["sparsity"]:
        return {}, f"none: the other network is not dense, its sparsity is {dense_audit['sparsity']:g}"
    return dense_audit["artifacts"], "the dense network's artifacts of the same names"


def _ratios(
    entry: dict[str, Any], network: keras.Model, dense: dict[str, Any] | None
) -> dict[str, float | None]:
    dense_weights = 4 * network.count_params()
    return {
        "bytes_to_dense_weights": entry["bytes"] / dense_weights,
        "gzip_to_dense_weights": entry["gzip_bytes"] / dense_weights,
        "bytes_to_dense_artifact": entry["bytes"] / dense["bytes"] if dense else None,
        "gzip_to_dense_artifact": entry["gzip_bytes"] / dense["gzip_bytes"] if dense else None,
    }


def _describe(
    network: keras.Model, masks: dict[str, np.ndarray], images: np.ndarray, reference: np.ndarray
) -> dict[str, Any]:
    removed = sum(int((np.asarray(mask) == 0).sum()) for mask in masks.values())
    masked = sum(int(np.size(mask)) for mask in masks.values())
    parameters = network.count_params()
    return {
        "model": network.name,
        "input_shape": list(network.inputs[0].shape[1:]),
        "parameters": parameters,
        "dense_weights_bytes": 4 * parameters,
        "weights_bytes": weights_bytes(network),
        "sparsity": removed / masked if masked else 0.0,
        "sparsity_all_weights": removed / parameters,
        "images": len(images),
        "largest_logit": float(np.abs(reference).max()),
        "versions": {
            "keras": keras.__version__,
            "tensorflow": tf.__version__,
            "ai_edge_litert": ai_edge_litert.__version__,
        },
    }


def _progress_line(artifact: Artifact, entry: dict[str, Any]) -> str:
    state = "ok" if entry["passed"] else "FAILED: " + "; ".join(entry["failures"])
    return f"{artifact.name}: {entry['bytes']:,} bytes, {entry['gzip_bytes']:,} gzipped: {state}"


def _move_into_place(artifacts: list[Artifact], work: str, out_dir: str) -> None:
    for artifact in ARTIFACTS:
        _remove(os.path.join(out_dir, artifact.name))
    for artifact in artifacts:
        os.replace(os.path.join(work, artifact.name), os.path.join(out_dir, artifact.name))


def _remove(path: str) -> None:
    if os.path.isdir(path):
        shutil.rmtree(path)
    else:
        with contextlib.suppress(FileNotFoundError):
            os.remove(path)


def _check_images(images: np.ndarray, network: keras.Model) -> None:
    expected = tuple(network.inputs[0].shape[1:])
    shape = np.shape(images)
    fits = len(shape) == 4 and all(size in (None, got) for size, got in zip(expected, shape[1:], strict=True))
    if not fits or images.dtype != np.uint8 or not len(images):
        raise ValueError(
            f"`images` must be uint8 images [n, *{expected}], at least one."
            f" Received: {getattr(images, 'dtype', type(images))} {shape}"
        )
