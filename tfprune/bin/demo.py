"""Runs the demo: trains a dense network, prunes it in two ways, exports, measures and compares.

  python -m tfprune.bin.demo

Each step is a command that an experiment of your own takes too, and is printed before it runs. After an
interruption the same command goes on: finished rounds are not trained again.
"""

import subprocess
import sys
import time
from dataclasses import dataclass
from typing import NamedTuple

from absl import flags

from tfprune.bin.flags import define_settings
from tfprune.bin.interrupts import Interrupted
from tfprune.bin.main import run_main
from tfprune.errors import UserError
from tfprune.runs.config import ExperimentConfig
from tfprune.settings import with_settings_of
from tfprune.text import duration

EXPERIMENTS = ("demo_dense", "demo_one_shot", "demo_iterative")


@dataclass(frozen=True)
@with_settings_of(ExperimentConfig, only=("output_dir",))
class Flags:
    """The flags; each field is the flag of the same name."""


class Step(NamedTuple):
    """One command of the demo.

    Attributes:
        title: What the command does.
        seconds: How long it took on two quiet cores.
        binary: A module of `tfprune.bin`.
        flags: Its flags, but for `--output_dir`.
    """

    title: str
    seconds: int
    binary: str
    flags: tuple[str, ...]


STEPS = (
    Step("Train a dense network", 30, "train", ("--flagfile=demo_dense",)),
    Step("Remove 95 % of its weights at once", 35, "train", ("--flagfile=demo_one_shot",)),
    Step("Remove 95 % in three rounds", 45, "train", ("--flagfile=demo_iterative",)),
    Step("Export the dense network", 25, "export", ("--experiment=demo_dense",)),
    Step("Export the pruned network", 25, "export", ("--experiment=demo_iterative",)),
    Step(
        "Measure the pruned network",
        20,
        "benchmark",
        ("--experiment=demo_iterative", "--batch_sizes=1", "--nozstd", "--headline"),
    ),
    Step("Compare the three", 5, "compare", (f"--experiments={','.join(EXPERIMENTS)}", "--html")),
)

NEXT = """\
What to try next:
  open {output_dir}/index.html                        all results on one page
  python -m tfprune.bin.benchmark --experiment=demo_iterative --output_dir={output_dir}
                                                      the pruned network in every runtime that is installed
  python -m tfprune.bin.train --flagfile=demo_one_shot --output_dir={output_dir} \\
      --experiment=my_first --target_sparsity=0.99    an experiment of your own: later flags win
  docs/pruning.md                                     how to prune a model of your own
  docs/experiments.md                                 ResNet-34 on CIFAR, and the study that it repeats"""


def main() -> None:
    """Runs the steps, one process each.

    Raises:
        UserError: If a step fails; its own error stands above.
    """
    output_dir = flags.FLAGS.output_dir
    total = duration(sum(step.seconds for step in STEPS))
    print(
        f"The demo: {len(STEPS)} steps, about {total} on two quiet cores. It prunes a ResNet-34 of width 16\n"
        f"for handwritten digits of 16x16 pixels; nothing is downloaded. Results go to {output_dir}.",
        flush=True,
    )
    start = time.monotonic()
    for number, step in enumerate(STEPS, start=1):
        command = ["-m", f"tfprune.bin.{step.binary}", *step.flags, f"--output_dir={output_dir}"]
        print(f"\n[{number}/{len(STEPS)}] {step.title} (about {duration(step.seconds)})")
        print(f"$ python {' '.join(command)}", flush=True)
        if run_step([sys.executable, *command]) != 0:
            raise UserError(f"step {number} of {len(STEPS)} failed; the same command goes on from there")
    print(f"\nDone in {duration(time.monotonic() - start)}.\n\n{NEXT.format(output_dir=output_dir)}")


def run_step(command: list[str]) -> int:
    """Runs a command to its end, an interrupted one, too; returns its exit status."""
    with subprocess.Popen(command) as process:
        try:
            return process.wait()
        except Interrupted as interrupt:
            # From a terminal the step has had the signal already, which it takes for the same one.
            process.send_signal(interrupt.number)
            process.wait()
            raise


def run() -> None:
    """The command `tfprune-demo`."""
    run_main(
        main,
        __doc__,
        lambda: define_settings(Flags),
        ending="the step that runs is ended; what is finished is kept",
        again="to go on from there",
    )


if __name__ == "__main__":
    run()
