"""The end of a binary, as `run_main` makes it, without a binary."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]

SCRIPT = """
from dataclasses import dataclass
from absl import flags
from tfprune.bin.flags import define_settings
from tfprune.bin.main import run_main
from tfprune.errors import FileError, UserError
from tfprune.settings import setting

@dataclass
class Flags:
    number: int = setting(1, "A number.", group="numbers")
    sure: bool = setting(False, "Whether it is sure.", group="numbers")

def main():
    {body}

run_main(main, "What it does.", lambda: define_settings(Flags), ending="it ends", again="to go on")
"""


def run(body, *arguments):
    return subprocess.run(
        [sys.executable, "-c", SCRIPT.format(body=body), *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_success():
    done = run("print(flags.FLAGS.number)", "--number=3")
    assert (done.returncode, done.stdout, done.stderr) == (0, "3\n", "")


def test_a_user_error_is_one_line_and_status_2():
    done = run("raise UserError('first,\\n  second')")
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "error: first, second\n")


def test_a_file_error_is_one_line_without_commands_to_the_terminal():
    done = run(r"raise FileError('a\x1b[2J: not a readable result:\n damaged')")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: a\\x1b[2J: not a readable result: damaged\n"


@pytest.mark.parametrize(
    ("body", "line"),
    [
        ("open('/nowhere/file')", "/nowhere/file: No such file or directory"),
        ("import pathlib; pathlib.Path('n' * 300).exists()", f"{'n' * 300}: File name too long"),
        ("raise OSError('no route to host')", "no route to host"),
    ],
)
def test_what_the_system_refuses_is_one_line_and_status_2(body, line):
    done = run(body)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"error: {line}\n")


def test_names_that_the_terminal_cannot_show_are_printed():
    done = run(r"print('a\udcff')")
    assert (done.returncode, done.stdout, done.stderr) == (0, "a\\udcff\n", "")


def test_any_other_error_keeps_its_traceback():
    done = run("raise ValueError('a bug')")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1] == "ValueError: a bug"


@pytest.mark.parametrize(
    "arguments, part",
    [
        (["--nubmer=3"], "nubmer"),
        (["--number=three"], "--number=three"),
        (["--flagfile=nowhere.flags"], "nowhere.flags: not a readable flagfile: No such file"),
        (["--flagfile=/dev/zero"], "/dev/zero: not a readable flagfile: it is a device, not a file"),
        (["--number"], "--number: must have a value, as --number=VALUE"),
        (["three", "four"], "not a flag: three four; flags are written --name=value"),
        ([""], "not a flag: ''; flags are written --name=value"),
        (["--nosure=true"], "--nosure=true: must have no value"),
        (["--verbosity=3"], "--verbosity=3: there is no such flag"),
        (["-v", "3"], "-v: there is no such flag"),
        (["--only_check_args"], "--only_check_args: there is no such flag"),
        (["--nologtostderr"], "--nologtostderr: there is no such flag"),
        (["--undefok=nubmer", "--nubmer=3"], "--undefok=nubmer: there is no such flag"),
    ],
)
def test_bad_flags_are_one_line_and_status_2(arguments, part):
    done = run("print('it ran')", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: ")
    assert part in done.stderr


@pytest.mark.parametrize("flag", ["--help", "-h", "--helpshort"])
def test_help(flag):
    done = run("print('it ran')", flag)
    assert done.returncode == 0
    assert done.stdout.startswith("What it does.\n")
    assert "it ran" not in done.stdout
