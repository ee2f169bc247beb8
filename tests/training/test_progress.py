"""The line that says how far a fit is."""

import functools
import io
import os
import sys

import pytest

from tfprune.training.progress import Progress


class Clock:
    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr("tfprune.training.progress.time.perf_counter", lambda: self.now)


class Terminal(io.StringIO):
    """Keeps what it shows, as a terminal does: a carriage return goes back to the line's start."""

    def isatty(self):
        return True

    @property
    def lines(self):
        shown = []
        for line in self.getvalue().split("\n"):
            text = ""
            for part in line.split("\r"):
                text = part + text[len(part) :]
            shown.append(text.rstrip())
        return shown


def open_terminal(monkeypatch, columns=200):
    # In the test itself: pytest sets standard output anew after the fixtures.
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    size = os.terminal_size((columns, 24))
    monkeypatch.setattr("tfprune.training.progress.shutil.get_terminal_size", lambda **_: size)
    return terminal


EPOCH = {"loss": 0.851, "accuracy": 0.681, "images_per_second": 131.4, "data_wait_percent": 2.1}


def train(clock, progress, epochs, first=0, steps=4, step_seconds=1.0, logs=EPOCH):
    """The first batch compiles for 100 s; each epoch ends with an evaluation of 2 s."""
    progress.set_params({"steps": steps, "epochs": epochs, "verbose": 0})
    progress.on_train_begin()
    for epoch in range(first, epochs):
        progress.on_epoch_begin(epoch)
        for batch in range(steps):
            clock.now += 100.0 if (epoch, batch) == (first, 0) else step_seconds
            progress.on_train_batch_end(batch, {"loss": 1.0, "accuracy": 0.5})
        clock.now += 2.0
        progress.on_epoch_end(epoch, logs)
    progress.close()


def test_a_log_gets_one_line_an_epoch(monkeypatch):
    lines = []
    progress = Progress("cifar10_one_shot_95 round 1 of 1", batch_size=10, log=lines.append)
    train(Clock(monkeypatch), progress, epochs=3, logs={**EPOCH, "val_accuracy": 0.663})
    assert len(lines) == 3
    # 3 steps and an evaluation in 5 s: 8 steps left take 13.3 s. Then 7 steps in 11 s: 4 take 6.3 s.
    assert lines[0] == (
        "cifar10_one_shot_95 round 1 of 1, epoch 1 of 3: loss 0.851, accuracy 68.1 %, test 66.3 %, "
        "131 images/s, waited 2 % for data, 13 s left"
    )
    assert lines[1].endswith(", 6 s left")
    assert lines[2].endswith(", 0 s left")


def test_an_epoch_without_evaluation_names_no_test_accuracy(monkeypatch):
    lines = []
    train(Clock(monkeypatch), Progress("a", batch_size=10, log=lines.append), epochs=1)
    assert lines == [
        "a, epoch 1 of 1: loss 0.851, accuracy 68.1 %, 131 images/s, waited 2 % for data, 0 s left"
    ]


def test_a_fit_that_resumes_counts_what_is_left(monkeypatch):
    lines = []
    train(Clock(monkeypatch), Progress("a", batch_size=10, log=lines.append), epochs=40, first=38)
    assert lines[0].startswith("a, epoch 39 of 40:") and lines[0].endswith(", 7 s left")


def test_the_rounds_to_come_are_told(monkeypatch):
    lines = []
    progress = Progress("a", batch_size=10, later_epochs=30, log=lines.append)
    train(Clock(monkeypatch), progress, epochs=1)
    assert lines[0].endswith(", 0 s left, 3 min with the rounds to come")  # 120 steps at 5/3 s


def test_an_epoch_of_one_step_promises_nothing_before_the_second(monkeypatch):
    lines = []
    train(Clock(monkeypatch), Progress("a", batch_size=10, log=lines.append), epochs=3, steps=1)
    assert "left" not in lines[0]
    assert lines[1].endswith(", 5 s left")  # one step in 2 + 1 + 2 s


@pytest.mark.parametrize("log", [print, functools.partial(print, flush=True)])
def test_a_terminal_shows_one_line(monkeypatch, log):
    terminal = open_terminal(monkeypatch)
    progress = Progress("a", batch_size=10, log=log)
    train(Clock(monkeypatch), progress, epochs=2)
    print("next")
    text = terminal.getvalue()
    assert "\ra, epoch 1 of 2, 50%: loss 1.000, accuracy 50.0 %, 10 images/s, 6 s left" in text
    assert terminal.lines == [
        "a, epoch 2 of 2: loss 0.851, accuracy 68.1 %, 131 images/s, waited 2 % for data, 0 s left",
        "next",
        "",
    ]


def test_a_terminals_line_is_rewritten_twice_a_second(monkeypatch):
    terminal = open_terminal(monkeypatch)
    progress = Progress("a", batch_size=10)
    train(Clock(monkeypatch), progress, epochs=1, steps=1001, step_seconds=0.01)
    assert terminal.getvalue().count("\r") == pytest.approx(1 + 10 / 0.5 + 1, abs=1)


def test_another_log_keeps_the_terminal_clean(monkeypatch):
    terminal = open_terminal(monkeypatch)
    lines = []
    train(Clock(monkeypatch), Progress("a", batch_size=10, log=lines.append), epochs=2)
    assert len(lines) == 2
    assert not terminal.getvalue()


@pytest.mark.parametrize("columns", [1, 20, 40, 60, 79, 100])
def test_a_narrow_terminal_never_wraps(monkeypatch, columns):
    terminal = open_terminal(monkeypatch, columns)
    train(Clock(monkeypatch), Progress("round 1 of 1", batch_size=10, later_epochs=9), epochs=2)
    assert all(len(part) < max(columns, 2) for part in terminal.getvalue().replace("\n", "\r").split("\r"))
    assert terminal.lines[0].startswith("round 1 of 1, epoch 2 of 2:"[: columns - 1].rstrip())
    if columns >= 60:
        assert "left" in terminal.lines[0]


def test_an_error_in_the_fit_gets_its_own_line(monkeypatch):
    terminal = open_terminal(monkeypatch)
    progress = Progress("a", batch_size=10)
    progress.set_params({"steps": 4, "epochs": 1, "verbose": 0})
    progress.on_train_begin()
    progress.on_epoch_begin(0)
    progress.on_train_batch_end(0, {})
    progress.close()
    progress.close()
    print("error")
    assert terminal.lines[1:] == ["error", ""]
