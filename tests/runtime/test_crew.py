"""Threads that survive whatever interrupts the one that calls."""

import gc
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import numpy as np
import pytest

from tests.support.networks import random_images, random_network
from tfprune.runtime.batch import Batch
from tfprune.runtime.crew import Crew
from tfprune.runtime.model import Model


def until(condition, seconds=10):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    return condition()


def interrupted_calls(scenario):
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-X", "faulthandler", "-m", "tests.support.interrupted_calls", scenario]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no such alarm on this system")
@pytest.mark.parametrize(
    "scenario",
    ["at_random", "at_every_instruction", "in_another_thread", "by_a_handler_that_calls", "then_fork"],
)
def test_calls_after_an_interrupted_one_are_right(scenario):
    done = interrupted_calls(scenario)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no such alarm on this system")
def test_a_process_ends_in_the_middle_of_a_call():
    for _ in range(4):
        done = interrupted_calls("then_exit")
        assert (done.returncode, done.stderr) == (7, "")


def test_all_threads_work_at_once():
    together = threading.Barrier(3, timeout=20)
    numbers = []

    def work(thread):
        together.wait()
        numbers.append(thread)

    crew = Crew(2)
    for count in (3, 6, 9):
        crew.run(work)
        assert until(lambda count=count: len(numbers) == count and len(crew._idle) == 2)
    assert sorted(numbers) == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_a_thread_that_is_late_gets_no_second_task():
    go = threading.Event()
    numbers = []

    def work(thread):
        if thread:
            go.wait(20)
        numbers.append(thread)

    crew = Crew(1)
    for _ in range(3):
        crew.run(work)
    assert numbers == [0, 0, 0]
    go.set()
    assert until(lambda: len(crew._idle) == 1) and numbers == [0, 0, 0, 1]
    crew.run(work)
    assert until(lambda: numbers.count(1) == 2)


def test_what_the_caller_raises_is_raised():
    def work(thread):
        raise MemoryError(f"on {thread}") if thread == 0 else SystemExit

    with pytest.raises(MemoryError, match="on 0"):
        Crew(1).run(work)


def test_a_call_needs_no_thread_that_has_ended(monkeypatch):
    """An exception that is set from outside can end a thread before its first instruction."""
    monkeypatch.setattr("tfprune.runtime.crew._serve", lambda *_: None)
    rng = np.random.default_rng(0)
    graph = random_network(rng)
    images = random_images(rng, graph, 7)
    np.testing.assert_array_equal(Model(graph, 3)(images), Model(graph, 1)(images))


def test_what_another_thread_raises_is_raised_and_spoils_no_later_call(monkeypatch):
    rng = np.random.default_rng(0)
    graph = random_network(rng)
    images = random_images(rng, graph, 30)
    model = Model(graph, 3)
    expected = model(images)
    point, here, failed = Batch.point, threading.get_ident(), threading.Event()

    def point_or_fail(batch, arena, index):
        if threading.get_ident() != here:
            failed.set()
            raise MemoryError("no memory for an image")
        failed.wait(20)
        point(batch, arena, index)

    assert until(lambda: len(model._shared.spare[0].crew._idle) == 2)
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    with monkeypatch.context() as patches:
        patches.setattr(Batch, "point", point_or_fail)
        with pytest.raises(MemoryError, match="no memory for an image"):
            model(images)
    np.testing.assert_array_equal(model(images), expected)


def test_threads_end_with_their_crew_after_what_they_do():
    go, threads = threading.Event(), []

    def work(thread):
        if thread:
            go.wait(20)
            threads.append(threading.get_ident())

    crew = Crew(3)
    crew.run(work)
    del crew
    gc.collect()
    go.set()
    assert until(lambda: len(threads) == 3)
    assert until(lambda: not set(threads) & set(sys._current_frames()))


def test_a_thread_that_waits_holds_nothing():
    class Held:
        """Something that a task holds, such as an arena."""

    crew, held = Crew(1), Held()
    alive = weakref.ref(held)
    crew.run(lambda thread, held=held: None)
    del held
    assert until(lambda: alive() is None)
