"""Names the activations that layers, operations and functions of Keras compute."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import keras

from tfprune.network.kinds import builtin_layer, builtin_operation

# Makes the error from the rule that is broken.
Refuse = Callable[[str], Exception]

# Functions of `keras.activations`, with its defaults.
NAMES = (
    "linear",
    "relu",
    "relu6",
    "leaky_relu",
    "elu",
    "sigmoid",
    "hard_sigmoid",
    "tanh",
    "silu",
    "hard_silu",
    "gelu",
    "softmax",
)
# That of `keras.activations.leaky_relu`.
LEAKY_SLOPE = 0.2

_FUNCTIONS = {getattr(keras.activations, name): name for name in NAMES}
# `keras.ops.gelu` is not among them: its default is the approximation with tanh.
_FUNCTIONS |= {getattr(keras.ops, name): name for name in NAMES if name not in ("gelu", "linear")}


class Form(NamedTuple):
    """An activation.

    Attributes:
        name: One of `NAMES`.
        slope: Of `leaky_relu` below zero.
    """

    name: str
    slope: float = LEAKY_SLOPE


def form_of_function(function: Any, refuse: Refuse, slope: float | None = None) -> Form | None:
    """Returns the activation that the `activation` of a layer is; None if it is another than `NAMES`.

    Args:
        function: A function, a layer or an operation; None is "linear".
        refuse: Makes the error from the rule that is broken.
        slope: The only one of `leaky_relu` that is taken; None: any.
    """
    if function is None:
        return Form("linear")
    if isinstance(function, keras.Operation):
        return form_of(function, refuse, slope=slope)
    name = _FUNCTIONS.get(function)
    return None if name is None else Form(name)


def form_of(
    operation: keras.Operation, refuse: Refuse, rank: int | None = None, slope: float | None = None
) -> Form | None:
    """Returns the activation that a layer or an operation computes; None if it is no activation of `NAMES`.

    Args:
        operation: Any layer, or operation of `keras.ops`.
        refuse: Makes the error from the rule that is broken.
        rank: Axes of its input, with the batch, where known.
        slope: The only one of `leaky_relu` that is taken; None: any.
    """
    rule = LAYERS.get(builtin_layer(operation)) or OPERATIONS.get(builtin_operation(operation))
    if rule is None or isinstance(rule, str):
        return None if rule is None else Form(rule)
    return rule(operation, refuse, rank, slope)


def _of_activation_layer(layer: Any, refuse: Refuse, rank: int | None, slope: float | None) -> Form | None:
    return form_of_function(layer.activation, refuse, slope)


def _relu(operation: Any, refuse: Refuse, rank: int | None, slope: float | None) -> Form:
    _require(refuse, "threshold", operation.threshold, 0.0)
    if operation.max_value is not None:
        _require(refuse, "max_value", operation.max_value, 6.0, "None or ")
        _require(refuse, "negative_slope", operation.negative_slope, 0.0)
        return Form("relu6")
    if not operation.negative_slope:
        return Form("relu")
    return _leaky(operation, refuse, slope, "0 or ")


def _leaky_relu(operation: Any, refuse: Refuse, rank: int | None, slope: float | None) -> Form:
    return _leaky(operation, refuse, slope)


def _leaky(operation: Any, refuse: Refuse, slope: float | None, alternative: str = "") -> Form:
    if slope is not None:
        _require(refuse, "negative_slope", operation.negative_slope, slope, alternative)
    return Form("leaky_relu", float(operation.negative_slope))


def _elu(operation: Any, refuse: Refuse, rank: int | None, slope: float | None) -> Form:
    _require(refuse, "alpha", operation.alpha, 1.0)
    return Form("elu")


def _softmax(operation: Any, refuse: Refuse, rank: int | None, slope: float | None) -> Form:
    last = {-1} if rank is None else {-1, rank - 1}
    if operation.axis not in last and list(keras.tree.flatten(operation.axis)) != [-1]:
        raise refuse(f"`axis` must be the last one. Received: axis={operation.axis}")
    return Form("softmax")


def _gelu(operation: Any, refuse: Refuse, rank: int | None, slope: float | None) -> Form:
    if operation.approximate:
        raise refuse("`approximate` must be False. Received: approximate=True")
    return Form("gelu")


def _require(refuse: Refuse, name: str, value: float, wanted: float, alternative: str = "") -> None:
    # A slope may have gone through float32.
    if not math.isclose(value, wanted, rel_tol=1e-6):
        raise refuse(f"`{name}` must be {alternative}{wanted:g}. Received: {name}={value:g}")


# Name of the class -> the activation, or a function that finds it.
LAYERS: dict[str | None, Any] = {
    "Activation": _of_activation_layer,
    "ELU": _elu,
    "LeakyReLU": _leaky_relu,
    "ReLU": _relu,
    "Softmax": _softmax,
}
OPERATIONS: dict[str | None, Any] = {
    "Elu": _elu,
    "Gelu": _gelu,
    "HardSigmoid": "hard_sigmoid",
    "HardSilu": "hard_silu",
    "LeakyRelu": _leaky_relu,
    "ReLU": _relu,  # The one that `keras.activations.relu` makes.
    "Relu": "relu",
    "Relu6": "relu6",
    "Sigmoid": "sigmoid",
    "Silu": "silu",
    "Softmax": _softmax,
    "Tanh": "tanh",
}
