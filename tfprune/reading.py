"""The one door for files that a person or another program may have touched.

```python
with reading(path, "result of a round", "remove the folder and run it anew"):
    result = RoundResult.from_json(json_of(path))
```
"""

import json
import math
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tfprune.errors import FileError
from tfprune.text import printable

# More than any record that tfprune writes, and little memory.
RECORD_BYTES = 2**26
_LONGEST_REASON = 300


@contextmanager
def reading(path: str | Path, kind: str, advice: str) -> Iterator[None]:
    """Turns whatever goes wrong while a file is read and understood into one line that names the file.

    Damage shows as many kinds of exception, which differ among libraries and their versions: so every
    `Exception` is meant. Paths that are no files are refused before the block, which could wait for ever for
    a pipe.

    Args:
        path: The file that the block opens.
        kind: What it should be, such as `"result of a round"`.
        advice: What the reader of the message can do.

    Raises:
        FileError: `PATH: not a readable KIND: WHAT IS WRONG; ADVICE`, in one line. A `FileError` raised
            inside passes as it is.
    """
    try:
        check_is_file(path)
        yield
    except FileError:
        raise
    except Exception as error:
        raise FileError(
            f"{printable(str(path))}: not a readable {kind}: {reason_of(error)}; {advice}"
        ) from error


def check_is_file(path: str | Path) -> None:
    """Checks that a path is a file that can be read to an end, or a link to one.

    Raises:
        OSError: If there is nothing, or it cannot be looked at.
        ValueError: If it is a folder, a pipe, a socket or a device.
    """
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        raise ValueError(f"it is {_SPECIAL.get(stat.S_IFMT(mode), 'something else')}, not a file")


_SPECIAL = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def text_of(path: str | Path) -> str:
    """Returns the text of a record, a file in UTF-8 of at most `RECORD_BYTES` bytes; for use in `reading`.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is longer or not UTF-8.
    """
    with open(path, "rb") as file:
        content = file.read(RECORD_BYTES + 1)
    if len(content) > RECORD_BYTES:
        raise ValueError(f"it has over {RECORD_BYTES:,} bytes, more than any such file")
    return content.decode()


def json_of(path: str | Path) -> Any:
    """Returns what a JSON record says; for use in `reading`.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is no record of JSON, or has a number that is not finite or no whole number of 64
            bits: tfprune writes none.
    """
    return json.loads(text_of(path), parse_int=_whole, parse_float=_finite, parse_constant=_finite)


def _whole(digits: str) -> int:
    value = int(digits)
    if not -(2**63) <= value < 2**63:
        raise ValueError(f"{digits} is too large a number")
    return value


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{digits} is not a finite number")
    return value


def check_same_search(record: dict[str, Any], number: int, settings: dict[str, Any]) -> None:
    """Checks that a record of a search, with its `format` and `settings`, is one to go on from; in `reading`.

    Args:
        record: The record.
        number: The format that it must have.
        settings: All that makes a search another one.

    Raises:
        ValueError: If it has another format, or a setting was not the same.
    """
    if record["format"] != number:
        raise ValueError(f"it has format {record['format']}, not {number}")
    for name, value in settings.items():
        if record["settings"].get(name) != value:
            raise ValueError(f"it is of another search: {name} was not the same")


def reason_of(error: Exception) -> str:
    """Returns what an exception says, as one line of a moderate length."""
    if isinstance(error, OSError) and error.strerror:
        reason = error.strerror
    elif isinstance(error, KeyError) and not re.search(r"\s", str(error)):  # Of a key, not h5py's sentence.
        reason = f"{error} is missing"
    elif isinstance(error, MemoryError) and not error.args:
        reason = "it asks for more memory than there is"
    elif isinstance(error, RecursionError):
        reason = "it is nested too deeply"
    else:
        reason = " ".join(str(error).split()) or type(error).__name__
    reason = printable(reason.rstrip("."))
    return reason if len(reason) <= _LONGEST_REASON else f"{reason[:_LONGEST_REASON]}..."
