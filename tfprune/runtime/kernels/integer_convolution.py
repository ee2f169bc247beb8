"""The convolution of whole numbers: values of 8 bits, weights of 8 bits, sums of 32 bits.

As in `convolution` an output channel is a list of entries, and a tile's accumulators stay in registers while
the list goes by; here four entries go by at a time. Sums are exact, and what follows them is not contracted,
so that results are the same whatever instructions a machine has.

Where one instruction adds four products of neighbouring bytes (AVX512-VNNI's `vpdpbusd`), the pixels of four
entries are interleaved first: 64 pixels of each by the processor's unpacking instructions, whose order its
packing instructions undo; what is left of a tile, 16 or 32, by one that picks bytes of any place, which is
faster where vectors are not full.
"""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

from llvmlite import ir

from tfprune.runtime.graph import LARGEST_UINT8
from tfprune.runtime.kernels.activations import activate
from tfprune.runtime.kernels.emitter import F32, FLOAT_BYTES, I8, I32, KernelEmitter
from tfprune.runtime.kernels.kernel import Kernel

# Entries whose products one instruction adds.
QUAD = 4


@dataclasses.dataclass(frozen=True)
class IntegerConvolution(Kernel):
    """Computes a convolution on planes of bytes; a part: first and last tile, first and last channel.

    Attributes:
        units: Vectors of float32, as many pixels each as lanes, in a tile.
        dot: Whether the machine has `vpdpbusd`.
        target_bits: 8: the target is in steps again, by which all factors are divided; 32: float32.
        residual_bits: The bits of the residual's numbers that are added before the activation; 0: there is
            none.
        offset_bits: The bits of an offset.
        activation: One of the graph's `ACTIVATIONS`, for a target of 32 bits.
        settings: The activation's; none: its defaults.
    """

    parameters: ClassVar = (
        "source",  # first pixel of the first input plane
        "target",  # first pixel of the first output plane
        "residual",  # the same of the residual
        "plane",  # distance of two output planes, the residual's too
        "mask",  # all bits set where the target has a pixel
        "starts",  # int32 [channels + 1]: a channel's entries, in fours
        "offsets",  # int32, int16 or int8 [fours, 4]
        "values",  # int8 [fours, 4]
        "bias",  # float32 [channels]
        "scales",  # float32 [channels], what sums are multiplied by
        "residual_step",  # float32, what the residual is multiplied by, unless all is float32
        "largest",  # float32, the most steps of a target of 8 bits
    )
    units: int
    dot: bool
    target_bits: int
    residual_bits: int
    offset_bits: int = 32
    activation: str = "linear"
    settings: tuple[float, ...] = ()

    def write(self, e: KernelEmitter) -> None:
        """See `Kernel`."""
        b = e.b
        first_tile, last_tile, first_channel, last_channel = (e.part(i) for i in range(4))
        offset = ir.IntType(self.offset_bits)
        pixels = self.units * e.lanes
        parts = _parts(pixels, e.lanes, self.dot)

        def tile(index: ir.Value) -> None:
            pixel = b.mul(index, e.number(pixels))
            source = e.at(e.value("source"), pixel, I8)

            def channel(out: ir.Value) -> None:
                here = e.multiply_add(out, e.integer("plane"), pixel)

                def four(index: ir.Value, sums: list[ir.Value]) -> list[ir.Value]:
                    first = b.mul(index, e.number(QUAD))
                    sources = []
                    for entry in range(QUAD):
                        at = e.load(e.at(e.pointer("offsets"), b.add(first, e.number(entry)), offset), offset)
                        sources.append(e.at(source, e.as_word(at), I8))
                    weights, added, left = e.at(e.pointer("values"), first, I8), [], sums
                    for part in parts:
                        added += part.add(e, sources, weights, left[: part.sums])
                        left = left[part.sums :]
                    return added

                start = e.element(e.pointer("starts"), out, I32)
                stop = e.element(e.pointer("starts"), b.add(out, e.number(1)), I32)
                nothing = ir.Constant(ir.VectorType(I32, e.lanes), [0] * e.lanes)
                left = e.fold(start, stop, [nothing] * sum(part.sums for part in parts), four)
                scale, bias = e.element(e.pointer("scales"), out), e.element(e.pointer("bias"), out)
                scale, bias = e.splat(scale), e.splat(bias)
                for part in parts:
                    sums, left = left[: part.sums], left[part.sums :]
                    made = [b.fadd(b.fmul(b.sitofp(x, e.vector), scale), bias) for x in sums]
                    self._finish(e, part, made, here, pixel)

            e.each(first_channel, last_channel, channel)

        e.each(first_tile, last_tile, tile)

    def _finish(
        self,
        e: KernelEmitter,
        part: "_InOrder | _Interleaved",
        made: list[ir.Value],
        here: ir.Value,
        pixel: ir.Value,
    ) -> None:
        """Emits what follows the sums of a part of a tile, and stores it."""
        b = e.b
        if self.residual_bits == 8:
            residual = e.at(e.value("residual"), here, I8)
            others = part.steps(e, e.load_bytes(residual, part.place, part.pixels))
            others = [b.uitofp(steps, e.vector) for steps in others]
        elif self.residual_bits:
            others = part.load(e, e.at(e.value("residual"), here))
        if self.residual_bits:
            if 8 in (self.residual_bits, self.target_bits):
                factor = e.splat(e.float_bits("residual_step"))
                others = [b.fmul(other, factor) for other in others]
            made = [b.fadd(x, other) for x, other in zip(made, others, strict=True)]
        if self.target_bits == 8:
            largest = e.splat(e.float_bits("largest"))
            steps = part.rounded(e, made, largest)
            mask = e.load_bytes(e.at(e.pointer("mask"), pixel, I8), part.place, part.pixels)
            target = e.at(e.at(e.value("target"), here, I8), e.number(part.place), I8)
            e.store(b.and_(steps, mask), target)
            return
        made = [activate(e, self.activation, x, self.settings) for x in made]
        masks = part.load(e, e.at(e.pointer("mask"), pixel))
        made = [e.keep(x, mask) for x, mask in zip(made, masks, strict=True)]
        part.store(e, made, e.at(e.value("target"), here))


