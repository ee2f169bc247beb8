"""A draft of the graph of a Keras model, and the calls that it is made of."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras
import numpy as np

from tfprune.network import drafts
from tfprune.network.drafts import Value
from tfprune.sparse_training.errors import UnsupportedError
from tfprune.sparse_training.graph import Graph, Input, Kernel, Node, Shape, Vector
from tfprune.text import numbered


class Call(drafts.Call):
    """One call of a Keras layer or operation."""

    @staticmethod
    def refusal(layer: str, rule: str) -> UnsupportedError:
        """See `drafts.Call`."""
        return UnsupportedError(f"{layer}: {rule}")


class Ending(NamedTuple):
    """The end of a model.

    Attributes:
        node: The node whose value the graph gives.
        functions: What the backend computes of it, in order.
    """

    node: int
    functions: tuple[Callable[[Any], Any], ...]


@dataclasses.dataclass(frozen=True, eq=False)
class _Function(Node):
    """A function that only the backend knows; it may stand at the end of a model alone."""

    reason: UnsupportedError


class Draft:
    """Nodes in an order in which each comes after its inputs, with the shapes of their values.

    Args:
        trainable: The ids of the variables that learn.
        masks: The mask of each pruned variable, by the variable's id.

    Attributes:
        nodes: The nodes.
        shapes: The shape of each node's value.
        mask_of_name: The mask of each kernel that has one, by the kernel's name.
        normalizations: The layers with moving statistics, by the names that their nodes know them by.
    """

    def __init__(self, trainable: set[int], masks: dict[int, keras.Variable]) -> None:
        self.nodes: list[Node] = []
        self.shapes: list[Shape] = []
        self.mask_of_name: dict[str, keras.Variable] = {}
        self.normalizations: dict[str, keras.layers.Layer] = {}
        self._trainable, self._masks = trainable, masks
        self._functions: dict[int, Callable[[Any], Any]] = {}
        self._parameters: dict[int, tuple[Kernel | Vector, keras.Variable]] = {}

    def add(self, node: Node) -> int:
        """Appends a node; returns its number."""
        self.nodes.append(node)
        # Of a graph of the node and inputs of the right shapes alone, where rules of shapes are kept once.
        inputs = [Input("", (), self.shapes[i], np.zeros(0), np.zeros(0)) for i in node.inputs]
        alone = dataclasses.replace(node, inputs=tuple(range(len(inputs))))
        self.shapes.append(Graph((*inputs, alone)).shapes()[-1])
        return len(self.nodes) - 1

    def add_function(self, node: Node, function: Callable[[Any], Any]) -> int:
        """Appends a node that computes what a function of the backend computes, too."""
        number = self.add(node)
        self._functions[number] = function
        return number

    def add_unknown(
        self, call: Call, source: int, function: Callable[[Any], Any], reason: UnsupportedError
    ) -> int:
        """Appends a function that only the backend knows; the reason is the error where it is not the end."""
        return self.add_function(_Function(call.name, (source,), reason), function)

    def kernel(self, variable: keras.Variable, shape: tuple[int, int, int, int], call: Call) -> Kernel:
        """Returns the kernel of a variable, the same one for each use of it."""
        if id(variable) in self._parameters:
            kernel = self._parameters[id(variable)][0]
            if kernel.shape != shape:
                raise call.refuse(
                    "its kernel has two uses of different shapes."
                    f" Received: shapes {kernel.shape} and {shape}"
                )
            return kernel
        values, positions = _flat(variable), None
        mask = self._masks.get(id(variable))
        name = self._unique(variable.path)
        if mask is not None:
            self.mask_of_name[name] = mask
            positions = positions_of(mask)
        if positions is not None:
            values = values[positions]
        kernel = Kernel(name, shape, values.copy(), positions, id(variable) in self._trainable)
        self._parameters[id(variable)] = (kernel, variable)
        return kernel

    def vector(self, variable: keras.Variable | None) -> Vector | None:
        """Returns the vector of a variable, the same one for each use of it; None of None."""
        if variable is None:
            return None
        if id(variable) not in self._parameters:
            name = self._unique(variable.path)
            vector = Vector(name, _flat(variable).copy(), id(variable) in self._trainable)
            self._parameters[id(variable)] = (vector, variable)
        return self._parameters[id(variable)][0]

    def parameters(self) -> list[tuple[Kernel | Vector, keras.Variable]]:
        """Returns the kernels and vectors with their variables."""
        return list(self._parameters.values())

    def take_ending(self, output: Value) -> Ending:
        """Takes the functions at the end, which nothing else uses, away from the nodes."""
        used = {index for node in self.nodes for index in node.inputs}
        number, functions = output.node, []
        while number in self._functions and number not in used:
            functions.insert(0, self._functions.pop(number))
            (source,) = self.nodes[number].inputs
            used = {index for node in self.nodes[:number] for index in node.inputs}
            number = source
        return Ending(number, tuple(functions))

    def left_over(self) -> Iterator[UnsupportedError]:
        """Yields the reasons of the functions that are not at the end."""
        for number in self._functions:
            if isinstance(self.nodes[number], _Function):
                yield self.nodes[number].reason

    def _unique(self, name: str) -> str:
        return numbered(name, {parameter.name for parameter, _ in self._parameters.values()})


def positions_of(mask: keras.Variable) -> np.ndarray | None:
    """Returns the flat positions of the weights that a mask keeps, int64, ascending; None where it is all."""
    kept = np.asarray(keras.ops.convert_to_numpy(mask)).reshape(-1)
    return None if kept.all() else np.flatnonzero(kept)


def _flat(variable: keras.Variable) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(variable)).reshape(-1)
