"""Sums of values, scaled or not, under an activation, and products: forward and backward.

`activation(sum of terms)`, where a term is a value, or `value * scale + shift` with numbers for each channel
(a normalization, a constant affine function), takes one pass over memory, forward and backward.
"""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

from llvmlite import ir

from tfprune.runtime.kernels.emitter import KernelEmitter
from tfprune.runtime.kernels.kernel import Kernel
from tfprune.sparse_training.kernels.activations import DERIVED_FROM_INPUT, LINEAR, activate, backward
from tfprune.sparse_training.kernels.loops import (
    each_block,
    each_pixel,
    each_plane,
    each_run,
    each_vector,
    load,
    operand,
    put,
    run_of,
    splat_of,
)

# Kinds of terms: as it is; scaled and shifted; the same, and its normalization needs sums of the gradient.
PLAIN, SCALED, NORMALIZED = "p", "s", "n"


def _term(index: int) -> tuple[str, ...]:
    return *operand(f"term{index}"), f"scale{index}", f"shift{index}"


class _OfTerms(Kernel):
    terms: str

    def _factors(self, e: KernelEmitter, channel: ir.Value) -> list[tuple[ir.Value, ir.Value] | None]:
        return [
            None if kind == PLAIN else (splat_of(e, f"scale{i}", channel), splat_of(e, f"shift{i}", channel))
            for i, kind in enumerate(self.terms)
        ]

    def _sum(
        self,
        e: KernelEmitter,
        values: Sequence[ir.Value],
        factors: Sequence[tuple[ir.Value, ir.Value] | None],
    ) -> ir.Value:
        total = None
        for value, factor in zip(values, factors, strict=True):
            if factor is not None:
                value = e.call("llvm.fmuladd", value, *factor)
            total = value if total is None else e.b.fadd(total, value)
        return total