@dataclasses.dataclass(frozen=True)
class _InOrder:
    """A part of a tile whose sums are in the pixels' order, a vector of float32's lanes each.

    Attributes:
        place: Its first pixel.
        lanes: Pixels in a vector.
        sums: Vectors; several where the machine has `vpdpbusd`.
        dot: Whether it has.
    """

    place: int
    lanes: int
    sums: int
    dot: bool

    def add(
        self, e: KernelEmitter, sources: Sequence[ir.Value], weights: ir.Value, sums: Sequence[ir.Value]
    ) -> list[ir.Value]:
        """Emits the sums with the products of four entries added."""
        pixels = [e.load_bytes(source, self.place, self.pixels) for source in sources]
        if not self.dot:
            (total,), wide = sums, ir.VectorType(I32, self.lanes)
            for entry, some in enumerate(pixels):
                weight = e.b.sext(e.load(e.at(weights, e.number(entry), I8), I8), I32)
                total = e.b.add(total, e.b.mul(e.b.zext(some, wide), _splat(e, weight, self.lanes)))
            return [total]
        # Of two vectors a byte of any place can be picked.
        first, last = (_picked(e, *pixels[i : i + 2], range(2 * self.pixels)) for i in (0, 2))
        added = []
        for index, total in enumerate(sums):
            own = range(index * self.lanes, (index + 1) * self.lanes)
            order = [pixel + entry * self.pixels for pixel in own for entry in range(QUAD)]
            added.append(_add_products(e, total, _picked(e, first, last, order), weights))
        return added

    @property
    def pixels(self) -> int:
        """Returns the number of pixels."""
        return self.sums * self.lanes

    def steps(self, e: KernelEmitter, pixels: ir.Value) -> list[ir.Value]:
        """Emits bytes as vectors like the sums."""
        return [_picked(e, pixels, pixels, own) for own in self._own()]

    def rounded(self, e: KernelEmitter, made: list[ir.Value], largest: ir.Value) -> ir.Value:
        """Emits the nearest whole numbers, of 8 bits."""
        whole = [e.b.trunc(e.round_steps(x, largest), ir.VectorType(I8, self.lanes)) for x in made]
        return whole[0] if self.sums == 1 else _picked(e, *whole, range(self.pixels))

    def load(self, e: KernelEmitter, pointer: ir.Value) -> list[ir.Value]:
        """Loads float32 numbers as vectors like the sums."""
        return [e.load_vector(pointer, self.place + own[0]) for own in self._own()]

    def store(self, e: KernelEmitter, made: list[ir.Value], pointer: ir.Value) -> None:
        """Stores float32 numbers."""
        for x, own in zip(made, self._own(), strict=True):
            e.store(x, e.at(pointer, e.number(self.place + own[0])))

    def _own(self) -> list[range]:
        return [range(index * self.lanes, (index + 1) * self.lanes) for index in range(self.sums)]


