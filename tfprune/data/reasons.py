"""What TensorFlow's errors say, without the places in its graph."""

import re

from tfprune.extras import extra
from tfprune.reading import reason_of

with extra("experiments"):
    import tensorflow as tf

# Lines of a message that say where in a graph, or in what Python, an operation was made.
_PLACE = re.compile(r"\s*(File \"|Graph execution error|Detected at node|<stack traces|\[\[\{\{|$)")
_AROUND = re.compile(r"^\{\{.*?\}\} ?| \[Op:.*$")
# The operation that fails where what a dataset gives cannot be made.
_READING = "IteratorGetNext"


def tensorflow_reason(error: Exception) -> str:
    """Returns what an exception says, in a line without places in TensorFlow's graph."""
    if not isinstance(error, tf.errors.OpError):
        return reason_of(error)
    # How a function in Python came to fail that TensorFlow had called.
    message = error.message.partition("Traceback (most recent call last)")[0]
    said = " ".join(line.strip() for line in message.splitlines() if not _PLACE.match(line))
    return reason_of(ValueError(_AROUND.sub("", said)))


def is_of_reading(error: Exception) -> bool:
    """Returns whether an error came from a `tf.data.Dataset` when its next element was asked for."""
    return isinstance(error, tf.errors.OpError) and _READING in str(error)
