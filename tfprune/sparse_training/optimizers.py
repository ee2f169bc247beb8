"""Optimizers over the flat parameters of an `Engine`, with the formulas of Keras in float32."""

import dataclasses
import math
from collections.abc import Collection, Mapping
from typing import ClassVar

import numpy as np

from tfprune.runtime.plan.parts import Even
from tfprune.sparse_training.engine import Engine
from tfprune.sparse_training.kernels import optimizer as kernel
from tfprune.sparse_training.kernels.flat import PIECE
from tfprune.sparse_training.program import Step


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimizer:
    """The options that all of Keras's optimizers have.

    Attributes:
        weight_decay: The part of a weight that is taken away at a step, times the learning rate (as of
            AdamW); of `TorchAdam` the factor of the weights that is added to the gradient. None or 0: none.
        clipnorm: The largest norm of a parameter's gradient.
        global_clipnorm: The largest norm of all gradients.
        clipvalue: The largest absolute value of a gradient.
    """

    slots: ClassVar[tuple[str, ...]] = ()
    decay: ClassVar[str] = kernel.DECOUPLED

    weight_decay: float | None = None
    clipnorm: float | None = None
    global_clipnorm: float | None = None
    clipvalue: float | None = None

    @property
    def slot_names(self) -> tuple[str, ...]:
        """Returns the names of the slots, as in Keras."""
        return self.slots

    @property
    def rule(self) -> str:
        """Returns the kernel's name of the formula."""
        raise NotImplementedError

    def numbers(self, step: int) -> dict[str, float]:
        """Returns the kernel's numbers at a step, 1 being the first."""
        raise NotImplementedError

    def rate(self, learning_rate: np.float32, step: int) -> np.float32:
        """Returns what the kernel multiplies by, of a learning rate."""
        return learning_rate


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adam(Optimizer):
    """Keras's `Adam` and `AdamW`."""

    slots: ClassVar = ("momentum", "velocity")

    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-7

    @property
    def rule(self) -> str:
        """See `Optimizer`."""
        return kernel.ADAM

    def numbers(self, step: int) -> dict[str, float]:
        """See `Optimizer`."""
        return {"first": 1 - self.beta_1, "second": 1 - self.beta_2, "epsilon": self.epsilon}

    def rate(self, learning_rate: np.float32, step: int) -> np.float32:
        """See `Optimizer`."""
        one = np.float32(1)
        first, second = (np.power(np.float32(beta), np.float32(step)) for beta in (self.beta_1, self.beta_2))
        return learning_rate * np.sqrt(one - second) / (one - first)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TorchAdam(Adam):
    """`tfprune.training.optimizer.TorchAdam`."""

    decay: ClassVar = kernel.COUPLED

    epsilon: float = 1e-8

    @property
    def rule(self) -> str:
        """See `Optimizer`."""
        return kernel.TORCH_ADAM

    def numbers(self, step: int) -> dict[str, float]:
        """See `Optimizer`."""
        root = np.sqrt(_bias_correction(self.beta_2, step))
        return {**super().numbers(step), "root": root}

    def rate(self, learning_rate: np.float32, step: int) -> np.float32:
        """See `Optimizer`."""
        return learning_rate / _bias_correction(self.beta_1, step)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SGD(Optimizer):
    """Keras's `SGD`."""

    momentum: float = 0.0
    nesterov: bool = False

    @property
    def slot_names(self) -> tuple[str, ...]:
        """See `Optimizer`."""
        return ("momentum",) if self.momentum else ()

    @property
    def rule(self) -> str:
        """See `Optimizer`."""
        if not self.momentum:
            return kernel.SGD
        return kernel.NESTEROV if self.nesterov else kernel.MOMENTUM

    def numbers(self, step: int) -> dict[str, float]:
        """See `Optimizer`."""
        return {"first": self.momentum}


