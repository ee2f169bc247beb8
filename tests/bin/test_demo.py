"""The demo's steps and what it says; the commands themselves have tests of their own."""

import sys

import pytest
from absl import flags
from absl.testing import flagsaver

from tfprune.bin import demo
from tfprune.bin.flags import define_settings
from tfprune.errors import UserError


@pytest.fixture
def output_dir():
    if "output_dir" not in flags.FLAGS:
        define_settings(demo.Flags)
    flags.FLAGS(["demo"])
    with flagsaver.flagsaver(output_dir="here"):
        yield "here"


def run_with(monkeypatch, statuses):
    commands = []

    def run_step(command):
        commands.append(command)
        return statuses.pop(0)

    monkeypatch.setattr(demo, "run_step", run_step)
    return commands


def test_it_says_how_many_steps_there_are_and_how_long_they_take(monkeypatch, capsys, output_dir):
    commands = run_with(monkeypatch, [0] * len(demo.STEPS))
    demo.main()
    printed = capsys.readouterr().out
    assert printed.startswith(f"The demo: {len(demo.STEPS)} steps, about ")
    for number, (step, command) in enumerate(zip(demo.STEPS, commands, strict=True), start=1):
        assert f"[{number}/{len(demo.STEPS)}] {step.title} (about {step.seconds} s)" in printed
        assert command[:3] == [sys.executable, "-m", f"tfprune.bin.{step.binary}"]
        assert command[-1] == "--output_dir=here"
        assert f"$ python {' '.join(command[1:])}" in printed
    assert "here/index.html" in printed.partition("What to try next")[2]


def test_it_ends_with_the_page_and_the_benchmarks_headline():
    assert demo.STEPS[-1].binary == "compare" and "--html" in demo.STEPS[-1].flags
    assert any(step.binary == "benchmark" and "--headline" in step.flags for step in demo.STEPS)


def test_a_step_that_fails_ends_it(monkeypatch, capsys, output_dir):
    commands = run_with(monkeypatch, [0, 2])
    with pytest.raises(UserError, match="step 2 of 7 failed; the same command goes on from there"):
        demo.main()
    assert len(commands) == 2
    assert "What to try next" not in capsys.readouterr().out
