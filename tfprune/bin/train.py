"""Trains, prunes and fine-tunes one experiment, declared by flags or a flagfile.

  python -m tfprune.bin.train --flagfile=demo_dense
  python -m tfprune.bin.train --flagfile=cifar10_one_shot_95 --data_dir=DIR --epochs=1

Flags after the flagfile win over its own. The run folder is --output_dir/--experiment. To go on after an
interruption run the same command again: finished rounds are skipped, an unfinished one continues from its
last finished epoch. KERAS_BACKEND=tensorflow, jax or torch chooses the backend. --data_parallel shares
each batch among all devices, --distributed among those of several processes; neither is part of what the
experiment is.
"""

from absl import flags

from tfprune.bin import tensorflow_start  # noqa: F401  (before anything that loads TensorFlow)
from tfprune.bin.flags import define_settings, experiment_from_flags
from tfprune.bin.main import run_main
from tfprune.experiments.devices import Devices
from tfprune.runs.config import ExperimentConfig
from tfprune.settings import settings_of


def main() -> None:
    """Runs the experiment and names the folder that it wrote."""
    from tfprune.experiments.run import run_experiment

    config = experiment_from_flags()
    devices = Devices(**{name: flags.FLAGS[name].value for name in settings_of(Devices)})
    devices.check()
    run_experiment(config, devices=devices)
    if devices.writes:
        print(f"{config.experiment}: wrote {config.folder}")


def run() -> None:
    """The command `tfprune-train`."""
    define_settings(ExperimentConfig)
    define_settings(Devices)
    run_main(main, __doc__)


if __name__ == "__main__":
    run()
