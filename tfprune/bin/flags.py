"""Flags made of settings: one for each field of a dataclass, with its default, help and choices."""

import dataclasses
from collections.abc import Collection

from absl import flags

from tfprune.runs.config import ExperimentConfig
from tfprune.settings import settings_of

_DEFINE = {
    str: flags.DEFINE_string,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    bool: flags.DEFINE_boolean,
}


def define_settings(
    owner: type, registry: flags.FlagValues = flags.FLAGS, only: Collection[str] = ()
) -> None:
    """Defines a flag for each setting of a dataclass; one without a default is required.

    Args:
        owner: The dataclass.
        registry: The process's flags, or a registry of its own.
        only: Names of the settings to define. Empty: all, which `--help` shows by their groups.
    """
    for field in dataclasses.fields(owner):
        if only and field.name not in only:
            continue
        said, default = settings_of(owner)[field.name], field.default
        required = default is dataclasses.MISSING
        about = {
            "name": field.name,
            "default": None if required else [*map(str, default)] if type(default) is tuple else default,
            "help": said.help,
            "flag_values": registry,
            "module_name": None if only else f"{said.group} flags",  # What absl has as a heading.
            "required": required,
        }
        if said.choices is not None:
            flags.DEFINE_enum(enum_values=said.choices(), **about)
        else:
            _DEFINE.get(field.type, flags.DEFINE_list)(**about)


def experiment_from_flags(registry: flags.FlagValues = flags.FLAGS) -> ExperimentConfig:
    """Returns the config that the parsed flags make.

    Raises:
        UserError: On a list that is not of whole numbers.
    """
    lines = []
    for name in settings_of(ExperimentConfig):
        value = registry[name].value
        lines.append(f"--{name}={','.join(value) if isinstance(value, list) else value}")
    return ExperimentConfig.from_flags("\n".join(lines))


def define_run_flags(experiment_help: str) -> None:
    """Defines the flags of the binaries that take a finished run."""
    flags.DEFINE_string("experiment", None, experiment_help, required=True)
    define_settings(ExperimentConfig, only=("output_dir",))
    flags.DEFINE_string("data_dir", "", "Where the run's dataset is, if not where it was.")
