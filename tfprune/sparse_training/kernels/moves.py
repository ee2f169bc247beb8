"""Kernels that move values or make them of the images: copies, zeros, dropout."""

import dataclasses
from typing import ClassVar

from llvmlite import ir

from tfprune.runtime.kernels.emitter import F32, I8, I32, KernelEmitter
from tfprune.runtime.kernels.kernel import Kernel
from tfprune.sparse_training.kernels.loops import (
    IMAGES,
    IMAGES_ADDRESS,
    IMAGES_ARE_UINT8,
    STEP,
    each_run,
    each_vector,
    float_of,
    header,
    load,
    operand,
    put,
    run_of,
)

_SEED_FACTORS = (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


@dataclasses.dataclass(frozen=True)
class Move(Kernel):
    """Copies a value, or adds it to what is there.

    Attributes:
        images: The images of a tile.
        accumulate: Whether it adds.
    """

    parameters: ClassVar = (*operand("source"), *operand("target"), "rows", "columns")
    images: int
    accumulate: bool

    def write(self, e: KernelEmitter) -> None:
        """See `Kernel`."""

        def run(*place: ir.Value) -> None:
            source, target = run_of(e, "source", *place), run_of(e, "target", *place)

            def vector(at: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
                put(e, load(e, source, at), target, at, accumulate=self.accumulate)
                return []

            each_vector(e, self.images, vector)

        each_run(e, run)


@dataclasses.dataclass(frozen=True)
class Clear(Kernel):
    """Writes zeros.

    Attributes:
        images: The images of a tile.
    """

    parameters: ClassVar = (*operand("target"), "rows", "columns")
    images: int

    def write(self, e: KernelEmitter) -> None:
        """See `Kernel`."""

        def run(*place: ir.Value) -> None:
            target = run_of(e, "target", *place)

            def vector(at: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
                put(e, e.constant(0), target, at)
                return []

            each_vector(e, self.images, vector)

        each_run(e, run)


@dataclasses.dataclass(frozen=True)
class Images(Kernel):
    """Makes `pixel * scale + shift` of the images, and zeros of images that are not there.

    Attributes:
        images: The images of a tile.
    """

    parameters: ClassVar = (*operand("target"), "rows", "columns", "channels", "scales", "shifts")
    images: int

    def write(self, e: KernelEmitter) -> None:
        """See `Kernel`."""
        b = e.b
        address = b.inttoptr(header(e, IMAGES_ADDRESS), ir.PointerType())
        is_uint8 = b.icmp_signed("!=", header(e, IMAGES_ARE_UINT8), e.number(0))
        channels, tile_size = e.integer("channels"), e.number(self.images)
        image_size = b.mul(b.mul(e.integer("rows"), e.integer("columns")), channels)

        def runs(of: ir.Type) -> list[ir.Value]:
            def run(tile: ir.Value, y: ir.Value, channel: ir.Value) -> None:
                target = run_of(e, "target", tile, y, channel)
                first = b.mul(tile, tile_size)
                left = b.sub(header(e, IMAGES), first)
                there = b.select(b.icmp_signed("<", left, tile_size), left, tile_size)
                there = b.select(b.icmp_signed("<", there, e.number(0)), e.number(0), there)
                scale = e.element(e.pointer("scales"), channel)
                shift = e.element(e.pointer("shifts"), channel)
                start = b.add(b.mul(first, image_size), channel)

                def column(x: ir.Value) -> None:
                    pixel = e.multiply_add(y, e.integer("columns"), x)
                    at = e.multiply_add(pixel, channels, start)
                    here = e.at(target, b.mul(x, tile_size))

                    def image(index: ir.Value) -> None:
                        value = e.element(address, e.multiply_add(index, image_size, at), of)
                        if of == I8:
                            value = b.uitofp(value, F32)
                        e.store(b.fadd(b.fmul(value, scale), shift), e.at(here, index))

                    e.each(e.number(0), there, image)
                    e.each(there, tile_size, lambda index: e.store(ir.Constant(F32, 0.0), e.at(here, index)))

                e.each(e.number(0), e.integer("columns"), column)

            each_run(e, run)
            return []

        e.choose(is_uint8, lambda: runs(I8), lambda: runs(F32))


@dataclasses.dataclass(frozen=True)
class Dropout(Kernel):
    """Multiplies by a factor or by zero, at random; the same numbers for the gradient.

    A number is kept where the hash of its place, the step and the seed is at least a threshold.

    Attributes:
        images: The images of a tile.
        whole_channels: Whether the place is the channel's.
        whole_images: Whether the place is the image's.
        accumulate: Whether the products are added to what is there.
    """

    parameters: ClassVar = (
        *operand("source"),
        *operand("target"),
        "rows",
        "columns",
        "channels",
        "seed",
        "threshold",  # of 2^32
        "factor",  # the bits of a float32
    )
    images: int
    whole_channels: bool
    whole_images: bool
    accumulate: bool

    def write(self, e: KernelEmitter) -> None:
        """See `Kernel`."""
        b = e.b
        bits = ir.VectorType(I32, e.lanes)

        def all_lanes(number: ir.Value) -> ir.Value:
            return b.bitcast(e.splat(b.bitcast(b.trunc(number, I32), F32)), bits)

        by_step, by_seed, last = (e.number(factor - 2**64) for factor in _SEED_FACTORS)
        key = b.add(b.mul(header(e, STEP), by_step), b.mul(b.add(e.integer("seed"), e.number(1)), by_seed))
        key = b.mul(b.xor(key, b.lshr(key, e.number(31))), last)
        low, high = all_lanes(key), all_lanes(b.lshr(key, e.number(32)))
        threshold, factor = all_lanes(e.integer("threshold")), e.splat(float_of(e, "factor"))
        columns = e.integer("columns")
        places = e.number(1) if self.whole_channels else b.mul(e.integer("rows"), columns)
        image_size = e.number(1) if self.whole_images else b.mul(places, e.integer("channels"))
        images_apart = b.mul(ir.Constant(bits, list(range(e.lanes))), all_lanes(image_size))

        def run(tile: ir.Value, y: ir.Value, channel: ir.Value) -> None:
            source, target = run_of(e, "source", tile, y, channel), run_of(e, "target", tile, y, channel)
            first = b.mul(b.mul(tile, e.number(self.images)), image_size)
            if not self.whole_images:
                first = e.multiply_add(channel, places, first)
            single = not (self.whole_channels or self.whole_images)
            if single:
                first = e.multiply_add(y, columns, first)

            def vector(at: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
                x, image = b.udiv(at, e.number(self.images)), b.urem(at, e.number(self.images))
                place = e.multiply_add(image, image_size, first)
                if single:
                    place = b.add(place, x)
                number = b.add(all_lanes(place), images_apart)
                number = _mixed(e, b.xor(_mixed(e, b.xor(number, low)), high))
                kept = b.icmp_unsigned(">=", number, threshold)
                value = b.select(kept, b.fmul(load(e, source, at), factor), e.constant(0))
                put(e, value, target, at, accumulate=self.accumulate)
                return []

            each_vector(e, self.images, vector)

        each_run(e, run)


def _mixed(e: KernelEmitter, x: ir.Value) -> ir.Value:
    """Emits a hash of 32-bit integers, each bit of which depends on all (the "lowbias32" of C. Wellons)."""

    def constant(number: int) -> ir.Constant:
        return ir.Constant(x.type, [number] * e.lanes)

    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B - 2**32)):
        x = e.b.mul(e.b.xor(x, e.b.lshr(x, constant(shift))), constant(factor))
    return e.b.xor(x, e.b.lshr(x, constant(16)))
