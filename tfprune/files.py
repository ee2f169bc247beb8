"""Writes files that are either there and whole, or not there: after a kill, on a full disk, without power.

What is written comes to its name by `put` alone, the last file of a stage last. A file is on the disk before
its name, and its name before the next one's: so whatever a disk has after a loss of power, what a file says
of the files before it is true. TensorBoard's events are written by TensorFlow, as they come; nothing reads
them again.
"""

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfprune.errors import UserError


def put(source: Path, target: Path) -> None:
    """Brings a file, or a folder with all in it, to the disk, then its name, in place of what had the name.

    Args:
        source: What was written, on the file system of `target`.
        target: Its name. A folder takes the place of no other.
    """
    if source.is_dir():
        for folder, _, names in os.walk(source, topdown=False):
            for name in names:
                _sync(Path(folder, name))
            _sync(Path(folder))
    else:
        _sync(source)
    os.replace(source, target)
    _sync(target.parent)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`, and gives the file there the name `path` if the block succeeds.

    The temporary name keeps the suffix, which some writers (Keras) insist on, and is no other's, of another
    thread or machine either.
    """
    temporary = path.with_name(f".{os.getpid()}.{secrets.token_hex(4)}{path.suffix}")
    try:
        yield temporary
        put(temporary, path)
    except OSError as error:
        if str(error.filename) == str(temporary):
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


# What a write fails with on a full or failing disk, over a quota, or without permission.
_DISK_ERRORS = [
    getattr(errno, name)
    for name in "ENOSPC EDQUOT EFBIG EACCES EPERM EROFS EIO ENOTDIR ENAMETOOLONG".split()
    if hasattr(errno, name)
]


@contextmanager
def writing(folder: Path, advice: str, *further: type[Exception]) -> Iterator[None]:
    """Turns what a disk that cannot be written to raises into one line; other errors pass.

    Args:
        folder: Where the block writes.
        advice: What the reader of the message can do.
        *further: Errors besides `OSError` that a library raises for the disk, with the system's words
            somewhere in the message: TensorFlow's. HDF5's are `OSError`, with the words in the message alone.

    Raises:
        UserError: `PATH: cannot be written: REASON; ADVICE`, the path a file's where it is known.
    """
    try:
        yield
    except (OSError, *further) as error:
        words = [os.strerror(number) for number in _DISK_ERRORS]
        if getattr(error, "errno", None) in _DISK_ERRORS:
            words = [os.strerror(error.errno)]
        reason = next((reason for reason in words if reason in str(error)), None)
        if reason is None:
            raise
        path = getattr(error, "filename", None) or folder
        raise UserError(f"{path}: cannot be written: {reason}; {advice}") from error


def remove(path: Path) -> None:
    """Removes a file, or a folder with all in it, if it is there, on the disk before what is put later."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif os.path.lexists(path):
        path.unlink()
    else:
        return
    _sync(path.parent)


def make_folder(path: Path) -> None:
    """Makes a folder and those above it, where they are not there, on the disk before what is put in them."""
    if path.is_dir():
        return
    make_folder(path.parent)
    path.mkdir(exist_ok=True)
    _sync(path.parent)


def remove_temporaries(folder: Path) -> None:
    """Removes what kills in the middle of `replacing` left in a folder, not in the folders in it.

    Only for the one process that writes there.
    """
    for path in folder.glob(".*"):
        if re.match(r"\.\d+\.", path.name) and path.is_file():
            path.unlink(missing_ok=True)


def look_anew(folder: Path) -> None:
    """Makes a network file system ask its server for the names in a folder, if the folder is there.

    A client keeps for up to a minute which names it did not find; a name of its own, made and removed, makes
    it forget them. Only for the one process that writes there.
    """
    if folder.is_dir():
        path = folder / f".{os.getpid()}.{secrets.token_hex(4)}"
        path.touch()
        path.unlink()


def _sync(path: Path) -> None:
    """Waits until a file's content, or the names in a folder, are on the disk."""
    is_folder = path.is_dir()
    if os.name == "nt" and is_folder:  # Windows opens none; its file systems keep the order of names.
        return
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot be asked about a folder.
        if not (is_folder and error.errno in (errno.EINVAL, errno.ENOTSUP)):
            raise
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class Digest:
    """The size and the checksum of a file, by which another file knows it."""

    bytes: int
    sha256: str


def digest(path: Path) -> Digest:
    """Returns the digest of a file, which is read once."""
    with open(path, "rb") as file:
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
        return Digest(file.tell(), checksum)


@contextmanager
def discarding(path: Path) -> Iterator[Path]:
    """Yields a temporary path with the name of `path`, and removes what the block writes there.

    For the processes that take part in saving a model, which is work for all, but do not keep the file.
    """
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / path.name


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Writes a text file in UTF-8, whole or not at all."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file, whole or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n")
