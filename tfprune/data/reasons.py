"""What TensorFlow's errors say, without the places in its graph."""

import re

from tfprune.extras import extra
from tfprune.reading import reason_of

with extra("experiments"):
    import tensorflow as tf

# Of a function in Python that TensorFlow called, the message is followed by how it came there.
_PLACES = re.compile(
    r"^\{\{.*?\}\} ?|^Graph execution error: | \[Op:.*$| \[\[\{\{.*$| Traceback \(most recent call last\).*$"
)
# The operation that fails where what a dataset gives cannot be made.
_READING = "IteratorGetNext"


def tensorflow_reason(error: Exception) -> str:
    """Returns what an exception says, in a line without places in TensorFlow's graph."""
    if not isinstance(error, tf.errors.OpError):
        return reason_of(error)
    return reason_of(ValueError(_PLACES.sub("", " ".join(error.message.split()))))


def is_of_reading(error: Exception) -> bool:
    """Returns whether an error came from a `tf.data.Dataset` when its next element was asked for."""
    return isinstance(error, tf.errors.OpError) and _READING in str(error)
