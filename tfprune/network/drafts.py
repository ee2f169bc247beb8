"""Calls of layers that become the nodes of another graph: the sparse runtime's, or the sparse trainer's."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import keras

from tfprune.network.kinds import builtin_layer, builtin_operation


@dataclasses.dataclass(frozen=True)
class Value:
    """A value of a graph in place of a Keras tensor.

    Attributes:
        node: The number of the node that computes it; -1 where none can.
        rank: Axes of the Keras tensor, with the batch: 4 for images, 2 for vectors.
        integer: Whether its numbers are integers, such as plain pixels.
        flat: Whether it is a vector of all numbers of the node's image.
        boolean: Whether its numbers, 0 and 1, stand for false and true.
    """

    node: int
    rank: int
    integer: bool = False
    flat: bool = False
    boolean: bool = False


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of a Keras layer or operation. Each kind of graph has a subclass with `refusal`.

    Attributes:
        name: The layer's name; the path of names, joined with `/`, within nested models.
        operation: The layer, without a pruning wrapper, or the operation of `keras.ops`.
        arguments: The positional arguments, with a `Value` in place of each tensor.
        shape: That of the Keras tensor that it returns, with the batch.
    """

    name: str
    operation: keras.Operation
    arguments: tuple[Any, ...]
    shape: tuple[int | None, ...]

    @property
    def rank(self) -> int:
        """The axes of the tensor that it returns, with the batch."""
        return len(self.shape)

    @property
    def inputs(self) -> list[Value]:
        """The tensors among its arguments, in order."""
        return [value for value in keras.tree.flatten(self.arguments) if isinstance(value, Value)]

    @property
    def input(self) -> Value:
        """The only tensor among its arguments."""
        if len(self.inputs) != 1:
            raise self.refuse(f"it must have one input. Received: {len(self.inputs)}")
        return self.inputs[0]

    def refuse(self, rule: str) -> Exception:
        """Makes the error that names the layer and the rule that it breaks."""
        return self.refusal(f"layer {self.name!r} ({type(self.operation).__name__})", rule)

    @staticmethod
    def refusal(layer: str, rule: str) -> Exception:
        """Makes the error of a layer and a rule, in words."""
        raise NotImplementedError

    def check_arguments(self, named: Mapping[str, Any]) -> None:
        """Checks that tensors alone are given.

        Args:
            named: The named arguments, but for `training`.

        Raises:
            Exception: As `refuse` makes it.
        """
        given = any(value is not None for value in keras.tree.flatten(dict(named)))
        if given or (isinstance(self.operation, keras.Layer) and len(self.arguments) != 1):
            raise self.refuse(f"it must be called with its inputs only. Received: {sorted(named)}")

    def check_ranks(self) -> None:
        """Checks that its tensors are images or vectors.

        Raises:
            Exception: As `refuse` makes it.
        """
        for rank in [*(value.rank for value in self.inputs), self.rank]:
            if rank not in (2, 4):
                raise self.refuse(f"tensors must have 2 or 4 axes, with the batch. Received: {rank}")

    def nested_inputs(self, graph: Any) -> list[Value]:
        """Returns the values for the inputs of the functional model that is called.

        Args:
            graph: The functional model, as `computed_graph` returns it.

        Raises:
            Exception: As `refuse` makes it.
        """
        given, wanted = self.inputs, graph.inputs
        if isinstance(self.arguments[0], dict) or len(given) != len(wanted):
            raise self.refuse(
                f"a nested model must be called with a tensor, or a list of its {len(wanted)} inputs"
            )
        inputs = []
        for value, inner in zip(given, wanted, strict=True):
            if value.rank != len(inner.shape):
                raise self.refuse(f"its input must have {len(inner.shape)} axes. Received: {value.rank}")
            integer = "float" not in str(inner.dtype)
            if integer and not value.integer:
                raise self.refuse(f"it casts its input to {inner.dtype}")
            # A model casts what it is called with to its input's type.
            inputs.append(value if integer == value.integer else dataclasses.replace(value, integer=integer))
        return inputs


@dataclasses.dataclass(frozen=True)
class Entry:
    """A layer class or an operation that a graph has nodes for.

    Attributes:
        rule: Appends the nodes to a draft; from the draft and the call.
        of_integers: The kind of numbers that come out where integers, such as plain pixels, go in: "integers"
            or "floats"; "" where integers would have to be computed with, which no graph does.
    """

    rule: Callable[[Any, Any], Any]
    of_integers: str = ""

    def makes_integers(self, call: Call) -> bool:
        """Returns whether a call gives integers.

        Raises:
            Exception: It would compute with integers; as `Call.refuse` makes it.
        """
        if not any(value.integer for value in call.inputs):
            return False
        if self.of_integers:
            return self.of_integers == "integers"
        # What a Keras tensor says of its type does not hold here: layers say that they make floats of
        # integers.
        operands = keras.tree.flatten(call.arguments)
        floats = any(
            not operand.integer if isinstance(operand, Value) else _is_float(operand) for operand in operands
        )
        if isinstance(call.operation, keras.Layer) or not floats:
            raise call.refuse("its input must be floating-point numbers: rescale or cast the integers first")
        return False


def entry_of(
    call: Call, layers: Mapping[str, Entry], operations: Mapping[str, Entry], otherwise: str
) -> Entry:
    """Returns the entry of the layer or operation that is called.

    Args:
        call: The call.
        layers: The entries of layers, by the names of Keras's classes.
        operations: Those of operations.
        otherwise: The rule that is broken where there is none.

    Raises:
        Exception: There is none; as `Call.refuse` makes it.
    """
    # A subclass may compute something else.
    entry = layers.get(builtin_layer(call.operation)) or operations.get(builtin_operation(call.operation))
    if entry is None:
        raise call.refuse(otherwise)
    return entry


def _is_float(constant: Any) -> bool:
    return "float" in str(getattr(constant, "dtype", type(constant)))
