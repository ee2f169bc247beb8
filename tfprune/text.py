"""Lengths of time, tables, names that are free, and text that others wrote, for people."""

import difflib
import unicodedata
from collections.abc import Container, Iterable, Sequence
from typing import Any

# Full-width signs count, too, in some languages.
_FORMULA = tuple("=+-@＝＋－＠")  # noqa: RUF001


def duration(seconds: float) -> str:
    """Returns a time in the unit that suits it: `40 s`, `25 min`, `3 h 20 min`, `2 d 5 h`."""
    minutes = round(seconds / 60)
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    if minutes < 100:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24} h"


def printable(text: str) -> str:
    """Returns a text as one line that commands no terminal: what cannot be seen is written as an escape.

    That are control characters, line breaks, marks of writing direction and halves of surrogate pairs.
    """
    return "".join(char if _is_seen(char) else ascii(char)[1:-1] for char in text)


def _is_seen(char: str) -> bool:
    return char.isprintable() or unicodedata.category(char) == "Zs"  # Spaces of any kind.


def numbered(name: str, taken: Container[str], second: int = 2) -> str:
    """Returns a name that is not taken: `name`, or else with `_2`, `_3`, ... behind it.

    Args:
        name: The name.
        taken: Those that there are.
        second: The number of the second one of a name.
    """
    found, number = name, second
    while found in taken:
        found = f"{name}_{number}"
        number += 1
    return found


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Returns the question after a name that is none of those that there are: `; did you mean NAME?`.

    Returns:
        The question with the most similar name; empty if none is similar.
    """
    similar = difflib.get_close_matches(name, [*names], n=1)
    return f"; did you mean {similar[0]}?" if similar else ""


def csv_cell(value: Any) -> Any:
    """Returns what a cell of a CSV file should hold, so that no spreadsheet computes what is only text.

    Numbers stay as they are. A text that a spreadsheet would take for a formula, because of its first
    character, has an apostrophe before it; what cannot be seen is written as an escape.
    Source: OWASP, CSV injection.

    Args:
        value: A text, a number, or None for an empty cell.
    """
    if not isinstance(value, str):
        return value
    return f"'{printable(value)}" if value.lstrip()[:1] in _FORMULA else printable(value)


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """Returns a table of aligned cells: the first `left` columns to the left, the others to the right.

    Args:
        header: Titles.
        rows: Cells, as many as titles.
        left: The number of columns that hold text.

    Returns:
        Lines without trailing blanks: the titles, a rule, the rows.
    """
    widths = [max(map(len, cells)) for cells in zip(header, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        aligned = [
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "  ".join(aligned).rstrip()

    return [line(header), "  ".join("-" * width for width in widths), *map(line, rows)]
