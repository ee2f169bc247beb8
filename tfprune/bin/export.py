"""Exports a network as .keras, SavedModel, TFLite, model.tfprune or a C library, and audits each file.

  python -m tfprune.bin.export --experiment=demo_one_shot
  python -m tfprune.bin.export --model=pruned.keras --inputs=examples.npz

Strips the pruning wrappers, cuts the channels that change no output, writes the artifacts, runs each through
its own runtime, and checks that it does what the uncut network does and that every removed weight is exactly
zero in it. export.json is the audit; an artifact that fails it is an error. Works
on the TensorFlow backend, whatever backend trained.

A finished round of an experiment goes to the run's export/ folder (export_round_KK/ for another round than
its last) and is audited on real test images; where the dense network that the run goes back to was exported
before, the audit has the ratios to its files. A .keras file, of any inputs and outputs, goes to a folder
beside it and is audited on the examples of --inputs, or on random ones. What a format cannot hold is left out
and said, unless --formats asks for it.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from tfprune.bin.finished_run import FinishedRun
from tfprune.bin.flags import define_settings
from tfprune.bin.main import run_main
from tfprune.bin.tensorflow_start import start_tensorflow
from tfprune.errors import UserError, blame_flag
from tfprune.export.names import DEFAULT_FORMATS, FORMATS, SPARSE_VALUES, SPARSE_WEIGHTS, TARGETS
from tfprune.named import import_module_of
from tfprune.reading import json_of, reading
from tfprune.runs.config import PATH
from tfprune.runs.folder import find_round
from tfprune.settings import AT_LEAST_1, Rule, With, setting

_CALIBRATION_IMAGES = 512
_OF_A_FILE = (With("model"),)
_OF_A_RUN = (With("experiment"),)
_OF_C = (With("formats", ("c",)),)


@dataclass(frozen=True)
class Flags(FinishedRun):
    """The flags; each field is the flag of the same name."""

    experiment: str = setting(
        "",
        "EXPERIMENT, a finished one's last round, or EXPERIMENT/round_KK. Or give --model.",
        group="run",
    )
    model: str = setting(
        "",
        "A .keras file to export in the place of a run, wrapped for pruning or stripped.",
        group="model",
        role="place",
        rule=PATH,
    )
    inputs: str = setting(
        "",
        "Examples to audit --model on: a .npy array, or a .npz with an array for each input, by its name. "
        "Empty: random ones.",
        group="model",
        role="place",
        rule=PATH,
        only_with=_OF_A_FILE,
    )
    modules: tuple[str, ...] = setting(
        (),
        "Modules to import first, which register the classes of --model with Keras; found from the current "
        "folder too.",
        group="model",
        only_with=_OF_A_FILE,
    )
    dense_export: str = setting(
        "",
        "Folder of an export of the dense network that --model was pruned from, to compare with.",
        group="model",
        role="place",
        rule=PATH,
        only_with=_OF_A_FILE,
    )
    export_dir: str = setting(
        "",
        "Where to write what becomes of --model. Empty: beside it, its name with _export.",
        group="export",
        role="place",
        rule=PATH,
        only_with=_OF_A_FILE,
    )
    formats: tuple[str, ...] = setting(
        DEFAULT_FORMATS,
        "What to write; c: a C library.",
        group="export",
        choices=FORMATS,
        rule=Rule("at least one format", bool),
    )
    sparse_weights: str = setting(
        SPARSE_WEIGHTS[0],
        "How model.tfprune stores its weights.",
        group="export",
        choices=SPARSE_WEIGHTS,
        only_with=(With("formats", ("sparse",)),),
    )
    sparse_values: str = setting(
        SPARSE_VALUES[0],
        "How model.tfprune has its values between the operations; int8: where convolutions are faster so on "
        "this machine.",
        group="export",
        choices=SPARSE_VALUES,
        only_with=(With("sparse_weights", ("int8",)),),
    )
    calibration: str = setting(
        "",
        "Images by which values of 8 bits have their steps, an array as --inputs. Empty: of a run its first "
        f"{_CALIBRATION_IMAGES} training examples.",
        group="export",
        role="place",
        rule=PATH,
        only_with=(With("sparse_values", ("int8",)),),
    )
    targets: tuple[str, ...] = setting(
        TARGETS[:1],
        "What the C library is for.",
        group="export",
        choices=TARGETS,
        rule=Rule("at least one target", bool),
        only_with=_OF_C,
    )
    cpu: str = setting(
        "",
        "The processor of the one target, by LLVM's name, perhaps with instruction sets: cortex-a53, "
        "generic,+dotprod. Empty: the target's own.",
        group="export",
        only_with=_OF_C,
    )
    shrink: bool = setting(
        True,
        "Cuts channels that change no output, exactly, and says which; --noshrink keeps all shapes.",
        group="export",
    )
    audit_images: int = setting(
        1000,
        "Test examples of the audit, at most; the first ones.",
        group="export",
        rule=AT_LEAST_1,
        only_with=_OF_A_RUN,
    )


class _Source(NamedTuple):
    """A network to export.

    Attributes:
        name: What the last line calls it.
        folder: Where its files go.
        model: A function that returns it; TensorFlow is there by then.
        examples: A function that returns the examples of the audit, or None, and so many training examples
            of a run, or None.
        dense: The export of the dense network, if there is one.
    """

    name: str
    folder: Path
    model: Callable[[], Any]
    examples: Callable[[int], tuple[Any, Any]]
    dense: Path | None


def main() -> None:
    """Exports and prints the audit."""
    values = flags.FLAGS
    if bool(values.experiment) == bool(values.model):
        both = f"--experiment={values.experiment} --model={values.model}" if values.model else "neither"
        raise UserError(f"one of --experiment and --model must be given. Received: {both}")
    calibrates = values.sparse_values == "int8"
    if calibrates and values.model and not values.calibration:
        raise UserError("--calibration must be given with --sparse_values=int8 and --model. Received: none")
    given = _arrays_of(values.calibration) if values.calibration else None
    source = _of_file(values) if values.model else _of_run(values)
    dense_audit = read_audit(source.dense)
    inputs, training = source.examples(_CALIBRATION_IMAGES if calibrates and given is None else 0)
    model = source.model()
    from tfprune.export import export_model, format_audit

    audit = export_model(
        model,
        str(source.folder),
        inputs=inputs,
        formats=values.formats if values["formats"].present else None,
        sparse_weights=values.sparse_weights,
        sparse_values=values.sparse_values,
        calibration=training if given is None else given,
        targets=values.targets,
        cpu=values.cpu or None,
        shrink=values.shrink,
        dense_audit=dense_audit,
    )
    print(format_audit(audit))
    print(f"{source.name}: wrote {source.folder}")


def _of_run(values: Any) -> _Source:
    """Returns a finished round's network, on the first of its run's test examples."""
    run, found = find_round(values.output_dir, values.experiment, "experiment")
    _start()
    from tfprune.data.pipeline import first_test_inputs, first_training_inputs
    from tfprune.experiments.deployment import dense_ancestor
    from tfprune.experiments.evaluate import load_run_data
    from tfprune.experiments.networks import load_model

    ancestor = dense_ancestor(run)

    def examples(training: int) -> tuple[Any, Any]:
        dataset = load_run_data(run, values.data_dir)[1]
        inputs = first_test_inputs(dataset, values.audit_images)
        return inputs, first_training_inputs(dataset, training) if training else None

    return _Source(
        values.experiment,
        run.export_folder(found.number),
        lambda: load_model(found),
        examples,
        ancestor / "export" if ancestor else None,
    )


def _of_file(values: Any) -> _Source:
    """Returns the network of a `.keras` file, on the user's own examples."""
    path = Path(values.model)
    folder = Path(values.export_dir) if values.export_dir else path.with_name(f"{path.stem}_export")
    if not path.is_file():
        raise UserError(f"--model={values.model}: must be a .keras file that exists")
    if path.suffix != ".keras":
        raise UserError(
            f"--model={values.model}: must end in .keras: load what it is in Keras, and `model.save` it so"
        )
    dense = Path(values.dense_export) if values.dense_export else None
    if dense and not (dense / "export.json").is_file():
        raise UserError(f"--dense_export={values.dense_export}: must be a folder with an export.json")
    inputs = _arrays_of(values.inputs) if values.inputs else None
    _start()
    for name in values.modules:
        with blame_flag("modules", name):
            import_module_of(name)

    def model() -> Any:
        from tfprune import sparsity  # noqa: F401  (registers the wrappers)
        from tfprune.network.saved import load_network

        advice = (
            "save it with `model.save`; classes of its own are registered by modules that --modules names"
        )
        return load_network(path, advice)

    return _Source(values.model, folder, model, lambda training: (inputs, None), dense)


