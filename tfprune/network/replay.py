"""Runs a network on the same batches as it was and as it is, layer by layer, while its layers are changed.

`replay` stops before each layer that is watched and shows what it takes: in the network whose earlier layers
are changed already, and in the one that it was. So each layer can be made to do with what it is given what it
did before.
"""

import contextlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from tfprune.network.calls import replaced_calls, tensors, without_gradient
from tfprune.network.graph import Step, all_layers, call_counts, computed_graph, evaluate

Pair = tuple[Any, Any]
Changed = tuple[keras.Variable, np.ndarray, np.ndarray]
"""A variable, its value as it is and as it was."""


class UnreachedError(ValueError):
    """A layer that no call of the model reaches."""


@dataclass(frozen=True)
class Stop:
    """A layer that is about to be run.

    Attributes:
        layer: The layer.
        inputs: A function that yields, for each batch and each call of the layer, its first input as it is
            and as it was; the same object twice where nothing before it has changed.
    """

    layer: keras.layers.Layer
    inputs: Callable[[], Iterator[Pair]]


def replay(
    model: keras.layers.Layer,
    batches: Sequence[Any],
    watched: Iterable[keras.layers.Layer],
    visit: Callable[[Stop], None],
    inside: Callable[[Any], Any] = lambda operation: operation,
) -> None:
    """Runs a model in inference, and stops once at each layer that is watched, in the order of their calls.

    A functional or Sequential model, with nested ones, is run call by call on all batches; values are held
    until all that take them have, so that it is run once. Of a model or a layer with a `call` of its own
    each layer inside that is watched costs a run of it. A layer that is called several times costs a run of
    the whole model.

    Args:
        model: A built model.
        batches: Of each batch the inputs, in the structure that the model is called with.
        watched: Layers of the model.
        visit: Is called with each stop; may change the variables of its layer.
        inside: Returns the layer in a wrapper that runs it on what it is called with; anything else as it is.

    Raises:
        UnreachedError: If a layer is not called.
    """
    _Replay(model, batches, watched, visit, inside).run()


class Values:
    """A tensor in two runs, as it is and as it was, batch by batch, until all calls have taken it.

    Args:
        uses: The number of calls that take it.
    """

    def __init__(self, uses: int) -> None:
        self.uses = uses
        self.batches: list[Pair] = []

    def forget(self, number: int, side: int) -> None:
        """Drops a batch of one side that a call has taken, where no other call will."""
        if self.uses == 1:
            pair = self.batches[number]
            self.batches[number] = (pair[0], None) if side else (None, pair[1])

    def take(self) -> None:
        """Notes that a call has taken it."""
        self.uses -= 1
        if not self.uses:
            self.batches = []


