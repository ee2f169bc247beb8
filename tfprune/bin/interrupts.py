"""Ctrl-C and SIGTERM, answered at once even while native code runs; a second one ends the process at once.

Python hands a signal to the program between two of its own instructions, which may be a minute's compilation
away. So a thread waits for what the C-level handler writes, and answers.
"""

import os
import shlex
import signal
import socket
import sys
import threading
import time
from os import _exit as end_process
from typing import Any

INTERRUPTED_STATUS, TERMINATED_STATUS = 130, 143
_STATUS = {signal.SIGINT: INTERRUPTED_STATUS, signal.SIGTERM: TERMINATED_STATUS}
# Shells and launchers that pass a signal on make two of one.
_SAME_PRESS_SECONDS = 0.5
# After these an exception that was raised and is not being handled was swallowed.
_LOST_SECONDS = 1.0


class Interrupted(KeyboardInterrupt):
    """The request to end: the signal's number and the exit status that it asks for."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number, self.status = number, _STATUS[number]


class Interrupts:
    """The answers to SIGINT and SIGTERM, from now to the end of the process.

    The first one raises `Interrupted` in the main thread; again only where it was lost, as in a callback of
    native code that swallows whatever is raised, and never into what cleans up. A signal that the process was
    started to ignore stays ignored.

    Args:
        answer: What is said at once.

    Attributes:
        said: Set when it was said.
        caught: True once `Interrupted` has come out of all that was interrupted; whoever catches it sets it.
    """

    def __init__(self, answer: str) -> None:
        self.said, self.caught = threading.Event(), False
        self._answer = answer
        self._raised: float | None = None
        self._main = threading.main_thread().ident
        self._own = 0
        # Of its own, because descriptor 2 is a file while native libraries work.
        self._terminal = os.dup(2)
        self._read, self._write = socket.socketpair()
        self._write.setblocking(False)
        for number in _STATUS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._raise)
        signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._listen, name="interrupts", daemon=True).start()

    def _raise(self, number: int, frame: Any) -> None:
        if self._raised is None:
            self._raised = time.monotonic()
            raise Interrupted(number)

    def _raise_if_lost(self, number: int) -> None:
        raised = self._raised
        if self.caught or raised is None or time.monotonic() - raised < _LOST_SECONDS or self._unwinding():
            return
        self._raised = None
        self._own += 1
        signal.pthread_kill(self._main, number)

    def _unwinding(self) -> bool:
        """Returns whether the main thread handles `Interrupted`, or what was raised while it did."""
        error = sys._current_exceptions().get(self._main)
        if isinstance(error, tuple):  # Up to Python 3.11.
            error = error[1]
        while error is not None and not isinstance(error, Interrupted):
            error = error.__context__
        return error is not None

    def _listen(self) -> None:
        first, asked = None, 0
        while True:
            try:
                (number,) = self._read.recv(1)
            except TimeoutError:
                self._raise_if_lost(asked)
                continue
            if number not in _STATUS:
                continue
            if self._own:
                self._own -= 1
                continue
            now = time.monotonic()
            if first is None:
                first, asked = now, number
                self._say(f"interrupted: {self._answer}; Ctrl-C again ends it at once")
                self.said.set()
                self._read.settimeout(_LOST_SECONDS)
            elif now - first > _SAME_PRESS_SECONDS:
                self._say("ended")
                end_process(_STATUS[number])

    def _say(self, text: str) -> None:
        start = "\n" if os.isatty(self._terminal) else ""
        # The reader of a pipe may be gone, by the same Ctrl-C.
        try:
            os.write(self._terminal, f"{start}{text}\n".encode(errors="backslashreplace"))
        except OSError:
            pass


def program() -> list[str]:
    """Returns the words that started this process, without flags: `python -m MODULE`, or the command."""
    module = getattr(sys.modules["__main__"], "__spec__", None)
    return ["python", "-m", module.name] if module else [os.path.basename(sys.argv[0])]


def command_line() -> str:
    """Returns the command that started this process, to be typed again."""
    backend = os.environ.get("KERAS_BACKEND")
    return shlex.join([*([f"KERAS_BACKEND={backend}"] if backend else []), *program(), *sys.argv[1:]])
