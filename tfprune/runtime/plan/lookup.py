"""The rows of a table as a step."""

import numpy as np

from tfprune.runtime.graph import Embedding
from tfprune.runtime.kernels import lookup
from tfprune.runtime.plan.arena import Table
from tfprune.runtime.plan.copies import lies
from tfprune.runtime.plan.layout import Value
from tfprune.runtime.plan.packing import weights_of
from tfprune.runtime.plan.parts import Even
from tfprune.runtime.plan.planner import Planner


def lower_embedding(planner: Planner, index: int, node: Embedding) -> None:
    """Adds the step of an embedding."""
    source, target = Value(node.inputs[0]), Value(index)
    rows, columns, channels = planner.shape(target)
    source_plane, _ = lies(planner, source)
    plane, pitch = lies(planner, target)
    positions, values, scales = weights_of(node.kernel, planner.compact)

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
            "scales": scales if planner.compact else 0,
        },
        Even(rows),
    )