class _Replay:
    def __init__(
        self,
        model: Any,
        batches: Sequence[Any],
        watched: Iterable[keras.layers.Layer],
        visit: Callable[[Stop], None],
        inside: Callable[[Any], Any],
    ) -> None:
        self._model, self._visit, self._inner = model, visit, inside
        self._waiting = {id(layer): layer for layer in watched}
        # id of a variable of a layer that was visited, or of what holds that layer -> it, and its old value.
        self._before: dict[int, tuple[keras.Variable, np.ndarray]] = {}
        self._visited: dict[int, keras.layers.Layer] = {}
        self._graph = computed_graph(model)
        self._counts = call_counts(model)
        self._batches = [self._inputs(batch) for batch in batches]

    def _inputs(self, batch: Any) -> Any:
        if self._graph is None:
            return keras.tree.map_structure(lambda array: ops.convert_to_tensor(_as_float(array)), batch)
        return [
            ops.convert_to_tensor(array, tensor.dtype)
            for array, tensor in zip(keras.tree.flatten(batch), self._graph.inputs, strict=True)
        ]

    def run(self) -> None:
        if self._graph is None:
            self._run_whole()
        else:
            self._uses = iter(uses(self._graph))
            inputs = []
            for number in range(len(self._graph.inputs)):
                values = Values(next(self._uses))
                values.batches = [(batch[number], batch[number]) for batch in self._batches]
                inputs.append(values)
            evaluate(self._graph, inputs, self._call)
        if self._waiting:
            names = ", ".join(repr(layer.name) for layer in self._waiting.values())
            raise UnreachedError(
                f"Every layer that is to be pruned must be called when the model is. Not called: {names}"
            )

    def _run_whole(self) -> None:
        """Stops at the layers of a model that has no graph."""
        calls = [(call, call) for call in (Invocation(self._model, (one,), {}) for one in self._batches)]
        self._stop_inside(self._model, calls)

    def _call(self, step: Step) -> Sequence[Values]:
        graph = computed_graph(step.operation)
        if graph is not None:
            return evaluate(graph, step.inputs, self._call)
        outputs = [Values(next(self._uses)) for _ in step.outputs]
        if not self._waiting:
            return outputs
        numbers = range(len(step.inputs[0].batches))
        if any(id(part) in self._waiting for part in _parts(step.operation)):
            calls = [tuple(_invocation(step, number, side) for side in (0, 1)) for number in numbers]
            self._stop_inside(step.operation, calls)
            del calls
        changed = self._changed(step.operation)
        same = not changed and all(now is was for values in step.inputs for now, was in values.batches)
        # One side after the other: what no other call takes is let go batch by batch.
        with _as_they_were(changed):
            past = [None if same else _made(step, number, 1) for number in numbers]
        for number in numbers:
            now = _made(step, number, 0, 1) if same else _made(step, number, 0)
            before = now if same else past[number]
            for values, *pair in zip(outputs, now, before, strict=True):
                if values.uses:
                    values.batches.append(tuple(pair))
        for values in step.inputs:
            values.take()
        return outputs

    def _changed(self, operation: Any) -> list[Changed]:
        """Returns the variables that changed of an operation in which layers were visited."""
        changed = []
        if any(id(part) in self._visited for part in _parts(operation)):
            for variable in operation.variables:
                _, before = self._before.get(id(variable), (None, None))
                now = None if before is None else _value(variable)
                if now is not None and not np.array_equal(now, before):
                    changed.append((variable, now, before))
        return changed

    def _stop_inside(self, operation: Any, calls: list[tuple["Invocation", "Invocation"]]) -> None:
        """Stops at the layers in an operation, in the order in which they are called first."""
        parts = [part for part in _parts(operation) if id(part) in self._waiting]
        if len(parts) == 1 and parts[0] is self._inner(operation):
            order = parts
        else:
            order = calls[0][0].order(parts)
        # With the masks of a wrapper.
        for variable in operation.variables:
            if id(variable) not in self._before:
                self._before[id(variable)] = variable, _value(variable)
        for layer in order:
            inputs = self._inputs_of(operation, layer, calls)
            self._visit(Stop(layer, inputs))
            del self._waiting[id(layer)]
            self._visited[id(layer)] = layer

    def _inputs_of(
        self, operation: Any, layer: keras.layers.Layer, calls: list[tuple["Invocation", "Invocation"]]
    ) -> Callable[[], Iterator[Pair]]:
        if self._graph is not None and self._counts.get(id(layer), 1) > 1:
            structure = self._graph._inputs_struct
            calls = []
            for batch in self._batches:
                call = Invocation(self._model, (keras.tree.pack_sequence_as(structure, batch),), {})
                calls.append((call, call))
            operation = self._model

        def of(number: int) -> Iterator[Pair]:
            now, was = calls[number]
            if self._inner(operation) is layer:
                yield now.first, was.first
                return
            given = now.inputs_of(layer)
            if now is was and not self._visited:
                yield from ((value, value) for value in given)
                return
            with _as_they_were(self._changed(operation)):
                before = was.inputs_of(layer)
            yield from zip(given, before, strict=True)

        def every() -> Iterator[Pair]:
            for number in range(len(calls)):
                yield from of(number)

        return every


