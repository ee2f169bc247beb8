"""Tells Keras's variables from everything else."""

from typing import Any

from keras.src.backend import Variable


def is_variable(value: Any) -> bool:
    """Returns whether a value is one of Keras's variables.

    Up to Keras 3.6 none of them is an instance of the public `keras.Variable`.
    """
    return isinstance(value, Variable)