@dataclasses.dataclass(frozen=True)
class _Interleaved:
    """64 pixels of a tile in the order in which AVX-512 unpacks bytes; it has what `_InOrder` has.

    Of each 16 pixels the k-th of four sums has those from 4 k to 4 k + 3.
    """

    place: int
    lanes: ClassVar[int] = 16
    sums: ClassVar[int] = QUAD
    pixels: ClassVar[int] = 64

    def add(
        self, e: KernelEmitter, sources: Sequence[ir.Value], weights: ir.Value, sums: Sequence[ir.Value]
    ) -> list[ir.Value]:
        """See `_InOrder`."""
        pixels = [e.load_bytes(source, self.place, self.pixels) for source in sources]
        return [
            _add_products(e, total, quads, weights)
            for total, quads in zip(sums, self._quads(e, pixels), strict=True)
        ]

    def _quads(self, e: KernelEmitter, rows: Sequence[ir.Value]) -> list[ir.Value]:
        """Emits vectors of four neighbours each from as many vectors of bytes."""
        pairs = [[e.b.bitcast(half, _WORDS) for half in _unpacked(e, *rows[i : i + 2])] for i in (0, 2)]
        return [quads for half in range(2) for quads in _unpacked(e, pairs[0][half], pairs[1][half])]

    def steps(self, e: KernelEmitter, pixels: ir.Value) -> list[ir.Value]:
        """See `_InOrder`."""
        nothing = ir.Constant(pixels.type, None)
        return [e.b.bitcast(x, _SUMS) for x in self._quads(e, [pixels, nothing, nothing, nothing])]

    def rounded(self, e: KernelEmitter, made: list[ir.Value], largest: ir.Value) -> ir.Value:
        """See `_InOrder`: packing makes 0 of what is below, and the pixels' order."""
        whole = []
        for x in made:
            fixed = (ir.Constant(_SUMS, None), ir.Constant(ir.IntType(16), -1), ir.Constant(I32, _AS_SET))
            whole.append(_call(e, "llvm.x86.avx512.mask.cvtps2dq.512", _SUMS, e.minimum(x, largest), *fixed))
        halves = [_call(e, "llvm.x86.avx512.packssdw.512", _WORDS, *whole[i : i + 2]) for i in (0, 2)]
        return _call(e, "llvm.x86.avx512.packuswb.512", _BYTES, *halves)

    def load(self, e: KernelEmitter, pointer: ir.Value) -> list[ir.Value]:
        """See `_InOrder`."""
        loaded = []
        for chunks in self._chunks():
            some = [
                e.b.load(e.at(pointer, e.number(at)), align=FLOAT_BYTES, typ=ir.VectorType(F32, QUAD))
                for at in chunks
            ]
            halves = [_picked(e, *some[i : i + 2], range(2 * QUAD)) for i in (0, 2)]
            loaded.append(_picked(e, *halves, range(self.lanes)))
        return loaded

    def store(self, e: KernelEmitter, made: list[ir.Value], pointer: ir.Value) -> None:
        """See `_InOrder`."""
        for x, chunks in zip(made, self._chunks(), strict=True):
            for lane, at in enumerate(chunks):
                some = _picked(e, x, x, range(QUAD * lane, QUAD * (lane + 1)))
                e.store(some, e.at(pointer, e.number(at)))

    def _chunks(self) -> list[list[int]]:
        """Returns for each sum where the four neighbours of each 16 pixels are that it has."""
        return [[self.place + first + QUAD * k for first in range(0, self.pixels, 16)] for k in range(QUAD)]


_BYTES, _WORDS, _SUMS = ir.VectorType(I8, 64), ir.VectorType(ir.IntType(16), 32), ir.VectorType(I32, 16)
# Rounding as the processor is set: to the nearest, halves to even.
_AS_SET = 4


