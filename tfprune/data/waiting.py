"""How long the reader of a dataset waited for its elements."""

from tfprune.extras import extra
from tfprune.machine import available_cores

with extra("experiments"):
    import tensorflow as tf


class WaitingTime:
    """Adds up the seconds between each request for an element and its arrival.

    Measured inside tf.data, so that it is the same whoever reads: a compiled TensorFlow step, JAX's or
    PyTorch's loop.

    Example:

    ```python
    waiting = WaitingTime()
    for batch in waiting.measured(batches):
        ...
    waiting.seconds()
    ```
    """

    def __init__(self) -> None:
        with tf.device("CPU:0"):
            self._seconds = tf.Variable(0.0, trainable=False, dtype=tf.float64)

    def measured(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        """Returns the dataset with a clock at its end.

        Nothing after the clock may fetch ahead, or the time is that of what fetches. One iterator at a
        time: two would add up.

        Args:
            dataset: What to wait for. Its own parallel steps and prefetching stay as they are. Steps in
                Python (`numpy_function`) are to name at most `available_cores()` parallel calls: with
                `AUTOTUNE` they may keep every thread, the clock's too, and too little is measured.

        Returns:
            The same elements, with the same cardinality.
        """

        def add(asked: tf.Tensor, element: tuple) -> tuple:
            # `timestamp` is the system's clock, which may be set back.
            waited = tf.maximum(tf.timestamp() - asked, 0.0)
            self._seconds.assign_add(waited, read_value=False)
            return element

        # `zip` asks its parts one after the other: the clock, then the dataset.
        clock = tf.data.Dataset.counter().map(lambda _: tf.timestamp())
        timed = tf.data.Dataset.zip((clock, dataset)).map(add)
        options = tf.data.Options()
        # What would run ahead of the reader, or out of step with the clock.
        options.experimental_optimization.inject_prefetch = False
        options.experimental_optimization.map_parallelization = False
        # TensorFlow has a thread for each core. Where the dataset's functions keep them all, the clock would
        # wait for the work that it is to measure: it has one of its own.
        options.threading.private_threadpool_size = available_cores() + 1
        return timed.with_options(options)

    def seconds(self) -> float:
        """Seconds waited since this object was made."""
        return float(self._seconds.numpy())
