"""The time of each convolution of `model.tfprune`, and of its other nodes by their kind."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfprune.runtime.graph import Conv, Graph, Recurrent, Shape
from tfprune.runtime.sparse_array import nonzeros


@dataclasses.dataclass(frozen=True)
class LayerTime:
    """One convolution, or all nodes of another kind together.

    Attributes:
        name: The layer; for the others their kind and number.
        kernel: Shape of the kernel, `()` for the others.
        output: `(height, width, channels)`, `()` for the others.
        sparsity: Share of zeros in the kernel; None for the others.
        path: `"sparse"`, `"dense"` or `"int8"`, as recorded in the file; `""` for the others.
        costs: Microseconds of each path as recorded in the file.
        microseconds: The time measured now.
        share: The share of the whole network's time.
        dense_gflops: Billions of operations a second that a dense convolution would have to do to take
            as long; 0 for the others.
    """

    name: str
    kernel: tuple[int, ...]
    output: tuple[int, ...]
    sparsity: float | None
    path: str
    costs: dict[str, float]
    microseconds: float
    share: float
    dense_gflops: float

    def to_record(self) -> dict[str, Any]:
        """Returns the fields as JSON takes them."""
        return dataclasses.asdict(self)


def layer_times(graph: Graph, microseconds: Sequence[float], batch_size: int = 1) -> list[LayerTime]:
    """Joins measured times with the shapes and sparsities of the graph's nodes.

    Args:
        graph: The network.
        microseconds: One value for each node, for a batch.
        batch_size: Images in the batch.

    Returns:
        The convolutions and recurrent cells in the graph's order, then the other kinds of nodes.
    """
    shapes = graph.shapes()
    total = sum(microseconds) or 1.0
    rows = []
    others: dict[str, list[float]] = {}
    for node, shape, taken in zip(graph.nodes, shapes, microseconds, strict=True):
        if not isinstance(node, Conv | Recurrent):
            others.setdefault(type(node).__name__, []).append(taken)
            continue
        operations = dense_operations(node, shape) * batch_size
        rows.append(
            LayerTime(
                name=node.name,
                kernel=tuple(int(size) for size in node.kernel.shape),
                output=shape,
                sparsity=1 - np.count_nonzero(nonzeros(node.kernel)[1]) / node.kernel.size,
                path=node.path,
                costs=dict(node.costs),
                microseconds=taken,
                share=taken / total,
                dense_gflops=operations / taken / 1e3 if taken else 0.0,
            )
        )
    for kind, values in others.items():
        taken = sum(values)
        rows.append(LayerTime(f"{kind} x{len(values)}", (), (), None, "", {}, taken, taken / total, 0.0))
    return rows


def dense_operations(node: Conv | Recurrent, output: Shape) -> int:
    """Returns the multiplications and additions of a dense convolution, or cell, of one image."""
    return 2 * output[0] * output[1] * int(np.prod(node.kernel.shape))
