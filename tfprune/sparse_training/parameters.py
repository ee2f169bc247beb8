"""The parameters of a network in one flat vector, so that memory and work are in proportion to the weights
that stay."""

import numpy as np

from tfprune.sparse_training.graph import Graph, Kernel, Vector


class Parameters:
    """Values and gradients of a network.

    Attributes:
        values: The numbers that learn, float32, parameter by parameter in the order of the graph; a kernel's
            in the order of its positions.
        gradients: Their gradients, likewise.
        slices: The part of each parameter that learns, by name.
    """

    def __init__(self, graph: Graph) -> None:
        """Copies the values of a graph.

        Args:
            graph: The graph.
        """
        self.slices: dict[str, slice] = {}
        self._kept: dict[str, np.ndarray] = {}
        learning, start = [], 0
        for parameter in graph.parameters:
            numbers = np.ascontiguousarray(parameter.values, np.float32)
            if not parameter.trainable:
                self._kept[parameter.name] = numbers.copy()
                continue
            self.slices[parameter.name] = slice(start, start + len(numbers))
            learning.append(numbers)
            start += len(numbers)
        self.values = np.concatenate([*learning, np.zeros(0, np.float32)])
        self.gradients = np.zeros_like(self.values)

    def values_of(self, parameter: Kernel | Vector) -> np.ndarray:
        """Returns the values of a parameter: a view of `values`, or a constant."""
        if parameter.name in self.slices:
            return self.values[self.slices[parameter.name]]
        return self._kept[parameter.name]

    def gradients_of(self, parameter: Kernel | Vector) -> np.ndarray:
        """Returns the gradients of a parameter that learns: a view."""
        return self.gradients[self.slices[parameter.name]]
