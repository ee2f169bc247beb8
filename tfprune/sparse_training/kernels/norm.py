"""Batch normalization: sums over the batch, the numbers for each channel that follow, and the gradient.

Sums are made in float32 over pieces of the batch, the same pieces whatever the threads, and of differences
from the moving mean, and are added in float64. Where the batch's mean is far from it, as in a new network,
the variance would cancel: such channels are summed again, about the mean just found.
"""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

from llvmlite import ir

from tfprune.runtime.kernels.emitter import F32, KernelEmitter
from tfprune.runtime.kernels.kernel import Kernel
from tfprune.sparse_training.kernels.loops import (
    IMAGES,
    VectorBody,
    each_block,
    each_run,
    each_vector,
    float_of,
    header,
    load,
    operand,
    put,
    run_of,
    splat_of,
)

_F64 = ir.DoubleType()
# A channel is summed again where the square of the mean of `x - c` is more than so many times its variance
# with epsilon: up to there, their root is about as many times eight less exact than the sums, whose errors
# average out over lanes and slots. With epsilon, as a constant channel would else be summed in each step.
_FAR = 16.0


@dataclasses.dataclass(frozen=True)
class Statistics(Kernel):
    """Sums `x - about` and its square to `[slots, 2, channels, lanes]`.

    Images that are not there do not count: `mask`, `[tiles, images]`, is 0 for them, else 1.

    Attributes:
        images: The images of a tile.
    """

    parameters: ClassVar = (
        *operand("source"),
        "rows",
        "columns",
        "block",
        "blocks",
        "channels",
        "about",
        "mask",
        "sums",
    )
    images: int

    def write(self, e: KernelEmitter) -> None:
        """See `Kernel`."""

        def run(tile: ir.Value, y: ir.Value, channel: ir.Value) -> list[ir.Value]:
            source, about = run_of(e, "source", tile, y, channel), splat_of(e, "about", channel)
            vector = _away(e, source, tile, about, self.images)
            return each_vector(e, self.images, vector, [e.constant(0)] * 2)

        each_block(e, ["sums"], run)


def _away(e: KernelEmitter, run: ir.Value, tile: ir.Value, about: ir.Value, images: int) -> VectorBody:
    """Returns what adds a vector of `x - about`, zero for images not there, and its square to two sums."""
    b = e.b
    masks = e.at(e.value("mask"), b.mul(tile, e.number(images)))

    def vector(at: ir.Value, sums: list[ir.Value]) -> list[ir.Value]:
        there = load(e, masks, b.urem(at, e.number(images)))
        away = b.fmul(b.fsub(load(e, run, at), about), there)
        return [b.fadd(sums[0], away), e.call("llvm.fmuladd", away, away, sums[1])]

    return vector


def _sums_of_channel(e: KernelEmitter, channel: ir.Value) -> list[ir.Value]:
    """Adds the slots and lanes of a channel's two sums, in float64."""
    b = e.b
    channels = e.integer("channels")
    doubles = ir.VectorType(_F64, e.lanes)

    def slot(index: ir.Value, totals: list[ir.Value]) -> Sequence[ir.Value]:
        following = []
        for which, total in enumerate(totals):
            row = e.multiply_add(index, e.number(2), e.number(which))
            at = b.mul(e.multiply_add(row, channels, channel), e.number(e.lanes))
            found = b.fpext(e.load_vector(e.at(e.value("sums"), at)), doubles)
            following.append(b.fadd(total, found))
        return following

    zero = ir.Constant(doubles, [0.0] * e.lanes)
    totals = e.fold(e.number(0), e.integer("slots"), [zero, zero], slot)
    return [e.horizontal(total, b.fadd) for total in totals]


def _count(e: KernelEmitter) -> ir.Value:
    """Returns the numbers that a channel has in a batch, float64."""
    pixels = e.b.mul(e.integer("rows"), e.integer("columns"))
    return e.b.sitofp(e.b.mul(header(e, IMAGES), pixels), _F64)


def _rounded(e: KernelEmitter, number: ir.Value) -> ir.Value:
    """Returns a float64 as float32 has it."""
    return e.b.fpext(e.b.fptrunc(number, F32), _F64)


def _moments(e: KernelEmitter, sums: Sequence[ir.Value]) -> list[ir.Value]:
    """Returns mean and variance of the sums of some numbers and of their squares."""
    b, zero = e.b, ir.Constant(_F64, 0.0)
    mean, square = (b.fdiv(total, _count(e)) for total in sums)
    variance = b.fsub(square, b.fmul(mean, mean))
    # No root of a number that rounding has brought below zero; a NaN stays one.
    return [mean, b.select(b.fcmp_ordered("<", variance, zero), zero, variance)]


