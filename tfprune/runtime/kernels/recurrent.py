"""Recurrent cells: a loop over the columns of a signal, in each products with the state, then the gates."""

import dataclasses
from collections.abc import Callable
from typing import ClassVar

from llvmlite import ir

from tfprune.runtime.graph import CELLS
from tfprune.runtime.kernels.activations import activate
from tfprune.runtime.kernels.emitter import F32, I8, I32, KernelEmitter
from tfprune.runtime.kernels.kernel import Kernel

# Activations and their settings.
Function = tuple[str, tuple[float, ...]]


@dataclasses.dataclass(frozen=True)
class Recurrent(Kernel):
    """Computes the graph's `Recurrent`; the only part is the whole.

    Rows of states, one behind the other, are what the cell keeps after each step, an LSTM's memory before its
    state; the first row is where it begins. A row's last vector may reach into the next, which is written
    later.

    Attributes:
        cell: One of the graph's `CELLS`.
        function: The activation.
        gate_function: The gates'.
        initial: Whether first states are given.
        vectors: Vectors in a tile of the dense path; 0 for the sparse one.
        index_bits: The bits of an index.
        scaled: Whether the values are int8, and the sums are multiplied by scales.
        masked: Whether columns whose mask is 0 leave the states as they are.
    """

    parameters: ClassVar = (
        "source",  # [steps, gates * units]
        "rows",  # [steps + 1, states * units], to be written
        "sums",  # [gates, padded], and a vector of units behind, to work with
        "first_memory",
        "first_state",
        "steps",
        "units",
        "padded",  # units, rounded up to whole vectors or tiles
        "starts",  # int32 [gates * vectors of units + 1]: the entries of each vector of sums
        "indices",  # int32 or int16 [entries, lanes]: the units of the state
        "values",  # float32 or int8 [entries, lanes]; of the dense path [gates, units, padded]
        "bias",  # float32 [gates, padded]
        "scales",  # float32 [gates, padded], what int8 values are multiplied by
        "mask",  # [steps]
    )
    cell: str
    function: Function
    gate_function: Function
    initial: bool
    vectors: int
    index_bits: int = 32
    scaled: bool = False
    masked: bool = False

    def write(self, e: KernelEmitter) -> None:
        """See `Kernel`."""
        e.each(e.part(0), e.part(1), lambda _: self._whole(e))

    def _whole(self, e: KernelEmitter) -> None:
        b, units = e.b, e.integer("units")
        names = ["first_memory", "first_state"] if self.cell == "lstm" else ["first_state"]
        for index, name in enumerate(names):
            row = e.at(e.value("rows"), b.mul(units, e.number(index)))

            def begin(at: ir.Value, row: ir.Value = row, name: str = name) -> None:
                first = e.load_vector(e.at(e.value(name), at)) if self.initial else e.constant(0)
                e.store(first, e.at(row, at))

            self._each_vector(e, begin)

        def step(index: ir.Value) -> None:
            column = e.at(e.value("source"), b.mul(b.mul(index, units), e.number(len(CELLS[self.cell]))))
            size = b.mul(units, e.number(len(names)))
            before = e.at(e.value("rows"), b.mul(index, size))
            after = e.at(before, size)

            def compute() -> None:
                _STEPS[self.cell](_Step(self, e, column, before, after))

            def stay() -> None:
                for number in range(len(names)):  # A vector may reach into the state that comes next.
                    state = b.mul(units, e.number(number))
                    self._each_vector(
                        e,
                        lambda at, state=state: e.store(
                            e.load_vector(e.at(before, b.add(state, at))), e.at(after, b.add(state, at))
                        ),
                    )

            if self.masked:
                mask = e.element(e.value("mask"), index)
                e.choose(b.fcmp_unordered("!=", mask, ir.Constant(F32, 0.0)), compute, stay)
            else:
                compute()

        e.each(e.number(0), e.integer("steps"), step)

    def _each_vector(self, e: KernelEmitter, body: Callable[[ir.Value], None]) -> None:
        """Emits a body for each vector of units; it gets the place of the vector's first."""
        count = self._vectors_of_units(e)
        e.each(e.number(0), count, lambda index: body(e.b.mul(index, e.number(e.lanes))))

    @staticmethod
    def _vectors_of_units(e: KernelEmitter) -> ir.Value:
        return e.b.sdiv(e.b.add(e.integer("units"), e.number(e.lanes - 1)), e.number(e.lanes))

    def _multiply(self, e: KernelEmitter, state: ir.Value, gates: range) -> None:
        """Emits the sums of some gates, neighbours, from a state."""
        (self._multiply_dense if self.vectors else self._multiply_sparse)(e, state, gates)

    def _multiply_sparse(self, e: KernelEmitter, state: ir.Value, gates: range) -> None:
        b, count, weight = e.b, self._vectors_of_units(e), I8 if self.scaled else F32

        def sums_of(at: ir.Value) -> None:
            start = e.element(e.pointer("starts"), at, I32)
            stop = e.element(e.pointer("starts"), b.add(at, e.number(1)), I32)

            def entry(index: ir.Value, sums: list[ir.Value]) -> list[ir.Value]:
                return [e.multiply_picked(state, index, self.index_bits, weight, sums[0])]

            first = b.mul(at, e.number(e.lanes))
            (total,) = e.fold(start, stop, [self._beginning(e, first)], entry)
            e.store(self._finished(e, total, first), e.at(e.value("sums"), first))

        e.each(b.mul(count, e.number(gates.start)), b.mul(count, e.number(gates.stop)), sums_of)

    def _multiply_dense(self, e: KernelEmitter, state: ir.Value, gates: range) -> None:
        b, weight = e.b, I8 if self.scaled else F32
        size, parts = self.vectors * e.lanes, range(self.vectors)

        def of_gate(gate: ir.Value) -> None:
            matrix = b.mul(gate, b.mul(e.integer("units"), e.integer("padded")))

            def tile(index: ir.Value) -> None:
                column = b.mul(index, e.number(size))
                first = e.multiply_add(gate, e.integer("padded"), column)
                places = [b.add(first, e.number(part * e.lanes)) for part in parts]

                def one_input(i: ir.Value, sums: list[ir.Value]) -> list[ir.Value]:
                    x = e.splat(e.element(state, i))
                    row = e.multiply_add(i, e.integer("padded"), b.add(matrix, column))
                    made = []
                    for part, total in enumerate(sums):
                        place = e.at(e.pointer("values"), b.add(row, e.number(part * e.lanes)), weight)
                        made.append(e.call("llvm.fmuladd", x, e.load_weights(place, weight), total))
                    return made

                initial = [self._beginning(e, place) for place in places]
                totals = e.fold(e.number(0), e.integer("units"), initial, one_input)
                for place, total in zip(places, totals, strict=True):
                    e.store(self._finished(e, total, place), e.at(e.value("sums"), place))

            e.each(e.number(0), b.sdiv(e.integer("padded"), e.number(size)), tile)

        e.each(e.number(gates.start), e.number(gates.stop), of_gate)

    def _beginning(self, e: KernelEmitter, place: ir.Value) -> ir.Value:
        return e.constant(0) if self.scaled else e.load_vector(e.at(e.pointer("bias"), place))

    def _finished(self, e: KernelEmitter, total: ir.Value, place: ir.Value) -> ir.Value:
        if not self.scaled:
            return total
        scales, bias = (e.load_vector(e.at(e.pointer(name), place)) for name in ("scales", "bias"))
        return e.call("llvm.fmuladd", total, scales, bias)


