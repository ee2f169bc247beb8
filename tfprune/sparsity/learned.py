"""Learned masks: methods that train, beside the weights, which of them stay.

While the masks are learned, a wrapped layer runs with its weights times factors that a trainable variable
decides. A penalty on that variable pushes weights out, with a strength that follows the schedule's sparsity.
At the end of the schedule the weights are ranked once by what was learned, the masks are as exact as any,
and training goes on under them.
"""

import abc
import math
import numbers
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from tfprune.network.kinds import Kernel


class Learning(abc.ABC):
    """A method that learns masks. Subclasses say by what, and what it costs a weight to stay.

    Attributes:
        name: What the trainable variable is, in its name.
        initial: The trainable variable's first value.
        scale: The factor of a weight that surely stays.
    """

    name: str
    initial: float
    scale: float = 1.0

    @abc.abstractmethod
    def shape(self, kernel: Kernel) -> tuple[int, ...]:
        """Returns the shape of the trainable variable of a kernel; it broadcasts to the kernel's."""

    @abc.abstractmethod
    def margin(self, weight: Any, parameter: Any) -> Any:
        """Returns a number for each weight, of the weights' shape: it stays above 0, the largest first.

        Args:
            weight: The weights, an array or a tensor.
            parameter: The trainable variable's value, likewise.
        """

    @abc.abstractmethod
    def factor(self, weight: Any, parameter: Any, sharpness: Any) -> Any:
        """Returns what the weights are multiplied by while the masks are learned, a tensor of their shape.

        Args:
            weight: The weights, a tensor.
            parameter: The trainable variable's value, a tensor.
            sharpness: How hard the masks are, a tensor of no axes.
        """

    @abc.abstractmethod
    def penalty(self, parameter: Any, sharpness: Any, units: float) -> Any:
        """Returns the penalty on the weights that stay, a tensor of no axes, for a strength of 1.

        Args:
            parameter: The trainable variable's value, a tensor.
            sharpness: How hard the masks are, a tensor of no axes.
            units: The number of weights for each element of `parameter`.
        """

    def sharpness(self, progress: float) -> float:
        """Returns how hard the masks are.

        Args:
            progress: The fraction of the schedule that is over, in [0, 1].
        """
        return 1.0

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of `__init__`."""
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Learning":
        """Returns a method with the arguments of `get_config`."""
        return cls(**config)

    def __repr__(self) -> str:
        arguments = ", ".join(f"{k}={v!r}" for k, v in self.get_config().items())
        return f"{type(self).__name__}({arguments})"


_THRESHOLDS = ("unit", "layer", "weight")


@keras.saving.register_keras_serializable("tfprune")
class DST(Learning):
    """Learns thresholds: dynamic sparse training (Liu et al., arXiv:2005.06870).

    A weight w stays where `|w| > t`, with a threshold t for each output unit. The step's derivative is taken
    to be the paper's long-tailed one: with x = |w| - t it is `2 - 4 |x|` up to |x| = 0.4, then 0.4 up to 1,
    then 0. The penalty is the sum of `exp(-t)`. The last ranking is by |w| - t.

    Args:
        thresholds: "unit": one for each output unit. "layer": one for each kernel. "weight": one for each
            weight.

    Raises:
        ValueError: On another name.
    """

    name, initial = "threshold", 0.0

    def __init__(self, thresholds: str = "unit") -> None:
        if thresholds not in _THRESHOLDS:
            raise ValueError(
                f"`thresholds` must be one of {list(_THRESHOLDS)}. Received: thresholds={thresholds!r}"
            )
        self.thresholds = thresholds

    def shape(self, kernel: Kernel) -> tuple[int, ...]:
        shape = tuple(kernel.variable.shape)
        if self.thresholds == "weight":
            return shape
        own = {axis % len(shape) for axis in kernel.output_axes} if self.thresholds == "unit" else set()
        return tuple(size if axis in own else 1 for axis, size in enumerate(shape))

    def margin(self, weight: Any, parameter: Any) -> Any:
        return abs(weight) - parameter

    def factor(self, weight: Any, parameter: Any, sharpness: Any) -> Any:
        margin = self.margin(weight, parameter)
        near, far = ops.clip(ops.abs(margin), 0.0, 0.4), ops.clip(ops.abs(margin), 0.4, 1.0)
        # Its derivative is the long-tailed one.
        smooth = ops.sign(margin) * (2 * near - 2 * near * near + 0.4 * far)
        return ops.cast(margin > 0, smooth.dtype) + smooth - ops.stop_gradient(smooth)

    def penalty(self, parameter: Any, sharpness: Any, units: float) -> Any:
        return units * ops.sum(ops.exp(-parameter))

    def get_config(self) -> dict[str, Any]:
        return {"thresholds": self.thresholds}


@keras.saving.register_keras_serializable("tfprune")
class CS(Learning):
    """Learns soft masks that harden: continuous sparsification (Savarese et al., arXiv:1912.04427).

    A weight is multiplied by `sigmoid(beta * s) / sigmoid(initial)`, with an s of its own. beta rises from 1
    to `sharpest` as a power of the schedule's progress. The penalty is the sum of `sigmoid(beta * s)`. The
    last ranking is by s; the weights that stay are then multiplied by their factors, for good.

    Args:
        sharpest: beta at the end of the schedule, above 1.
        initial: The first value of s, above 0.

    Raises:
        ValueError: On a value out of range.
    """

    name = "gate"

    def __init__(self, sharpest: float = 200.0, initial: float = 0.05) -> None:
        for name, value, least in (("sharpest", sharpest, 1), ("initial", initial, 0)):
            if not isinstance(value, numbers.Real) or not least < value < math.inf:
                raise ValueError(f"`{name}` must be above {least}. Received: {name}={value!r}")
        self.sharpest, self.initial = float(sharpest), float(initial)
        self.scale = 1.0 + math.exp(-self.initial)

    def shape(self, kernel: Kernel) -> tuple[int, ...]:
        return tuple(kernel.variable.shape)

    def margin(self, weight: Any, parameter: Any) -> Any:
        return parameter

    def factor(self, weight: Any, parameter: Any, sharpness: Any) -> Any:
        return self.scale * ops.sigmoid(sharpness * parameter)

    def penalty(self, parameter: Any, sharpness: Any, units: float) -> Any:
        return ops.sum(ops.sigmoid(sharpness * parameter))

    def sharpness(self, progress: float) -> float:
        return self.sharpest**progress

    def get_config(self) -> dict[str, Any]:
        return {"sharpest": self.sharpest, "initial": self.initial}


METHODS: dict[str, type[Learning]] = {"dst": DST, "cs": CS}
"""The methods, by the names that flags have for them."""


@dataclass(frozen=True)
class Learned:
    """The variables by which the mask of a kernel is learned, and their method.

    Attributes:
        method: The method.
        parameter: Its trainable variable.
        strength: By what the penalty is multiplied; 0 before the schedule and once the mask is fixed.
        excess: The logarithm of the density over the schedule's, at the last update.
        sharpness: How hard the mask is.
        open: 1 while the mask is learned, 0 once it is fixed.
    """

    method: Learning
    parameter: keras.Variable
    strength: keras.Variable
    excess: keras.Variable
    sharpness: keras.Variable
    open: keras.Variable

    @property
    def variables(self) -> list[keras.Variable]:
        """Returns all of them."""
        return [self.parameter, self.strength, self.excess, self.sharpness, self.open]

    def masked(self, value: Any) -> Any:
        """Returns weights times their factors while the mask is learned; later the weights."""
        weight = ops.cast(value, self.parameter.dtype)
        factor = self.method.factor(weight, self.parameter.value, self.sharpness.value)
        return ops.where(self.open.value > 0, ops.cast(weight * factor, value.dtype), value)

    def is_open(self) -> bool:
        """Returns whether the mask is still learned."""
        return bool(ops.convert_to_numpy(self.open.value) > 0)

    def has_begun(self) -> bool:
        """Returns whether anything was learned."""
        return bool(ops.convert_to_numpy(ops.any(self.parameter.value != self.method.initial)))

    def kept(self, variable: keras.Variable, mask: keras.Variable) -> int:
        """Returns how many weights of a mask stay at present by what is learned."""
        margin = self.method.margin(ops.cast(variable.value, self.parameter.dtype), self.parameter.value)
        return int(ops.convert_to_numpy(ops.count_nonzero(ops.logical_and(margin > 0, mask.value))))

    def steer(self, excess: float, progress: float) -> None:
        """Sets strength and sharpness for the steps up to the next update.

        Args:
            excess: The logarithm of the present density over the schedule's.
            progress: The fraction of the schedule that is over.
        """
        last, strength = (float(ops.convert_to_numpy(each.value)) for each in (self.excess, self.strength))
        change = _PROPORTIONAL * (excess - last) + _INTEGRAL * excess
        change = min(max(change, -_FASTEST), _FASTEST)
        strength = min(max((strength or _FIRST) * math.exp(change), _WEAKEST), _STRONGEST)
        self.strength.assign(strength)
        self.excess.assign(excess)
        self.sharpness.assign(self.method.sharpness(progress))

    def fix(self, variable: keras.Variable, averages: Iterable[keras.Variable] = ()) -> None:
        """Ends the learning: from now on the mask alone decides.

        The weights become what the layer computes with: themselves times their factors. One that stays in the
        mask though its factor is next to zero comes back whole, times `scale`.

        Args:
            variable: The weights.
            averages: Variables of their moving averages, which become smaller or larger with them.
        """
        if self.is_open():
            weight, parameter = ops.cast(variable.value, self.parameter.dtype), self.parameter.value
            factor = self.method.factor(weight, parameter, self.sharpness.value)
            factor = ops.where(self.method.margin(weight, parameter) > 0, factor, self.method.scale)
            for each in (variable, *averages):
                each.assign(ops.cast(each.value, self.parameter.dtype) * factor)
            self.strength.assign(0.0)
            self.open.assign(0.0)


# The controller: in the logarithm of the strength, proportional and integral, with a limit on its speed.
_PROPORTIONAL, _INTEGRAL, _FASTEST = 2.0, 0.5, 1.5
_WEAKEST, _FIRST, _STRONGEST = 1e-9, 1e-5, 1e3


class Pressure:
    """The penalty as Keras's regularizer of the trainable variable.

    Keras adds the losses of regularizers once a variable, however often its layer is called.
    """

    def __init__(self, method: Learning, weights: int) -> None:
        self.method, self.weights = method, weights
        self.strength: Any = None
        self.sharpness: Any = None

    def __call__(self, parameter: Any) -> Any:
        """Returns the penalty on a variable's value, a tensor of no axes."""
        units = self.weights / max(math.prod(parameter.shape), 1)
        penalty = self.method.penalty(ops.convert_to_tensor(parameter), self.sharpness.value, units)
        return self.strength.value * penalty


