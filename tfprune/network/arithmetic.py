"""Operations of `keras.ops` with a name of one's own: those that Keras makes are numbered."""

from typing import Any

import keras
import numpy as np
from keras.src.ops.numpy import Add, Multiply, Subtract

_OPERATIONS = {"Add": Add, "Subtract": Subtract, "Multiply": Multiply}


def with_constant(kind: str, tensor: keras.KerasTensor, constant: np.ndarray, name: str) -> Any:
    """Returns a symbolic tensor plus, minus or times a constant.

    Args:
        kind: "Add", "Subtract" or "Multiply".
        tensor: The symbolic tensor, of any shape.
        constant: An array of the same type that can be broadcast to its shape.
        name: The name of the operation in the model; no other may have it.
    """
    return _OPERATIONS[kind](name=name)(tensor, constant)
