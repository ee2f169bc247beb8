"""Code of the user's own, named `package.module:function`: found, called, and blamed where it fails."""

import importlib
import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable
from typing import Any

from tfprune.text import did_you_mean, printable

_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def is_named(text: str) -> bool:
    """Returns whether a text has the form `package.module:name`."""
    return _NAME.fullmatch(text) is not None


def import_module_of(text: str) -> Any:
    """Imports the module of `package.module:name`, from the current folder too, and returns it.

    What the module registers with Keras is known from then on.

    Raises:
        ValueError: If it cannot be imported; one line with the reason, and the place of an error in it.
    """
    name = text.partition(":")[0]
    # As `python -m` has it, and an installed command has not.
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise ValueError(f"there is no module {error.name!r} in this Python or in {here}") from error
        raise ValueError(f"module {name!r} cannot be imported: {_told(error)}") from error
    except (Exception, SystemExit) as error:  # A script ends Python.
        raise ValueError(f"module {name!r} cannot be imported: {_told(error)}") from error


def load_named(text: str) -> Any:
    """Returns what `package.module:name` names.

    Raises:
        ValueError: As `import_module_of`, or if the module has no such name.
    """
    module, name = import_module_of(text), text.partition(":")[2]
    try:
        return getattr(module, name)
    except AttributeError:
        there = [other for other in dir(module) if not other.startswith("_")]
        raise ValueError(f"module {module.__name__!r} has no {name!r}{did_you_mean(name, there)}") from None


def call_named(text: str, function: Callable, offered: dict[str, Any]) -> Any:
    """Calls a function of the user's own with those of the offered arguments that it names.

    Args:
        text: Its name, for errors.
        function: The function.
        offered: The arguments, by name.

    Raises:
        ValueError: If it cannot be called, needs another argument, or raises; one line with the place.
    """
    given = arguments_for(text, function, offered)
    try:
        return function(**given)
    except (Exception, SystemExit) as error:
        raise ValueError(f"{text} fails: {_told(error)}") from error


def arguments_for(text: str, function: Callable, offered: dict[str, Any]) -> dict[str, Any]:
    """Returns those of the offered arguments that a function names; arguments as for `call_named`.

    Raises:
        ValueError: If it is no function, or needs another argument.
    """
    if not callable(function):
        raise ValueError(f"{text} must be a function. Received: {type(function).__name__}")
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # Of C.
        parameters = ()
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    by_name = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    needed = [
        p.name
        for p in parameters
        if p.default is p.empty
        and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        and not (p.name in offered and p.name in by_name)
    ]
    if needed:
        raise ValueError(
            f"{text} must take no arguments but {', '.join(offered)}, or have defaults for them. "
            f"Received: {', '.join(needed)}"
        )
    return {name: value for name, value in offered.items() if takes_any or name in by_name}


def _told(error: BaseException) -> str:
    """Returns an exception as one line, with the last place outside of installed packages."""
    reason = printable(" ".join(str(error).split()))[:300]
    frames = traceback.extract_tb(error.__traceback__)
    own = [
        frame
        for frame in frames
        if frame.filename != __file__
        and "site-packages" not in frame.filename
        and not frame.filename.startswith("<")
        and not frame.filename.startswith(os.path.dirname(os.__file__))
    ]
    place = f" ({own[-1].filename}, line {own[-1].lineno})" if own else ""
    return f"{type(error).__name__}{f': {reason}' if reason else ''}{place}"
