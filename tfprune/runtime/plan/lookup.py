"""The rows of a table as a step."""

import numpy as np

from tfprune.runtime.graph import Embedding
from tfprune.runtime.integers import to_int8
from tfprune.runtime.kernels import lookup
from tfprune.runtime.plan.arena import Table
from tfprune.runtime.plan.copies import lies
from tfprune.runtime.plan.layout import Value
from tfprune.runtime.plan.parts import Even
from tfprune.runtime.plan.planner import Planner
from tfprune.runtime.sparse_array import nonzeros


def lower_embedding(planner: Planner, index: int, node: Embedding) -> None:
    """Adds the step of an embedding."""
    source, target = Value(node.inputs[0]), Value(index)
    rows, columns, channels = planner.shape(target)
    source_plane, _ = lies(planner, source)
    plane, pitch = lies(planner, target)
    if planner.compact:
        positions, values, scales = to_int8(node.kernel)
    else:
        (positions, values), scales = nonzeros(node.kernel), 0

    def table() -> np.ndarray:
        filled = np.zeros(node.kernel.size, values.dtype)
        filled[positions] = values
        return filled

    planner.add(
        lookup.Lookup(planner.compact),
        {
            "source": planner.place(source),
            "source_row": 1,
            "source_column": source_plane,
            "target": planner.place(target),
            "plane": plane,
            "pitch": pitch,
            "width": columns,
            "channels": channels,
            "entries": node.kernel.shape[2],
            "values": Table(node.kernel.size, table),
            "scales": scales,
        },
        Even(rows),
    )
