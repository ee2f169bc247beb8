"""The memory that a network may take."""

from collections.abc import Callable

from tfprune.memory import available_bytes, size_text
from tfprune.runtime.errors import FileFormatError, GraphError


def allowed_bytes(memory_limit: float | None) -> float:
    """Returns the bytes that a network may take.

    Args:
        memory_limit: What the caller allows; None for no limit but the process's.

    Raises:
        ValueError: The limit is not a number above 0.
    """
    if memory_limit is None:
        return available_bytes()
    if isinstance(memory_limit, bool) or not isinstance(memory_limit, int | float) or not memory_limit > 0:
        raise ValueError(
            f"`memory_limit` must be a number of bytes above 0. Received: memory_limit={memory_limit!r}"
        )
    return min(memory_limit, available_bytes())


def require_memory(
    needed: int, allowed: float, refuse: Callable[[str], GraphError | FileFormatError] = GraphError
) -> None:
    """Refuses what the system would at first promise and then kill the process for.

    Args:
        needed: The bytes that are needed at once.
        allowed: The bytes that may be taken.
        refuse: Makes the error of its message.

    Raises:
        GraphError: It may not be so much; or what `refuse` makes.
    """
    if needed > allowed:
        raise refuse(f"the network needs {size_text(needed)} of memory and may have {size_text(allowed)}")