@dataclasses.dataclass(frozen=True)
class Sum(_OfTerms):
    """Computes `activation(sum of terms)`.

    Attributes:
        images: The images of a tile.
        terms: The kind of each term.
        activation: One of the graph's `ACTIVATIONS`, or `LINEAR`.
        slope: Of `leaky_relu`.
    """

    images: int
    terms: str
    activation: str
    slope: float

    @property
    def parameters(self) -> tuple[str, ...]:
        """Returns the names of the parameters; see `Kernel`."""
        terms = (name for i in range(len(self.terms)) for name in _term(i))
        return *operand("target"), "rows", "columns", *terms

    def write(self, e: KernelEmitter) -> None:
        """See `Kernel`."""

        def run(*place: ir.Value) -> None:
            target, factors = run_of(e, "target", *place), self._factors(e, place[2])
            sources = [run_of(e, f"term{i}", *place) for i in range(len(self.terms))]

            def vector(at: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
                total = self._sum(e, [load(e, source, at) for source in sources], factors)
                put(e, activate(e, self.activation, self.slope, total), target, at)
                return []

            each_vector(e, self.images, vector)

        each_run(e, run)


@dataclasses.dataclass(frozen=True)
class SumGradient(_OfTerms):
    """Makes of the gradient of `activation(sum of terms)` that of the sum, in its place.

    For each normalized term, sums of `gradient` and of `gradient * (value - mean)` go to
    `[slots, 2, channels, lanes]`.

    Attributes:
        images: The images of a tile.
        terms: The kind of each term; the others can be left out if the derivative follows from the output.
        activation: One of the graph's `ACTIVATIONS`, or `LINEAR`.
        slope: Of `leaky_relu`.
    """

    images: int
    terms: str
    activation: str
    slope: float

    @property
    def parameters(self) -> tuple[str, ...]:
        """Returns the names of the parameters; see `Kernel`."""
        terms = (name for i in range(len(self.terms)) for name in (*_term(i), f"mean{i}", f"sums{i}"))
        shape = ("rows", "columns", "block", "blocks", "channels")
        return *operand("gradient"), *operand("output"), *shape, *terms

    def write(self, e: KernelEmitter) -> None:
        """See `Kernel`."""
        b = e.b
        from_input = self.activation in DERIVED_FROM_INPUT
        normalized = [i for i, kind in enumerate(self.terms) if kind == NORMALIZED]

        def run(*place: ir.Value) -> list[ir.Value]:
            gradients, outputs = run_of(e, "gradient", *place), run_of(e, "output", *place)
            sources = [run_of(e, f"term{i}", *place) for i in range(len(self.terms))]
            factors = self._factors(e, place[2]) if from_input else []
            means = {i: splat_of(e, f"mean{i}", place[2]) for i in normalized}

            def vector(at: ir.Value, sums: list[ir.Value]) -> list[ir.Value]:
                values = [load(e, source, at) for source in sources]
                gradient = load(e, gradients, at)
                if self.activation != LINEAR:
                    known = self._sum(e, values, factors) if from_input else load(e, outputs, at)
                    gradient = backward(e, self.activation, self.slope, known, gradient)
                    put(e, gradient, gradients, at)
                if not normalized:
                    return []
                following = [b.fadd(sums[0], gradient)]
                for total, i in zip(sums[1:], normalized, strict=True):
                    away = b.fsub(values[i], means[i])
                    following.append(e.call("llvm.fmuladd", gradient, away, total))
                return following

            start = [e.constant(0)] * (len(normalized) + 1 if normalized else 0)
            sums = each_vector(e, self.images, vector, start)
            return [total for moment in sums[1:] for total in (sums[0], moment)]

        each_block(e, [f"sums{i}" for i in normalized], run)


@dataclasses.dataclass(frozen=True)
class Multiply(Kernel):
    """Multiplies two values, or a value by a factor for each channel and image; also for a gradient.

    Attributes:
        images: The images of a tile.
        by_channel: Whether the second is a vector.
        accumulate: Whether the products are added to what is there.
    """

    parameters: ClassVar = (*operand("first"), *operand("second"), *operand("target"), "rows", "columns")
    images: int
    by_channel: bool
    accumulate: bool

    def write(self, e: KernelEmitter) -> None:
        """See `Kernel`."""

        def run(tile: ir.Value, y: ir.Value, channel: ir.Value) -> None:
            first, target = (run_of(e, name, tile, y, channel) for name in ("first", "target"))
            second = run_of(e, "second", tile, e.number(0) if self.by_channel else y, channel)

            def vector(at: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
                there = e.b.urem(at, e.number(self.images)) if self.by_channel else at
                value = e.b.fmul(load(e, first, at), load(e, second, there))
                put(e, value, target, at, accumulate=self.accumulate)
                return []

            each_vector(e, self.images, vector)

        each_run(e, run)


@dataclasses.dataclass(frozen=True)
class FactorGradient(Kernel):
    """Sums `first * second` over the pixels: the gradient of a channel's factor. A part: see `each_plane`.

    Attributes:
        images: The images of a tile.
        accumulate: Whether the sums are added to what is there.
    """

    parameters: ClassVar = (*operand("first"), *operand("second"), *operand("target"), "rows", "columns")
    images: int
    accumulate: bool

    def write(self, e: KernelEmitter) -> None:
        """See `Kernel`."""
        b = e.b

        def plane(tile: ir.Value, channel: ir.Value) -> None:
            target = run_of(e, "target", tile, e.number(0), channel)
            if not self.accumulate:
                for more in range(0, self.images, e.lanes):
                    put(e, e.constant(0), target, e.number(more))

            def pixel(y: ir.Value, x: ir.Value) -> None:
                first, second = (run_of(e, name, tile, y, channel) for name in ("first", "second"))
                at = b.mul(x, e.number(self.images))
                for more in range(0, self.images, e.lanes):
                    here = b.add(at, e.number(more))
                    product = b.fmul(load(e, first, here), load(e, second, here))
                    put(e, product, target, e.number(more), accumulate=True)

            each_pixel(e, pixel)

        each_plane(e, plane)
