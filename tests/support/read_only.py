"""A folder as a disk that cannot be written to has it: Python's calls that would write there fail."""

import contextlib
import errno
import functools
import os
import sys
from collections.abc import Iterator
from pathlib import Path

_WRITES = {"os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate"}
_folders: list[Path] = []


def _refuse(event: str, arguments: tuple) -> None:
    if not _folders:
        return
    if event == "open":
        path, mode, flags = arguments
        if not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC):
            return
    elif event in _WRITES:
        path = arguments[0]
    else:
        return
    if isinstance(path, str | os.PathLike) and _folders[-1] in (Path(path), *Path(path).absolute().parents):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))


@functools.cache
def _install() -> None:
    """Watches the process's calls, once: a hook cannot be taken away."""
    sys.addaudithook(_refuse)


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Makes a folder, with all in it, one that cannot be written to, by this process and for the block."""
    _install()
    _folders.append(folder.absolute())
    try:
        yield
    finally:
        _folders.pop()
