"""What all operations of a graph have in common."""

import dataclasses
from collections.abc import Sequence

from tfprune.runtime.errors import GraphError

Shape = tuple[int, int, int]  # height, width, channels


@dataclasses.dataclass(frozen=True)
class Node:
    """One operation.

    Attributes:
        name: The Keras layer that it comes from; for messages and tables.
        inputs: Indices of the nodes whose values it takes, each below its own.
    """

    name: str
    inputs: tuple[int, ...]

    def output_shape(self, shapes: Sequence[Shape]) -> Shape:
        """Returns the shape of its value.

        Args:
            shapes: Those of its inputs, `(height, width, channels)` each.

        Returns:
            `(height, width, channels)`.

        Raises:
            GraphError: It cannot take such inputs, or an attribute breaks its rule.
        """
        raise NotImplementedError

    def refuse(self, rule: str) -> GraphError:
        """Makes the error that says which node breaks which rule."""
        return GraphError(f"{type(self).__name__} {self.name!r}: {rule}")