def _arrays_of(path: str) -> Any:
    """Returns the arrays of a user's file.

    Raises:
        FileError: It is no such file.
    """
    with reading(path, "array, or file of arrays", "write it with np.save or np.savez"):
        return _arrays(path)


def _arrays(path: str) -> Any:
    """Returns the array of a `.npy` file, or those of a `.npz` file by name; a single one alone."""
    import numpy as np

    try:
        loaded = np.load(path, allow_pickle=False)
    except ValueError as error:  # Of objects, which are code; NumPy would read them if it were told to.
        raise ValueError("it holds no arrays of numbers") from error
    if isinstance(loaded, np.ndarray):
        return loaded
    with loaded:
        arrays = dict(loaded)
    return arrays if len(arrays) > 1 else next(iter(arrays.values()))


def _start() -> None:
    os.environ["KERAS_BACKEND"] = "tensorflow"  # Before Keras loads: the exporters are TensorFlow's.
    start_tensorflow()


def read_audit(folder: Path | None) -> dict | None:
    """Returns the audit of the dense network's export, if it was exported.

    Raises:
        FileError: If the file is damaged, or no audit.
    """
    path = folder / "export.json" if folder else None
    if path is None or not path.exists():
        return None
    from tfprune.export.dense_audit import check_dense_audit

    with reading(path, "audit of an export", "export that experiment anew"):
        audit = json_of(path)
        check_dense_audit(audit)
    return audit


def run() -> None:
    """The command `tfprune-export`."""
    run_main(
        main,
        __doc__,
        lambda: define_settings(Flags),
        ending="files of this export that are not whole are left out",
    )


if __name__ == "__main__":
    run()
