"""Graphs of tests on TensorFlow, which are traced and optimized longer than they run."""

import contextlib
from collections.abc import Iterator

import tensorflow as tf


def leave_graphs_as_they_are():
    """Makes no graph faster from now on: a quarter of the time of small fits is saved.

    Sums may come in another order then: processes whose bits are compared all do it, or none.
    """
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


@contextlib.contextmanager
def without_graphs() -> Iterator[None]:
    """Trains and evaluates operation by operation: the quickest for a few steps.

    For tests of what is around the fits. Runs whose bits are compared are all made so, or none.
    """
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(False)
