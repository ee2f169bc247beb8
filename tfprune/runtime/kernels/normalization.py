"""Kernels that compute with several channels at once: softmax over them, and normalizations."""

import dataclasses
from collections.abc import Callable
from typing import ClassVar

from llvmlite import ir

from tfprune.runtime.kernels.activations import activate, exponential
from tfprune.runtime.kernels.emitter import F32, KernelEmitter
from tfprune.runtime.kernels.kernel import Kernel


@dataclasses.dataclass(frozen=True)
class PixelSoftmax(Kernel):
    """Computes the softmax over the planes at each pixel; a part: first and last vector of pixels.

    Attributes:
        logarithm: Whether its logarithm is computed.
    """

    parameters: ClassVar = ("source", "target", "plane", "mask", "channels")
    logarithm: bool

    def write(self, e: KernelEmitter) -> None:
        """See `Kernel`."""
        b = e.b
        zero, channels = e.number(0), e.integer("channels")

        def pixels(index: ir.Value) -> None:
            start = b.mul(index, e.number(e.lanes))
            source, target = e.at(e.value("source"), start), e.at(e.value("target"), start)
            mask = e.load_vector(e.at(e.pointer("mask"), start))

            def plane_of(channel: ir.Value) -> ir.Value:
                return b.mul(channel, e.integer("plane"))

            def larger(channel: ir.Value, best: list[ir.Value]) -> list[ir.Value]:
                return [e.largest(e.load_vector(e.at(source, plane_of(channel))), best[0])]

            largest = e.fold(zero, channels, [e.constant(float("-inf"))], larger)[0]

            def power(channel: ir.Value, total: list[ir.Value]) -> list[ir.Value]:
                x = e.load_vector(e.at(source, plane_of(channel)))
                x = b.fsub(x, largest)
                power = exponential(e, x)
                e.store(x if self.logarithm else power, e.at(target, plane_of(channel)))
                return [b.fadd(total[0], power)]

            total = e.fold(zero, channels, [e.constant(0)], power)[0]

            of_total = activate(e, "log", total) if self.logarithm else total
            combine = b.fsub if self.logarithm else b.fdiv

            def finish(channel: ir.Value) -> None:
                at = e.at(target, plane_of(channel))
                e.store(e.keep(combine(e.load_vector(at), of_total), mask), at)

            e.each(zero, channels, finish)

        e.each(e.part(0), e.part(1), pixels)


@dataclasses.dataclass(frozen=True)
class Normalize(Kernel):
    """Makes the mean of what belongs together 0 and its variance 1, then scales and shifts each plane.

    Over a pixel, a part is first and last vector of pixels; over the image first and last group. A vector is
    a pixel whose planes are one number each.
    """

    parameters: ClassVar = (
        "source",
        "target",
        "plane",
        "mask",
        "vectors",  # in a plane
        "groups",
        "channels",  # of a group
        "scale",  # float32 [groups * channels]
        "shift",  # the same
        "numbers",  # float32 [2]: epsilon, and 1 / how many numbers belong together
    )
    over: str
    vector: bool
    centered: bool

    def write(self, e: KernelEmitter) -> None:
        """See `Kernel`."""
        b, zero = e.b, e.number(0)
        first, last = e.part(0), e.part(1)
        if self.over == "image":
            e.each(first, last, lambda group: self._normalize(e, group, zero, e.integer("vectors")))
            return

        def pixels(index: ir.Value) -> None:
            following = b.add(index, e.number(1))
            e.each(zero, e.integer("groups"), lambda group: self._normalize(e, group, index, following))

        e.each(first, last, pixels)

    def _normalize(self, e: KernelEmitter, group: ir.Value, start: ir.Value, stop: ir.Value) -> None:
        """Emits the normalization of a group's channels at some vectors of pixels."""
        b, channels = e.b, e.integer("channels")
        first = b.mul(group, channels)
        nothing = ir.Constant(F32, 0.0) if self.vector else e.constant(0)

        def number(index: int) -> ir.Value:
            scalar = e.element(e.pointer("numbers"), e.number(index))
            return scalar if self.vector else e.splat(scalar)

        def of_channel(name: str, channel: ir.Value) -> ir.Value:
            scalar = e.element(e.pointer(name), channel)
            return scalar if self.vector else e.splat(scalar)

        def place(channel: ir.Value, index: ir.Value) -> ir.Value:
            return e.multiply_add(channel, e.integer("plane"), b.mul(index, e.number(e.lanes)))

        def load(channel: ir.Value, index: ir.Value) -> ir.Value:
            at = e.at(e.value("source"), place(channel, index))
            return e.load(at, F32) if self.vector else e.load_vector(at)

        def masked(x: ir.Value, index: ir.Value) -> ir.Value:
            if self.vector:
                return x
            return e.keep(x, e.load_vector(e.at(e.pointer("mask"), b.mul(index, e.number(e.lanes)))))

        def mean_of(term: Callable[[ir.Value, ir.Value], ir.Value]) -> ir.Value:
            """Emits the mean of a term of a channel and a vector; each channel is summed by itself first."""

            def channel(index: ir.Value, totals: list[ir.Value]) -> list[ir.Value]:
                channel = b.add(first, index)

                def vector(at: ir.Value, sums: list[ir.Value]) -> list[ir.Value]:
                    return [b.fadd(sums[0], term(channel, at))]

                return [b.fadd(totals[0], e.fold(start, stop, [nothing], vector)[0])]

            total = e.fold(e.number(0), channels, [nothing], channel)[0]
            if self.over == "image":
                total = e.splat(e.horizontal(total, b.fadd))
            return b.fmul(total, number(1))

        # What is no pixel is zero already.
        mean = mean_of(load) if self.centered else nothing

        def squared(channel: ir.Value, index: ir.Value) -> ir.Value:
            x = b.fsub(load(channel, index), mean)
            x = masked(x, index) if self.over == "image" else x
            return b.fmul(x, x)

        variance = b.fadd(mean_of(squared), number(0))
        one = ir.Constant(F32, 1.0) if self.vector else e.constant(1)
        factor = b.fdiv(one, e.call("llvm.sqrt", variance))

        def write(index: ir.Value) -> None:
            channel = b.add(first, index)
            scale = b.fmul(factor, of_channel("scale", channel))
            shift = of_channel("shift", channel)

            def vector(at: ir.Value) -> None:
                x = b.fadd(b.fmul(b.fsub(load(channel, at), mean), scale), shift)
                e.store(masked(x, at), e.at(e.value("target"), place(channel, at)))

            e.each(start, stop, vector)

        e.each(e.number(0), channels, write)
