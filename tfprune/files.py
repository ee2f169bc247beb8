"""Writes files that are either there and whole, or not there."""

import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`, and renames it to `path` if the block succeeds.

    The temporary name keeps the suffix, which some writers (Keras) insist on.
    """
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_temporaries(folder: Path) -> None:
    """Removes what kills in the middle of `replacing` left in a folder and the folders in it.

    Only for the one process that writes there.
    """
    for path in folder.rglob(".*"):
        if re.match(r"\.\d+\.", path.name) and path.is_file():
            path.unlink(missing_ok=True)


@contextmanager
def discarding(path: Path) -> Iterator[Path]:
    """Yields a temporary path with the name of `path`, and removes what the block writes there.

    For the processes that take part in saving a model, which is work for all, but do not keep the file.
    """
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / path.name


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Writes a text file atomically, in UTF-8."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file atomically."""
    write_text(path, json.dumps(value, indent=2) + "\n")