class _Step:
    """A step of a cell in the making.

    Attributes:
        before: The row of the states before the step.
        after: The row to write.
    """

    def __init__(
        self, kernel: Recurrent, e: KernelEmitter, column: ir.Value, before: ir.Value, after: ir.Value
    ) -> None:
        self.before, self.after = before, after
        self.e, self._kernel, self._column = e, kernel, column

    def each_vector(self, body: Callable[[ir.Value], None]) -> None:
        """Emits a body for each vector of units."""
        self._kernel._each_vector(self.e, body)

    def multiply(self, state: ir.Value, gates: range) -> None:
        """Emits the products of a state with the kernels of some gates."""
        self._kernel._multiply(self.e, state, gates)

    def given(self, gate: int, at: ir.Value) -> ir.Value:
        """Returns what a gate gets of the signal."""
        place = self.e.multiply_add(self.e.number(gate), self.e.integer("units"), at)
        return self.e.load_vector(self.e.at(self._column, place))

    def sums(self, gate: int, at: ir.Value) -> ir.Value:
        """Returns what a gate gets of the state."""
        return self.e.load_vector(self._place_of_sums(gate, at))

    def spare(self, gates: int, at: ir.Value) -> ir.Value:
        """Returns the address of a number in the spare vector behind the sums of the gates."""
        return self._place_of_sums(gates, at)

    def _place_of_sums(self, gate: int, at: ir.Value) -> ir.Value:
        place = self.e.multiply_add(self.e.number(gate), self.e.integer("padded"), at)
        return self.e.at(self.e.value("sums"), place)

    def gate(self, gate: int, at: ir.Value) -> ir.Value:
        """Returns how far a gate is open."""
        name, settings = self._kernel.gate_function
        return activate(self.e, name, self._both(gate, at), settings)

    def activated(self, x: ir.Value) -> ir.Value:
        """Returns the activation of a vector."""
        name, settings = self._kernel.function
        return activate(self.e, name, x, settings)

    def candidate(self, gate: int, at: ir.Value) -> ir.Value:
        """Returns the activation of what a gate gets of both."""
        return self.activated(self._both(gate, at))

    def _both(self, gate: int, at: ir.Value) -> ir.Value:
        return self.e.b.fadd(self.given(gate, at), self.sums(gate, at))


