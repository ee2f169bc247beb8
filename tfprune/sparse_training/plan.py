"""The making of the passes: places of values and gradients, and the steps of a forward and a backward pass.

A value that the backward pass needs keeps its place; the others' places are used again. The backward pass
goes through the units (see `units`) from the last to the first. The gradient of a value with several readers
is added up in one place. The last reader to add its part, if it is a convolution, also applies the derivative
of the relu that made the value, and takes the sums that the normalization before needs.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from tfprune.runtime.kernels.kernel import Kernel as Code
from tfprune.runtime.limits import require_memory
from tfprune.runtime.machine import Machine
from tfprune.runtime.plan.parts import Even, Parts
from tfprune.sparse_training.convolution import Call, Convolution, Relu, Statistics
from tfprune.sparse_training.graph import (
    Affine,
    BatchNorm,
    Concatenate,
    Conv,
    Dropout,
    GlobalPool,
    Graph,
    Input,
    Kernel,
    Multiply,
    Pad,
    Pool,
    Vector,
)
from tfprune.sparse_training.kernels import flat, moves, norm, pool, sums
from tfprune.sparse_training.kernels.activations import DERIVED_FROM_INPUT, LINEAR
from tfprune.sparse_training.kernels.loops import HEADER_WORDS
from tfprune.sparse_training.layout import Halo, Layout, halo_of_gradient, halo_of_input
from tfprune.sparse_training.parameters import Parameters
from tfprune.sparse_training.program import OF_PIECES, LinesAndChannels, Step
from tfprune.sparse_training.units import RELUS, Term, Unit, units_of

FORWARD, INPUT_GRADIENT, WEIGHTS_GRADIENT = (
    "convolutions, forward",
    "convolutions, input's gradient",
    "convolutions, weights' gradient",
)
_NORMALIZATION, _SUMS, _POOLS, _MOVES = "normalization", "sums and activations", "pools", "copies"
# float32 numbers to a cache line.
_ALIGNMENT = 16
_IMAGES_OF_MAPS, _MOST_IMAGES = 16, 64
# What a convolution's lists take for each weight, at least.
_LEAST_LIST_BYTES = 20
# Blocks of rows of a tile, each with partial sums of its own.
_BLOCKS = 4


class Moving(NamedTuple):
    """The moving statistics of a normalization; float32 `[channels]`.

    Attributes:
        mean: The moving mean.
        variance: The moving variance.
    """

    mean: np.ndarray
    variance: np.ndarray


class _Scale:
    """The numbers for each channel of a scaled term; float32 `[channels]`."""

    def __init__(self, channels: int) -> None:
        names = ("mean", "inverse", "scale", "shift", "factor", "slope", "offset")
        self.mean, self.inverse, self.scale, self.shift, self.factor, self.slope, self.offset = (
            np.zeros(channels, np.float32) for _ in names
        )


class _Arena:
    """Gives out places. The zeros of a layout stay where they are: a place goes to values of one layout."""

    def __init__(self) -> None:
        self.size = 0
        self._free: dict[Layout, list[int]] = {}

    def numbers(self, count: int) -> int:
        """Takes a place for good."""
        start = self.size
        self.size += -(-count // _ALIGNMENT) * _ALIGNMENT
        return start

    def take(self, layout: Layout) -> int:
        free = self._free.get(layout)
        if free:
            return free.pop()
        # Vectors that begin at a pixel may reach beyond the last.
        return self.numbers(layout.numbers + _MOST_IMAGES)

    def release(self, layout: Layout, place: int) -> None:
        self._free.setdefault(layout, []).append(place)


class Plan:
    """The passes of a network.

    Attributes:
        layouts: The layout of each node's value.
        arena_size: The float32 numbers of the arena.
        training: The steps of a forward pass in training.
        evaluation: The steps of a forward pass in evaluation.
        backward: The steps of a backward pass.
        refresh: The steps that bring changed weights to where the convolutions read them.
        mask: The place of the images that are there, `[tiles, images]`.
        output: The place of the network's output.
        output_gradient: The place of its gradient; None: nothing learns.
        moving: The moving statistics by the layer's name.
        list_bytes: The bytes of the convolutions' lists.
    """

    def __init__(
        self,
        graph: Graph,
        batch_size: int,
        parameters: Parameters,
        target: Machine,
        seed: int,
        allowed: float,
    ) -> None:
        """Plans.

        Args:
            graph: The network.
            batch_size: The most images of a batch.
            parameters: Its parameters.
            target: The machine.
            seed: Of the numbers that dropout draws, beside that of the node.
            allowed: The bytes that the lists may take.

        Raises:
            GraphError: They need more.
        """
        self.graph, self._target, self._parameters, self._seed = graph, target, parameters, seed
        self._shapes = graph.shapes()
        self._units = units_of(graph)
        self._readers = Counter(value for unit in self._units for value in unit.inputs)
        self._unit_of = {unit.output: unit for unit in self._units}
        self.layouts = self._laid_out(batch_size)
        self.images, self.tiles = self.layouts[0].images, self.layouts[0].tiles
        self._learns = self._learning()
        self.moving: dict[str, Moving] = {}
        self._scales: dict[tuple[int, int], _Scale] = {}
        self.training: list[Step] = []
        self.evaluation: list[Step] = []
        self.backward: list[Step] = []
        self.refresh: list[Step] = []
        self._constants: dict[object, np.ndarray] = {}
        self._written: set[str] = set()

        weights = sum(len(unit.node.kernel.values) for unit in self._units if isinstance(unit.node, Conv))
        require_memory(_LEAST_LIST_BYTES * weights, allowed)
        self._convolutions = {
            unit.output: Convolution(
                unit.node.kernel,
                unit.node.window,
                unit.node.groups,
                source=self.layouts[unit.node.inputs[0]],
                target=self.layouts[unit.output],
                machine=target,
                input_gradient=self._learns[unit.node.inputs[0]],
            )
            for unit in self._units
            if isinstance(unit.node, Conv)
        }
        self.list_bytes = sum(conv.bytes for conv in self._convolutions.values())
        self._arena = _Arena()
        self._arena.numbers(2 * HEADER_WORDS)
        self.mask = self._arena.numbers(self.tiles * self.images)
        self._scratch = [self._arena.numbers(size) for size in self._scratch_sizes()]
        self._partials = self._arena.numbers(
            max((conv.partials for conv in self._convolutions.values()), default=0)
        )
        self._places: dict[int, int] = {}
        self._gradients: dict[int, int] = {}
        self._lower_forward()
        self.output = self._places[len(graph.nodes) - 1]
        self.output_gradient = None
        if self._learns[len(graph.nodes) - 1]:
            self._lower_backward()
        self._lower_refresh()
        self.arena_size = self._arena.size

    # Layouts

    def _laid_out(self, batch_size: int) -> list[Layout]:
        shapes = self._shapes
        images = _IMAGES_OF_MAPS
        if all(shape[:2] == (1, 1) for shape in shapes):
            images = min(_MOST_IMAGES, -(-batch_size // _IMAGES_OF_MAPS) * _IMAGES_OF_MAPS)
        tiles = -(-batch_size // images)
        halos: dict[tuple[int, int], Halo] = {shape[:2]: Halo() for shape in shapes}
        for node, shape in zip(self.graph.nodes, shapes, strict=True):
            if isinstance(node, Conv):
                source = shapes[node.inputs[0]]
                needed = (
                    (source[:2], halo_of_input(node.window, source)),
                    (shape[:2], halo_of_gradient(node.window, source)),
                )
                for size, halo in needed:
                    halos[size] = halos[size].union(halo)
        return [Layout(shape, tiles, images, halos[shape[:2]]) for shape in shapes]

    def _learning(self) -> list[bool]:
        """Returns for each value of a unit whether its gradient is needed."""
        learns = [False] * len(self._shapes)
        for unit in self._units:
            learns[unit.output] = any(learns[value] for value in unit.inputs) or self._has_trainable(unit)
        return learns

    def _has_trainable(self, unit: Unit) -> bool:
        if isinstance(unit.node, Conv):
            found = [unit.node.kernel, unit.node.bias]
        else:
            norms = [term.scaling for term in unit.terms if isinstance(term.scaling, BatchNorm)]
            found = [vector for node in norms for vector in (node.gamma, node.beta)]
        return any(parameter is not None and parameter.trainable for parameter in found)

    def _scratch_sizes(self) -> list[int]:
        """Returns the sizes of partial sums: one place for each normalization of a sum."""
        per_slot = [2 * self._target.lanes * shape.channels for shape in self._shapes]
        slots = [layout.tiles * len(self._blocks(layout)) for layout in self.layouts]
        largest = max(one * count for one, count in zip(per_slot, slots, strict=True))
        for output, conv in self._convolutions.items():
            source = self._unit_of[output].node.inputs[0]
            largest = max(
                largest, conv.forward_slots * per_slot[output], conv.gradient_slots * per_slot[source]
            )
        return [largest] * max([1, *(len(unit.terms) for unit in self._units)])

    # Steps

    def _blocks(self, layout: Layout) -> range:
        rows = layout.shape.height
        return range(0, rows, -(-rows // _BLOCKS))

    def _operand(self, place: int, layout: Layout, channel: int = 0) -> tuple[int, ...]:
        return (
            place + layout.first + channel * layout.channel,
            layout.tile,
            layout.row,
            layout.channel,
        )

    def _value(self, value: int) -> tuple[int, ...]:
        return self._operand(self._places[value], self.layouts[value])

    def _lines(self, value: int) -> Parts:
        shape = self._shapes[value]
        return LinesAndChannels(self.tiles * shape.height, shape.channels)

    def _planes(self, value: int) -> Parts:
        return LinesAndChannels(self.tiles, self._shapes[value].channels)

    def _bytes(self, *values: int) -> int:
        """Returns the bytes of values; each index counts once."""
        return sum(4 * self.tiles * self.images * math.prod(self._shapes[value]) for value in values)

    def _size(self, value: int) -> tuple[int, int]:
        return tuple(self._shapes[value][:2])

    def _constant(self, kind: str, channels: int) -> np.ndarray:
        """Returns ones, zeros, or an array that gradients go to that nobody wants."""
        key = (kind, channels)
        if key not in self._constants:
            self._constants[key] = np.full(channels, kind == "ones", np.float32)
        return self._constants[key]

    def _forward(self, *steps: Step, training: bool = True, evaluation: bool = True) -> None:
        self.training += steps if training else ()
        self.evaluation += steps if evaluation else ()

    def _calls(self, kind: str, calls: Iterable[Call], *values: int) -> list[Step]:
        calls = list(calls)
        return [
            Step(
                kind,
                call.kernel,
                call.arguments,
                call.parts,
                self._bytes(*values) // len(calls),
                call.multiply_adds,
                call.units_of_tile,
            )
            for call in calls
        ]

    def _move(
        self,
        source: tuple[int, ...],
        target: tuple[int, ...],
        value: int,
        *,
        accumulate: bool = False,
        kind: str = _MOVES,
    ) -> Step:
        """Returns the step that copies what has the shape of a value."""
        code = moves.Move(self.images, accumulate)
        moved = (2 + accumulate) * self._bytes(value)
        return Step(kind, code, (*source, *target, *self._size(value)), self._lines(value), moved)

    # Forward

    def _needed(self, unit: Unit) -> set[int]:
        """Returns the values that the backward pass of a unit reads."""
        if not self._learns[unit.output]:
            return set()
        node, needed = unit.node, set()
        if unit.terms:
            if unit.activation in DERIVED_FROM_INPUT:
                needed |= set(unit.inputs)
            elif unit.activation != LINEAR:
                needed.add(unit.output)
            needed |= {term.value for term in unit.terms if self._needs_sums(term)}
        elif isinstance(node, Conv):
            needed |= set(node.inputs) if node.kernel.trainable else set()
            needed |= {unit.output} if unit.activation != LINEAR else set()
        elif isinstance(node, Pool | GlobalPool):
            needed |= {*node.inputs, unit.output} if node.kind == "max" else set()
        elif isinstance(node, Multiply):
            needed |= set(node.inputs)
        return needed

    def _needs_sums(self, term: Term) -> bool:
        """Returns whether sums of a normalization's gradient are needed."""
        node = term.scaling
        if not isinstance(node, BatchNorm):
            return False
        learns = any(vector is not None and vector.trainable for vector in (node.gamma, node.beta))
        return learns or (not node.frozen and self._learns[term.value])

    def _lower_forward(self) -> None:
        self._kept = Counter(value for unit in self._units for value in self._needed(unit))
        left = self._readers.copy()
        left[len(self.graph.nodes) - 1] += 1  # The caller reads the output.
        for unit in self._units:
            overwritten = self._overwritten(unit, left)
            if overwritten is None:
                self._places[unit.output] = self._arena.take(self.layouts[unit.output])
            else:
                self._places[unit.output] = self._places[overwritten]
            self._lower_unit(unit)
            for value in unit.inputs:
                left[value] -= 1
            for value in {*unit.inputs, unit.output} - {overwritten}:
                if not left[value] and not self._kept[value]:
                    self._arena.release(self.layouts[value], self._places[value])

    def _overwritten(self, unit: Unit, left: Counter[int]) -> int | None:
        """Returns a term of a sum that nobody needs any more, in whose place the sum can be made."""
        values = [term.value for term in unit.terms]
        return next((v for v in values if left[v] == 1 and not self._kept[v] and values.count(v) == 1), None)

    def _lower_unit(self, unit: Unit) -> None:
        if unit.terms:
            self._lower_sum(unit)
            return
        node, output = unit.node, unit.output
        size, target = self._size(output), self._value(output)
        match node:
            case Input():
                channels = node.shape.channels
                self._forward(
                    Step(
                        "images",
                        moves.Images(self.images),
                        (*target, *size, channels, _floats(node.scale), _floats(node.shift)),
                        self._lines(output),
                        self._bytes(output),
                    )
                )
            case Conv():
                self._lower_conv(unit)
            case Pool():
                arguments = (*self._value(node.inputs[0]), *target, *self._window(unit))
                code = pool.Pool(self.images, node.kind, node.padding_counts)
                moved = self._bytes(output, node.inputs[0])
                self._forward(Step(_POOLS, code, arguments, self._planes(output), moved))
            case GlobalPool():
                source = node.inputs[0]
                arguments = (*self._value(source), *target, *self._size(source))
                code = pool.GlobalPool(self.images, node.kind)
                self._forward(Step(_POOLS, code, arguments, self._planes(source), self._bytes(source)))
            case Pad():
                clear = Step(
                    _MOVES,
                    moves.Clear(self.images),
                    (*target, *size),
                    self._lines(output),
                    self._bytes(output),
                )
                source = node.inputs[0]
                self._forward(clear, self._move(self._value(source), self._inside(unit), source))
            case Concatenate():
                for source, part in self._parts_of(unit, self._places[output]):
                    self._forward(self._move(self._value(source), part, source))
            case Multiply():
                first, second = node.inputs
                self._forward(self._product(first, self._value(second), self._value(output), second))
            case Dropout():
                source = node.inputs[0]
                code, numbers = self._dropout(unit, accumulate=False)
                arguments = (*self._value(source), *target, *numbers)
                moved = self._bytes(source, output)
                self._forward(Step("dropout", code, arguments, self._lines(output), moved), evaluation=False)
                self._forward(self._move(self._value(source), target, source), training=False)
            case _:
                raise TypeError(f"no such operation: {type(node).__name__}")

    def _window(self, unit: Unit) -> tuple[int, ...]:
        window = unit.node.window
        return (
            *self._size(unit.output),
            *self._size(unit.node.inputs[0]),
            *window.size,
            *window.strides,
            window.padding[0],
            window.padding[2],
        )

    def _inside(self, unit: Unit, place: int | None = None) -> tuple[int, ...]:
        """Returns the operand of the inside of a padded image."""
        layout = self.layouts[unit.output]
        top, _, left, _ = unit.node.padding
        start, *distances = self._operand(self._places[unit.output] if place is None else place, layout)
        return start + top * layout.row + left * layout.column, *distances

    def _parts_of(self, unit: Unit, place: int) -> list[tuple[int, tuple[int, ...]]]:
        """Returns each input of a concatenation and the operand of its part."""
        parts, channel = [], 0
        for source in unit.node.inputs:
            parts.append((source, self._operand(place, self.layouts[unit.output], channel)))
            channel += self._shapes[source].channels
        return parts

    def _product(
        self,
        first: int,
        second: tuple[int, ...],
        target: tuple[int, ...],
        factor: int,
        *,
        accumulate: bool = False,
    ) -> Step:
        """Returns the step of a value times an operand, or times a factor for each channel."""
        by_channel = self._size(first) != self._size(factor)
        code = sums.Multiply(self.images, by_channel, accumulate)
        arguments = (*self._value(first), *second, *target, *self._size(first))
        moved = (3 + accumulate) * self._bytes(first)
        return Step(_SUMS, code, arguments, self._lines(first), moved)

    def _dropout(self, unit: Unit, *, accumulate: bool) -> tuple[Code, tuple[int, ...]]:
        node = unit.node
        numbers = (
            *self._size(unit.output),
            self._shapes[unit.output].channels,
            self._seed + 1_000_003 * node.seed + unit.output,
            round(node.rate * 2**32),
            _bits(1 / (1 - node.rate)),
        )
        return moves.Dropout(self.images, node.whole_channels, node.whole_images, accumulate), numbers

    def _lower_conv(self, unit: Unit) -> None:
        node, conv = unit.node, self._convolutions[unit.output]
        places = self._places[node.inputs[0]], self._places[unit.output]
        bias = None if node.bias is None else self._parameters.values_of(node.bias)
        reader = self._normalization_of(unit.output)
        moved = (node.inputs[0], unit.output)
        options = {"bias": bias, "activation": "" if unit.activation == LINEAR else unit.activation}
        # What is read before a step of the whole batch should stay in the caches.
        plain = self._calls(FORWARD, conv.forward(*places, **options, past_caches=False), *moved)
        if reader is None:
            self._forward(*plain)
            return
        moving = self._moving(reader.scaling)
        statistics = Statistics(self._scratch[0], moving.mean, mask=self.mask)
        summed = conv.forward(*places, **options, statistics=statistics)
        self._forward(*self._calls(FORWARD, summed, *moved), evaluation=False)
        self._forward(*plain, training=False)
        self._normalize(unit.output, reader, conv.forward_slots)

    def _normalization_of(self, value: int) -> Term | None:
        """Returns the first normalization of a value by the batch's statistics."""
        for unit in self._units:
            for term in unit.terms:
                if term.value == value and isinstance(term.scaling, BatchNorm) and not term.scaling.frozen:
                    return term
        return None

    def _moving(self, node: BatchNorm) -> Moving:
        if node.moving_name not in self.moving:
            self.moving[node.moving_name] = Moving(
                _floats(node.moving_mean).copy(), _floats(node.moving_variance).copy()
            )
        return self.moving[node.moving_name]

    def _scale(self, term: Term) -> _Scale:
        key = (term.value, id(term.scaling))
        if key not in self._scales:
            self._scales[key] = _Scale(self._shapes[term.value].channels)
        return self._scales[key]

    def _gamma(self, node: BatchNorm, channels: int) -> np.ndarray:
        return (
            self._constant("ones", channels) if node.gamma is None else self._parameters.values_of(node.gamma)
        )

    def _normalize(self, value: int, term: Term, slots: int) -> None:
        """Adds the steps that make a normalization's scale and shift; in training of the batch's sums."""
        node, scale, channels = term.scaling, self._scale(term), self._shapes[value].channels
        moving = self._moving(node)
        beta = (
            self._constant("zeros", channels) if node.beta is None else self._parameters.values_of(node.beta)
        )
        arguments = (
            *self._value(value),
            *self._size(value),
            self.tiles,
            self.mask,
            self._scratch[0],
            slots,
            channels,
            self._gamma(node, channels),
            beta,
            moving.mean,
            moving.variance,
            _bits(node.epsilon),
            _bits(node.momentum),
            scale.mean,
            scale.inverse,
            scale.scale,
            scale.shift,
        )
        by_moving = Step(
            _NORMALIZATION, norm.Normalization(self.images, moving=True), arguments, Even(channels)
        )
        # Before all others, which are then one chain in evaluation.
        self.evaluation.insert(0, by_moving)
        if node.frozen:
            self.training.insert(0, by_moving)
            return
        by_batch = dataclasses.replace(by_moving, kernel=norm.Normalization(self.images, moving=False))
        self._forward(by_batch, evaluation=False)

    def _lower_sum(self, unit: Unit) -> None:
        for term in unit.terms:
            self._prepare(term)
        code = sums.Sum(self.images, self._kinds(unit, backward=False), unit.activation, unit.slope)
        terms = (number for term in unit.terms for number in self._term(term))
        output = unit.output
        arguments = (*self._value(output), *self._size(output), *terms)
        moved = self._bytes(output, *unit.inputs)
        self._forward(Step(_SUMS, code, arguments, self._lines(output), moved))

    def _prepare(self, term: Term) -> None:
        """Adds the steps that a term's scale and shift need, unless the convolution before had them."""
        node, value = term.scaling, term.value
        if isinstance(node, Affine):
            scale = self._scale(term)
            scale.scale[:] = scale.factor[:] = node.scale
            scale.shift[:] = node.shift
        if not isinstance(node, BatchNorm):
            return
        if node.frozen:
            self._normalize(value, term, 0)
            return
        if value in self._convolutions and self._normalization_of(value) is term:
            return
        layout = self.layouts[value]
        blocks = self._blocks(layout)
        arguments = (
            *self._value(value),
            *self._size(value),
            blocks.step,
            len(blocks),
            layout.shape.channels,
            self._moving(node).mean,
            self.mask,
            self._scratch[0],
        )
        slots = self.tiles * len(blocks)
        parts = LinesAndChannels(slots, layout.shape.channels)
        code = norm.Statistics(self.images)
        self._forward(Step(_NORMALIZATION, code, arguments, parts, self._bytes(value)), evaluation=False)
        self._normalize(value, term, slots)

    def _kinds(self, unit: Unit, *, backward: bool) -> str:
        kinds = ""
        for term in unit.terms:
            if term.scaling is None:
                kinds += sums.PLAIN
            else:
                kinds += sums.NORMALIZED if backward and self._needs_sums(term) else sums.SCALED
        return kinds

    def _term(self, term: Term) -> tuple[int | np.ndarray, ...]:
        if term.scaling is None:
            return *self._value(term.value), 0, 0
        scale = self._scale(term)
        return *self._value(term.value), scale.scale, scale.shift

    # Backward

    def _lower_backward(self) -> None:
        self._left = self._readers.copy()
        self._activated: set[int] = set()  # values whose gradient is past the activation already
        self._summed: set[int] = set()  # values of whose gradient the sums are taken already
        last = self._units[-1].output
        # The caller's gradient is the first part.
        self.output_gradient = self._arena.take(self.layouts[last])
        self._gradients[last] = self.output_gradient
        if not self._kept[last]:
            self._arena.release(self.layouts[last], self._places[last])
        for unit in reversed(self._units):
            if self._learns[unit.output] and unit.output in self._gradients:
                self._lower_unit_backward(unit)
                gradient = self._gradients.pop(unit.output, None)
                if gradient is not None:
                    self._arena.release(self.layouts[unit.output], gradient)
            for value in unit.inputs:
                self._left[value] -= 1
            for value in self._needed(unit):
                self._kept[value] -= 1
                if not self._kept[value]:
                    self._arena.release(self.layouts[value], self._places[value])

    def _gradient(self, value: int) -> tuple[int, ...]:
        return self._operand(self._gradients[value], self.layouts[value])

    def _part(self, value: int) -> tuple[tuple[int, ...], bool]:
        """Returns the operand of a value's gradient, and whether a part of it is there already."""
        there = value in self._gradients
        if not there:
            self._gradients[value] = self._arena.take(self.layouts[value])
        return self._gradient(value), there

    def _lower_unit_backward(self, unit: Unit) -> None:
        if unit.terms:
            self._lower_sum_backward(unit)
            return
        node, output = unit.node, unit.output
        gradient = self._gradient(output)
        learning = [value for value in node.inputs if self._learns[value]]
        match node:
            case Conv():
                self._lower_conv_backward(unit)
            case Pool():
                target, accumulate = self._part(learning[0])
                known = self._known(unit)
                arguments = (*known, *gradient, *target, *self._window(unit))
                code = pool.PoolGradient(self.images, node.kind, node.padding_counts, accumulate)
                moved = self._bytes(output, *node.inputs)
                self._add(_POOLS, code, arguments, self._planes(output), moved)
            case GlobalPool():
                target, accumulate = self._part(learning[0])
                arguments = (*self._known(unit), *gradient, *target, *self._size(learning[0]))
                code = pool.GlobalPoolGradient(self.images, node.kind, accumulate)
                self._add(_POOLS, code, arguments, self._planes(output), self._bytes(*node.inputs))
            case Pad():
                target, accumulate = self._part(learning[0])
                source = self._inside(unit, self._gradients[output])
                self.backward.append(self._move(source, target, learning[0], accumulate=accumulate))
            case Concatenate():
                for value, source in self._parts_of(unit, self._gradients[output]):
                    if self._learns[value]:
                        target, accumulate = self._part(value)
                        self.backward.append(self._move(source, target, value, accumulate=accumulate))
            case Multiply():
                self._lower_product_backward(unit)
            case Dropout():
                target, accumulate = self._part(learning[0])
                code, numbers = self._dropout(unit, accumulate=accumulate)
                arguments = (*gradient, *target, *numbers)
                self._add("dropout", code, arguments, self._lines(output), 2 * self._bytes(output))
            case _:
                raise TypeError(f"no such operation: {type(node).__name__}")

    def _add(
        self, kind: str, code: Code, arguments: Sequence[int | np.ndarray], parts: Parts, moved: int
    ) -> None:
        self.backward.append(Step(kind, code, tuple(arguments), parts, moved))

    def _known(self, unit: Unit) -> tuple[int, ...]:
        """Returns the operands of a pool's input and output; nothing of them is read for an average."""
        if unit.node.kind != "max":
            return (0,) * 8
        return *self._value(unit.node.inputs[0]), *self._value(unit.output)

    def _lower_product_backward(self, unit: Unit) -> None:
        first, second = unit.node.inputs
        gradient = self._gradient(unit.output)
        by_channel = self._size(first) != self._size(second)
        if self._learns[first]:
            target, accumulate = self._part(first)
            code = sums.Multiply(self.images, by_channel, accumulate)
            arguments = (*gradient, *self._value(second), *target, *self._size(first))
            self._add(_SUMS, code, arguments, self._lines(first), (3 + accumulate) * self._bytes(first))
        if self._learns[second]:
            target, accumulate = self._part(second)
            arguments = (*gradient, *self._value(first), *target, *self._size(first))
            if by_channel:
                code, parts = sums.FactorGradient(self.images, accumulate), self._planes(first)
            else:
                code, parts = sums.Multiply(self.images, False, accumulate), self._lines(first)
            self._add(_SUMS, code, arguments, parts, (2 + accumulate) * self._bytes(first))

    def _lower_conv_backward(self, unit: Unit) -> None:
        node, conv, output = unit.node, self._convolutions[unit.output], unit.output
        source, gradient = node.inputs[0], self._gradients[output]
        later: list[Step] = []
        self._take_sums(unit)
        if node.kernel.trainable:
            gradients, again = self._receive(node.kernel)
            calls = conv.weights_gradient(
                self._places[source], gradient, gradients=gradients, partials=self._partials
            )
            steps = self._calls(WEIGHTS_GRADIENT, calls, source, output)
            self.backward += [dataclasses.replace(step, units_of_tile=OF_PIECES) for step in steps[:-1]]
            later += [steps[-1], *again]
        if node.bias is not None and node.bias.trainable:
            gradients, again = self._receive(node.bias)
            arguments = (*self._gradient(output), *self._size(output), self.tiles, gradients)
            parts = Even(self._shapes[output].channels)
            code = norm.ChannelSums(self.images)
            later += [Step(_SUMS, code, arguments, parts, self._bytes(output)), *again]
        if self._learns[source]:
            self._lower_input_gradient(unit)
        # Behind the input's gradient, which can then follow the weights' tile by tile.
        self.backward += later

    def _lower_input_gradient(self, unit: Unit) -> None:
        node, conv, output = unit.node, self._convolutions[unit.output], unit.output
        source, gradient = node.inputs[0], self._gradients[output]
        moved = (source, output)
        is_last = self._left[source] == 1
        _, accumulate = self._part(source)
        place = self._gradients[source]
        maker = self._unit_of[source]
        relu = taken = term = None
        if is_last and maker.activation in (LINEAR, *RELUS):
            normalized = [term for term in maker.terms if self._needs_sums(term)]
            if len(normalized) == 1:
                term = normalized[0]
                mean = self._scale(term).mean
                taken = Statistics(self._scratch[0], mean, z=self._places[term.value])
            if maker.activation in RELUS:
                self._activated.add(source)
                limit = RELUS[maker.activation]
                relu = Relu(self._places[source], limit=limit)
                if term is not None and len(maker.terms) == 1:
                    scale = self._scale(term)
                    relu = Relu(None, scale.scale, scale.shift, limit)
            of_output = relu is not None and relu.output is not None
            moved += (source,) * (accumulate + of_output + (taken is not None))
        calls = conv.input_gradient(
            gradient,
            place,
            accumulate=accumulate,
            relu=relu,
            statistics=taken,
            past_caches=None if taken else False,
        )
        self.backward += self._calls(INPUT_GRADIENT, calls, *moved)
        if term is not None:
            self._summed.add(source)
            self._normalize_gradient(term, self._scratch[0], conv.gradient_slots)

    def _lower_sum_backward(self, unit: Unit) -> None:
        output = unit.output
        if output not in self._summed:
            self._take_sums(unit)
        scaled = [term for term in unit.terms if term.scaling is not None and self._learns[term.value]]
        plain = [term.value for term in unit.terms if term.scaling is None and self._learns[term.value]]
        for term in scaled:
            in_place = term is scaled[-1] and not plain and term.value not in self._gradients
            source = self._gradient(output)
            if in_place:
                self._gradients[term.value] = self._gradients.pop(output)
                target, accumulate = source, False
            else:
                target, accumulate = self._part(term.value)
            self._scale_gradient(term, source, target, accumulate=accumulate)
        for value in plain:
            if plain.count(value) == 1 and value not in self._gradients and value is plain[-1]:
                # The gradient of the sum is that of the value.
                self._gradients[value] = self._gradients.pop(output)
                continue
            target, accumulate = self._part(value)
            self.backward.append(
                self._move(self._gradient(output), target, value, accumulate=accumulate, kind=_SUMS)
            )

    def _take_sums(self, unit: Unit) -> None:
        """Adds the step behind the activation, and of the sums that normalizations need."""
        output = unit.output
        activation = LINEAR if output in self._activated else unit.activation
        terms = [term for term in unit.terms if self._needs_sums(term)]
        if activation == LINEAR and not terms:
            return
        kinds = sums.NORMALIZED * len(terms)
        if activation in DERIVED_FROM_INPUT:
            terms, kinds = list(unit.terms), self._kinds(unit, backward=True)
        layout = self.layouts[output]
        blocks = self._blocks(layout)
        numbers: list[int | np.ndarray] = []
        for i, (term, kind) in enumerate(zip(terms, kinds, strict=True)):
            mean = self._scale(term).mean if kind == sums.NORMALIZED else 0
            numbers += [*self._term(term), mean, self._scratch[i]]
        arguments = (
            *self._gradient(output),
            *(self._value(output) if output in self._needed(unit) else (0,) * 4),
            *self._size(output),
            blocks.step,
            len(blocks),
            layout.shape.channels,
            *numbers,
        )
        slots = self.tiles * len(blocks)
        code = sums.SumGradient(self.images, kinds, activation, unit.slope)
        moved = self._bytes(output) * (1 + len(terms) + 2 * (activation != LINEAR))
        self._add(_SUMS, code, arguments, LinesAndChannels(slots, layout.shape.channels), moved)
        for i, (term, kind) in enumerate(zip(terms, kinds, strict=True)):
            if kind == sums.NORMALIZED:
                self._normalize_gradient(term, self._scratch[i], slots)

    def _normalize_gradient(self, term: Term, place: int, slots: int) -> None:
        node, scale, channels = term.scaling, self._scale(term), self._shapes[term.value].channels
        gamma_gradient, gamma_again = self._receive(node.gamma, channels)
        beta_gradient, beta_again = self._receive(node.beta, channels)
        arguments = (
            place,
            slots,
            channels,
            *self._size(term.value),
            self._gamma(node, channels),
            scale.mean,
            scale.inverse,
            gamma_gradient,
            beta_gradient,
            scale.factor,
            scale.slope,
            scale.offset,
        )
        code = norm.NormalizationGradient(moving=node.frozen)
        self._add(_NORMALIZATION, code, arguments, Even(channels), 0)
        self.backward += [*gamma_again, *beta_again]

    def _receive(self, parameter: Kernel | Vector | None, channels: int = 0) -> tuple[np.ndarray, list[Step]]:
        """Returns where a gradient goes, and the steps that add it up if the parameter is used again."""
        if parameter is None or not parameter.trainable:
            return self._constant("unwanted", channels), []
        gradients = self._parameters.gradients_of(parameter)
        if parameter.name not in self._written:
            self._written.add(parameter.name)
            return gradients, []
        more = np.zeros(len(gradients), np.float32)
        parts = Even(-(-len(more) // flat.PIECE))
        return more, [Step(_SUMS, flat.Add(), (more, gradients, len(more)), parts, 3 * more.nbytes)]

    def _scale_gradient(
        self, term: Term, source: tuple[int, ...], target: tuple[int, ...], *, accumulate: bool
    ) -> None:
        """Adds the step from a term's gradient to that of its value."""
        scale, value = self._scale(term), term.value
        alone = not isinstance(term.scaling, BatchNorm) or term.scaling.frozen
        code = norm.ScaledGradient(self.images, alone, accumulate)
        arguments = (
            *source,
            *((0,) * 4 if alone else self._value(value)),
            *target,
            *self._size(value),
            self.mask,
            scale.scale if alone else scale.factor,
            scale.slope,
            scale.offset,
        )
        moved = (2 + (not alone) + accumulate) * self._bytes(value)
        self._add(_NORMALIZATION, code, arguments, self._lines(value), moved)

    def _lower_refresh(self) -> None:
        for unit in self._units:
            if isinstance(unit.node, Conv):
                conv = self._convolutions[unit.output]
                values = self._parameters.values_of(unit.node.kernel)
                self.refresh += self._calls("refresh", conv.refresh(values))

    @property
    def steps(self) -> list[Step]:
        """Returns the steps of all passes."""
        return [*self.training, *self.evaluation, *self.backward, *self.refresh]


def _floats(numbers: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(numbers, np.float32)


def _bits(number: float) -> int:
    """Returns the bits of a float32."""
    return int(np.float32(number).view(np.int32))
