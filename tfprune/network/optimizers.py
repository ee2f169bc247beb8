"""What optimizers keep for each variable, and an optimizer that moves nothing."""

from collections.abc import Iterator
from typing import Any

import keras

from tfprune.network.variables import is_variable

# "_accumulators" (Adagrad, Ftrl) are sums of squares: they move nothing, and Ftrl divides by them.
_NOT_SLOTS = ("_trainable_variables", "_variables", "_accumulators")


def slots(optimizer: Any, variable: keras.Variable) -> Iterator[keras.Variable]:
    """Yields the variables that an optimizer keeps for a trainable variable and that may move it.

    Keras's optimizers keep each kind of slot as a list parallel to their trainable variables.

    Args:
        optimizer: An optimizer, also one that holds others; None or one that is not built has no slots.
        variable: The trainable variable.

    Yields:
        The optimizer's variables of its shape that are kept for it.
    """
    for inner in getattr(optimizer, "optimizers", []):  # MultiOptimizer
        yield from slots(inner, variable)
    if hasattr(optimizer, "inner_optimizer"):  # LossScaleOptimizer
        yield from slots(optimizer.inner_optimizer, variable)
    if not getattr(optimizer, "built", False):
        return
    trainable = optimizer._trainable_variables
    places = [place for place, other in enumerate(trainable) if other is variable]
    for name, kind in vars(optimizer).items():
        if isinstance(kind, list) and len(kind) == len(trainable) and name not in _NOT_SLOTS:
            for slot in (kind[place] for place in places):
                if is_variable(slot) and slot.shape == variable.shape:
                    yield slot


def averages(optimizer: Any, variable: keras.Variable) -> list[keras.Variable]:
    """Returns the moving averages of a trainable variable, which an optimizer writes to it in the end.

    Args:
        optimizer: As for `slots`.
        variable: The trainable variable.
    """
    found = [each for inner in getattr(optimizer, "optimizers", []) for each in averages(inner, variable)]
    if hasattr(optimizer, "inner_optimizer"):
        found += averages(optimizer.inner_optimizer, variable)
    kept = getattr(optimizer, "_model_variables_moving_average", None) or []
    places = zip(getattr(optimizer, "_trainable_variables", []), kept, strict=False)
    return found + [average for other, average in places if other is variable]


def fresh(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """Returns an optimizer with the same arguments that is not built."""
    return public_class(optimizer).from_config(optimizer.get_config())


def place_of(optimizer: keras.optimizers.Optimizer, variable: Any) -> int:
    """Returns the place of a variable among the trainable variables of an optimizer.

    Args:
        optimizer: A built optimizer.
        variable: The variable as `update_step` receives it, which on TensorFlow is the backend's.
    """
    return optimizer._get_variable_index(variable)


def named_slots(optimizer: keras.optimizers.Optimizer, variable: keras.Variable) -> dict[str, keras.Variable]:
    """Returns the slots that an Adam or an SGD keeps for a trainable variable: "momentum", "velocity"."""
    place = place_of(optimizer, variable)
    found = {}
    for name, attributes in (("momentum", ("_momentums", "momentums")), ("velocity", ("_velocities",))):
        for kept in (vars(optimizer).get(attribute) for attribute in attributes):
            if kept:
                found[name] = kept[place]
    return found


def public_class(optimizer: Any) -> type:
    """Returns the class of an optimizer; of one that Keras put in its place for a backend, that of Keras."""
    return next(cls for cls in type(optimizer).__mro__ if not cls.__module__.startswith("keras.src.backend."))


def decays(optimizer: keras.optimizers.Optimizer, variable: keras.Variable) -> bool:
    """Returns whether an optimizer's decoupled weight decay is for a trainable variable."""
    return optimizer._use_weight_decay(variable)


class Still(keras.optimizers.Optimizer):
    """An optimizer that moves nothing; a subclass may look at the gradients.

    Args:
        name: The name of the optimizer.
    """

    def __init__(self, name: str = "still") -> None:
        super().__init__(learning_rate=0.0, name=name)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Leaves the variable as it is."""
        self.see(gradient, self._trainable_variables[place_of(self, variable)])

    def see(self, gradient: Any, variable: keras.Variable) -> None:
        """Does nothing; a subclass records the gradient of a variable.

        Args:
            gradient: A tensor of the variable's shape; sparse for an embedding's table on TensorFlow.
            variable: The Keras variable.
        """
