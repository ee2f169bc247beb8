"""The convolution, sparse and dense: lists of weights, a tile of pixels at a time.

In the padded layout (`layout`) a convolution of stride 1 adds shifted copies of its input's planes:
`target[p] = bias + sum over entries of value * source[p + offset]`. An **entry** is an input plane, a shift
and the weights of `group` output channels for it. With `group` 1 there is an entry for each weight that is
not zero: the sparse path. With more, the channels of a group share what is loaded, at the price of the
zeros among them: the dense path. A tile's accumulators, `group * vectors`, stay in registers while its
entries go by.

Entries come in blocks of input planes, small enough that a tile's part of them stays in the first-level
cache. Between blocks the accumulators wait in the target.

Source of the loop order: "Fast Sparse ConvNets", arXiv:1911.09723, has it for 1x1 kernels.
"""

import dataclasses
from typing import ClassVar

from llvmlite import ir

from tfprune.runtime.kernels.activations import activate
from tfprune.runtime.kernels.emitter import F32, I8, I32, KernelEmitter
from tfprune.runtime.kernels.kernel import Kernel

# While a group is computed, lines of the target of this many groups further on are fetched: where the target
# is in no near cache, a store would wait for them. Nearer than two, or the residual's too, won less.
_AHEAD = 2
# float32 numbers of a cache line.
_LINE = 16


