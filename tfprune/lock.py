"""Lets one process at a time write into a folder, and tells another who does."""

import contextlib
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path

from tfprune.errors import FileError, UserError
from tfprune.extras import extra
from tfprune.files import remove, write_json
from tfprune.reading import json_of, reading
from tfprune.text import printable

with extra("export"):
    import filelock

LOCK, OWNER = ".lock", ".lock.json"


@contextlib.contextmanager
def hold(folder: Path, flag: str = "", part: str = "") -> Iterator[None]:
    """Holds a folder for this process, from the first line of the block to its end.

    The operating system gives the folder free when the process ends, however it ends: a kill leaves no lock
    behind, only its file. `.lock.json` says who holds it, for people and for the next process's error.

    Args:
        folder: Exists and can be written to.
        flag: What the user gave for it, `--name=value`, for errors; empty if it was not given.
        part: A name of the files in the folder that are meant, where others in it have other writers.

    Raises:
        UserError: If another process, or another thread of this one, holds it, or the file system cannot
            lock or is full.
    """
    lock_path, owner_path = (folder / (f".{part}{name}" if part else name) for name in (LOCK, OWNER))
    subject = f"{flag}: {folder}" if flag else folder
    lock = filelock.FileLock(lock_path, timeout=0, thread_local=False, fallback_to_soft=False)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise UserError(f"{subject} is in use by {_owner(owner_path)}; wait for it or end it") from None
    except (OSError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{subject} cannot be locked: {reason}") from error
    try:
        owner = {"pid": os.getpid(), "host": platform.node(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        try:
            write_json(owner_path, owner)
        except OSError as error:
            raise UserError(f"{subject} cannot be written: {error.strerror}") from error
        yield
    finally:
        remove(owner_path)
        lock.release()


def _owner(path: Path) -> str:
    try:
        with reading(path, "note of who holds a folder", "it is written anew"):
            owner = json_of(path)
            return printable(f"process {owner['pid']} on {owner['host']} since {owner['since']}")
    except FileError:  # It has only just begun, or is about to end.
        return "another process"
