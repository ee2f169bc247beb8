"""Adam as PyTorch defines it: L2 in the gradient, epsilon outside the bias correction."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
from keras import ops

from tfprune.network.optimizers import place_of


@keras.saving.register_keras_serializable(package="tfprune")
class TorchAdam(keras.optimizers.Optimizer):
    """`torch.optim.Adam` as a Keras optimizer, on every backend.

    At update `t` = 1, 2, ..., for each variable `w` with gradient `g`:

    ```
    g = g + weight_decay * w
    m = beta_1 * m + (1 - beta_1) * g
    v = beta_2 * v + (1 - beta_2) * g**2
    w = w - multiplier * learning_rate * (m / (1 - beta_1**t))
            / (sqrt(v / (1 - beta_2**t)) + epsilon)
    ```

    `keras.optimizers.Adam` differs twice. Its `weight_decay` shrinks the weights directly
    (decoupled, as in AdamW). Its `epsilon` stands inside the bias correction, so that at the first
    update it weighs `1 / sqrt(1 - beta_2)` = 32 times as much, and its default is 1e-7; both show
    where gradients are small.

    Example:

    ```python
    optimizer = TorchAdam(
        1e-5, weight_decay=5e-4, learning_rate_multipliers={"(.*/)?head/.*": 10.0}
    )
    model.compile(optimizer, loss)
    ```

    Args:
        learning_rate: A float, a `keras.optimizers.schedules.LearningRateSchedule`, or a callable
            from the step to a float.
        beta_1: Decay of the mean of the gradients, in [0, 1).
        beta_2: Decay of the mean of their squares, in [0, 1).
        epsilon: Added to the root of the corrected mean square; above 0.
        weight_decay: Factor of the L2 term, which is added to the gradient of every trainable
            variable, after clipping; at least 0.
        learning_rate_multipliers: Regular expression to factor. Every variable whose whole `path`
            matches the expression (`re.fullmatch`) learns at `factor * learning_rate`; the others
            learn at `learning_rate`.
        name: The optimizer's name.
        **kwargs: Keras's other options: `clipnorm`, `clipvalue`, `global_clipnorm`, `use_ema`,
            `ema_momentum`, `ema_overwrite_frequency`, `loss_scale_factor`,
            `gradient_accumulation_steps`.

    Raises:
        ValueError: If a number is out of its range; when the optimizer is built, if an expression
            matches no variable, or if two match the same one.

    Source: arXiv:1412.6980; `torch.optim.Adam`.
    """

    def __init__(
        self,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule | Callable = 1e-3,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        weight_decay: float = 0.0,
        learning_rate_multipliers: Mapping[str, float] | None = None,
        name: str = "torch_adam",
        **kwargs: Any,
    ):
        for argument, value in (("beta_1", beta_1), ("beta_2", beta_2)):
            if not 0.0 <= value < 1.0:
                raise ValueError(f"`{argument}` must be in [0, 1). Received: {argument}={value}")
        if not 0.0 < epsilon < math.inf:
            raise ValueError(f"`epsilon` must be above 0. Received: epsilon={epsilon}")
        if not 0.0 <= weight_decay < math.inf:
            raise ValueError(f"`weight_decay` must be at least 0. Received: weight_decay={weight_decay}")
        multipliers = dict(learning_rate_multipliers or {})
        for pattern, factor in multipliers.items():
            if not 0.0 <= factor < math.inf:
                raise ValueError(
                    "A factor in `learning_rate_multipliers` must be at least 0. "
                    f"Received: {pattern!r}: {factor}"
                )
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(
                    "A key of `learning_rate_multipliers` must be a regular expression "
                    f"({error}). Received: {pattern!r}"
                ) from error
        # The base class's `weight_decay` is the decoupled one: it stays unset.
        super().__init__(learning_rate=learning_rate, weight_decay=None, name=name, **kwargs)
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.l2_weight_decay = weight_decay
        self._multiplier_of_pattern = tuple(multipliers.items())

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Creates the two means for each variable and finds its learning rate.

        Args:
            variables: The trainable variables.

        Raises:
            ValueError: If a pattern of `learning_rate_multipliers` matches no variable, or a
                variable is matched by two.
        """
        if self.built:
            return
        # By position: the TensorFlow backend hands `update_step` variables without the Keras path.
        multipliers = self._match_multipliers([variable.path for variable in variables])
        super().build(variables)
        self._multipliers = multipliers
        self._momentums, self._velocities = [], []
        for variable in variables:  # In this order in saved files.
            self._momentums.append(self.add_variable_from_reference(variable, "momentum"))
            self._velocities.append(self.add_variable_from_reference(variable, "velocity"))

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Updates one variable; see the class for the formula.

        Args:
            gradient: Tensor of the variable's shape.
            variable: The variable, Keras's or the backend's own.
            learning_rate: Scalar tensor, before the variable's multiplier.
        """
        index = place_of(self, variable)
        dtype = variable.dtype
        m, v = self._momentums[index], self._velocities[index]

        step = ops.cast(self.iterations + 1, "float32")
        correction_1 = _bias_correction(self.beta_1, step)
        correction_2 = _bias_correction(self.beta_2, step)
        step_size = ops.cast(learning_rate, "float32") * self._multipliers[index] / correction_1
        step_size = ops.cast(step_size, dtype)
        root_correction_2 = ops.cast(ops.sqrt(correction_2), dtype)

        gradient = ops.cast(gradient, dtype)
        if self.l2_weight_decay:
            gradient = ops.add(gradient, ops.multiply(variable, self.l2_weight_decay))
        self.assign_add(m, ops.multiply(ops.subtract(gradient, m), 1.0 - self.beta_1))
        self.assign_add(v, ops.multiply(ops.subtract(ops.square(gradient), v), 1.0 - self.beta_2))
        denominator = ops.add(ops.divide(ops.sqrt(v), root_correction_2), self.epsilon)
        self.assign_sub(variable, ops.divide(ops.multiply(m, step_size), denominator))

    def multiplier_of(self, variable: keras.Variable) -> float:
        """Returns the factor of a variable's learning rate; the optimizer must be built."""
        return self._multipliers[place_of(self, variable)]

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that rebuild this optimizer, without its state."""
        return {
            **super().get_config(),
            "beta_1": self.beta_1,
            "beta_2": self.beta_2,
            "epsilon": self.epsilon,
            "weight_decay": self.l2_weight_decay,
            "learning_rate_multipliers": dict(self._multiplier_of_pattern),
        }

    def _match_multipliers(self, paths: list[str]) -> list[float]:
        matched_by: dict[int, str] = {}
        multipliers = [1.0] * len(paths)
        for pattern, factor in self._multiplier_of_pattern:
            matches = [i for i, path in enumerate(paths) if re.fullmatch(pattern, path)]
            if not matches:
                raise ValueError(
                    "Every key of `learning_rate_multipliers` must match the whole path of a "
                    f"trainable variable. Received: {pattern!r}, which matches none of "
                    f"{len(paths)}: {_shorten(paths)}"
                )
            for i in matches:
                if i in matched_by:
                    raise ValueError(
                        "A variable must be matched by at most one key of "
                        f"`learning_rate_multipliers`. Received: {matched_by[i]!r} and "
                        f"{pattern!r}, which both match {paths[i]}"
                    )
                matched_by[i] = pattern
                multipliers[i] = factor
        return multipliers


def _bias_correction(beta: float, step: Any) -> Any:
    """Returns `1 - beta**step` to float32's full precision.

    Written as it stands it loses digits: float32's `1 - 0.999` is off by 1e-5 of its value.
    """
    log_beta = math.log(beta) if beta > 0.0 else -math.inf
    return ops.negative(ops.expm1(ops.multiply(step, log_beta)))


def _shorten(paths: list[str]) -> str:
    if len(paths) <= 4:
        return ", ".join(paths)
    return ", ".join([*paths[:2], "...", *paths[-2:]])
