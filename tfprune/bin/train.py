"""Trains, prunes and fine-tunes one experiment, declared by flags or a flagfile.

  python -m tfprune.bin.train --flagfile=demo_dense
  python -m tfprune.bin.train --flagfile=cifar10_one_shot_95 --data_dir=DIR --epochs=1

Flags after the flagfile win over its own. The run folder is --output_dir/--experiment. To go on after an
interruption run the same command again: finished rounds are skipped, an unfinished one continues from its
last finished epoch. KERAS_BACKEND=tensorflow, jax or torch chooses the backend, --training_engine what
trains. --data_parallel shares each batch among all devices, --distributed among those of several processes.
None of these is part of what the experiment is.
"""

from tfprune.bin.flagfiles import experiment_names
from tfprune.bin.flags import define_settings, values_of
from tfprune.bin.interrupts import program
from tfprune.bin.main import run_main
from tfprune.bin.tensorflow_start import start_tensorflow
from tfprune.errors import UserError
from tfprune.runs.config import ExperimentConfig
from tfprune.runs.devices import DeviceSettings
from tfprune.runs.folder import find_round
from tfprune.settings import settings_of


def main() -> None:
    """Runs the experiment and names the folder, if it wrote anything there."""
    config = values_of(ExperimentConfig)
    config.check()
    check_start(config)
    values_of(DeviceSettings).check()
    start_tensorflow()
    from tfprune.experiments.devices import Devices
    from tfprune.experiments.run import run_experiment
    from tfprune.runs.result import RoundResult

    devices = values_of(Devices)
    devices.check()
    finished: list[RoundResult] = []
    run_experiment(config, on_round=finished.append, devices=devices)
    if finished:
        print(f"{config.experiment}: wrote {config.folder}")


def check_start(config: ExperimentConfig) -> None:
    """Checks that the runs from which a new run starts are there, before anything is loaded.

    Raises:
        UserError: If one is not; where tfprune has a flagfile of its name, with the command that makes it.
    """
    for name, said in settings_of(config).items():
        reference = getattr(config, name)
        if said.role != "reference" or not reference or config.folder.exists():
            continue
        try:
            find_round(config.output_dir, reference, name)
        except UserError as error:
            start = reference.partition("/")[0]
            first = (
                f"; first: {' '.join(program())} --flagfile={start}" if start in experiment_names() else ""
            )
            raise UserError(f"{error}{first}") from error


def define() -> None:
    """Defines the flags."""
    define_settings(ExperimentConfig)
    define_settings(DeviceSettings)


def run() -> None:
    """The command `tfprune-train`."""
    run_main(
        main,
        __doc__,
        define,
        ending="the step that runs is the last; finished rounds and epochs are kept",
        again="to go on from there",
    )


if __name__ == "__main__":
    run()
