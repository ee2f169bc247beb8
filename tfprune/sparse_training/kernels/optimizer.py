"""The step of an optimizer over all parameters, in one pass over memory."""

import dataclasses
from typing import ClassVar

from llvmlite import ir

from tfprune.runtime.kernels.emitter import I64, KernelEmitter
from tfprune.runtime.kernels.kernel import Kernel
from tfprune.sparse_training.kernels.flat import Width, each_number

# 64-bit numbers of a piece in the table: first and last number, and the index of the parameter.
PIECE_WORDS = 3
ADAM, TORCH_ADAM, SGD, MOMENTUM, NESTEROV = "adam", "torch_adam", "sgd", "momentum", "nesterov"
# What is done to a gradient first: nothing; it is divided by a number of the parameter and multiplied by one
# of all; it is brought between two bounds.
AS_IS, SCALED, BOUNDED = "as_is", "scaled", "bounded"
# Weight decay: none; a part of the weight is added to the gradient; or taken from the weight before the step.
NO_DECAY, COUPLED, DECOUPLED = "no_decay", "coupled", "decoupled"
NUMBERS = ("first", "second", "epsilon", "clip", "root", "rate")


@dataclasses.dataclass(frozen=True)
class OptimizerStep(Kernel):
    """Changes weights and slots by the gradients; a part: a range of pieces, each of one parameter.

    Attributes:
        rule: The formula.
        clip: What is done to a gradient first.
        decay: The weight decay.
    """

    parameters: ClassVar = (
        "pieces",  # int64 [pieces, PIECE_WORDS]
        "values",
        "gradients",
        "momentum",
        "velocity",
        "numbers",  # float32, those of `NUMBERS`
        "rates",  # float32 [parameters]
        "decays",  # float32 [parameters]
        "divisors",  # float32 [parameters]
    )
    rule: str
    clip: str
    decay: str

    def write(self, e: KernelEmitter) -> None:
        """See `Kernel`."""
        number = {name: e.element(e.pointer("numbers"), e.number(i)) for i, name in enumerate(NUMBERS)}

        def piece(index: ir.Value) -> None:
            row = e.b.mul(index, e.number(PIECE_WORDS))
            start, stop, parameter = (
                e.element(e.pointer("pieces"), e.b.add(row, e.number(i)), I64) for i in range(PIECE_WORDS)
            )
            own = {name: e.element(e.pointer(name), parameter) for name in ("rates", "decays", "divisors")}
            each_number(e, start, stop, lambda at, width: self._step(e, at, width, {**number, **own}))

        e.each(e.part(0), e.part(1), piece)

    def _step(self, e: KernelEmitter, at: ir.Value, width: Width, scalars: dict[str, ir.Value]) -> None:
        b = e.b
        number = {name: width.all(scalar) for name, scalar in scalars.items()}
        values, gradients = e.pointer("values"), e.pointer("gradients")
        value, gradient = width.load(values, at), width.load(gradients, at)
        if self.clip == SCALED:
            gradient = b.fdiv(b.fmul(gradient, number["clip"]), number["divisors"])
        elif self.clip == BOUNDED:
            gradient = self._bounded(e, gradient, number["clip"], width)
        if self.decay == DECOUPLED:
            value = b.fsub(value, b.fmul(b.fmul(value, number["decays"]), number["rate"]))
        elif self.decay == COUPLED:
            gradient = b.fadd(gradient, b.fmul(value, number["decays"]))
        if self.rule in (ADAM, TORCH_ADAM):
            value = self._adam(e, at, width, number, value, gradient)
        else:
            value = self._descent(e, at, width, number, value, gradient)
        width.store(value, values, at)

    def _adam(
        self,
        e: KernelEmitter,
        at: ir.Value,
        width: Width,
        number: dict[str, ir.Value],
        value: ir.Value,
        gradient: ir.Value,
    ) -> ir.Value:
        b = e.b
        momenta, velocities = e.pointer("momentum"), e.pointer("velocity")
        m, v = width.load(momenta, at), width.load(velocities, at)
        m = b.fadd(m, b.fmul(b.fsub(gradient, m), number["first"]))
        v = b.fadd(v, b.fmul(b.fsub(b.fmul(gradient, gradient), v), number["second"]))
        width.store(m, momenta, at)
        width.store(v, velocities, at)
        root = width.root(v)
        if self.rule == TORCH_ADAM:
            root = b.fdiv(root, number["root"])
        return b.fsub(value, b.fdiv(b.fmul(m, number["rates"]), b.fadd(root, number["epsilon"])))

    def _descent(
        self,
        e: KernelEmitter,
        at: ir.Value,
        width: Width,
        number: dict[str, ir.Value],
        value: ir.Value,
        gradient: ir.Value,
    ) -> ir.Value:
        b = e.b
        step = b.fmul(gradient, number["rates"])
        if self.rule == SGD:
            return b.fsub(value, step)
        momenta = e.pointer("momentum")
        m = b.fsub(b.fmul(width.load(momenta, at), number["first"]), step)
        width.store(m, momenta, at)
        if self.rule == NESTEROV:
            m = b.fsub(b.fmul(m, number["first"]), step)
        return b.fadd(value, m)

    def _bounded(self, e: KernelEmitter, x: ir.Value, bound: ir.Value, width: Width) -> ir.Value:
        b = e.b
        below = b.fneg(bound)
        x = b.select(b.fcmp_ordered(">", x, bound), bound, x)
        return b.select(b.fcmp_ordered("<", x, below), below, x)
