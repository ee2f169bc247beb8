"""Lets one process at a time write into a folder, and tells another who does."""

import contextlib
import json
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path

from tfprune.errors import FileError, UserError
from tfprune.extras import extra
from tfprune.files import remove
from tfprune.reading import json_of, reading
from tfprune.text import printable

with extra("export"):
    import filelock

LOCK, OWNER = ".lock", ".lock.json"
_POLL_SECONDS = 0.2


class InUseError(UserError):
    """A folder that another process, or another thread of this one, holds.

    Attributes:
        owner: Who does, in words.
    """

    def __init__(self, message: str, owner: str) -> None:
        super().__init__(message)
        self.owner = owner


@contextlib.contextmanager
def hold(folder: Path, flag: str = "", part: str = "", wait_seconds: float = 0.0) -> Iterator[str | None]:
    """Holds a folder for this process, from the first line of the block to its end.

    The operating system gives the folder free when the process ends, however it ends: a kill leaves no lock
    behind, only its file. Between hosts that takes a file system whose `flock` is the same for all of them.
    `.lock.json` says who holds the folder, for people and for the next process.

    Args:
        folder: Exists and can be written to.
        flag: What the user gave for it, `--name=value`, for errors; empty if it was not given.
        part: A name of the files in the folder that are meant, where others in it have other writers.
        wait_seconds: How long to wait for another that holds it; below 0 without end.

    Yields:
        Who held the folder last, in words, if that process was killed; None if it came to its end.

    Raises:
        InUseError: If another process, or another thread of this one, holds it.
        UserError: If the file system cannot lock or is full.
    """
    lock, owner_path = _lock_of(folder, part)
    subject = f"{flag}: {folder}" if flag else folder
    try:
        lock.acquire(timeout=wait_seconds, poll_interval=_POLL_SECONDS)
    except filelock.Timeout:
        owner = _owner(owner_path)
        raise InUseError(f"{subject} is in use by {owner}; wait for it or end it", owner) from None
    except (OSError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{subject} cannot be locked: {reason}") from error
    try:
        before = _owner(owner_path) if owner_path.exists() else None
        owner = {
            "pid": os.getpid(),
            "host": platform.node(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S"),
            "killed_before": _killed(owner_path),
        }
        try:
            # Not by `files.put`: what a loss of power makes of a note about a process does not matter.
            owner_path.write_text(json.dumps(owner), encoding="utf-8")
        except OSError as error:
            raise UserError(f"{subject} cannot be written: {error.strerror}") from error
        yield before
    finally:
        remove(owner_path)
        lock.release()


def holder(folder: Path, part: str = "") -> str | None:
    """Returns who holds a folder, in words; None if nobody does. Writes nothing.

    Args:
        folder: It need not be there.
        part: As for `hold`.
    """
    lock, owner_path = _lock_of(folder, part)
    if not os.path.exists(lock.lock_file):
        return None
    try:
        with lock:
            return None
    except filelock.Timeout:
        return _owner(owner_path)
    except (OSError, NotImplementedError):  # Where no lock can be had nobody has one.
        return None


def killed(folder: Path, part: str = "") -> int:
    """Counts the processes, one after the other, that were killed while they held a folder.

    It begins at 0 again when one of them comes to its end.

    Args:
        folder: It need not be there.
        part: As for `hold`.
    """
    count = _killed(_lock_of(folder, part)[1])
    # Where no note is, the lock is left alone: while it is looked at nobody else can take it.
    return 0 if count and holder(folder, part) else count


def this_process() -> str:
    """Returns the words for this process, as those of who holds a folder begin."""
    return printable(f"process {os.getpid()} on {platform.node()}")


def _lock_of(folder: Path, part: str) -> tuple[filelock.BaseFileLock, Path]:
    lock_path, owner_path = (folder / (f".{part}{name}" if part else name) for name in (LOCK, OWNER))
    return filelock.FileLock(lock_path, timeout=0, thread_local=False, fallback_to_soft=False), owner_path


def _killed(path: Path) -> int:
    """Returns how many were killed in a row, by the note of the last of them."""
    if not path.exists():
        return 0
    try:
        with reading(path, "note of who holds a folder", "it is written anew"):
            return int(json_of(path).get("killed_before", 0)) + 1
    except FileError:  # It was killed while it wrote.
        return 1


def _owner(path: Path) -> str:
    try:
        with reading(path, "note of who holds a folder", "it is written anew"):
            owner = json_of(path)
            return printable(f"process {owner['pid']} on {owner['host']} since {owner['since']}")
    except FileError:  # It has only just begun, or is about to end.
        return "another process"
