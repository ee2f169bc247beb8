"""Evaluates a finished round of an experiment on its test split.

  python -m tfprune.bin.evaluate --experiment=demo_one_shot
  python -m tfprune.bin.evaluate --experiment=demo_iterative/round_02 --summary

Prints the accuracy beside the one that training recorded, and the sparsity of the network. Data, image size
and network are those of the run. KERAS_BACKEND=tensorflow, jax or torch chooses the backend.
"""

from dataclasses import dataclass

from absl import flags

from tfprune.bin.finished_run import FinishedRun
from tfprune.bin.flags import define_settings
from tfprune.bin.main import run_main
from tfprune.bin.tensorflow_start import start_tensorflow
from tfprune.runs.folder import find_round
from tfprune.settings import setting


@dataclass(frozen=True)
class Flags(FinishedRun):
    """The flags; each field is the flag of the same name."""

    summary: bool = setting(False, "Prints the zeros of every layer.", group="output")


def main() -> None:
    """Evaluates and prints."""
    values = flags.FLAGS
    run, found = find_round(values.output_dir, values.experiment, "experiment")
    start_tensorflow()
    from tfprune import sparsity
    from tfprune.experiments.evaluate import evaluate_round

    evaluation = evaluate_round(run, found, values.data_dir)
    print(
        f"{values.experiment} (round {found.number}): accuracy {evaluation.accuracy_percent:.2f} % on "
        f"{evaluation.examples:,} test images; recorded {evaluation.recorded_percent:.2f} %"
    )
    summary = sparsity.summarize(evaluation.model)
    if values.summary:
        print(summary)
    print(
        f"sparsity {found.read_result().sparsity:.4f} of the pruned kernels, "
        f"{summary.sparsity_all_parameters:.4f} of all {summary.all_parameters:,} trainable parameters"
    )


def run() -> None:
    """The command `tfprune-evaluate`."""
    run_main(main, __doc__, lambda: define_settings(Flags))


if __name__ == "__main__":
    run()
