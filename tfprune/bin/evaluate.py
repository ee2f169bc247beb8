"""Evaluates a finished round of an experiment on its test split.

  python -m tfprune.bin.evaluate --experiment=demo_one_shot
  python -m tfprune.bin.evaluate --experiment=demo_iterative/round_02 --summary

Prints the accuracy, or the metric by which the run is judged, beside the one that training recorded; the loss
and the other metrics; and the sparsity of the network. Data, network, loss and metrics are those of the run.
KERAS_BACKEND=tensorflow, jax or torch chooses the backend.
"""

from dataclasses import dataclass

from absl import flags

from tfprune.bin.finished_run import FinishedRun
from tfprune.bin.flags import define_settings
from tfprune.bin.main import run_main
from tfprune.bin.tensorflow_start import start_tensorflow
from tfprune.runs.folder import find_round
from tfprune.runs.metric import significant
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
    metric = evaluation.metric
    print(
        f"{values.experiment} (round {found.number}): {metric.name} {metric.text(evaluation.value)} on "
        f"{evaluation.data}; recorded {metric.text(evaluation.recorded)}"
    )
    if evaluation.others:
        print(", ".join(f"{name} {significant(value)}" for name, value in evaluation.others.items()))
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