class Update:
    """An optimizer at work on an engine's parameters.

    Attributes:
        slots: The optimizer's slots by Keras's names, float32, laid out as `Engine.values`.
    """

    def __init__(
        self,
        engine: Engine,
        optimizer: Optimizer,
        *,
        factors: Mapping[str, float] | None = None,
        without_decay: Collection[str] = (),
    ) -> None:
        """Makes slots of zeros and compiles the step.

        Args:
            engine: The engine.
            optimizer: The formula.
            factors: Factors of the learning rate by the parameter's name; 1 for those not named.
            without_decay: The names of parameters without weight decay.

        Raises:
            ValueError: A name is none of a parameter that learns.
        """
        self._engine, self._optimizer = engine, optimizer
        names = list(engine.slices)
        for name in {*(factors or ()), *without_decay} - {*names}:
            raise ValueError(f"the name must be that of a parameter that learns. Received: {name!r}")
        self.slots = {name: np.zeros_like(engine.values) for name in optimizer.slot_names}
        self._factors = np.array([(factors or {}).get(name, 1.0) for name in names], np.float32)
        decay = optimizer.weight_decay or 0.0
        self._decays = np.array([0.0 if name in without_decay else decay for name in names], np.float32)
        self._rates, self._divisors = np.zeros_like(self._factors), np.ones_like(self._factors)
        self._numbers = np.zeros(len(kernel.NUMBERS), np.float32)
        pieces = np.array(
            [
                (start, min(start + PIECE, part.stop), index)
                for index, part in enumerate(engine.slices.values())
                for start in range(part.start, part.stop, PIECE)
            ],
            np.int64,
        ).reshape(-1, kernel.PIECE_WORDS)
        clip = kernel.BOUNDED if optimizer.clipvalue else kernel.AS_IS
        if optimizer.clipnorm or optimizer.global_clipnorm:
            clip = kernel.SCALED
        nothing = np.zeros(1, np.float32)
        arguments = (
            pieces,
            engine.values,
            engine.gradients,
            self.slots.get("momentum", nothing),
            self.slots.get("velocity", nothing),
            self._numbers,
            self._rates,
            self._decays,
            self._divisors,
        )
        code = kernel.OptimizerStep(
            optimizer.rule, clip, optimizer.decay if optimizer.weight_decay else kernel.NO_DECAY
        )
        moved = engine.values.nbytes * (3 + 2 * len(self.slots))
        self._program = engine.program([Step("optimizer", code, arguments, Even(len(pieces)), moved)])

    def apply(self, learning_rate: float, step: int) -> None:
        """Changes the engine's values by its gradients, and brings them to where they are read.

        Args:
            learning_rate: The learning rate, before factors.
            step: The number of this step, 1 being the first.
        """
        optimizer, rate = self._optimizer, np.float32(learning_rate)
        clip = optimizer.clipvalue or optimizer.clipnorm or 1.0
        with np.errstate(all="ignore"):
            if optimizer.clipnorm:
                self._divisors[:] = [
                    max(np.float32(clip), norm) if norm == norm else norm for norm in self._norms()
                ]
            elif optimizer.global_clipnorm:
                largest = np.float32(optimizer.global_clipnorm)
                norm = np.sqrt(np.sum(np.square(self._norms()), dtype=np.float32))
                one = np.float32(1)
                clip = largest * np.minimum(one / norm, one / largest) + (norm - norm)
            self._rates[:] = [optimizer.rate(rate * factor, step) for factor in self._factors]
        numbers = {**optimizer.numbers(step), "clip": clip, "rate": rate}
        self._numbers[:] = [numbers.get(name, 0.0) for name in kernel.NUMBERS]
        self._engine.run(self._program)
        self._engine.refresh()

    def _norms(self) -> np.ndarray:
        gradients = self._engine.gradients
        parts = [gradients[part] for part in self._engine.slices.values()]
        return np.array([np.sqrt(np.dot(part, part)) for part in parts], np.float32)


def _bias_correction(beta: float, step: int) -> np.float32:
    """Returns `1 - beta**step` to float32's full precision."""
    if beta == 0:
        return np.float32(1)
    return -np.expm1(np.float32(step) * np.float32(math.log(beta)))
