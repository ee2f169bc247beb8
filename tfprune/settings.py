"""Declares a setting, or what is measured, once: a dataclass field that carries all that is said of it.

```python
@dataclass(frozen=True)
class Recipe:
    epochs: int = setting(10, "Epochs of training.", rule=AT_LEAST_1)
```

Flags, checks, columns and comparisons are loops over the fields.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

from tfprune.errors import UserError
from tfprune.text import did_you_mean


class Rule(NamedTuple):
    """A condition on a value.

    Attributes:
        text: What the value must be, to stand behind "must be".
        holds: A function from the value to bool.
    """

    text: str
    holds: Callable[[Any], bool]


def _one_of(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}" if len(names) > 1 else names[0]


class With(NamedTuple):
    """The value of another setting that makes a setting matter.

    Attributes:
        name: The other setting.
        values: The values that do, a `Rule` for all that hold to it. Empty: any but its default.
    """

    name: str
    values: tuple[Any, ...] = ()

    def __str__(self) -> str:
        if self.values == (False,):
            return f"--no{self.name}"
        texts = [value.text if isinstance(value, Rule) else value for value in self.values]
        return f"--{self.name}={_one_of(texts)}" if texts else f"--{self.name}"

    def holds(self, value: Any, default: Any) -> bool:
        """Returns whether the other setting's value, an item of it if it is a tuple, is one of them."""
        if not self.values:
            return value != default
        return any(
            known.holds(item) if isinstance(known, Rule) else item == known
            for item in (value if isinstance(value, tuple) else (value,))
            for known in self.values
        )


AT_LEAST_0 = Rule("at least 0", lambda value: value >= 0)
AT_LEAST_1 = Rule("at least 1", lambda value: value >= 1)
FRACTION = Rule("in [0, 1]", lambda value: 0 <= value <= 1)
PERCENT = Rule("in [0, 100]", lambda value: 0 <= value <= 100)
ABOVE_0 = Rule("above 0 and finite", lambda value: 0 < value < math.inf)


OPEN = object()
"""Stands for a setting that the study leaves open."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """All that is said of a setting but its name, type and default, which are the field's.

    Attributes:
        help: What the setting does, for `--help`.
        rule: The condition on its value; None if any value of the type will do.
        choices: The names to choose from; None if it is no choice.
        besides: What a value of a choice may be that is none of the names.
        paper: What the reference study states: a value, or a `Rule` where several values agree with it.
            `OPEN` if the study leaves the setting open, or each of its sections has its own.
        role: "setting"; "reference", a setting that names another run; "seed"; or "place", where things are.
            Runs that differ in more than the seed and places are different experiments.
        group: The heading in `--help`.
        only_with: What makes the setting matter, one of them; empty if it always does. Given without, it is
            an error.
        unless: What takes its effect away, any of them: given with one, it is an error, too.
        words: A function from a value other than the default to words for readers; None: `name value`.
    """

    help: str
    rule: Rule | None = None
    choices: tuple[str, ...] | None = None
    besides: Rule | None = None
    paper: Any = OPEN
    role: str = "setting"
    group: str = ""
    only_with: tuple[With, ...] = ()
    unless: tuple[With, ...] = ()
    words: Callable[[Any], str] | None = None

    def broken_rule(self, value: Any) -> str | None:
        """Returns what the value must be and is not; None if all is well."""
        if self.choices is not None:
            names = self.choices
            for name in value if isinstance(value, tuple) else (value,):
                if name not in names and not (self.besides and self.besides.holds(name)):
                    kind = "some" if isinstance(value, tuple) else "one"
                    return f"{kind} of {self.choices_text()}{did_you_mean(name, names)}"
        return self.broken_range(value)

    def choices_text(self) -> str:
        """Returns the names to choose from, and what else a value may be."""
        names = ", ".join(self.choices)
        return f"{names}, or {self.besides.text}" if self.besides else names

    def broken_range(self, value: Any) -> str | None:
        """Returns what `broken_rule` does, but for choices: those of the library load Keras."""
        if self.rule is not None and not self.rule.holds(value):
            return self.rule.text + percent_hint(value, self.rule)
        if isinstance(value, float) and not math.isfinite(value):
            return "finite"
        if isinstance(value, int) and abs(value) >= 2**63:
            return "a whole number of 64 bits"
        texts = value if isinstance(value, tuple) else (value,)
        if not all(_is_line(text) for text in texts if isinstance(text, str)):
            return "one line of text in UTF-8"
        return None


def percent_hint(value: Any, rule: Rule) -> str:
    """Returns the question after a share that was given in percent; empty if the value is no such."""
    if type(value) is float and 1 < value < math.inf and rule.holds(value / 100):
        return f"; did you mean {value / 100:g}?"
    return ""


def _is_line(text: str) -> bool:
    """Returns whether a flagfile can hold a text: a line without halves of surrogate pairs."""
    return len(f"{text}.".splitlines()) == 1 and text == text.encode(errors="replace").decode()


class SettingError(ValueError):
    """A setting's value breaks a rule.

    Attributes:
        name: The setting.
        rule: What it must be.
    """

    def __init__(self, name: str, rule: str, value: Any) -> None:
        shown = ",".join(map(str, value)) if isinstance(value, tuple) else value
        end = "" if rule.endswith("?") else "."
        super().__init__(f"`{name}` must be {rule}{end} Received: {name}={shown}")
        self.name, self.rule = name, rule


def setting(default: Any = dataclasses.MISSING, help: str = "", **said: Any) -> Any:  # noqa: A002
    """Returns a dataclass field that is a setting; `said` are the attributes of `Setting`."""
    return dataclasses.field(default=default, metadata={"setting": Setting(help, **said)})


def measured(rule: Rule | None = None, **default: Any) -> Any:
    """Returns a dataclass field that is measured.

    Args:
        rule: The condition on a value that is there, not None; no condition but the type if left out.
        **default: `default` or `default_factory`, as for `dataclasses.field`.
    """
    return dataclasses.field(**default, metadata={"rule": rule})


def with_settings_of(owner: type, only: Collection[str] = (), **said: Any) -> Callable[[type], type]:
    """Returns a decorator that adds the settings of a dataclass to a class that is to become one.

    A setting that the class declares itself stays as declared.

    Args:
        owner: The dataclass.
        only: Names of the settings to add. Empty: all.
        **said: Attributes of `Setting` that differ or come in addition.
    """

    def add(cls: type) -> type:
        for field in dataclasses.fields(owner):
            if field.name not in cls.__annotations__ and (not only or field.name in only):
                about = dataclasses.replace(field.metadata["setting"], **said)
                setattr(
                    cls, field.name, dataclasses.field(default=field.default, metadata={"setting": about})
                )
                cls.__annotations__ = {**cls.__annotations__, field.name: field.type}
        return cls

    return add


def settings_of(owner: Any) -> dict[str, Setting]:
    """Returns the settings of a dataclass or of an instance of one, by name, in their order."""
    return {
        field.name: field.metadata["setting"]
        for field in dataclasses.fields(owner)
        if "setting" in field.metadata
    }


def without_effect(values: Any, given: Collection[str] = ()) -> dict[str, str]:
    """Returns the settings of a dataclass instance that are given for nothing, and why each is.

    Args:
        values: The instance.
        given: Names of the settings that were given, with their defaults, too. A value other than the
            default always was; an empty one takes back what was given before.

    Returns:
        Name -> why, such as `without --score=taylor, or --regrowth=rigl`, or `with --prune=channels`.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(values)}

    def any_holds(others: Sequence[With]) -> bool:
        return any(other.holds(getattr(values, other.name), defaults[other.name]) for other in others)

    found = {}
    for name, said in settings_of(values).items():
        value = getattr(values, name)
        if value in ("", ()) or not (name in given or value != defaults[name]):
            continue
        if said.only_with and not any_holds(said.only_with):
            found[name] = f"without {', or '.join(map(str, said.only_with))}"
        elif any_holds(said.unless):
            found[name] = f"with {', or '.join(map(str, said.unless))}"
    return found


