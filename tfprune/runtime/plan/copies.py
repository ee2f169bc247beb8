"""Steps that copy numbers: of a value to other places, and of planes to a vector."""

from collections.abc import Sequence

import numpy as np

from tfprune.runtime.kernels import planes, vectors
from tfprune.runtime.plan.layout import Value, is_vector
from tfprune.runtime.plan.parts import Even
from tfprune.runtime.plan.planner import Planner


def lies(planner: Planner, value: Value) -> tuple[int, int]:
    """Returns the distance of two planes of a value, and that of two rows."""
    if is_vector(planner.shape(value)):
        return 1, 1
    geometry = planner.geometry(value)
    return geometry.plane, geometry.pitch


def gather(
    planner: Planner,
    target: Value,
    source: int | np.ndarray,
    places: Sequence[np.ndarray],
    start: tuple[int, int] = (0, 0),
) -> None:
    """Adds a step that copies numbers.

    Args:
        planner: The plan.
        target: The value to write.
        source: The place of the value that they are copied of, or a constant.
        places: For each row, column and channel how far it is in the source.
        start: The first row and column of the target.
    """
    plane, pitch = lies(planner, target)
    rows, columns, channels = (np.asarray(axis).astype(np.int32) for axis in places)
    planner.add(
        planes.Gather(isinstance(source, np.ndarray), bool((np.diff(columns) == 1).all())),
        {
            "source": source,
            "target": planner.place(target) + start[0] * pitch + start[1],
            "plane": plane,
            "pitch": pitch,
            "height": len(rows),
            "width": len(columns),
            "rows": rows,
            "columns": columns,
            "channels": channels,
        },
        Even(len(channels)),
    )


def make_flat(planner: Planner, source: Value, place: int) -> None:
    """Adds a step that makes planes a vector: rows, columns, channels."""
    height, width, channels = planner.shape(source)
    geometry = planner.geometry(source)
    planner.add(
        vectors.Flatten(),
        {
            "source": planner.place(source),
            "target": place,
            "plane": geometry.plane,
            "pitch": geometry.pitch,
            "width": width,
            "channels": channels,
        },
        Even(height),
    )
