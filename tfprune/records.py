"""Reads what JSON says of a dataclass: each field of its type, and within the range that stands beside it."""

import dataclasses
import types
import typing
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple, NoReturn


class Kind(NamedTuple):
    """The form that the values of a type have in JSON.

    Attributes:
        text: What it must have, to stand behind "must be".
        holds: Returns whether a value is one.
        make: Returns the value of the type.
    """

    text: str
    holds: Callable[[Any], bool]
    make: Callable[[Any], Any]


def is_number(value: Any) -> bool:
    """Returns whether a value read from JSON is a number; `true` is none."""
    return type(value) in (int, float)


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, str) or is_number(value)


def _object(text: str, holds: Callable[[Any], bool]) -> Kind:
    return Kind(text, lambda value: isinstance(value, dict) and all(map(holds, value.values())), dict)


KINDS: dict[Any, Kind] = {
    int: Kind("a whole number", lambda value: type(value) is int, int),
    float: Kind("a number", is_number, float),
    str: Kind("a string", lambda value: isinstance(value, str), str),
    dict[str, float]: _object("an object of numbers", is_number),
    dict[str, str]: _object("an object of strings", lambda value: isinstance(value, str)),
    dict[str, Any]: _object(
        "an object of numbers, strings and lists of them",
        lambda value: all(map(_is_plain, value if isinstance(value, list) else [value])),
    ),
}
"""The types of fields that any record may have."""


def values_of(
    owner: type,
    content: Mapping[str, Any],
    names: Collection[str] | None = None,
    kinds: Mapping[Any, Kind] = types.MappingProxyType(KINDS),
) -> dict[str, Any]:
    """Returns what JSON says of the fields of a dataclass, by name; other keys are left alone.

    Args:
        owner: The dataclass; the ranges of its fields are those of `settings.measured`.
        content: A JSON object.
        names: The fields to read, all of which must be there. None: all fields, and those without a default
            must be there.
        kinds: The types of fields that the dataclass may have; any of them may be "or None".

    Raises:
        ValueError: On a value of another type or out of its range, or one that is missing.
    """
    hints = typing.get_type_hints(owner)
    values = {}
    for field in dataclasses.fields(owner):
        if names is not None and field.name not in names:
            continue
        if field.name in content:
            values[field.name] = _value(field, hints[field.name], content[field.name], kinds)
        elif names is not None or field.default is field.default_factory is dataclasses.MISSING:
            raise ValueError(f"`{field.name}` is missing")
    return values


def _value(field: dataclasses.Field, hint: Any, value: Any, kinds: Mapping[Any, Kind]) -> Any:
    if isinstance(hint, types.UnionType):  # `hint | None`
        if value is None:
            return None
        hint = hint.__args__[0]
    kind = kinds[hint]
    if not kind.holds(value):
        reject(field.name, value, f"must be {kind.text}")
    value = kind.make(value)
    rule = field.metadata.get("rule")
    if rule is not None and not rule.holds(value):
        reject(field.name, value, f"must be {rule.text}")
    return value


def reject(name: str, value: Any, rule: str) -> NoReturn:
    """Raises the `ValueError` of a value that breaks a rule, such as "must be at least 0"."""
    raise ValueError(f"`{name}` {rule}. Received: {name}={value!r}")
