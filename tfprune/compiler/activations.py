"""Which of the runtime's activations a Keras layer, operation or function is."""

import math
from collections.abc import Callable
from typing import Any

import keras
from keras import activations, layers

from tfprune.runtime.graph import ACTIVATIONS

# The formulas of the runtime are those of these functions, with their defaults.
_FUNCTIONS = {getattr(activations, name): name for name in ACTIVATIONS}
# `keras.ops.gelu` is not among them: its default is the approximation with tanh.
_FUNCTIONS |= {getattr(keras.ops, name): name for name in ACTIVATIONS if name not in ("gelu", "linear")}
_LEAKY_SLOPE = 0.2

Refuse = Callable[[str], Exception]


def activation_of_function(function: Any, refuse: Refuse) -> str:
    """Names the activation that a layer has as its `activation`.

    Args:
        function: A function of `keras.activations`, a layer, or None.
        refuse: Makes the error from the rule that is broken.

    Returns:
        One of the runtime's `ACTIVATIONS`.
    """
    if function is None:
        return "linear"
    if isinstance(function, keras.Operation):
        name = activation_of_operation(function, refuse)
    else:
        name = _FUNCTIONS.get(function)
    if name is None:
        shown = getattr(function, "__name__", type(function).__name__)
        raise refuse(f"`activation` must be one of {', '.join(ACTIVATIONS)}. Received: {shown}")
    return name


def activation_of_operation(
    operation: keras.Operation, refuse: Refuse, rank: int | None = None
) -> str | None:
    """Names the activation that a layer or an operation computes.

    Args:
        operation: Any layer, or operation of `keras.ops`.
        refuse: Makes the error from the rule that is broken.
        rank: Axes of its input, with the batch, where known.

    Returns:
        One of the runtime's `ACTIVATIONS`; None if it is no activation.
    """
    if type(operation) is layers.Activation:
        return activation_of_function(operation.activation, refuse)
    kind = type(operation).__name__
    if not type(operation).__module__.startswith("keras.src."):
        return None
    if kind == "ReLU":  # the layer, and what `keras.activations.relu` makes
        return _relu(operation, refuse)
    if kind in ("LeakyReLU", "LeakyRelu"):
        _require(refuse, "negative_slope", operation.negative_slope, _LEAKY_SLOPE)
        return "leaky_relu"
    if kind in ("ELU", "Elu"):
        _require(refuse, "alpha", operation.alpha, 1.0)
        return "elu"
    if kind == "Softmax":
        last = {-1} if rank is None else {-1, rank - 1}
        if operation.axis not in last and list(keras.tree.flatten(operation.axis)) != [-1]:
            raise refuse(f"`axis` must be the last one. Received: axis={operation.axis}")
        return "softmax"
    if kind == "Gelu":
        if operation.approximate:
            raise refuse("`approximate` must be False. Received: approximate=True")
        return "gelu"
    return _OPERATIONS.get(kind) if type(operation).__module__.startswith("keras.src.ops.") else None


_OPERATIONS = {
    "Relu": "relu",
    "Relu6": "relu6",
    "Sigmoid": "sigmoid",
    "HardSigmoid": "hard_sigmoid",
    "Tanh": "tanh",
    "Silu": "silu",
    "HardSilu": "hard_silu",
}


def _relu(operation: Any, refuse: Refuse) -> str:
    _require(refuse, "threshold", operation.threshold, 0.0)
    if operation.max_value is not None:
        _require(refuse, "max_value", operation.max_value, 6.0, "None or ")
        _require(refuse, "negative_slope", operation.negative_slope, 0.0)
        return "relu6"
    if not operation.negative_slope:
        return "relu"
    _require(refuse, "negative_slope", operation.negative_slope, _LEAKY_SLOPE, "0 or ")
    return "leaky_relu"


def _require(refuse: Refuse, name: str, value: float, wanted: float, alternative: str = "") -> None:
    # A slope may have gone through float32.
    if not math.isclose(value, wanted, rel_tol=1e-6):
        raise refuse(f"`{name}` must be {alternative}{wanted:g}. Received: {name}={value:g}")