@dataclasses.dataclass(frozen=True)
class Normalization(Kernel):
    """Makes a channel's `scale` and `shift` from its mean and variance; a part: a range of channels.

    Of the batch, from sums of differences from the moving mean; the moving statistics then move. Or of the
    moving statistics, which then stay, and neither sums nor source are read.

    Attributes:
        images: The images of a tile.
        moving: Whether the moving statistics are used.
    """

    parameters: ClassVar = (
        *operand("source"),
        "rows",
        "columns",
        "tiles",
        "mask",
        "sums",
        "slots",
        "channels",
        "gamma",
        "beta",
        "moving_mean",
        "moving_variance",
        "epsilon",  # the bits of a float32
        "momentum",  # likewise
        "mean",
        "inverse",  # 1 / standard deviation
        "scale",
        "shift",
    )
    images: int
    moving: bool

    def write(self, e: KernelEmitter) -> None:
        """See `Kernel`."""
        b = e.b
        square_root = e.function.module.declare_intrinsic("llvm.sqrt", [_F64])
        names = ("gamma", "beta", "moving_mean", "moving_variance", "mean", "inverse", "scale", "shift")
        epsilon, momentum = float_of(e, "epsilon"), float_of(e, "momentum")
        one = ir.Constant(_F64, 1.0)

        def channel(index: ir.Value) -> None:
            at = {name: e.at(e.pointer(name), index) for name in names}
            moving_mean, moving_variance = (
                b.fpext(e.load(at[name], F32), _F64) for name in ("moving_mean", "moving_variance")
            )
            if self.moving:
                mean, variance = moving_mean, moving_variance
            else:
                mean, variance = self._of_batch(e, index, moving_mean)
                rest = b.fsub(ir.Constant(F32, 1.0), momentum)
                for name, new in (("moving_mean", mean), ("moving_variance", variance)):
                    old = b.fmul(e.load(at[name], F32), momentum)
                    e.store(b.fadd(old, b.fmul(b.fptrunc(new, F32), rest)), at[name])
            deviation = b.call(square_root, [b.fadd(variance, b.fpext(epsilon, _F64))])
            inverse = b.fdiv(one, deviation)
            scale = _rounded(e, b.fmul(b.fpext(e.load(at["gamma"], F32), _F64), inverse))
            shift = b.fsub(b.fpext(e.load(at["beta"], F32), _F64), b.fmul(mean, scale))
            for name, number in (("mean", mean), ("inverse", inverse), ("scale", scale), ("shift", shift)):
                e.store(b.fptrunc(number, F32), at[name])

        e.each(e.part(0), e.part(1), channel)

    def _of_batch(self, e: KernelEmitter, channel: ir.Value, about: ir.Value) -> list[ir.Value]:
        """Returns the mean and variance of a channel, of which the sums are those about a number."""
        b = e.b
        away, variance = _moments(e, _sums_of_channel(e, channel))
        mean = b.fadd(about, away)
        epsilon = b.fpext(float_of(e, "epsilon"), _F64)
        near = b.fmul(b.fadd(variance, epsilon), ir.Constant(_F64, _FAR))

        def again() -> list[ir.Value]:
            center = _rounded(e, mean)
            rest, variance = _moments(e, self._sums(e, channel, center))
            return [b.fadd(center, rest), variance]

        return e.choose(b.fcmp_ordered(">", b.fmul(away, away), near), again, lambda: [mean, variance])

    def _sums(self, e: KernelEmitter, channel: ir.Value, center: ir.Value) -> list[ir.Value]:
        """Sums `x - center` and its square over a channel of the batch, from run to run in float64."""
        b = e.b
        doubles = ir.VectorType(_F64, e.lanes)
        center = e.splat(b.fptrunc(center, F32))

        def line(number: ir.Value, totals: list[ir.Value]) -> list[ir.Value]:
            tile, row = b.sdiv(number, e.integer("rows")), b.srem(number, e.integer("rows"))
            source = run_of(e, "source", tile, row, channel)
            vector = _away(e, source, tile, center, self.images)
            sums = each_vector(e, self.images, vector, [e.constant(0)] * 2)
            return [b.fadd(total, b.fpext(more, doubles)) for total, more in zip(totals, sums, strict=True)]

        zero = ir.Constant(doubles, [0.0] * e.lanes)
        lines = b.mul(e.integer("tiles"), e.integer("rows"))
        totals = e.fold(e.number(0), lines, [zero, zero], line)
        return [e.horizontal(total, b.fadd) for total in totals]


