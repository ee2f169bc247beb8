"""Reads experiments as flagfiles declare them, laid over each other."""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from tfprune.bin.flags import define_settings, experiment_from_flags
from tfprune.errors import UserError
from tfprune.runs.config import ExperimentConfig

# Relative, as the flagfiles' own nesting is: paths in a flagfile resolve from the working directory.
FLAGS_FOLDER = Path("flags")
PROFILES_FOLDER = FLAGS_FOLDER / "profiles"


def experiment_from_flagfiles(paths: Sequence[Path]) -> ExperimentConfig:
    """Returns the config that flagfiles make, laid over each other; later flags win.

    The config is the one that `train --flagfile=A --flagfile=B ...` would run; it is not checked yet.

    Args:
        paths: The flagfiles, the first one lowest.

    Raises:
        UserError: On a file that cannot be read or a flag that is none, with the files.
    """
    registry = flags.FlagValues()
    define_settings(ExperimentConfig, registry)
    try:
        _, *rest = registry(["flagfiles", *(f"--flagfile={path}" for path in paths)])
        if rest:
            raise UserError(f"not a flag: {' '.join(rest)}")
        return experiment_from_flags(registry)
    except (flags.Error, OSError, UserError) as error:
        raise UserError(f"{' + '.join(map(str, paths))}: {error}") from error


def experiment_names() -> list[str]:
    """Returns the names of the experiments in `flags/`: its flagfiles but for the shared bases.

    Raises:
        UserError: If there is no such folder here.
    """
    if not FLAGS_FOLDER.is_dir():
        raise UserError(
            f"{FLAGS_FOLDER}/: there is no such folder in {Path.cwd()}; run this from the project's root, "
            "because flagfiles name each other from there"
        )
    return sorted(path.stem for path in FLAGS_FOLDER.glob("*.flags") if not path.stem.startswith("base"))


def profile_names() -> list[str]:
    """Returns the names of the profiles in `flags/profiles/`."""
    return sorted(path.stem for path in PROFILES_FOLDER.glob("*.flags"))


def profile_flagfiles(experiment: str, profile: str, extra_flagfile: str = "") -> list[Path]:
    """Returns the flagfiles of an experiment in a profile, the lowest first.

    They are `flags/EXPERIMENT.flags`, `flags/profiles/PROFILE.flags` and, where they exist,
    `flags/profiles/PROFILE/REGIME.flags` and `flags/profiles/PROFILE/EXPERIMENT.flags`; the regime is that
    of the experiment's own flagfile. `extra_flagfile` lies over them.

    Raises:
        UserError: On an experiment, a profile or a flagfile that is not there.
    """
    names, profiles = experiment_names(), profile_names()
    if experiment not in names:
        raise UserError(
            f"--experiments={experiment}: there is no flagfile {FLAGS_FOLDER}/{experiment}.flags; "
            f"there are: {', '.join(names)}"
        )
    if profile not in profiles:
        raise UserError(f"--profile={profile}: must be one of {', '.join(profiles)}")
    if extra_flagfile and not Path(extra_flagfile).is_file():
        raise UserError(f"--extra_flagfile={extra_flagfile}: must be a file that is there")
    own = FLAGS_FOLDER / f"{experiment}.flags"
    regime = experiment_from_flagfiles([own]).regime
    folder = PROFILES_FOLDER / profile
    overlays = [folder / f"{regime}.flags", folder / f"{experiment}.flags"]
    paths = [own, PROFILES_FOLDER / f"{profile}.flags", *(path for path in overlays if path.exists())]
    return [*paths, Path(extra_flagfile)] if extra_flagfile else paths
