"""Interrupts calls of a runtime model, in a process of its own, which a deadlock would keep for ever.

python -m tests.support.interrupted_calls SCENARIO
"""

import _thread
import contextlib
import ctypes
import faulthandler
import gc
import os
import signal
import sys
import threading
import time

import numpy as np

from tests.support.networks import random_images, random_network
from tfprune.runtime import batch, crew
from tfprune.runtime import model as model_module
from tfprune.runtime.model import Model

THREADS = 3
SEED = 11


def _network():
    rng = np.random.default_rng(SEED)
    graph = random_network(rng, largest=24)
    images = random_images(rng, graph, 31)
    return graph, images, Model(graph, 1)(images)


def _seconds_of(model, images):
    """The least time of a call with one image, two and all."""
    seconds = {}
    for count in (1, 2, len(images)):
        times = []
        for _ in range(20):
            before = time.perf_counter()
            model(images[:count])
            times.append(time.perf_counter() - before)
        seconds[count] = min(times)
    return seconds


def _alarm_raises(error):
    def interrupt(*_):
        raise error

    signal.signal(signal.SIGALRM, interrupt)


@contextlib.contextmanager
def _alarm_within(seconds):
    """The alarm rings in the block, or never."""
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _until(condition, seconds=10):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


def at_random():
    """Hundreds of alarms at random times of a call; each next call is right, and no thread is left over."""
    rng = np.random.default_rng(0)
    graph, images, expected = _network()
    began = _thread._count()
    interrupted = 0
    for error in (KeyboardInterrupt, TimeoutError):
        _alarm_raises(error)
        model = Model(graph, THREADS)
        seconds = _seconds_of(model, images)
        for attempt in range(600):
            count = list(seconds)[attempt % len(seconds)]
            try:
                with _alarm_within(rng.uniform(1e-5, seconds[count])):
                    model(images[:count])
            except error:
                interrupted += 1
            count = int(rng.integers(1, len(images) + 1))
            np.testing.assert_array_equal(model(images[:count]), expected[:count])
            if attempt % 100 == 99:
                model = Model(graph, THREADS)  # The first call starts threads.
    assert interrupted > 300, interrupted
    del model
    gc.collect()
    assert _until(lambda: _thread._count() == began), (_thread._count(), began)


def at_every_instruction():
    """An exception before each instruction of a call, in all functions of the runtime that it enters."""
    graph, images, expected = _network()
    files = {model_module.__file__, batch.__file__, crew.__file__}
    for count, fresh in ((1, False), (THREADS, False), (2 * THREADS + 1, True)):
        model = Model(graph, THREADS)
        at = 0
        while True:
            left = [at]

            def trace(frame, event, _, left=left):
                if frame.f_code.co_filename not in files:
                    return None
                frame.f_trace_opcodes = True
                if event == "opcode":
                    left[0] -= 1
                    if left[0] < 0:
                        sys.settrace(None)
                        raise KeyboardInterrupt
                return trace

            sys.settrace(trace)
            try:
                model(images[:count])
            except KeyboardInterrupt:
                pass
            else:
                break
            finally:
                sys.settrace(None)
            np.testing.assert_array_equal(model(images[:count]), expected[:count])
            if fresh:
                model._shared = type(model._shared)()  # The next call starts threads.
            at += 1
        assert at > 150, at
        np.testing.assert_array_equal(model(images), expected)


def in_another_thread():
    """An exception that is set from outside, as notebooks do, while others call the same model.

    CPython may hand it to a thread that the victim just starts, which then ends; the call goes on without.
    """
    sys.unraisablehook = lambda lost: lost.exc_type is KeyboardInterrupt or sys.__unraisablehook__(lost)
    rng = np.random.default_rng(1)
    graph, images, expected = _network()
    model = Model(graph, THREADS)
    wrong, interrupted, stop = [], [], threading.Event()

    def call():
        while not stop.is_set():
            if not np.array_equal(model(images), expected):
                raise ValueError("a wrong result")

    def call_and_go_on():
        while not stop.is_set():
            try:
                while not stop.is_set():
                    try:
                        call()
                    except KeyboardInterrupt:
                        interrupted.append(1)
            except KeyboardInterrupt:  # In the handler, or just behind it.
                interrupted.append(1)

    def reported(target):
        try:
            target()
        except BaseException as error:
            wrong.append(error)

    victim, other = (threading.Thread(target=reported, args=(target,)) for target in (call_and_go_on, call))
    victim.start()
    other.start()
    for _ in range(150):
        time.sleep(rng.uniform(1e-3, 5e-3))
        # Only while it lives: another thread may get a dead one's number.
        assert victim.is_alive(), wrong
        before = len(interrupted)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(victim.ident), ctypes.py_object(KeyboardInterrupt)
        )
        _until(lambda before=before: len(interrupted) > before, seconds=0.2)
    stop.set()
    other.join()
    victim.join()
    assert not wrong, wrong
    assert len(interrupted) > 75, len(interrupted)


def by_a_handler_that_calls():
    """A signal handler calls the model in the middle of a call."""
    rng = np.random.default_rng(2)
    graph, images, expected = _network()
    model = Model(graph, THREADS)
    model(images)
    seconds = _seconds_of(model, images)[len(images)]
    inner = []
    signal.signal(signal.SIGALRM, lambda *_: inner.append(model(images[:4])))
    for _ in range(200):
        with _alarm_within(rng.uniform(1e-5, seconds)):
            np.testing.assert_array_equal(model(images), expected)
    assert len(inner) > 50, len(inner)
    for logits in inner:
        np.testing.assert_array_equal(logits, expected[:4])


def then_fork():
    """A process forked after an interrupt, while the parent's threads may still work, calls on."""
    rng = np.random.default_rng(3)
    _alarm_raises(KeyboardInterrupt)
    graph, images, expected = _network()
    model = Model(graph, THREADS)
    for _ in range(20):
        with contextlib.suppress(KeyboardInterrupt), _alarm_within(rng.uniform(1e-5, 2e-3)):
            model(images)
        child = os.fork()
        if not child:
            os._exit(0 if np.array_equal(model(images), expected) else 1)
        assert os.waitpid(child, 0)[1] == 0
        np.testing.assert_array_equal(model(images), expected)


def then_exit():
    """The process ends in the middle of a call, while two other threads call, too."""
    graph, images, _ = _network()
    model = Model(graph, THREADS)

    def call():
        while True:
            model(images)

    for _ in range(2):
        threading.Thread(target=call, daemon=True).start()
    _alarm_raises(SystemExit(7))
    with _alarm_within(0.1):
        call()


if __name__ == "__main__":
    faulthandler.dump_traceback_later(100, exit=True)
    globals()[sys.argv[1]]()
