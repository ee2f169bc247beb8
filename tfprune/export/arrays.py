"""Examples and outputs: an array, or arrays by name where a network has several inputs or outputs.

Imports NumPy alone, for the processes whose memory the benchmark measures.
"""

from typing import Any

import numpy as np

Arrays = np.ndarray | dict[str, np.ndarray]


def count_of(arrays: Arrays) -> int:
    """Returns the number of examples."""
    return len(next(iter(arrays.values()))) if isinstance(arrays, dict) else len(arrays)


def part_of(arrays: Arrays, part: slice) -> Arrays:
    """Returns some of the examples."""
    if isinstance(arrays, dict):
        return {name: array[part] for name, array in arrays.items()}
    return arrays[part]


def by_name(arrays: Any, name: str) -> dict[str, Any]:
    """Returns arrays by name: a single one by the name given."""
    return arrays if isinstance(arrays, dict) else {name: arrays}


def one_or_all(named: dict[str, Any]) -> Any:
    """Returns arrays by name, a single one as it is."""
    return next(iter(named.values())) if len(named) == 1 else named
