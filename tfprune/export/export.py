"""Writes the files of a network and their audit: all of them, or none."""

import contextlib
import functools
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfprune.errors import UserError
from tfprune.export.audit import AuditError, audit_file
from tfprune.export.dense_audit import check_dense_audit
from tfprune.export.formats import all_files, chosen_files, format_names
from tfprune.export.formats.format import Format
from tfprune.export.network import Network, deployable_copy, keras_logits
from tfprune.extras import extra
from tfprune.files import make_folder, put, remove, remove_temporaries, write_json, writing
from tfprune.lock import hold
from tfprune.quiet import native_stderr_captured

with extra("export"):
    import ai_edge_litert
    import tensorflow as tf

AUDIT_FILE = "export.json"
FAILED_AUDIT_FILE = "export_failed.json"
# What `tfprune.benchmark` measured of the files that are replaced.
_MEASUREMENTS = ("benchmark.json", "benchmark.csv", "benchmark.png")
_UNFINISHED = ".unfinished"
_SOURCES = ".sources"


def export_model(
    model: keras.Model,
    masks: dict[str, np.ndarray],
    out_dir: str,
    *,
    images: np.ndarray,
    formats: Sequence[str] | None = None,
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
        formats: Some of `tfprune.export.formats.format_names()`: `"keras"`, `"saved_model"`, `"tflite"`,
            `"sparse"` (`model.tfprune`, for `tfprune.runtime`); all by default. Artifacts of other formats
            from an earlier export are removed.
        sparse_weights: How `model.tfprune` stores its weights: `"float16"` or `"float32"`. Either way it
            computes in float32.
        dense_audit: The parsed `export.json` of the dense network this one was pruned from.
        progress: Receives a line for each artifact.

    Returns:
        The audit.

    Raises:
        AuditError: An artifact failed.
        UserError: The Keras backend is not TensorFlow, the sparse runtime cannot run a layer, another
            process writes into the folder, or it cannot be written, or its name is not UTF-8.
        ValueError: An argument does not fit the model or the list above.
    """
    folder = Path(out_dir)
    _check_path(folder)
    work = folder / _UNFINISHED
    network = Network(deployable_copy(model), masks, str(work / _SOURCES))
    _check_images(images, network.model)
    dense_artifacts, dense_comparison = _dense_artifacts(dense_audit, network.model)
    files = chosen_files(format_names() if formats is None else formats, sparse_weights)
    reference = keras_logits(network.model, images)
    if not np.isfinite(reference).all():
        raise AuditError(["the network itself: its logits are not all finite"])
    for file in files:
        file.check(network)

    disk = functools.partial(writing, folder, "export the round again once it can", tf.errors.OpError)
    with contextlib.ExitStack() as held:
        held.enter_context(disk())
        make_folder(folder)
        held.enter_context(hold(folder))
        remove_temporaries(folder)
        remove(work)
        make_folder(work)
        for name in (AUDIT_FILE, FAILED_AUDIT_FILE, *_MEASUREMENTS):
            remove(folder / name)
        try:
            entries = {}
            with native_stderr_captured(), disk():
                for file in files:
                    file.write(network, str(work / file.name))
            for file in files:
                entry = audit_file(file, str(work), network, images, reference)
                entries[file.name] = entry | _ratios(entry, network.model, dense_artifacts.get(file.name))
                progress(_progress_line(file, entry))
            audit = _describe(network, images, reference)
            audit |= {"dense_comparison": dense_comparison, "artifacts": entries}
            failures = [line for entry in entries.values() for line in entry["failures"]]
            audit = {"passed": not failures} | audit
            if failures:
                write_json(folder / FAILED_AUDIT_FILE, audit)
                raise AuditError(failures)
            for file in all_files():
                remove(folder / file.name)
            for file in files:
                put(work / file.name, folder / file.name)
            write_json(folder / AUDIT_FILE, audit)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return audit


def _dense_artifacts(dense_audit: dict[str, Any] | None, network: keras.Model) -> tuple[dict[str, Any], str]:
    """Returns the dense network's artifacts by name, none where it is not comparable, and the reason."""
    if dense_audit is None:
        return {}, "none: no audit of the dense network"
    check_dense_audit(dense_audit)
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


def _describe(network: Network, images: np.ndarray, reference: np.ndarray) -> dict[str, Any]:
    masks = network.masks
    removed = sum(int((np.asarray(mask) == 0).sum()) for mask in masks.values())
    masked = sum(int(np.size(mask)) for mask in masks.values())
    parameters = network.model.count_params()
    return {
        "model": network.model.name,
        "input_shape": list(network.model.inputs[0].shape[1:]),
        "parameters": parameters,
        "dense_weights_bytes": 4 * parameters,
        "weights_bytes": network.weights_bytes,
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


def _progress_line(file: Format, entry: dict[str, Any]) -> str:
    state = "ok" if entry["passed"] else "FAILED: " + "; ".join(entry["failures"])
    return f"{file.name}: written and audited, {state}"


def _check_path(folder: Path) -> None:
    try:
        str(folder).encode()
    except UnicodeEncodeError:
        raise UserError(f"{folder}: must be a path in UTF-8, which is what TensorFlow can write to") from None


def _check_images(images: np.ndarray, network: keras.Model) -> None:
    expected = tuple(network.inputs[0].shape[1:])
    shape = np.shape(images)
    fits = len(shape) == 4 and all(size in (None, got) for size, got in zip(expected, shape[1:], strict=True))
    if not fits or images.dtype != np.uint8 or not len(images):
        raise ValueError(
            f"`images` must be uint8 images [n, *{expected}], at least one."
            f" Received: {getattr(images, 'dtype', type(images))} {shape}"
        )