def check_effects(values: Any, given: Collection[str] = ()) -> None:
    """Checks that no setting is given for nothing; arguments as for `without_effect`.

    Raises:
        UserError: With each such flag, and the flags with or without which it has no effect.
    """
    found = without_effect(values, given)
    if found:
        raise UserError(
            "; ".join(
                f"--{name}={to_text(getattr(values, name))}: has no effect {why}"
                for name, why in found.items()
            )
        )


def to_text(value: Any) -> str:
    """Returns a setting's value as a flag has it; `value_of` reads it back."""
    return ",".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


_LISTS = {tuple[int, ...]: int, tuple[str, ...]: str}
_WHOLE, _NUMBER = r"[+-]?[0-9]{1,30}", r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,5})?"


def value_of(text: str, kind: Any) -> Any:
    """Returns a setting's value from its text, as a flag has it.

    Args:
        text: `3`, `1e-4`, `true`, or for a tuple `1,2,3`.
        kind: The field's type.

    Raises:
        ValueError: `must be ...`, if the text is none of that type.
    """
    if kind in _LISTS:
        parts = [part.strip() for part in text.split(",")]
        if _LISTS[kind] is int and not all(re.fullmatch(_WHOLE, part) for part in parts if part):
            raise ValueError("must be whole numbers with commas between")
        return tuple(_LISTS[kind](part) for part in parts if part)
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError("must be true or false")
        return text.lower() == "true"
    if kind is int:
        if not re.fullmatch(_WHOLE, text):
            raise ValueError("must be a whole number")
        return int(text)
    if kind is float:
        if not re.fullmatch(_NUMBER, text):
            percent = re.fullmatch(rf"({_NUMBER}) ?%", text)
            raise ValueError(
                "must be a number" + (f"; did you mean {float(percent[1]) / 100:g}?" if percent else "")
            )
        return float(text)
    return text


def check_settings(values: Any) -> None:
    """Checks each setting of a dataclass instance by itself.

    Raises:
        SettingError: On the first value that breaks its rule.
    """
    for name, said in settings_of(values).items():
        value = getattr(values, name)
        rule = said.broken_rule(value)
        if rule is not None:
            raise SettingError(name, rule, value)
