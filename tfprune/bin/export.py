"""Exports a finished round of an experiment as .keras, SavedModel, TFLite and model.tfprune, and audits each.

  python -m tfprune.bin.export --experiment=demo_one_shot

Strips the pruning wrappers, writes the artifacts to the run's export/ folder (export_round_KK/ for another
round than its last), runs each through its own runtime on real test images, and checks that every removed
weight is exactly zero in it. export.json is the audit; an artifact that fails it is an error. Where the dense
network that the run goes back to was exported before, the audit has the ratios to its files. Works on the
TensorFlow backend, whatever backend trained.
"""

import os
from pathlib import Path

# Before Keras loads: the exporters are TensorFlow's.
os.environ["KERAS_BACKEND"] = "tensorflow"

import numpy as np  # noqa: E402
from absl import flags  # noqa: E402

from tfprune.bin import tensorflow_start  # noqa: E402, F401
from tfprune.bin.flags import define_run_flags  # noqa: E402
from tfprune.bin.main import run_main  # noqa: E402
from tfprune.errors import UserError  # noqa: E402
from tfprune.reading import json_of, reading  # noqa: E402


def main() -> None:
    """Exports and prints the audit."""
    from tfprune.data.pipeline import make_images
    from tfprune.experiments.deployment import dense_ancestor, strip_round
    from tfprune.experiments.evaluate import load_run_data
    from tfprune.export import export_model, format_audit
    from tfprune.export.formats import format_names
    from tfprune.runs.folder import find_round

    values = flags.FLAGS
    if not values.formats or set(values.formats) - set(format_names()):
        raise UserError(f"--formats={','.join(values.formats)}: must be some of {', '.join(format_names())}")
    run, found = find_round(values.output_dir, values.experiment, "experiment")
    config, dataset = load_run_data(run, values.data_dir)
    network = strip_round(found)
    examples = np.arange(min(values.audit_images, len(dataset.test)))
    folder = run.export_folder(found.number)
    dense_audit = read_audit(dense_ancestor(run))
    audit = export_model(
        network.model,
        network.masks,
        folder,
        images=make_images(dataset.test.images, examples, config.image_size),
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
    from tfprune.export.formats import SPARSE_WEIGHTS, format_names

    define_run_flags("EXPERIMENT or EXPERIMENT/round_KK to export; without a round, its last.")
    flags.DEFINE_list("formats", list(format_names()), "What to write.")
    flags.DEFINE_enum(
        "sparse_weights", SPARSE_WEIGHTS[0], list(SPARSE_WEIGHTS), "How model.tfprune stores its weights."
    )
    flags.DEFINE_integer("audit_images", 1000, "Test images of the audit, at most; the first ones.", 1)
    run_main(main, __doc__)


if __name__ == "__main__":
    run()