@dataclasses.dataclass(frozen=True)
class Convolution(Kernel):
    """Computes a convolution on planes; a part: first and last tile, first and last group.

    Attributes:
        group: Output channels that share an entry.
        vectors: Vectors in a tile.
        activation: One of the graph's `ACTIVATIONS`.
        residual: Whether a residual is added before the activation.
        offset_bits: The bits of an offset.
        scaled: Whether the values are int8, and the sums are multiplied by scales.
        settings: The activation's; none: its defaults.
        half: Whether the last vector is half as wide; then there is one tile.
    """

    parameters: ClassVar = (
        "source",  # first pixel of the first input plane
        "target",  # first pixel of the first output plane
        "residual",  # the same of the residual
        "plane",  # distance of two output planes, the residual's too
        "mask",  # all bits set where the target has a pixel
        "starts",  # int32 [blocks * groups + 1]: a group's entries in a block
        "offsets",  # int32, int16 or int8 [entries]
        "values",  # float32 or int8 [entries, group]
        "bias",  # float32 [groups, group]
        "scales",  # float32 [groups, group], what int8 values are multiplied by
        "blocks",
        "groups",
    )
    group: int
    vectors: int
    activation: str
    residual: bool
    offset_bits: int = 32
    scaled: bool = False
    settings: tuple[float, ...] = ()
    half: bool = False

    def write(self, e: KernelEmitter) -> None:
        """See `Kernel`."""
        b = e.b
        first_tile, last_tile, first_group, last_group = (e.part(i) for i in range(4))
        blocks, groups = e.integer("blocks"), e.integer("groups")
        channels = range(self.group)
        lanes = e.lanes
        # Each vector's first number and its lanes.
        parts = [(lanes * part, lanes) for part in range(self.vectors)]
        if self.half:
            parts[-1] = parts[-1][0], lanes // 2
        widths = sorted({width for _, width in parts})
        offset, weight = ir.IntType(self.offset_bits), I8 if self.scaled else F32

        def splats(numbers: list[ir.Value]) -> dict[int, list[ir.Value]]:
            """Emits a vector of each width for each number."""
            found = {}
            for width in widths:
                with e.of_lanes(width):
                    found[width] = [e.splat(number) for number in numbers]
            return found

        def tile(index: ir.Value) -> None:
            pixel = b.mul(index, e.number(self.vectors * lanes))
            source, mask = e.at(e.value("source"), pixel), e.at(e.pointer("mask"), pixel)

            def block(block_index: ir.Value) -> None:
                is_first = b.icmp_signed("==", block_index, e.number(0))
                is_last = b.icmp_signed("==", b.add(block_index, e.number(1)), blocks)

                def one_group(group_index: ir.Value) -> None:
                    here = [
                        e.multiply_add(
                            e.multiply_add(group_index, e.number(self.group), e.number(channel)),
                            e.integer("plane"),
                            pixel,
                        )
                        for channel in channels
                    ]

                    def of_channels(name: str) -> dict[int, list[ir.Value]]:
                        first = b.mul(group_index, e.number(self.group))
                        return splats(
                            [
                                e.element(e.pointer(name), b.add(first, e.number(channel)))
                                for channel in channels
                            ]
                        )

                    def prefetch_targets() -> None:
                        further = b.mul(e.integer("plane"), e.number(_AHEAD * self.group))
                        for channel in channels:
                            target = e.at(e.value("target"), b.add(here[channel], further))
                            for place in range(0, self.vectors * lanes, _LINE):
                                e.prefetch(e.at(target, e.number(place)), to_write=True)

                    def from_bias() -> list[ir.Value]:
                        if lanes > 1:
                            prefetch_targets()
                        zeros = [ir.Constant(F32, 0.0)] * self.group
                        bias = splats(zeros) if self.scaled else of_channels("bias")
                        return [bias[width][channel] for channel in channels for _, width in parts]

                    def from_target() -> list[ir.Value]:
                        sums = []
                        for channel in channels:
                            for place, width in parts:
                                with e.of_lanes(width):
                                    sums.append(e.load_vector(e.at(e.value("target"), here[channel]), place))
                        return sums

                    def entry(index: ir.Value, sums: list[ir.Value]) -> list[ir.Value]:
                        at = e.load(e.at(e.pointer("offsets"), index, offset), offset)
                        shifted = e.at(source, e.as_word(at))
                        first = b.mul(index, e.number(self.group))
                        weights = splats(
                            [
                                e.load_weight(
                                    e.at(e.pointer("values"), b.add(first, e.number(channel)), weight), weight
                                )
                                for channel in channels
                            ]
                        )
                        sums = list(sums)
                        for part, (place, width) in enumerate(parts):
                            with e.of_lanes(width):
                                pixels = e.load_vector(shifted, place)
                                for channel in channels:
                                    at = channel * self.vectors + part
                                    sums[at] = e.call(
                                        "llvm.fmuladd", weights[width][channel], pixels, sums[at]
                                    )
                        return sums

                    def store(finished: bool) -> list[ir.Value]:
                        if finished and self.scaled:
                            scales, bias = of_channels("scales"), of_channels("bias")
                        for channel in channels:
                            for part, (place, width) in enumerate(parts):
                                with e.of_lanes(width):
                                    x = sums[channel * self.vectors + part]
                                    if finished:
                                        if self.scaled:
                                            factor, shift = scales[width][channel], bias[width][channel]
                                            x = e.call("llvm.fmuladd", x, factor, shift)
                                        if self.residual:
                                            other = e.at(e.value("residual"), here[channel])
                                            x = b.fadd(x, e.load_vector(other, place))
                                        x = activate(e, self.activation, x, self.settings)
                                        x = e.keep(x, e.load_vector(mask, place))
                                    target = e.at(e.value("target"), here[channel])
                                    e.store(x, e.at(target, e.number(place)))
                        return []

                    list_index = e.multiply_add(block_index, groups, group_index)
                    start = e.element(e.pointer("starts"), list_index, I32)
                    stop = e.element(e.pointer("starts"), b.add(list_index, e.number(1)), I32)
                    sums = e.fold(start, stop, e.choose(is_first, from_bias, from_target), entry)
                    e.choose(is_last, lambda: store(finished=True), lambda: store(finished=False))

                e.each(first_group, last_group, one_group)

            e.each(e.number(0), blocks, block)

        e.each(first_tile, last_tile, tile)
