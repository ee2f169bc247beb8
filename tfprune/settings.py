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
from collections.abc import Callable
from typing import Any, NamedTuple


class Rule(NamedTuple):
    """A condition on a value.

    Attributes:
        text: What the value must be, to stand behind "must be".
        holds: A function from the value to bool.
    """

    text: str
    holds: Callable[[Any], bool]


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
        choices: A function that returns the names to choose from; None if it is no choice. A function,
            because the names are the library's, which loads Keras.
        paper: What the reference study states: a value, or a `Rule` where several values agree with it.
            `OPEN` if the study leaves the setting open, or each of its sections has its own.
        role: "setting"; "reference", a setting that names another run; "seed"; or "place", where things are.
            Runs that differ in more than the seed and places are different experiments.
        group: The heading in `--help`.
        words: A function from a value other than the default to words for readers; None: `name value`.
    """

    help: str
    rule: Rule | None = None
    choices: Callable[[], tuple[str, ...]] | None = None
    paper: Any = OPEN
    role: str = "setting"
    group: str = ""
    words: Callable[[Any], str] | None = None

    def broken_rule(self, value: Any) -> str | None:
        """Returns what the value must be and is not; None if all is well."""
        if self.choices is not None and value not in self.choices():
            return f"one of {', '.join(self.choices())}"
        return self.broken_range(value)

    def broken_range(self, value: Any) -> str | None:
        """Returns what `broken_rule` does, but for choices: those of the library load Keras."""
        if self.rule is not None and not self.rule.holds(value):
            return self.rule.text
        if isinstance(value, float) and not math.isfinite(value):
            return "finite"
        if isinstance(value, int) and abs(value) >= 2**63:
            return "a whole number of 64 bits"
        texts = value if isinstance(value, tuple) else (value,)
        if not all(_is_line(text) for text in texts if isinstance(text, str)):
            return "one line of text in UTF-8"
        return None


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
        super().__init__(f"`{name}` must be {rule}. Received: {name}={shown}")
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


def with_settings_of(owner: type, **said: Any) -> Callable[[type], type]:
    """Returns a decorator that adds the settings of a dataclass to a class that is to become one.

    A setting that the class declares itself stays as declared.

    Args:
        owner: The dataclass.
        **said: Attributes of `Setting` that differ or come in addition.
    """

    def add(cls: type) -> type:
        for field in dataclasses.fields(owner):
            if field.name not in cls.__annotations__:
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
