"""Batch normalization: sums over the batch, the numbers for each channel that follow, and the gradient.

Sums are made in float32 over pieces of the batch, the same pieces whatever the threads, and of differences
from a number near the mean, and are added in float64: the variance does not cancel.
"""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

from llvmlite import ir

from tfprune.runtime.kernels.emitter import F32, KernelEmitter
from tfprune.runtime.kernels.kernel import Kernel
from tfprune.sparse_training.kernels.loops import (
    IMAGES,
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
        b = e.b

        def run(tile: ir.Value, y: ir.Value, channel: ir.Value) -> list[ir.Value]:
            source, about = run_of(e, "source", tile, y, channel), splat_of(e, "about", channel)
            masks = e.at(e.value("mask"), b.mul(tile, e.number(self.images)))

            def vector(at: ir.Value, sums: list[ir.Value]) -> list[ir.Value]:
                there = load(e, masks, b.urem(at, e.number(self.images)))
                away = b.fmul(b.fsub(load(e, source, at), about), there)
                return [b.fadd(sums[0], away), e.call("llvm.fmuladd", away, away, sums[1])]

            return each_vector(e, self.images, vector, [e.constant(0)] * 2)

        each_block(e, ["sums"], run)


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
    return e.b.sitofp(e.b.mul(header(e, IMAGES), e.integer("pixels")), _F64)


@dataclasses.dataclass(frozen=True)
class Normalization(Kernel):
    """Makes a channel's `scale` and `shift` from its mean and variance; a part: a range of channels.

    Of the batch, from sums of differences from the moving mean; the moving statistics then move. Or of the
    moving statistics, which then stay.

    Attributes:
        moving: Whether the moving statistics are used.
    """

    parameters: ClassVar = (
        "sums",
        "slots",
        "channels",
        "pixels",
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
                first, second = _sums_of_channel(e, index)
                count = _count(e)
                away = b.fdiv(first, count)
                variance = b.fsub(b.fdiv(second, count), b.fmul(away, away))
                # No root of a number that rounding has brought below zero; a NaN stays one.
                variance = b.select(
                    b.fcmp_ordered("<", variance, ir.Constant(_F64, 0.0)), ir.Constant(_F64, 0.0), variance
                )
                mean = b.fadd(moving_mean, away)
                rest = b.fsub(ir.Constant(F32, 1.0), momentum)
                for name, new in (("moving_mean", mean), ("moving_variance", variance)):
                    old = b.fmul(e.load(at[name], F32), momentum)
                    e.store(b.fadd(old, b.fmul(b.fptrunc(new, F32), rest)), at[name])
            deviation = b.call(square_root, [b.fadd(variance, b.fpext(epsilon, _F64))])
            inverse = b.fdiv(one, deviation)
            scale = b.fmul(b.fpext(e.load(at["gamma"], F32), _F64), inverse)
            shift = b.fsub(b.fpext(e.load(at["beta"], F32), _F64), b.fmul(mean, scale))
            for name, number in (("mean", mean), ("inverse", inverse), ("scale", scale), ("shift", shift)):
                e.store(b.fptrunc(number, F32), at[name])

        e.each(e.part(0), e.part(1), channel)


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
        "pixels",
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
                slope = b.fsub(zero, b.fdiv(b.fmul(b.fmul(factor, inverse), by_gamma), count))
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
