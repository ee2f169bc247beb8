"""Reads flagfiles, and experiments as they declare them, laid over each other."""

import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from absl import flags

from tfprune.bin.flags import define_settings, parse_flags, values_of
from tfprune.errors import FileError, UserError
from tfprune.reading import reading, text_of
from tfprune.runs.config import ExperimentConfig
from tfprune.text import did_you_mean

# Those that are installed with tfprune.
FLAGS_FOLDER = Path(__file__).resolve().parent.parent / "flags"
_PROFILES = "profiles"
_MOST_FILES = 1000
_FLAG = ("--flagfile", "-flagfile")


def with_flagfiles(arguments: Sequence[str]) -> list[str]:
    """Returns a command line with the lines of flagfiles in the place of each `--flagfile=PATH`.

    A path in a flagfile is relative to the flagfile. A name without a folder and a suffix is, where it is no
    file, one of tfprune's own flagfiles: `--flagfile=demo_dense`. All else is as absl does it, but for what
    absl makes a traceback or a warning: a flagfile that is no text, that cannot be read, or that includes
    itself. Empty lines and those that begin with `#` or `//` are comments.

    Args:
        arguments: The program's name and its arguments.

    Raises:
        FileError: On such a flagfile.
    """
    counter = itertools.count(1)
    expanded, rest = list(arguments[:1]), list(arguments[1:])
    while rest:
        argument = rest.pop(0)
        if argument == "--":
            return [*expanded, argument, *rest]
        if argument in _FLAG and rest:
            argument += f"={rest.pop(0)}"
        expanded += _lines(argument, (), counter)
    return expanded


def _lines(argument: str, within: tuple[str, ...], counter: Iterator[int]) -> list[str]:
    """Returns an argument, or the lines of the flagfile that it names.

    Args:
        argument: A line of a flagfile, or of the command line.
        within: The flagfiles that the line is in, the outermost first.
        counter: Counts the flagfiles.
    """
    name, equals, value = argument.partition("=")
    if within and (not name.startswith("-") or " " in name):
        raise ValueError(f"not a flag: {argument}")
    if name not in _FLAG:
        return [argument]
    if not value.strip():
        raise UserError(f"{argument}: must have a file, as --flagfile=FILE")
    path = _path_of(value.strip(), os.path.dirname(within[-1]) if within else "")
    hint = "" if os.path.exists(path) else did_you_mean(value.strip(), experiment_names())
    with reading(path, "flagfile", f"it must have a --name=value a line, in UTF-8{hint}"):
        if os.path.realpath(path) in within:
            raise ValueError(f"it includes itself, by way of {' and '.join(within)}")
        if next(counter) > _MOST_FILES:
            raise ValueError(f"it and those around it include over {_MOST_FILES} flagfiles")
        lines = (line.strip() for line in text_of(path).split("\n"))
        flags_of_it = [line for line in lines if line and not line.startswith(("#", "//"))]
        inner = (*within, os.path.realpath(path))
        return list(itertools.chain.from_iterable(_lines(line, inner, counter) for line in flags_of_it))


def _path_of(name: str, folder: str) -> str:
    """Returns the path of a flagfile.

    Args:
        name: What was given: a path, or the name of one of tfprune's own.
        folder: The folder that a path is relative to; empty for the working directory.
    """
    path, own = os.path.join(folder, os.path.expanduser(name)), os.path.join(FLAGS_FOLDER, f"{name}.flags")
    is_name = os.path.basename(name) == name and "." not in name
    return own if is_name and os.path.isfile(own) and not os.path.isfile(path) else path


def shown(paths: Sequence[Path]) -> str:
    """Returns how errors name flagfiles that are laid over each other; tfprune's own without their folder."""
    return " + ".join(str(path).removeprefix(f"{FLAGS_FOLDER}{os.sep}") for path in paths)


def experiment_from_flagfiles(paths: Sequence[Path]) -> ExperimentConfig:
    """Returns the config that flagfiles make, laid over each other; later flags win.

    The config is the one that `train --flagfile=A --flagfile=B ...` would run; it is not checked yet.

    Args:
        paths: The flagfiles, the first one lowest.

    Raises:
        FileError: On a file that cannot be read.
        UserError: On a flag that is none, breaks its rule or has no effect, with the files.
    """
    registry = flags.FlagValues()
    define_settings(ExperimentConfig, registry)
    try:
        parse_flags(with_flagfiles(["flagfiles", *(f"--flagfile={path}" for path in paths)]), registry)
        return values_of(ExperimentConfig, registry)
    except FileError:
        raise
    except UserError as error:
        raise UserError(f"{shown(paths)}: {error}") from error


def experiment_names() -> list[str]:
    """Returns the names of tfprune's experiments: its flagfiles but for the shared bases."""
    return sorted(path.stem for path in FLAGS_FOLDER.glob("*.flags") if not path.stem.startswith("base"))


def profile_names() -> list[str]:
    """Returns the names of tfprune's profiles."""
    return sorted(path.stem for path in (FLAGS_FOLDER / _PROFILES).glob("*.flags"))


def own_flagfile(experiment: str) -> Path:
    """Returns the flagfile of an experiment by itself, in no profile."""
    return FLAGS_FOLDER / f"{experiment}.flags"


def profile_flagfiles(experiment: str, profile: str, extra_flagfile: str = "") -> list[Path]:
    """Returns the flagfiles of an experiment in a profile, the lowest first.

    They are `EXPERIMENT.flags`, `profiles/PROFILE.flags` and, where they exist,
    `profiles/PROFILE/REGIME.flags` and `profiles/PROFILE/EXPERIMENT.flags` in the folder of tfprune's
    flagfiles; the regime is that of the experiment's own flagfile. `extra_flagfile` lies over them.

    Raises:
        UserError: On an experiment, a profile or a flagfile that is not there.
    """
    names, profiles = experiment_names(), profile_names()
    if experiment not in names:
        hint = did_you_mean(experiment, names)
        raise UserError(f"--experiments={experiment}: must be some of {', '.join(names)}{hint}")
    if profile not in profiles:
        raise UserError(
            f"--profile={profile}: must be one of {', '.join(profiles)}{did_you_mean(profile, profiles)}"
        )
    if extra_flagfile and not Path(extra_flagfile).is_file():
        raise UserError(f"--extra_flagfile={extra_flagfile}: must be a file that is there")
    own = own_flagfile(experiment)
    regime = experiment_from_flagfiles([own]).regime
    folder = FLAGS_FOLDER / _PROFILES
    overlays = [folder / profile / f"{regime}.flags", folder / profile / f"{experiment}.flags"]
    paths = [own, folder / f"{profile}.flags", *(path for path in overlays if path.exists())]
    return [*paths, Path(extra_flagfile)] if extra_flagfile else paths
