"""Writes the files of a network and their audit: all of them, or none."""

import contextlib
import functools
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from tfprune.errors import UserError
from tfprune.export.arrays import Arrays, by_name, count_of, part_of
from tfprune.export.audit import AuditError, audit_file, compare_outputs
from tfprune.export.cut import cut_network
from tfprune.export.dense_audit import check_dense_audit
from tfprune.export.formats import all_files, chosen_files, default_names
from tfprune.export.formats.format import Format
from tfprune.export.names import Options
from tfprune.export.network import Deployable, Network, in_batches, keras_run
from tfprune.export.signature import BATCH_SIZE, Port, Signature
from tfprune.extras import extra
from tfprune.files import make_folder, put, remove, remove_temporaries, write_json, writing
from tfprune.lock import hold
from tfprune.network.copying import computes_in_float32
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
# How far a copy in float32 may be from the model, relative to the largest output: rounding, and that of the
# model's own precision.
_COPY_DIFFERENCE = 1e-3
_OTHER_PRECISION_DIFFERENCE = 0.25


def export_model(
    model: keras.Model,
    out_dir: str,
    *,
    inputs: Any = None,
    masks: Mapping[str, np.ndarray] | None = None,
    formats: Sequence[str] | None = None,
    sparse_weights: str = "float16",
    sparse_values: str = "float32",
    calibration: Any = None,
    targets: Sequence[str] = ("x86_64-linux",),
    cpu: str | None = None,
    shrink: bool = True,
    dense_audit: dict[str, Any] | None = None,
    progress: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Exports a network, wrapped or stripped, and audits every file on examples.

    ```python
    export_model(pruned, "export", inputs=x_test[:1000])
    ```

    Everything is written and audited in a temporary folder below `out_dir`. Only when all pass do
    the artifacts replace those of an earlier export, and `export.json` comes last. While
    `export.json` is there, it describes the files beside it and they have passed. If one fails,
    the artifacts of an earlier export stay, without `export.json`, and the failing audit is in
    `export_failed.json`. Measurements of an earlier export (`benchmark.json`, ...) are removed.

    The audit (`export.json`) holds

    - `passed`, `model`, `parameters`, `versions`; `inputs` and `outputs` (by name, `shape` and `dtype`);
      `examples`, how many, and `random_inputs`, whether they were made up; of a network of images,
      `images` (also how many) and `input_shape`; `largest_logit`, the largest absolute value of the outputs;
    - `sparsity` (removed share of the masked kernels), `sparsity_all_weights` (of all weights,
      trainable or not); `all_zero`, kernels of which nothing is left and for which nothing could be searched;
    - `dense_weights_bytes`: the weights of the dense network as float32, four bytes each, trainable or not.
      Masks do not change their number; where channels were cut before, it is that of `dense_audit`;
    - `cut`, null with `shrink=False`: `reason`, why nothing was cut (empty if something was, or nothing could
      be); `channels` that layers make, and how many of them were `removed`; `layers` that lost some (`layer`,
      `channels`, `dead`); `gone`, those that went altogether; `silent`, channels that stay although the
      kernels that make them are zero (`layers`, `channels`, `reason`); `narrowed`, convolutions around which
      1x1 convolutions select and place channels (`layer`, `takes`, `of_taken`, `makes`, `of_made`), in all
      files but the sparse runtime's; `not_narrowed`, why none is although some would be;
      `macs_before` and `macs` for one example, null where unknown;
      `largest_logit_difference_relative`, how far the cut moved the outputs (1e-5 at most);
      `took_constants`, the biases, moving means and kernels that took the constants of channels that went or
      are made by no weight: all other weights are parts of what they were, or ones that select and place
      channels. Its `parameters`, `sparsity` and `sparsity_all_weights` are of the network that stays, and
      those above of the network that was given;
    - `artifacts`: for each name `format`, `weights`, `bytes`, `gzip_bytes`,
      `largest_logit_difference` (absolute), `largest_logit_difference_relative` (to
      `largest_logit`), `equal_predictions_percent`, `rule`, `passed`, `weights_passed` (all but the
      outputs), `failures`, `zeros` and
      `layers` (counts of `weights`, `zeros`, `masked`, `masked_zero`; in total, by kernel), and
      the ratios `bytes_to_dense_weights`, `gzip_to_dense_weights` (to `dense_weights_bytes`),
      `bytes_to_dense_artifact`, `gzip_to_dense_artifact` (to the artifact of the same name in
      `dense_audit`, raw to raw and gzipped to gzipped; null where `dense_comparison` says "none"
      and why: no `dense_audit`, or of a network that is not this one's dense ancestor by its
      parameters, sparsity, inputs and outputs). The first pair compares
      with the usual float32 file, and so counts the smaller number format as a gain; the second
      shows what the zeros alone gain. Where there are several outputs, the measures are the worst of
      them, and `outputs` has those of each. `saved_model` also has `variables_bytes` and
      `stored_to_weights_bytes` (1 when each weight is stored once), a TFLite file that takes a fixed number
      of examples `examples_a_call`, a `model.tfprune` with `sparse_values="int8"` how many of its
      `convolutions` read values of 8 bits, `int8_convolutions`;
    - `left_out`: name of an artifact that could not be made -> why.

    Args:
        model: A built model of any class, with any dense inputs and outputs, wrapped by `prune_low_magnitude`
            or not. It is not changed. Mixed precision is exported as float32.
        out_dir: Where to write; made if missing.
        inputs: Examples for the audit, as for `Model.predict`: an array, a list, or a dictionary. None:
            random ones, normal numbers, and integers in the range of the embeddings that read them.
        masks: Name of a kernel, as in `tfprune.sparsity.masks_of`, to its 0/1 mask; `/kernel` at the end of a
            name may be left out. None: those of the wrappers; without any, the zeros of the kernels.
        formats: Some of `tfprune.export.formats.format_names()`: `"keras"`, `"saved_model"`, `"tflite"`,
            `"sparse"` (`model.tfprune`, for `tfprune.runtime`), `"c"` (a C library). None: all but the C
            library that can hold the model; `left_out` has the others. Artifacts of other formats from an
            earlier export are removed.
        sparse_weights: How `model.tfprune` stores its weights: `"float16"`, `"float32"`, or `"int8"` with a
            scale for each output channel, which C libraries of all targets then do as well. Either way they
            compute in float32.
        sparse_values: How `model.tfprune` has its values: `"float32"`; or, with `sparse_weights="int8"`,
            `"int8"`: in 8 bits where its convolutions are faster so on this machine (`compile_model`).
        calibration: Images like those that the network will see, by which values of 8 bits have their
            steps; needed by `sparse_values="int8"` alone. A few hundred do; those of the audit should be
            others.
        targets: What the C library is for, as of `tfprune.runtime.compile_library`.
        cpu: The processor of its one target, as there.
        shrink: Whether channels that change no output are cut before the files are written, exactly
            (`tfprune.structured.shrink`). The files are held against the uncut network. A model that cannot
            be cut is exported as it is, and the audit says why.
        dense_audit: The parsed `export.json` of the dense network this one was pruned from.
        progress: Receives a line for each artifact.

    Returns:
        The audit.

    Raises:
        AuditError: An artifact failed.
        UserError: The Keras backend is not TensorFlow, a format of `formats` cannot hold the model, another
            process writes into the folder, or it cannot be written, or its name is not UTF-8.
        ValueError: An argument does not fit the model or the list above.
    """
    folder = Path(out_dir)
    _check_path(folder)
    work = folder / _UNFINISHED
    options = Options(sparse_weights, tuple(targets), cpu, sparse_values, calibration)
    files = chosen_files(default_names() if formats is None else formats, options)
    deployable = Deployable(model, inputs)
    signature = Signature(deployable.model, inputs)
    masks = deployable.masks if masks is None else masks
    whole = Network(deployable.model, masks, str(work / _SOURCES), signature, deployable.not_copied)
    dense = _dense(dense_audit, whole)
    examples = signature.arrays()
    reference = _reference(model, whole, examples)
    network, cut = cut_network(whole, examples, reference) if shrink else (whole, None)
    audit = _describe(whole, examples, reference) | {"dense_weights_bytes": 4 * dense.parameters}
    audit |= {"cut": cut and cut.record() | _shares(network), "all_zero": deployable.all_zero}
    left_out = LeftOut(files, formats is not None, progress)
    for file in files:
        with left_out.unless_possible(file):
            file.check(file.source(network))
    left_out.check()

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
                for file in left_out.others():
                    with left_out.unless_possible(file):
                        file.write(file.source(network), str(work / file.name))
            left_out.check()
            for file in left_out.others():
                entry = audit_file(file, str(work), file.source(network), examples, reference)
                if not entry["passed"] and (reason := file.shortcoming(entry)):
                    left_out.add(file, reason)
                    continue
                entries[file.name] = entry | _ratios(entry, dense, file.name)
                progress(_progress_line(file, entry))
            audit |= {"left_out": left_out.reasons}
            audit |= {"dense_comparison": dense.comparison, "artifacts": entries}
            failures = [line for entry in entries.values() for line in entry["failures"]]
            audit = {"passed": not failures} | audit
            if failures:
                write_json(folder / FAILED_AUDIT_FILE, audit)
                raise AuditError(failures)
            for file in all_files():
                remove(folder / file.name)
            for file in left_out.others():
                put(work / file.name, folder / file.name)
            write_json(folder / AUDIT_FILE, audit)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return audit


class LeftOut:
    """The files of an export that cannot be made, and why.

    Where the formats were not asked for, those that cannot hold the network are left out, and said. Where
    they were, that is an error, unless other files of the same format can be made.

    Args:
        files: All files.
        asked: Whether their formats were asked for.
        progress: Receives a line for each that is left out.

    Attributes:
        reasons: Name of a file -> why it is left out.
    """

    def __init__(self, files: Sequence[Format], asked: bool, progress: Callable[[str], None]) -> None:
        """Leaves out nothing yet."""
        self._files, self._asked, self._progress = files, asked, progress
        self.reasons: dict[str, str] = {}

    def others(self) -> list[Format]:
        """Returns the files that are not left out."""
        return [file for file in self._files if file.name not in self.reasons]

    @contextlib.contextmanager
    def unless_possible(self, file: Format) -> Iterator[None]:
        """Leaves a file out if a `UserError` is raised inside."""
        try:
            yield
        except UserError as error:
            self.add(file, str(error))

    def add(self, file: Format, reason: str) -> None:
        """Leaves a file out."""
        self.reasons[file.name] = reason
        self._progress(f"{file.name}: left out: {reason}")

    def check(self) -> None:
        """Checks that what is left out may be.

        Raises:
            UserError: A format that was asked for has no file, or nothing is left at all.
        """
        left = {file.group for file in self.others()}
        for file in self._files:
            if file.group not in left and (self._asked or not left):
                raise UserError(f"{self.reasons[file.name]}. Leave {file.group!r} out of the formats")


def _reference(model: keras.Model, network: Network, examples: Arrays) -> Arrays:
    """Returns the network's outputs.

    Raises:
        AuditError: They are not all finite, or differ from call to call.
        UserError: The network is a copy of the model that does something else.
    """
    signature = network.signature
    size = signature.batch_size or BATCH_SIZE
    run = keras_run(network.model, signature)
    reference = in_batches(run, examples, size)
    first, name = part_of(examples, slice(0, size)), signature.outputs[0].name
    again = by_name(run(first), name)
    own = signature.unpack(model(signature.pack(first), training=False))
    for key, values in by_name(reference, name).items():
        if not np.isfinite(values).all():
            noun = "logits" if signature.images else f"values of output {key!r}"
            raise AuditError([f"the network itself: its {noun} are not all finite"])
        if not np.allclose(values[:size], again[key], rtol=1e-3, atol=1e-3 * np.abs(values).max()):
            raise AuditError([f"the network itself: two calls with the same inputs differ in output {key!r}"])
        most = _COPY_DIFFERENCE if computes_in_float32(model) else _OTHER_PRECISION_DIFFERENCE
        theirs = np.asarray(keras.ops.convert_to_numpy(own[key]), values.dtype)
        difference = compare_outputs(theirs, values[:size])["largest_logit_difference_relative"]
        if np.isfinite(difference) and difference > most:
            raise UserError(
                f"{type(model).__name__} made from its configuration, which `get_config` returns, does"
                f" something else: output {key!r} differs by {difference:.2g} of the largest"
            )
    return reference


class _Dense(NamedTuple):
    """The dense network that a network is compared with.

    Attributes:
        parameters: Its weights; as many as the network's own where no other is known.
        comparison: Which files are compared, or why none are.
        artifacts: Name -> the entry of the audit; none where it is not comparable.
    """

    parameters: int
    comparison: str
    artifacts: dict[str, Any]


def _dense(dense_audit: dict[str, Any] | None, network: Network) -> _Dense:
    """Returns the dense network with what is compared.

    It has as many parameters, or more if channels were cut since; then what goes in and comes out is the
    same. The ancestor of a transfer to another dataset has another head.
    """
    parameters = network.model.count_params()
    if dense_audit is None:
        return _Dense(parameters, "none: no audit of the dense network", {})
    check_dense_audit(dense_audit)
    theirs = dense_audit["parameters"]
    ports = {"inputs": _ports(network.signature.inputs), "outputs": _ports(network.signature.outputs)}
    if theirs < parameters or (
        theirs > parameters and ports != {name: dense_audit.get(name) for name in ports}
    ):
        reason = f"none: {theirs} parameters in the dense network, {parameters} here"
        return _Dense(parameters, reason, {})
    if dense_audit["sparsity"]:
        reason = f"none: the other network is not dense, its sparsity is {dense_audit['sparsity']:g}"
        return _Dense(parameters, reason, {})
    return _Dense(theirs, "the dense network's artifacts of the same names", dense_audit["artifacts"])


def _ratios(entry: dict[str, Any], dense: _Dense, name: str) -> dict[str, float | None]:
    dense_weights, artifact = 4 * dense.parameters, dense.artifacts.get(name)
    return {
        "bytes_to_dense_weights": entry["bytes"] / dense_weights,
        "gzip_to_dense_weights": entry["gzip_bytes"] / dense_weights,
        "bytes_to_dense_artifact": entry["bytes"] / artifact["bytes"] if artifact else None,
        "gzip_to_dense_artifact": entry["gzip_bytes"] / artifact["gzip_bytes"] if artifact else None,
    }


def _describe(network: Network, examples: Arrays, reference: Arrays) -> dict[str, Any]:
    signature = network.signature
    count = count_of(examples)
    outputs = by_name(reference, signature.outputs[0].name).values()
    return {
        "model": network.model.name,
        "inputs": _ports(signature.inputs),
        "outputs": _ports(signature.outputs),
        **({"input_shape": list(signature.inputs[0].shape[1:]), "images": count} if signature.images else {}),
        **_shares(network),
        "weights_bytes": network.weights_bytes,
        "examples": count,
        "random_inputs": not signature.examples,
        "largest_logit": max(float(np.abs(values.astype(np.float64)).max()) for values in outputs),
        "versions": {
            "keras": keras.__version__,
            "tensorflow": tf.__version__,
            "ai_edge_litert": ai_edge_litert.__version__,
        },
    }


def _shares(network: Network) -> dict[str, Any]:
    """Returns how many weights a network has, and which shares of them the masks remove."""
    removed = sum(int((np.asarray(mask) == 0).sum()) for mask in network.masks.values())
    masked = sum(int(np.size(mask)) for mask in network.masks.values())
    parameters = network.model.count_params()
    return {
        "parameters": parameters,
        "sparsity": removed / masked if masked else 0.0,
        "sparsity_all_weights": removed / parameters,
    }


def _ports(ports: Sequence[Port]) -> dict[str, Any]:
    return {port.name: {"shape": list(port.shape), "dtype": port.dtype} for port in ports}


def _progress_line(file: Format, entry: dict[str, Any]) -> str:
    state = "ok" if entry["passed"] else "FAILED: " + "; ".join(entry["failures"])
    return f"{file.name}: written and audited, {state}"


def _check_path(folder: Path) -> None:
    try:
        str(folder).encode()
    except UnicodeEncodeError:
        raise UserError(f"{folder}: must be a path in UTF-8, which is what TensorFlow can write to") from None
