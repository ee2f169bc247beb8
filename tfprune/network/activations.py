"""Names the activations that layers, operations and functions of Keras compute."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import keras

from tfprune.network.kinds import builtin_layer, builtin_operation

# Makes the error from the rule that is broken.
Refuse = Callable[[str], Exception]

# Functions of `keras.activations`, with its defaults, by the names of `Form`.
_NAMES = {
    "linear": "linear",
    "relu": "relu",
    "relu6": "relu6",
    "leaky_relu": "leaky_relu",
    "elu": "elu",
    "sigmoid": "sigmoid",
    "hard_sigmoid": "hard_sigmoid",
    "tanh": "tanh",
    "silu": "silu",
    "hard_silu": "hard_silu",
    "gelu": "gelu",
    "softmax": "softmax",
    "log_softmax": "log_softmax",
    "celu": "celu",
    "exponential": "exponential",
    "hard_shrink": "hard_shrink",
    "hard_tanh": "clip",
    "log_sigmoid": "log_sigmoid",
    "mish": "mish",
    "selu": "selu",
    "soft_shrink": "soft_shrink",
    "softplus": "softplus",
    "softsign": "softsign",
    "sparse_plus": "sparse_plus",
    "sparse_sigmoid": "sparse_sigmoid",
    "squareplus": "squareplus",
    "tanh_shrink": "tanh_shrink",
}
# That of `keras.activations.leaky_relu`.
LEAKY_SLOPE = 0.2
# The float32 that stands for a maximum that is none.
_NO_MAXIMUM = (2 - 2.0**-23) * 2.0**127

# Older versions of Keras have fewer.
_FUNCTIONS = {
    getattr(module, keras_name): name
    for module in (keras.activations, keras.ops)
    for keras_name, name in _NAMES.items()
    if hasattr(module, keras_name)
}
_FUNCTIONS |= {
    keras.ops.gelu: "gelu_tanh",  # The default of the operation, unlike that of the activation.
    keras.ops.abs: "abs",
    keras.ops.absolute: "abs",
    keras.ops.exp: "exponential",
    keras.ops.log: "log",
    keras.ops.reciprocal: "reciprocal",
    keras.ops.rsqrt: "rsqrt",
    keras.ops.sqrt: "sqrt",
    keras.ops.square: "square",
}


class Form(NamedTuple):
    """An activation.

    Attributes:
        name: A name of its function: that of `keras.activations` where there is one.
        settings: The function's numbers besides what it is computed of; none where they are Keras's defaults.
    """

    name: str
    settings: tuple[float, ...] = ()

    @property
    def slope(self) -> float:
        """Returns the slope of `leaky_relu` below zero."""
        return self.settings[0] if self.settings else LEAKY_SLOPE


def form_of_function(function: Any, refuse: Refuse) -> Form | None:
    """Returns the activation that the `activation` of a layer is; None if it is none that has a name.

    Args:
        function: A function, a layer or an operation; None is "linear".
        refuse: Makes the error from the rule that is broken.
    """
    if function is None:
        return Form("linear")
    if isinstance(function, keras.Operation):
        return form_of(function, refuse)
    name = _FUNCTIONS.get(function)
    return None if name is None else Form(name)


def form_of(operation: keras.Operation, refuse: Refuse, rank: int | None = None) -> Form | None:
    """Returns the activation that a layer or an operation computes; None if it is none that has a name.

    Args:
        operation: Any layer, or operation of `keras.ops`.
        refuse: Makes the error from the rule that is broken.
        rank: Axes of its input, with the batch, where known.
    """
    rule = LAYERS.get(builtin_layer(operation)) or OPERATIONS.get(builtin_operation(operation))
    if rule is None or isinstance(rule, str):
        return None if rule is None else Form(rule)
    return rule(operation, refuse, rank)


def _of_activation_layer(layer: Any, refuse: Refuse, rank: int | None) -> Form | None:
    return form_of_function(layer.activation, refuse)


def _relu(operation: Any, refuse: Refuse, rank: int | None) -> Form:
    slope = float(operation.negative_slope or 0.0)
    threshold = float(operation.threshold or 0.0)
    largest = operation.max_value
    if largest is None and not threshold:
        return Form("relu") if not slope else _with_settings("leaky_relu", (slope,), (LEAKY_SLOPE,))
    if threshold < 0:
        raise refuse(f"`threshold` must be at least 0. Received: threshold={threshold:g}")
    if not threshold and not slope and math.isclose(largest, 6.0, rel_tol=1e-6):
        return Form("relu6")
    return Form("general_relu", (slope, _NO_MAXIMUM if largest is None else float(largest), threshold))


def _with(name: str, default: float, attribute: str) -> Callable[..., Form]:
    """Makes the rule of an activation with one setting."""

    def form(operation: Any, refuse: Refuse, rank: int | None) -> Form:
        return _with_settings(name, (float(getattr(operation, attribute)),), (default,))

    return form


def _with_settings(name: str, settings: tuple[float, ...], defaults: tuple[float, ...]) -> Form:
    # A setting may have gone through float32.
    same = all(math.isclose(one, other, rel_tol=1e-6) for one, other in zip(settings, defaults, strict=True))
    return Form(name, () if same else settings)


def _over_channels(name: str) -> Callable[..., Form]:
    """Makes the rule of an activation over the last axis."""

    def form(operation: Any, refuse: Refuse, rank: int | None) -> Form:
        _check_last_axis(operation, refuse, rank)
        return Form(name)

    return form


def _check_last_axis(operation: Any, refuse: Refuse, rank: int | None) -> None:
    last = {-1} if rank is None else {-1, rank - 1}
    if operation.axis not in last and list(keras.tree.flatten(operation.axis)) != [-1]:
        raise refuse(f"`axis` must be the last one. Received: axis={operation.axis}")


def _gelu(operation: Any, refuse: Refuse, rank: int | None) -> Form:
    return Form("gelu_tanh" if operation.approximate else "gelu")


def _clip(operation: Any, refuse: Refuse, rank: int | None) -> Form | None:
    bounds = (operation.x_min, operation.x_max)
    if not all(isinstance(bound, int | float) for bound in bounds):
        return None  # Arrays, or no bound.
    return _with_settings("clip", tuple(map(float, bounds)), (-1.0, 1.0))


def _threshold(operation: Any, refuse: Refuse, rank: int | None) -> Form:
    return Form("threshold", (float(operation.threshold), float(operation.default_value)))


# Name of the class -> the activation, or a function that finds it.
LAYERS: dict[str | None, Any] = {
    "Activation": _of_activation_layer,
    "ELU": _with("elu", 1.0, "alpha"),
    "LeakyReLU": _with("leaky_relu", LEAKY_SLOPE, "negative_slope"),
    "ReLU": _relu,
    "Softmax": _over_channels("softmax"),
}
OPERATIONS: dict[str | None, Any] = {
    "Abs": "abs",
    "Absolute": "abs",
    "Celu": _with("celu", 1.0, "alpha"),
    "Clip": _clip,
    "Elu": _with("elu", 1.0, "alpha"),
    "Exp": "exponential",
    "Gelu": _gelu,
    "HardShrink": _with("hard_shrink", 0.5, "threshold"),
    "HardSigmoid": "hard_sigmoid",
    "HardSilu": "hard_silu",
    "HardTanh": "clip",
    "LeakyRelu": _with("leaky_relu", LEAKY_SLOPE, "negative_slope"),
    "Log": "log",
    "LogSigmoid": "log_sigmoid",
    "LogSoftmax": _over_channels("log_softmax"),
    "Mish": "mish",
    "ReLU": _relu,  # The one that `keras.activations.relu` makes.
    "Reciprocal": "reciprocal",
    "Relu": "relu",
    "Relu6": "relu6",
    "Rsqrt": "rsqrt",
    "Selu": "selu",
    "Sigmoid": "sigmoid",
    "Silu": "silu",
    "SoftShrink": _with("soft_shrink", 0.5, "threshold"),
    "Softmax": _over_channels("softmax"),
    "Softplus": "softplus",
    "Softsign": "softsign",
    "SparsePlus": "sparse_plus",
    "SparseSigmoid": "sparse_sigmoid",
    "Sqrt": "sqrt",
    "Square": "square",
    "Squareplus": _with("squareplus", 4.0, "b"),
    "Tanh": "tanh",
    "TanhShrink": "tanh_shrink",
    "Threshold": _threshold,
}
