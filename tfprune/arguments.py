"""Checks of arguments, which name the argument, the rule and what came."""

import math
import operator
from typing import Any

import numpy as np


def true_or_false(name: str, value: Any, known: str = "True or False") -> bool:
    """Returns `value` as a bool, if it is True or False of Python's or NumPy's.

    Args:
        name, value: The argument.
        known: What it may be, for the message.

    Raises:
        ValueError: If it is anything else, a number or text.
    """
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"`{name}` must be {known}. Received: {name}={value!r}")
    return bool(value)


def whole_number(name: str, value: Any, least: int) -> int:
    """Returns `value` as an int, if it is a whole number of Python's or NumPy's.

    Raises:
        ValueError: If it is anything else, or less than `least`.
    """
    number = _index(value)
    if number is None or number < least:
        raise ValueError(f"`{name}` must be a whole number, at least {least}. Received: {name}={value!r}")
    return number


def one_of(name: str, value: Any, known: Any) -> Any:
    """Returns `value` if it is one of some names.

    Raises:
        ValueError: If it is none; the message lists them.
    """
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"`{name}` must be one of {', '.join(known)}. Received: {name}={value!r}")
    return value


def progress(value: Any) -> int:
    """Returns the argument `verbose` as 0, 1 or 2, as Keras's bars of progress take it.

    Raises:
        ValueError: If it is none of these, nor True or False.
    """
    number = int(value) if isinstance(value, (bool, np.bool_)) else _index(value)
    if number not in (0, 1, 2):
        raise ValueError(f"`verbose` must be 0, 1, 2 or None. Received: verbose={value!r}")
    return number


def real_number(value: Any) -> float | None:
    """Returns `value` as a float; None for what is no number: text, True and False, arrays of several."""
    if _is_bool(value) or isinstance(value, (str, bytes, bytearray, memoryview)):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
    except OverflowError:
        return math.inf


def _index(value: Any) -> int | None:
    try:
        return None if _is_bool(value) else operator.index(value)
    except TypeError:
        return None


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool) or getattr(value, "dtype", None) == np.bool_
