"""Graphs of tests on TensorFlow, which are optimized longer than they run."""

import tensorflow as tf


def leave_graphs_as_they_are():
    """Makes no graph faster from now on: a quarter of the time of small fits is saved.

    Sums may come in another order then: processes whose bits are compared all do it, or none.
    """
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
