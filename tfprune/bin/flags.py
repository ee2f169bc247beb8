"""Flags made of settings: one for each field of a dataclass, with its default, help, choices and rule."""

import dataclasses
import os
import shlex
from collections.abc import Collection
from typing import Any

from absl import flags

from tfprune.errors import UserError
from tfprune.settings import Setting, check_effects, settings_of, value_of
from tfprune.text import did_you_mean


class _Parser(flags.ArgumentParser):
    """The value of a setting's flag, checked by itself."""

    def __init__(self, kind: Any, said: Setting) -> None:
        self._kind, self._said = kind, said

    def parse(self, argument: Any) -> Any:
        """Returns the value; a default is taken as it is.

        Raises:
            ValueError: `must be ...`, on a value that breaks the setting's rule.
        """
        if not isinstance(argument, str):
            return argument
        value = value_of(argument, self._kind)
        rule = self._said.broken_rule(value)
        if rule is not None:
            raise ValueError(f"must be {rule}")
        return os.path.expanduser(value) if self._said.role == "place" else value


class SettingFlag(flags.Flag):
    """The flag of a setting.

    Attributes:
        owner: The dataclass that declares it.
        said: The setting.
        required: Whether it has no default.
    """

    def __init__(self, owner: type, field: dataclasses.Field) -> None:
        self.owner, self.said = owner, (said := settings_of(owner)[field.name])
        self.required = field.default is dataclasses.MISSING
        super().__init__(
            _Parser(field.type, said),
            None,
            field.name,
            None,
            said.help,
            boolean=field.type is bool,
        )
        if not self.required:  # As it is: a default need not follow the rule, as that of no value.
            self.default = self.value = field.default


def define_settings(owner: type, registry: flags.FlagValues = flags.FLAGS) -> None:
    """Defines a flag for each setting of a dataclass; one without a default is required.

    Args:
        owner: The dataclass.
        registry: The process's flags, or a registry of its own.
    """
    for field in dataclasses.fields(owner):
        flags.DEFINE_flag(SettingFlag(owner, field), registry)


def setting_flags(registry: flags.FlagValues = flags.FLAGS) -> list[SettingFlag]:
    """Returns the flags that are settings, in the order in which they were defined."""
    return [flag for name in registry if isinstance(flag := registry[name], SettingFlag)]


def names_in(arguments: list[str], registry: flags.FlagValues = flags.FLAGS) -> set[str]:
    """Returns the names of the flags that a command line has, before its flagfiles are read."""
    words = {word.lstrip("-").partition("=")[0] for word in arguments[1:] if word.startswith("-")}
    return {name for name in registry if name in words or f"no{name}" in words}


def parse_flags(
    arguments: list[str], registry: flags.FlagValues = flags.FLAGS, typed: Collection[str] = ()
) -> None:
    """Parses a command line whose flagfiles were read.

    Args:
        arguments: The program's name and its arguments.
        registry: The flags that there are.
        typed: Names of the flags that have no effect only in error, with their defaults, too. A flagfile may
            have any default.

    Raises:
        UserError: On a flag that there is not, a word that is no flag, a value that breaks the flag's rule, a
            required flag that is missing, or a flag that has no effect.
    """
    _refuse_flags_of_absl(arguments, registry)
    try:
        _, *words = registry(arguments)
    except flags.UnrecognizedFlagError as error:
        names = [f"--{flag.name}" for flag in setting_flags(registry)] + ["--flagfile"]
        hint = did_you_mean(f"--{error.flagname}", names)
        raise UserError(f"{error.flagvalue}: there is no such flag{hint}") from error
    except flags.Error as error:
        text = str(error).removeprefix("flag ")
        name = text.removeprefix("Missing value for flag ")
        raise UserError(text if name == text else f"{name}: must have a value, as {name}=VALUE") from error
    except ValueError as error:
        raise UserError(str(error).replace(" does not take an argument", ": must have no value")) from error
    if words:
        raise UserError(f"not a flag: {shlex.join(words)}; flags are written --name=value")
    for flag in setting_flags(registry):
        if flag.required and not flag.present:
            raise UserError(f"--{flag.name}: must be given: {flag.help}")
    for owner in dict.fromkeys(flag.owner for flag in setting_flags(registry)):
        check_effects(values_of(owner, registry), typed)


def _refuse_flags_of_absl(arguments: list[str], registry: flags.FlagValues) -> None:
    """Refuses what absl would take in silence, without an effect or with another, such as `--verbosity=1`."""
    for word in arguments[1 : arguments.index("--") if "--" in arguments else None]:
        name = word.lstrip("-").partition("=")[0]
        names = {name, name.removeprefix("no")} if word.startswith("-") else set()
        of_absl = {name for name in registry if not isinstance(registry[name], SettingFlag)} | {"undefok"}
        if names & of_absl:
            raise UserError(f"{word}: there is no such flag")


def values_of(owner: type, registry: flags.FlagValues = flags.FLAGS) -> Any:
    """Returns an instance of a dataclass of settings from the parsed flags."""
    return owner(**{name: registry[name].value for name in settings_of(owner)})