def make_learned(method: Learning, kernel: Kernel, add_weight: Any, path: str) -> Learned:
    """Returns the variables by which a kernel's mask is learned.

    Args:
        method: The method.
        kernel: The kernel.
        add_weight: That of the layer which is to own them.
        path: The kernel's, for their names.
    """
    pressure = Pressure(method, math.prod(kernel.variable.shape))
    parameter = add_weight(
        shape=method.shape(kernel),
        dtype="float32",
        initializer=keras.initializers.Constant(method.initial),
        regularizer=pressure,
        name=f"{path}_{method.name}",
    )

    def scalar(name: str, value: float) -> keras.Variable:
        return add_weight(
            shape=(),
            dtype="float32",
            initializer=keras.initializers.Constant(value),
            trainable=False,
            name=f"{path}_{method.name}_{name}",
        )

    learned = Learned(
        method,
        parameter,
        scalar("strength", 0.0),
        scalar("excess", 0.0),
        scalar("sharpness", method.sharpness(0.0)),
        scalar("open", 1.0),
    )
    pressure.strength, pressure.sharpness = learned.strength, learned.sharpness
    return learned


def excess_of(kept: int, size: int, sparsity: float) -> float:
    """Returns the logarithm of a density over the one that a sparsity leaves."""
    return float(np.log(max(kept, 1) / max(size * (1.0 - sparsity), 1.0)))
