"""What the processes that work on one study tell each other, by files in the folder `.study` of the study's.

A run is a process's while it holds the run's lock there, which the system gives free however the process
ends. A run that failed has a note with the reason, so that the others neither try it nor wait for it.
"""

import contextlib
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tfprune.errors import UserError
from tfprune.files import look_anew, make_folder, remove, write_json
from tfprune.lock import InUseError, hold, holder, killed, this_process
from tfprune.reading import json_of, reading

FOLDER = ".study"
_REPORT = "report.json"
_FAILURE = ".failed.json"
# A page or a comparison takes seconds to write.
_REPORT_SECONDS = 300.0


class Sharing:
    """A study as its processes share it.

    Args:
        folder: The study's.
        flag: What the user gave for it, `--name=value`, for errors.
    """

    def __init__(self, folder: Path, flag: str) -> None:
        self._study, self._folder, self._flag = folder, folder / FOLDER, flag
        self._earlier: set[str] = set()
        self._unwritten: dict[str, tuple[str, str]] = {}

    def begin(self) -> None:
        """Makes the folder, and forgets what failed before: this process tries it again.

        Raises:
            UserError: If the folder cannot be made.
        """
        try:
            make_folder(self._folder)
        except OSError as error:
            raise UserError(f"{self._flag}: cannot be made: {error.strerror}") from error
        self._earlier = {self._failure(path)["id"] for path in self._folder.glob(f"*{_FAILURE}")}

    @contextlib.contextmanager
    def taking(self, name: str, run_folder: Path) -> Iterator[str | None]:
        """Makes a run this process's for the block, in which the run's files are seen as they are.

        Args:
            name: The run's.
            run_folder: Its folder, which need not be there.

        Yields:
            Who had it before, in words, if that process was killed; or None.

        Raises:
            InUseError: If another process has it.
            UserError: If the file system cannot lock or is full.
        """
        with hold(self._folder, self._flag, name) as before:
            for folder in (self._study, run_folder, *sorted(run_folder.glob("round_*"))):
                look_anew(folder)
            yield before

    def holder(self, name: str) -> str | None:
        """Returns the process that has a run, in words; None if none has. Writes nothing."""
        return holder(self._folder, name)

    def killed(self, name: str) -> int:
        """Counts the processes in a row that were killed at a run, the last ones that had it."""
        return killed(self._folder, name)

    def failure(self, name: str) -> tuple[str, str] | None:
        """Returns why a run failed since this process began, and in which process; None if it did not."""
        path = self._folder / f"{name}{_FAILURE}"
        if not path.exists():
            return self._unwritten.get(name)
        found = self._failure(path)
        return None if found["id"] in self._earlier else (found["reason"], found["process"])

    def note_failure(self, name: str, reason: str) -> None:
        """Tells all processes that a run failed; where the disk is full, this one alone."""
        note = {"reason": reason, "process": this_process(), "id": secrets.token_hex(8)}
        try:
            write_json(self._folder / f"{name}{_FAILURE}", note)
        except OSError:
            self._unwritten[name] = reason, this_process()

    def forget_failure(self, name: str) -> None:
        """Takes the note of a run's failure back: it is tried again."""
        remove(self._folder / f"{name}{_FAILURE}")

    def alone(self) -> contextlib.AbstractContextManager[Any]:
        """Returns a block in which no other process writes what all of them write.

        Raises:
            InUseError: If another one does for minutes.
            UserError: If the file system cannot lock or is full.
        """
        return hold(self._folder, self._flag, wait_seconds=_REPORT_SECONDS)

    def once(self, results: Any, write: Callable[[], None], *, again: bool) -> str | None:
        """Calls `write` in one process, and in each that asks for it again.

        Args:
            results: What is written of, as JSON has it.
            write: Writes it.
            again: Calls it even if another process did.

        Returns:
            The process that wrote it before, in words, if `write` was not called.
        """
        path = self._folder / _REPORT
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(self.alone())
            except InUseError:
                raise
            except UserError:  # A disk that is read alone, perhaps; `write` says what it cannot write.
                write()
                return None
            before = self._report(path) if path.exists() else {"results": None}
            if before["results"] == results and not again:
                return str(before["process"])
            write()
            if before["results"] != results:
                with contextlib.suppress(OSError):
                    write_json(path, {"results": results, "process": this_process()})
        return None

    def _report(self, path: Path) -> dict[str, Any]:
        with reading(path, "note of who wrote a study's report", "remove it"):
            found = json_of(path)
            return {name: found[name] for name in ("results", "process")}

    def _failure(self, path: Path) -> dict[str, str]:
        with reading(path, "note of a run that failed", "remove it, and the run is tried again"):
            found = json_of(path)
            return {name: str(found[name]) for name in ("reason", "process", "id")}
