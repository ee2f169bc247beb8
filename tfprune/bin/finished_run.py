"""The flags of the binaries that take a finished run."""

from dataclasses import dataclass

from tfprune.runs.config import FOLDER, ExperimentConfig
from tfprune.settings import setting, with_settings_of


@dataclass(frozen=True)
@with_settings_of(ExperimentConfig, only=("output_dir",))
class FinishedRun:
    """A finished round of an experiment, and where things are; each field is the flag of the same name."""

    experiment: str = setting(
        help="EXPERIMENT, a finished one's last round, or EXPERIMENT/round_KK.", group="run"
    )
    data_dir: str = setting(
        "", "Where the run's dataset is. Empty: where it was.", group="run", role="place", rule=FOLDER
    )