class Invocation:
    """A call of a layer or an operation on tensors, in inference.

    Args:
        operation: The layer or operation.
        args, kwargs: What it is called with.
    """

    def __init__(self, operation: Any, args: Any, kwargs: dict[str, Any]) -> None:
        self.operation, self._args, self._kwargs = operation, args, dict(kwargs)
        if isinstance(operation, keras.layers.Layer) and not self._kwargs.get("training"):
            if "training" in inspect.signature(operation.call).parameters:
                self._kwargs["training"] = False

    def __call__(self) -> list[Any]:
        """Returns the tensors that the call returns."""
        made = self.operation(*self._args, **self._kwargs)
        return [without_gradient(tensor) for tensor in keras.tree.flatten(made)]

    @property
    def first(self) -> Any:
        """The first tensor that it takes."""
        return tensors((self._args, self._kwargs))[0]

    def order(self, layers: Sequence[keras.layers.Layer]) -> list[keras.layers.Layer]:
        """Returns those of some layers that it calls, in the order of their first calls."""
        found: dict[int, keras.layers.Layer] = {}

        def seen(layer: keras.layers.Layer, call: Callable) -> Callable:
            def run(*args: Any, **kwargs: Any) -> Any:
                found.setdefault(id(layer), layer)
                return call(*args, **kwargs)

            return run

        with replaced_calls(layers, seen):
            self()
        return list(found.values())

    def inputs_of(self, layer: keras.layers.Layer) -> list[Any]:
        """Returns the first tensor that each of its calls of a layer takes."""
        found: list[Any] = []

        def seen(layer: keras.layers.Layer, call: Callable) -> Callable:
            def run(*args: Any, **kwargs: Any) -> Any:
                found.append(without_gradient(tensors((args, kwargs))[0]))
                return call(*args, **kwargs)

            return run

        with replaced_calls([layer], seen):
            self()
        return found


@contextlib.contextmanager
def _as_they_were(changed: Sequence[Changed]) -> Iterator[None]:
    """Gives variables the values that they had, inside the block."""
    try:
        for variable, _, before in changed:
            variable.assign(before)
        yield
    finally:
        for variable, now, _ in changed:
            variable.assign(now)


def _invocation(step: Step, number: int, side: int) -> Invocation:
    return Invocation(step.operation, *filled((step.args, step.kwargs), number, side))


def _made(step: Step, number: int, *sides: int) -> list[Any]:
    """Returns what a call makes of a batch of the first of some sides, which its inputs then forget."""
    made = _invocation(step, number, sides[0])()
    for values in step.inputs:
        for side in sides:
            values.forget(number, side)
    return made


def _parts(operation: Any) -> list[keras.layers.Layer]:
    return all_layers(operation) if isinstance(operation, keras.layers.Layer) else []


def _value(variable: keras.Variable) -> np.ndarray:
    return np.array(ops.convert_to_numpy(variable))


def _as_float(array: np.ndarray) -> np.ndarray:
    """Returns an array in the type that Keras computes in, where it is of another length."""
    return array.astype(keras.config.floatx()) if array.dtype == np.float64 else array


def filled(arguments: Any, number: int, side: int) -> Any:
    """Returns arguments with a batch of one side, 0 or 1, in the place of each `Values`."""
    return keras.tree.map_structure(
        lambda value: value.batches[number][side] if isinstance(value, Values) else value, arguments
    )


def uses(graph: Any) -> list[int]:
    """Returns how many calls take each tensor, in the order in which they are made."""
    counts = [0] * len(graph.inputs)

    def count(step: Step) -> list[int]:
        inner = computed_graph(step.operation)
        if inner is not None:
            return evaluate(inner, step.inputs, count)
        for number in step.inputs:
            counts[number] += 1
        made = list(range(len(counts), len(counts) + len(step.outputs)))
        counts.extend([0] * len(made))
        return made

    evaluate(graph, range(len(graph.inputs)), count)
    return counts
