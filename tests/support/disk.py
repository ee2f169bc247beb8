"""Watches the calls that bring files and their names to the disk: what a loss of power could leave."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

_CALLS = ("fsync", "replace", "unlink", "mkdir")


class Disk:
    """What was written below a folder, and the rules of a disk that may lose its power at any moment.

    A file gets its name only when its content is on the disk; no name is given while another one, or a
    folder on the way to it, or the removal of a file that says something of others, is not.

    Args:
        root: The folder.

    Attributes:
        named: The files and folders that got their names, in order, relative to `root`.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.named: list[str] = []
        self._real = {name: getattr(os, name) for name in _CALLS}
        self._synced: dict[Path, tuple] = {}
        self._waiting: dict[Path, str] = {}

    def fsync(self, descriptor: int) -> None:
        self._real["fsync"](descriptor)
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        self._synced[path] = _version(path)
        self._waiting = {one: call for one, call in self._waiting.items() if one.parent != path}

    def replace(self, source: Path, target: Path) -> None:
        source, target = Path(source).resolve(), Path(target).resolve()
        if self.root in target.parents:
            for path in [source, *source.rglob("*")]:
                assert self._synced.get(path) == _version(path), f"{target}: {path} is not on the disk"
            late = [f"{call} {path}" for path, call in self._waiting.items() if self._matters(path, target)]
            assert not late, f"{target} gets its name before these are on the disk: {late}"
            self.named.append(str(target.relative_to(self.root)))
            self._waiting[target] = "name"
        self._real["replace"](source, target)

    def unlink(self, path: Path, **options: int) -> None:
        self._real["unlink"](path, **options)
        self._waiting.setdefault(Path(os.path.abspath(path)), "remove")

    def mkdir(self, path: Path, *mode: int, **options: int) -> None:
        self._real["mkdir"](path, *mode, **options)
        self._waiting[Path(path).resolve()] = "mkdir"

    def _matters(self, path: Path, target: Path) -> bool:
        call = self._waiting[path]
        if call == "mkdir":
            return path in target.parents
        return call == "name" or (path.suffix == ".json" and path.parent == target.parent)

    def assert_whole(self, *left_out: str) -> None:
        """Every file below the root got its name as the rules say, and was not touched again.

        Args:
            *left_out: Names of files, and of folders with all in them, that are not meant.
        """
        assert not [path for path, call in self._waiting.items() if call == "name"]
        for path in self.root.rglob("*"):
            name = path.relative_to(self.root)
            if path.is_file() and not set(left_out) & set(name.parts):
                assert any(one in self.named for one in map(str, (name, *name.parents))), f"{name} went round"


@contextlib.contextmanager
def watched(root: Path) -> Iterator[Disk]:
    """Watches what the block writes below a folder."""
    disk = Disk(root)
    with pytest.MonkeyPatch.context() as patch:
        for name in _CALLS:
            patch.setattr(os, name, getattr(disk, name))
        yield disk


def _version(path: Path) -> tuple:
    """What differs when a file was written to, or a folder's names changed."""
    about = path.stat()
    return about.st_ino, about.st_size, about.st_mtime_ns
