"""Reads and writes TensorFlow's variables outside graphs, at the cost of the operation alone.

To prepare a call, `tf.Variable.assign` takes longer than a small kernel takes to be copied. Needs TensorFlow
only where there are such variables.
"""

from typing import Any

import numpy as np


def read(variable: Any) -> Any:
    """Returns the values of a `tf.Variable` as a tensor, without a copy where it lies in this memory."""
    if _is_distributed(variable):
        return variable.value()
    import tensorflow as tf

    return tf.raw_ops.ReadVariableOp(resource=variable.handle, dtype=variable.dtype)


def write(variable: Any, values: np.ndarray) -> None:
    """Assigns an array of its shape and type to a `tf.Variable`."""
    if _is_distributed(variable):
        variable.assign(values)
        return
    import tensorflow as tf

    tf.raw_ops.AssignVariableOp(resource=variable.handle, value=values)


def _is_distributed(variable: Any) -> bool:
    """Returns whether the variable has a copy on each of several devices, and no handle of its own."""
    return hasattr(variable, "values")
