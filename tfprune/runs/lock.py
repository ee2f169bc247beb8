"""Lets one process at a time work in a folder, and tells another who does."""

import contextlib
import json
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path

import filelock

from tfprune.errors import UserError
from tfprune.files import write_json

LOCK, OWNER = ".lock", ".lock.json"


@contextlib.contextmanager
def hold(folder: Path, flag: str) -> Iterator[None]:
    """Holds a folder for this process, from the first line of the block to its end.

    The operating system gives the folder free when the process ends, however it ends: a kill leaves no lock
    behind, only its file. `.lock.json` says who holds it, for people and for the next process's error.

    Args:
        folder: Exists and can be written to.
        flag: What the user gave for it, `--name=value`, for errors.

    Raises:
        UserError: If another process holds it, or the file system cannot lock or is full.
    """
    lock = filelock.FileLock(folder / LOCK, timeout=0, thread_local=False, fallback_to_soft=False)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise UserError(f"{flag}: {folder} is in use by {_owner(folder)}; wait for it or end it") from None
    except (OSError, NotImplementedError) as error:
        raise UserError(f"{flag}: {folder} cannot be locked: {error}") from error
    try:
        owner = {"pid": os.getpid(), "host": platform.node(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        try:
            write_json(folder / OWNER, owner)
        except OSError as error:
            raise UserError(f"{flag}: {folder} cannot be written: {error.strerror}") from error
        yield
    finally:
        (folder / OWNER).unlink(missing_ok=True)
        lock.release()


def _owner(folder: Path) -> str:
    try:
        owner = json.loads((folder / OWNER).read_text(encoding="utf-8"))
        return f"process {owner['pid']} on {owner['host']} since {owner['since']}"
    except (OSError, ValueError, KeyError, TypeError):  # It has only just begun, or is about to end.
        return "another process"
