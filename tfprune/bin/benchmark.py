"""Latency, size and memory of a round's exported files, beside the same network in other runtimes.

  python -m tfprune.bin.export --experiment=demo_one_shot --formats=saved_model,tflite,sparse
  python -m tfprune.bin.benchmark --experiment=demo_one_shot

Times the exported SavedModel, TFLite files and model.tfprune, and the network of model.tfprune in ONNX
Runtime, PyTorch and MNN where they are installed; all by turns in one run, after their outputs were found to
be the network's. What was not exported, or cannot take the network's inputs, is left out and named. Prints
the tables and writes benchmark.json, benchmark.csv and benchmark.png beside the exported files. The .keras
file is not timed: its network is the SavedModel's.
"""

import os
import textwrap
from dataclasses import dataclass

from absl import flags

from tfprune.bin.finished_run import FinishedRun
from tfprune.bin.flags import define_settings
from tfprune.bin.main import run_main
from tfprune.bin.tensorflow_start import start_tensorflow
from tfprune.errors import UserError, blame_flag
from tfprune.machine import available_cores
from tfprune.reading import json_of, reading
from tfprune.records import values_of
from tfprune.runs.folder import find_round
from tfprune.settings import AT_LEAST_1, With, measured, setting

# The names of what `tfprune.benchmark.contenders` has, known before TensorFlow is loaded.
CONTENDERS = (
    "tfprune",
    "saved_model",
    "tflite_float32",
    "tflite_float16",
    "tflite_float16_sparse",
    "tflite_int8",
    "onnxruntime",
    "pytorch",
    "mnn",
    "mnn_sparse",
)


@dataclass(frozen=True)
class Flags(FinishedRun):
    """The flags; each field is the flag of the same name."""

    rounds: int = setting(
        15, "How often each is timed in each setting.", group="measurement", rule=AT_LEAST_1
    )
    batch_sizes: tuple[str, ...] = setting(("1", "8"), "Examples a call.", group="measurement")
    threads: tuple[str, ...] = setting(
        ("1", "all"), "Numbers of threads; all: the cores of this process.", group="measurement"
    )
    contenders: tuple[str, ...] = setting(
        ("all",), "What to measure.", group="measurement", choices=("all", *CONTENDERS)
    )
    zstd: bool = setting(
        True, "Measures sizes with zstd -19, too: some seconds for each 10 MB.", group="measurement"
    )
    headline: bool = setting(
        False, "Prints the result in a sentence; the tables are in the files.", group="output"
    )
    layers: bool = setting(
        False,
        "Prints where the time of model.tfprune goes, layer by layer.",
        group="output",
        only_with=(With("headline", (False,)),),
    )


@dataclass(frozen=True)
class _Audit:
    """The part of `export.json` that sizes are compared with."""

    dense_weights_bytes: int = measured(AT_LEAST_1)


def main() -> None:
    """Measures, prints and writes."""
    values = flags.FLAGS
    batch_sizes, threads = parse_batch_sizes(values.batch_sizes), parse_threads(values.threads)
    run, found = find_round(values.output_dir, values.experiment, "experiment")
    folder = run.export_folder(found.number)
    audit = folder / "export.json"
    if not audit.exists():
        raise UserError(
            f"--experiment={values.experiment}: {folder} has no exported files: run"
            f" python -m tfprune.bin.export --experiment={values.experiment} first"
        )
    # That of the dense network, which was wider if channels were cut since.
    with reading(audit, "audit of an export", "export that experiment anew"):
        content = json_of(audit)
        if not isinstance(content, dict):
            raise ValueError(f"it must be a JSON object. Received: {type(content).__name__}")
        dense_weights_bytes = values_of(_Audit, content)["dense_weights_bytes"]
    os.environ["KERAS_BACKEND"] = "tensorflow"  # Before Keras loads: the exported files are TensorFlow's.
    start_tensorflow()
    from tfprune.benchmark.contenders import chosen_contenders
    from tfprune.benchmark.files import write_benchmark
    from tfprune.benchmark.measure import Plan, measure
    from tfprune.benchmark.report import format_benchmark, headline, inputs_title
    from tfprune.data.pipeline import first_test_inputs
    from tfprune.experiments.evaluate import load_run_data
    from tfprune.experiments.networks import load_model
    from tfprune.export.network import Deployable, keras_logits
    from tfprune.export.signature import Signature
    from tfprune.lock import hold
    from tfprune.quiet import native_stderr_captured

    plan = Plan(
        rounds=values.rounds,
        batch_sizes=batch_sizes,
        threads=threads,
        contenders=tuple(values.contenders),
        zstd=values.zstd,
    )
    with blame_flag("contenders", ",".join(values.contenders)):
        chosen_contenders(plan.contenders)
    _, dataset = load_run_data(run, values.data_dir)
    count = max(plan.batch_sizes)
    if count > len(dataset.test):
        raise UserError(
            f"--batch_sizes={','.join(values.batch_sizes)}: "
            f"the run has {len(dataset.test)} test {dataset.noun}"
        )
    inputs = first_test_inputs(dataset, count)
    model = Deployable(load_model(found), inputs).model
    examples = Signature(model, inputs).arrays()
    with hold(folder, f"--experiment={values.experiment}"), native_stderr_captured():
        try:
            record = measure(
                str(folder),
                inputs=examples,
                outputs=keras_logits(model, inputs),
                dense_weights_bytes=dense_weights_bytes,
                plan=plan,
            )
            title = f"{values.experiment}: {model.name}, {inputs_title(record['inputs'])}"
            paths = write_benchmark({"experiment": values.experiment} | record, folder, title)
        except (OSError, ValueError) as error:
            raise UserError(f"{folder}: {error}") from error
    if values.headline:
        print(textwrap.fill(headline(record), 120, break_on_hyphens=False))
    else:
        print(format_benchmark(record, layers=values.layers))
    for path in paths:
        print(f"wrote {path}")


def parse_batch_sizes(texts: list[str]) -> tuple[int, ...]:
    """Parses `--batch_sizes`.

    Raises:
        UserError: Not whole numbers of at least 1.
    """
    sizes = [int(text) if text.isascii() and text.isdigit() else 0 for text in texts]
    if not sizes or min(sizes) < 1:
        raise UserError(f"--batch_sizes={','.join(texts)}: must be whole numbers of at least 1")
    return tuple(dict.fromkeys(sizes))


def parse_threads(texts: list[str]) -> tuple[int, ...]:
    """Parses `--threads`: numbers, and `all` for as many as this process has cores.

    Raises:
        UserError: Something else, or more than there are cores.
    """
    cores = available_cores()
    counts = [
        cores if text == "all" else int(text) if text.isascii() and text.isdigit() else 0 for text in texts
    ]
    if not counts or min(counts) < 1 or max(counts) > cores:
        raise UserError(
            f"--threads={','.join(texts)}: must be all or whole numbers from 1 to {cores}, the cores"
        )
    return tuple(dict.fromkeys(counts))


def run() -> None:
    """The command `tfprune-benchmark`."""
    run_main(main, __doc__, lambda: define_settings(Flags), ending="nothing of this measurement is kept")


if __name__ == "__main__":
    run()
