"""Ctrl-C as a user presses it: an answer at once, whatever runs, and an end in order."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from tfprune.bin import demo
from tfprune.bin.interrupts import Interrupted

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPT = """
import hashlib, sys, time
from tfprune.bin.main import run_main

def wait(name):
    if WHERE == name:
        print("here", flush=True)
        {body}

WHERE = {where!r}
run_main(lambda: wait("main"), "What it does.", lambda: wait("define"), ending="it ends", again="to go on")
"""
# A minute in native code, in which Python runs no handler.
NATIVE = "hashlib.pbkdf2_hmac('sha256', b'', b'', 200_000_000)"
PYTHON = "time.sleep(60)"
CLEANS = """
        try:
            time.sleep(60)
        finally:
            time.sleep(1)
            print("cleaned", flush=True)
"""

SLOW_CLEANER = CLEANS.replace("sleep(1)", "sleep(3)")
SWALLOWS = """
        for _ in range(2):
            try:
                time.sleep(60)
            except BaseException:
                pass
        time.sleep(60)
"""


@pytest.fixture
def start():
    """Starts the script, waits until it is where it should be, and ends it with the test."""
    started = []

    def run(body, where="main", **options):
        code = SCRIPT.format(body=body, where=where)
        process = subprocess.Popen(
            [sys.executable, "-c", code, *(["--a=b", "c d"] if where == "define" else [])],
            env={**os.environ, "PYTHONPATH": str(ROOT), "KERAS_BACKEND": ""},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )
        started.append(process)
        assert process.stdout.readline() == "here\n"
        time.sleep(0.3)  # Until it is in the wait itself.
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def heard(arguments=""):
    return f"interrupted: it ends; to go on: -c{arguments}; Ctrl-C again ends it at once\n"


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_it_is_heard_in_native_code_and_a_second_one_ends_it_at_once(start, number, status):
    process = start(NATIVE)
    began = time.monotonic()
    process.send_signal(number)
    assert process.stderr.readline() == heard()
    assert time.monotonic() - began < 5
    assert process.poll() is None
    time.sleep(0.6)
    process.send_signal(number)
    assert process.wait(10) == status
    assert process.stderr.read() == "ended\n"


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_one_ends_it_in_order(start, number, status):
    process = start(CLEANS)
    process.send_signal(number)
    output, errors = process.communicate(timeout=20)
    assert (process.returncode, output) == (status, "cleaned\n")
    assert errors == heard() + "error: interrupted\n"


def test_two_of_one_press_are_one(start):
    process = start(CLEANS)
    process.send_signal(signal.SIGINT)
    assert process.stderr.readline() == heard()
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=20)
    assert (process.returncode, output, errors) == (130, "cleaned\n", "error: interrupted\n")


def test_it_is_heard_while_libraries_load(start):
    process = start(PYTHON, "define")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (130, heard(" --a=b 'c d'") + "error: interrupted\n")


def test_what_was_started_to_ignore_it_does(start):
    process = start("time.sleep(1)", preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN))
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (0, "")


def test_the_demo_lets_its_step_end(tmp_path):
    """Interrupted alone or, by a terminal, together with the step: the step ends in order before the demo."""
    marker = tmp_path / "ended"
    step = (
        "import signal, sys, time, pathlib, os\n"
        "def end(*_):\n"
        "    time.sleep(1)\n"
        f"    pathlib.Path({str(marker)!r}).write_text('in order')\n"
        "    sys.exit(130)\n"
        "signal.signal(signal.SIGINT, end)\n"
        "os.kill(os.getppid(), signal.SIGUSR1)\n"
        "time.sleep(60)\n"
    )

    def interrupt(number, frame):
        raise Interrupted(signal.SIGINT)

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with pytest.raises(Interrupted) as caught:
            demo.run_step([sys.executable, "-c", step])
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert caught.value.status == 130
    assert marker.read_text() == "in order"


def test_one_that_is_swallowed_is_raised_again(start):
    process = start(SWALLOWS)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.stderr.readline() == heard()
    _, rest = process.communicate(timeout=30)
    assert (process.returncode, rest) == (130, "error: interrupted\n")
    assert time.monotonic() - began < 8


def test_what_cleans_up_is_not_interrupted_again(start):
    process = start(SLOW_CLEANER)
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=30)
    assert (process.returncode, printed) == (130, "cleaned\n")
