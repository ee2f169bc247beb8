"""Exports a finished round of an experiment as .keras, SavedModel, TFLite and model.tfprune, and audits each.

  python -m tfprune.bin.export --experiment=demo_one_shot

Strips the pruning wrappers, writes the artifacts to the run's export/ folder (export_round_KK/ for another
round than its last), runs each through its own runtime on real test images, and checks that every removed
weight is exactly zero in it. export.json is the audit; an artifact that fails it is an error. Where the dense
network that the run goes back to was exported before, the audit has the ratios to its files. Works on the
TensorFlow backend, whatever backend trained.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from absl import flags

from tfprune.bin.finished_run import FinishedRun
from tfprune.bin.flags import define_settings
from tfprune.bin.main import run_main
from tfprune.bin.tensorflow_start import start_tensorflow
from tfprune.export.names import FORMATS, SPARSE_WEIGHTS
from tfprune.reading import json_of, reading
from tfprune.runs.folder import find_round
from tfprune.settings import AT_LEAST_1, Rule, With, setting


@dataclass(frozen=True)
class Flags(FinishedRun):
    """The flags; each field is the flag of the same name."""

    formats: tuple[str, ...] = setting(
        FORMATS,
        "What to write.",
        group="export",
        choices=lambda: FORMATS,
        rule=Rule("at least one format", bool),
    )
    sparse_weights: str = setting(
        SPARSE_WEIGHTS[0],
        "How model.tfprune stores its weights.",
        group="export",
        choices=lambda: SPARSE_WEIGHTS,
        only_with=(With("formats", ("sparse",)),),
    )
    audit_images: int = setting(
        1000, "Test images of the audit, at most; the first ones.", group="export", rule=AT_LEAST_1
    )


def main() -> None:
    """Exports and prints the audit."""
    values = flags.FLAGS
    run, found = find_round(values.output_dir, values.experiment, "experiment")
    os.environ["KERAS_BACKEND"] = "tensorflow"  # Before Keras loads: the exporters are TensorFlow's.
    start_tensorflow()
    from tfprune.data.pipeline import first_test_inputs
    from tfprune.experiments.deployment import dense_ancestor
    from tfprune.experiments.evaluate import load_run_data
    from tfprune.experiments.networks import load_model
    from tfprune.export import export_model, format_audit

    _, dataset = load_run_data(run, values.data_dir)
    folder = run.export_folder(found.number)
    dense_audit = read_audit(dense_ancestor(run))
    audit = export_model(
        load_model(found),
        str(folder),
        inputs=first_test_inputs(dataset, values.audit_images),
        formats=values.formats,
        sparse_weights=values.sparse_weights,
        dense_audit=dense_audit,
    )
    print(format_audit(audit))
    print(f"{values.experiment}: wrote {folder}")


def read_audit(ancestor: Path | None) -> dict | None:
    """Returns the audit of the dense network's export, if it was exported.

    Raises:
        FileError: If the file is damaged, or no audit.
    """
    path = ancestor / "export" / "export.json" if ancestor else None
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
