"""The wait for data: the reader's, inside tf.data, and nothing else's."""

import os
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf

from tfprune.data import pipeline
from tfprune.data.splits import Split
from tfprune.data.waiting import WaitingTime
from tfprune.machine import available_cores

COUNT = 8


def batches(seconds, calls=1):
    """A parallel, prefetching pipeline like the project's, `calls` batches every `seconds`."""

    def make(i):
        time.sleep(seconds)
        return np.full((2, 3), i, np.uint8), np.full(2, i, np.int32)

    def numpy_batch(i):
        images, labels = tf.numpy_function(make, [i], (tf.uint8, tf.int32), stateful=False)
        images.set_shape((2, 3))
        labels.set_shape((2,))
        return images, labels

    dataset = tf.data.Dataset.range(COUNT)
    return dataset.map(numpy_batch, num_parallel_calls=calls, deterministic=True).prefetch(tf.data.AUTOTUNE)


def waits(dataset, consume=0.0):
    """Seconds waited for each batch, by the meter and by this reader's own clock."""
    waiting = WaitingTime()
    iterator = iter(waiting.measured(dataset))
    measured, seen = [], []
    for _ in range(int(dataset.cardinality())):
        before, start = waiting.seconds(), time.perf_counter()
        next(iterator)
        seen.append(time.perf_counter() - start)
        measured.append(waiting.seconds() - before)
        time.sleep(consume)
    return np.array(measured), np.array(seen)


def test_the_elements_are_the_same():
    plain, measured = batches(0), WaitingTime().measured(batches(0))
    assert measured.element_spec == plain.element_spec
    assert measured.cardinality() == COUNT
    for ours, theirs in zip(measured, plain, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_a_slow_pipeline_is_waited_for():
    measured, seen = waits(batches(0.1))
    assert measured[1:].min() > 0.05
    assert np.all(measured <= seen)
    assert measured.sum() > 0.8 * seen.sum()


@pytest.mark.slow
def test_functions_that_keep_a_thread_for_each_core_are_waited_for():
    measured, seen = waits(batches(0.1, calls=available_cores()))
    assert np.all(measured <= seen)
    assert measured.sum() > 0.8 * seen.sum()


@pytest.mark.slow
def test_the_projects_own_pipeline_is_waited_for(monkeypatch):
    """However its steps are spread over threads: the whole of a first pass is waited for."""
    make_images = pipeline.make_images

    def slowly(*arguments):
        time.sleep(0.1)
        return make_images(*arguments)

    monkeypatch.setattr(pipeline, "make_images", slowly)
    split = Split(np.zeros((64, 8, 8, 3), np.uint8), np.zeros(64, np.int32), available=64)
    dataset = pipeline.test_batches(split, image_size=0, batch_size=4)
    measured, seen = waits(dataset)
    assert len(seen) == 16
    assert np.all(measured <= seen)
    assert measured.sum() > 0.8 * seen.sum()


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="a process cannot be told its cores")
def test_on_a_single_core_too():
    """TensorFlow then has a single thread, which the pipeline keeps."""
    core = min(os.sched_getaffinity(0))
    code = f"import os; os.sched_setaffinity(0, {{{core}}}); from tests.data import test_waiting as tests;"
    code += "tests.test_a_slow_pipeline_is_waited_for(); tests.test_a_compiled_reader_waits_alike();"
    # Python would wait for the pipelines, which hold elements that nobody will take.
    subprocess.run([sys.executable, "-c", code + "os._exit(0)"], check=True, timeout=120)


@pytest.mark.slow
def test_a_reader_that_is_slower_waits_little():
    """Were anything to read ahead of the clock, the time would be the producer's."""
    measured, _ = waits(batches(0.02), consume=0.2)
    assert np.median(measured[1:]) < 0.02


def test_nothing_is_counted_while_nobody_reads():
    waiting = WaitingTime()
    iterator = iter(waiting.measured(batches(0.05)))
    next(iterator)
    before = waiting.seconds()
    time.sleep(0.3)
    assert waiting.seconds() == before


def test_a_compiled_reader_waits_alike():
    waiting = WaitingTime()
    iterator = iter(waiting.measured(batches(0.1)))

    @tf.function
    def step():
        return next(iterator)[1]

    step()
    before, start = waiting.seconds(), time.perf_counter()
    for _ in range(3):
        step()
    seen = time.perf_counter() - start
    assert 0.6 * seen < waiting.seconds() - before <= seen