@dataclasses.dataclass(frozen=True)
class NormalizationGradient(Kernel):
    """Makes a channel's gradients of gamma and beta, and the factors of the input's; a part: channels.

    The sums are those of `gradient` and `gradient * (x - mean)`. The input's gradient is
    `factor * gradient + slope * x + offset`.

    Attributes:
        moving: Whether mean and variance do not depend on the input.
    """

    parameters: ClassVar = (
        "sums",
        "slots",
        "channels",
        "rows",
        "columns",
        "gamma",
        "mean",
        "inverse",
        "gamma_gradient",
        "beta_gradient",
        "factor",
        "slope",
        "offset",
    )
    moving: bool

    def write(self, e: KernelEmitter) -> None:
        """See `Kernel`."""
        b = e.b
        names = ("gamma", "mean", "inverse")
        zero = ir.Constant(_F64, 0.0)

        def channel(index: ir.Value) -> None:
            gamma, mean, inverse = (b.fpext(e.element(e.pointer(name), index), _F64) for name in names)
            total, moment = _sums_of_channel(e, index)
            by_gamma = b.fmul(moment, inverse)
            factor = b.fmul(gamma, inverse)
            slope = offset = zero
            if not self.moving:
                count = _count(e)
                slope = _rounded(e, b.fsub(zero, b.fdiv(b.fmul(b.fmul(factor, inverse), by_gamma), count)))
                offset = b.fsub(zero, b.fadd(b.fdiv(b.fmul(factor, total), count), b.fmul(slope, mean)))
            made = {
                "gamma_gradient": by_gamma,
                "beta_gradient": total,
                "factor": factor,
                "slope": slope,
                "offset": offset,
            }
            for name, number in made.items():
                e.store(b.fptrunc(number, F32), e.at(e.pointer(name), index))

        e.each(e.part(0), e.part(1), channel)


@dataclasses.dataclass(frozen=True)
class ScaledGradient(Kernel):
    """Computes `factor * gradient + slope * x + offset` for each channel, and zero for images not there.

    Attributes:
        images: The images of a tile.
        scaled_alone: Whether slope and offset are zero, and x is not read.
        accumulate: Whether the results are added to what is there.
    """

    parameters: ClassVar = (
        *operand("gradient"),
        *operand("source"),
        *operand("target"),
        "rows",
        "columns",
        "mask",
        "factor",
        "slope",
        "offset",
    )
    images: int
    scaled_alone: bool
    accumulate: bool

    def write(self, e: KernelEmitter) -> None:
        """See `Kernel`."""
        b = e.b

        def run(tile: ir.Value, y: ir.Value, channel: ir.Value) -> None:
            gradients, source, target = (
                run_of(e, name, tile, y, channel) for name in ("gradient", "source", "target")
            )
            factor, slope, offset = (splat_of(e, name, channel) for name in ("factor", "slope", "offset"))
            masks = e.at(e.value("mask"), b.mul(tile, e.number(self.images)))

            def vector(at: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
                value = load(e, gradients, at)
                if self.scaled_alone:
                    value = b.fmul(value, factor)
                else:
                    rest = e.call("llvm.fmuladd", load(e, source, at), slope, offset)
                    there = load(e, masks, b.urem(at, e.number(self.images)))
                    value = b.fmul(e.call("llvm.fmuladd", value, factor, rest), there)
                put(e, value, target, at, accumulate=self.accumulate)
                return []

            each_vector(e, self.images, vector)

        each_run(e, run)


@dataclasses.dataclass(frozen=True)
class ChannelSums(Kernel):
    """Sums the numbers of each channel, such as a bias's gradient; a part: a range of channels.

    Attributes:
        images: The images of a tile.
    """

    parameters: ClassVar = (*operand("source"), "rows", "columns", "tiles", "target")
    images: int

    def write(self, e: KernelEmitter) -> None:
        """See `Kernel`."""
        b = e.b
        doubles = ir.VectorType(_F64, e.lanes)

        def channel(index: ir.Value) -> None:
            def line(number: ir.Value, totals: list[ir.Value]) -> list[ir.Value]:
                rows = e.integer("rows")
                source = run_of(e, "source", b.sdiv(number, rows), b.srem(number, rows), index)

                def vector(at: ir.Value, sums: list[ir.Value]) -> list[ir.Value]:
                    return [b.fadd(sums[0], load(e, source, at))]

                sums = each_vector(e, self.images, vector, [e.constant(0)])
                return [b.fadd(totals[0], b.fpext(sums[0], doubles))]

            lines = b.mul(e.integer("tiles"), e.integer("rows"))
            zero = ir.Constant(doubles, [0.0] * e.lanes)
            totals = e.fold(e.number(0), lines, [zero], line)
            total = b.fptrunc(e.horizontal(totals[0], b.fadd), F32)
            e.store(total, e.at(e.pointer("target"), index))

        e.each(e.part(0), e.part(1), channel)
