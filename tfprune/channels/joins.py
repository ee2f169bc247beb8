"""Sums, products and concatenations that can do without some of their operands, exactly.

What only such an operand needs has no place in the graph: of a residual block whose last convolution lost all
its weights nothing is left but a constant; of one that was gated by a constant, no gate.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from tfprune.channels.flow import Flow
from tfprune.channels.groups import Traced
from tfprune.channels.labels import Channels
from tfprune.channels.trace import Call
from tfprune.network.graph import all_layers, computed_graph, is_masked, needed_tensors, producer, taken_by
from tfprune.network.kinds import builtin_layer, builtin_operation

# Operation -> what it computes of constants, and the constant that changes nothing.
_ARITHMETIC = {"Add": (np.sum, 0.0), "Subtract": (np.sum, 0.0), "Multiply": (np.prod, 1.0)}
_CONCATENATE = "Concatenate"
_DTYPES = ("float16", "float32", "float64")


@dataclass(frozen=True)
class Join:
    """The rest of a call in which tensors meet.

    Attributes:
        operands: The numbers of the inputs that stay, one at least.
        kind: "Add", "Subtract", "Multiply" or "Concatenate".
        constant: Where it is not None, the call is followed by one of its kind with this constant: a value
            for each channel of the output along `channels`, those that go too.
        channels: The channels of the output.
    """

    operands: tuple[int, ...]
    kind: str
    constant: np.ndarray | None
    channels: Channels


@dataclass
class Joins:
    """The operands that calls do without, and what is left of the graph.

    Args:
        traced: The model's channels.
        flow: What is known of its values.

    Attributes:
        needed: Ids of the tensors that are made, as of `needed_tensors`.
        left_out: id of the first tensor that a call returns -> numbers of the inputs that it does without.
    """

    traced: Traced
    flow: Flow
    needed: set[int] = field(default_factory=set)
    left_out: dict[int, frozenset[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._graph = computed_graph(self.traced.model)
        self._outputs = set(map(id, self._graph.outputs))
        # id of the first tensor that a call returns -> its numbers: several in a nested model called again.
        self._calls: dict[int, list[int]] = {}
        for number, call in enumerate(self.traced.trace.calls):
            self._calls.setdefault(id(call.tensors[0]), []).append(number)
        self.needed = needed_tensors(self._graph, {})

    def is_needed(self, number: int) -> bool:
        """Returns whether a call is made."""
        return id(self.traced.trace.calls[number].tensors[0]) in self.needed

    def removed(self) -> list[keras.layers.Layer]:
        """Returns the layers, without wrappers for pruning, of which no call is left."""
        layers = [call.layer for call in self.traced.trace.calls]
        stay = {id(layer) for number, layer in enumerate(layers) if self._is_made(number)}
        gone = {id(layer): layer for layer in layers if id(layer) not in stay}
        return [layer for layer in gone.values() if isinstance(layer, keras.layers.Layer)]

    def _is_made(self, number: int) -> bool:
        call = self.traced.trace.calls[number]
        without = self.left_out.get(id(call.tensors[0]), ())
        return self.is_needed(number) and (not without or len(call.inputs) - len(without) > 1)

    def together(self) -> list[np.ndarray]:
        """Returns the sets along each axis of a weight or a tensor that is left: one of each must stay."""
        return self.traced.together_of(self.needed, self.left_out)

    def grow(self, dead: np.ndarray, spare: np.ndarray) -> np.ndarray:
        """Leaves out more operands.

        Args:
            dead: Whether each set of channels is dead.
            spare: Whether it stays only because a tensor or a layer keeps a channel.

        Returns:
            The spare sets that go with the operands that were left out.
        """
        new = {
            key: found - self.left_out.get(key, frozenset()) for key, found in self._candidates(dead, spare)
        }
        while True:
            new = {key: found for key, found in new.items() if found}
            left_out = {
                key: self.left_out.get(key, frozenset()) | new.get(key, frozenset())
                for key in [*self.left_out, *new]
            }
            needed = needed_tensors(self._graph, left_out)
            dying = np.zeros_like(dead)
            for key, at in _pairs(new):
                dying[self._sets(key, at)] = True
            dying &= spare
            wrong = [*self._with_effects(new, needed), *self._emptied(new, needed, left_out, dead, dying)]
            if not wrong:
                self.needed, self.left_out = needed, left_out
                return dying
            for key, at in wrong:
                new[key] -= {at}

    def all(self, dead: np.ndarray) -> dict[int, Join]:
        """Returns what is left of each call that does without some operand, by the id of its first tensor."""
        return {
            key: self._join(key, without, dead)
            for key, without in self.left_out.items()
            if key in self.needed
        }

    def _call(self, key: int) -> Call:
        return self.traced.trace.calls[self._calls[key][0]]

    def _join(self, key: int, without: frozenset[int], dead: np.ndarray) -> Join:
        number, call = self._calls[key][0], self._call(key)
        stay = tuple(at for at in range(len(call.inputs)) if at not in without)
        kind = _kind(call)
        constant = None
        if kind in _ARITHMETIC:
            compute, neutral = _ARITHMETIC[kind]
            given = compute([self.flow.operands[number, at] for at in sorted(without)], axis=0)
            kept = ~dead[self.traced.sets[call.outputs[0].labels.ravel()]]
            constant = given if (given[kept] != neutral).any() else None
        return Join(stay, kind, constant, call.outputs[0])

    def _candidates(self, dead: np.ndarray, spare: np.ndarray) -> Iterator[tuple[int, frozenset[int]]]:
        """Yields the operands that calls can do without, by their channels alone."""
        for key, numbers in self._calls.items():
            if key not in self.needed or not self._may_change(key):
                continue
            call = self.traced.trace.calls[numbers[0]]
            kind = _kind(call)
            if kind == _CONCATENATE:
                found = {at for at in range(len(call.inputs)) if (dead | spare)[self._sets(key, at)].all()}
            else:
                found = {at for at in range(len(call.inputs)) if self._is_constant(numbers, at, dead)}
                if kind == "Subtract":
                    found -= {0}
            taken, made = taken_by(call.tensors[0]), call.tensors[0]
            rest = [taken[at] for at in range(len(taken)) if at not in found]
            if kind != _CONCATENATE:
                rest = [tensor for tensor in rest if tensor.shape == made.shape]
            if found and rest and all(tensor.dtype == made.dtype for tensor in rest):
                yield key, frozenset(found)

    def _may_change(self, key: int) -> bool:
        """Returns whether operands of a call may be left out, if their channels say so too."""
        call = self._call(key)
        made = call.tensors[0]
        return (
            _kind(call) is not None
            and len(call.inputs) > 1
            and all(isinstance(one, Channels) for one in keras.tree.flatten((call.args, call.kwargs)))
            # What the outputs are called is the name of the layer that makes them.
            and id(made) not in self._outputs
            and not any(map(is_masked, [made, *taken_by(made)]))
        )

    def _sets(self, key: int, at: int) -> np.ndarray:
        """Returns the sets of the channels of an operand of a concatenation; none of others."""
        call = self._call(key)
        if _kind(call) != _CONCATENATE:
            return np.zeros(0, int)
        return np.unique(self.traced.sets[call.inputs[at].labels])

    def _is_constant(self, numbers: list[int], at: int, dead: np.ndarray) -> bool:
        """Returns whether each channel of an operand that stays is one constant, the same in all calls."""
        call = self.traced.trace.calls[numbers[0]]
        made = call.outputs[0]
        values = [self.flow.operands.get((number, at)) for number in numbers]
        if len(made.axes()) != 1 or any(one is None or one.size != made.labels.size for one in values):
            return False
        kept = ~dead[self.traced.sets[made.labels.ravel()]]
        if not all(np.array_equal(one[kept], values[0][kept]) for one in values):  # Not if they are NaN.
            return False
        return call.tensors[0].dtype in _DTYPES and bool(np.isfinite(values[0][kept]).all())

    def _with_effects(self, new: Mapping[int, frozenset[int]], needed: set[int]) -> list[tuple[int, int]]:
        """Returns the operands without which a layer goes that does more than to compute its outputs."""
        gone = [key for key in self._calls if key in self.needed and key not in needed]
        lost = {key for key in gone if _has_effects(self._call(key).layer)}
        if not lost:
            return []
        return [(key, at) for key, at in _pairs(new) if lost & _upstream(self._operand(key, at))]

    def _operand(self, key: int, at: int) -> keras.KerasTensor:
        return taken_by(self._call(key).tensors[0])[at]

    def _emptied(
        self,
        new: Mapping[int, frozenset[int]],
        needed: set[int],
        left_out: Mapping[int, frozenset[int]],
        dead: np.ndarray,
        dying: np.ndarray,
    ) -> list[tuple[int, int]]:
        """Returns the operands with whose channels a tensor or a layer that stays would lose its last one."""
        if not dying.any():
            return []
        lost = np.zeros_like(dead)
        for sets in self.traced.together_of(needed, left_out):
            if (dead | dying)[sets].all():
                lost[sets] = True
        lost &= dying
        return [(key, at) for key, at in _pairs(new) if lost[self._sets(key, at)].any()]


def _pairs(some: Mapping[int, frozenset[int]]) -> list[tuple[int, int]]:
    return [(key, at) for key, numbers in some.items() for at in numbers]


def _kind(call: Call) -> str | None:
    """Returns the name of an operation that may do without operands, or of the layer that computes it."""
    name = builtin_layer(call.operation) or builtin_operation(call.operation)
    return name if name in _ARITHMETIC or name == _CONCATENATE else None


def _has_effects(layer: Any) -> bool:
    """Returns whether a layer may do more than to compute its outputs: have a loss, a metric, a state."""
    if not isinstance(layer, keras.layers.Layer):
        return False
    return any(
        builtin_layer(part) in (None, "ActivityRegularization") or part.activity_regularizer is not None
        for part in all_layers(layer)
    )


def _upstream(tensor: keras.KerasTensor) -> set[int]:
    """Returns the ids of the tensors from which a symbolic one is computed, and its own."""
    found: set[int] = set()
    waiting = [tensor]
    while waiting:
        one = waiting.pop()
        if id(one) in found:
            continue
        found.add(id(one))
        graph = computed_graph(producer(one))
        if graph is not None:
            found |= needed_tensors(graph, {})
        waiting += taken_by(one)
    return found