def _simple(step: _Step) -> None:
    e = step.e
    step.multiply(step.before, range(1))
    step.each_vector(lambda at: e.store(step.candidate(0, at), e.at(step.after, at)))


def _lstm(step: _Step) -> None:
    e, b = step.e, step.e.b
    units = e.integer("units")
    step.multiply(e.at(step.before, units), range(4))

    def memory(at: ir.Value) -> None:
        kept = b.fmul(step.gate(1, at), e.load_vector(e.at(step.before, at)))
        new = b.fmul(step.gate(0, at), step.candidate(2, at))
        e.store(b.fadd(kept, new), e.at(step.after, at))

    def state(at: ir.Value) -> None:
        shown = step.activated(e.load_vector(e.at(step.after, at)))
        e.store(b.fmul(step.gate(3, at), shown), e.at(step.after, b.add(units, at)))

    # The last vector of the memory reaches into the state, which is written after it.
    step.each_vector(memory)
    step.each_vector(state)


def _gru(step: _Step) -> None:
    b = step.e.b
    step.multiply(step.before, range(3))

    def state(at: ir.Value) -> None:
        reset = b.fmul(step.gate(1, at), step.sums(2, at))
        _update(step, step.activated(b.fadd(step.given(2, at), reset)), at)

    step.each_vector(state)


def _gru_reset_before(step: _Step) -> None:
    e, b = step.e, step.e.b
    step.multiply(step.before, range(2))

    def reset(at: ir.Value) -> None:
        kept = b.fmul(step.gate(1, at), e.load_vector(e.at(step.before, at)))
        e.store(kept, step.spare(3, at))

    step.each_vector(reset)
    step.multiply(step.spare(3, e.number(0)), range(2, 3))
    step.each_vector(lambda at: _update(step, step.candidate(2, at), at))


def _update(step: _Step, candidate: ir.Value, at: ir.Value) -> None:
    """Emits a GRU's new state between the old one and a candidate."""
    e, b = step.e, step.e.b
    update = step.gate(0, at)
    old = b.fmul(update, e.load_vector(e.at(step.before, at)))
    new = b.fmul(b.fsub(e.constant(1), update), candidate)
    e.store(b.fadd(old, new), e.at(step.after, at))


_STEPS: dict[str, Callable[[_Step], None]] = {
    "simple": _simple,
    "lstm": _lstm,
    "gru": _gru,
    "gru_reset_before": _gru_reset_before,
}