def _parts(pixels: int, lanes: int, dot: bool) -> list[_InOrder | _Interleaved]:
    """Returns the parts of so many pixels."""
    if not dot:
        return [_InOrder(place, lanes, 1, dot) for place in range(0, pixels, lanes)]
    parts, place = [], 0
    while pixels - place >= _Interleaved.pixels:
        parts.append(_Interleaved(place))
        place += _Interleaved.pixels
    while place < pixels:
        parts.append(_InOrder(place, lanes, min(2, (pixels - place) // lanes), dot))
        place += parts[-1].pixels
    return parts


def _add_products(e: KernelEmitter, total: ir.Value, quads: ir.Value, weights: ir.Value) -> ir.Value:
    """Emits a vector of sums and the products of four bytes each by four weights."""
    four = _splat(e, e.b.load(weights, align=1, typ=I32), _SUMS.count)
    return _call(e, "llvm.x86.avx512.vpdpbusd.512", _SUMS, total, e.b.bitcast(quads, _SUMS), four)


def _unpacked(e: KernelEmitter, a: ir.Value, c: ir.Value) -> list[ir.Value]:
    """Emits the numbers of two vectors in turn, of the lower and of the upper half of each 128 bits."""
    count, lane = a.type.count, 128 // a.type.element.width
    return [
        _picked(
            e,
            a,
            c,
            [
                first + half * lane // 2 + index + which * count
                for first in range(0, count, lane)
                for index in range(lane // 2)
                for which in range(2)
            ],
        )
        for half in range(2)
    ]


def _call(e: KernelEmitter, name: str, returned: ir.Type, *arguments: ir.Value) -> ir.Value:
    """Emits the call of an instruction of x86."""
    module = e.function.module
    kind = ir.FunctionType(returned, [argument.type for argument in arguments])
    return e.b.call(module.globals.get(name) or ir.Function(module, kind, name), arguments)


def _splat(e: KernelEmitter, number: ir.Value, lanes: int) -> ir.Value:
    """Emits a vector with one whole number in all lanes."""
    undefined = ir.Constant(ir.VectorType(number.type, lanes), ir.Undefined)
    first = e.b.insert_element(undefined, number, ir.Constant(I32, 0))
    return _picked(e, first, undefined, [0] * lanes)


def _picked(e: KernelEmitter, a: ir.Value, c: ir.Value, places: Sequence[int]) -> ir.Value:
    """Emits the numbers of two vectors at some places, counted through both."""
    places = list(places)
    return e.b.shuffle_vector(a, c, ir.Constant(ir.VectorType(I32, len(places)), places))


@dataclasses.dataclass(frozen=True)
class Quantize(Kernel):
    """Rounds planes to whole steps; a part: first and last plane.

    Attributes:
        target_bits: 8: the target is the steps; 32: the steps' products, float32.
    """

    parameters: ClassVar = (
        "source",
        "target",
        "plane",
        "mask",  # float32 of a plane, all bits set where there is a pixel
        "vectors",
        "inverse",  # float32, what a number is multiplied by
        "step",  # float32
    )
    target_bits: int

    def write(self, e: KernelEmitter) -> None:
        """See `Kernel`."""
        b = e.b
        inverse, step = e.splat(e.float_bits("inverse")), e.splat(e.float_bits("step"))
        low = ir.Constant(ir.VectorType(I32, e.lanes), [LARGEST_UINT8] * e.lanes)

        def plane(index: ir.Value) -> None:
            start = b.mul(index, e.integer("plane"))

            def part(i: ir.Value) -> None:
                x = b.mul(i, e.number(e.lanes))
                at = b.add(start, x)
                value = b.fmul(e.load_vector(e.at(e.value("source"), at)), inverse)
                value = e.keep(value, e.load_vector(e.at(e.pointer("mask"), x)))
                steps = e.round_steps(value, e.constant(LARGEST_UINT8))
                if self.target_bits == 8:
                    steps = b.trunc(steps, ir.VectorType(I8, e.lanes))
                    e.store(steps, e.at(e.value("target"), at, I8))
                    return
                steps = b.uitofp(b.and_(steps, low), e.vector)
                e.store(b.fmul(steps, step), e.at(e.value("target"), at))

            e.each(e.number(0), e.integer("vectors"), part)

        e.each(e.part(0), e.part(1), plane)
