"""The exceptions that a binary turns into a line without a traceback."""

import contextlib
from collections.abc import Iterator
from typing import Any


class UserError(Exception):
    """A request that cannot be met; the message names the flag, the value and the rule."""


class FileError(UserError, ValueError):
    """A file that cannot be used; the message, one line, names it, what is wrong with it and what to do.

    It is a `ValueError` too, which is what the library raises on an argument.
    """


@contextlib.contextmanager
def blame_flag(name: str, value: Any) -> Iterator[None]:
    """Turns a `ValueError`, `OSError` or `ImportError` raised inside into a `UserError` that names the flag.

    The packages below (`sparsity`, `data`, `models`, `training`) know no flags: they raise
    `ValueError` with the rule and the value received, `OSError` where a file cannot be had, `ImportError`
    where an optional package is missing. This puts the flag in front.

    Args:
        name: The flag's name, without dashes.
        value: What was passed.

    Raises:
        UserError: `--name=value: <the original message>`.
    """
    try:
        yield
    except (ValueError, OSError, ImportError) as error:
        raise UserError(f"--{name}={value}: {error}") from error
