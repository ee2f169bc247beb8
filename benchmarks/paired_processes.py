"""Processes that are asked in turn, so that what else the machine does falls on all alike."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

_ANSWER = "@"


class Worker:
    """A process that runs a script and answers each line with a JSON value.

    Args:
        command: The script and its arguments.
        name: Of the worker, for errors.
        environment: Variables beside those of this process.

    Attributes:
        first: The first answer, which comes when the process is ready.

    Raises:
        RuntimeError: The process ended without an answer.
    """

    def __init__(self, command: Sequence[str], name: str, environment: Mapping[str, str]) -> None:
        self._name = name
        self.process = subprocess.Popen(
            [sys.executable, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
        )
        self.first = self._answer()

    def ask(self, question: str) -> Any:
        """Returns the answer to a line."""
        print(question, file=self.process.stdin, flush=True)
        return self._answer()

    def close(self) -> None:
        """Ends the process."""
        self.process.stdin.close()
        self.process.wait()

    def _answer(self) -> Any:
        for line in self.process.stdout:
            if line.startswith(_ANSWER):
                return json.loads(line[len(_ANSWER) :])
        status = self.process.wait()
        raise RuntimeError(f"{self._name}: the process ended without an answer, with status {status}")


def answer_lines(first: Any, answer: Callable[[str], Any]) -> None:
    """Says that a worker is ready, then answers each line of stdin.

    Args:
        first: The first answer.
        answer: Makes the JSON value from a line.
    """
    print(_ANSWER + json.dumps(first), flush=True)
    for line in sys.stdin:
        print(_ANSWER + json.dumps(answer(line.strip())), flush=True)
