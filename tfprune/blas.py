"""Many small problems of linear algebra at once, one a core."""

import contextlib
import ctypes
import importlib.util
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tfprune.machine import available_cores

# The names by which NumPy's OpenBLAS has its functions, by the packages that bring it.
_NAMES = ("scipy_openblas_{}_num_threads64_", "openblas_{}_num_threads64_", "openblas_{}_num_threads")


def for_each(work: Callable[..., None], parts: Iterable[Iterable[Any]]) -> None:
    """Calls a function with the arguments of each part.

    The threads of NumPy's OpenBLAS wait for one another longer than small matrices take: each part has one,
    and as many parts are worked on as there are cores. With another BLAS it is one part at a time.

    Args:
        work: Computes with NumPy, and writes where no other part does.
        parts: The arguments.
    """
    with _one_thread() as alone:
        if not alone:
            for part in parts:
                work(*part)
            return
        with ThreadPoolExecutor(available_cores()) as threads:
            for _ in threads.map(lambda part: work(*part), parts):
                pass


@contextlib.contextmanager
def _one_thread() -> Iterator[bool]:
    """Has OpenBLAS use one thread inside the block; yields whether it does."""
    found = _threads()
    if found is None:
        yield False
        return
    read, write = found
    before = read()
    write(1)
    try:
        yield True
    finally:
        write(before)


def _threads() -> tuple[Callable[[], int], Callable[[int], None]] | None:
    """Returns the functions that read and set the number of threads of NumPy's OpenBLAS; None for others."""
    # The module of NumPy that is linked with it.
    module = importlib.util.find_spec("numpy.linalg._umath_linalg")
    if module is None or module.origin is None:
        return None
    try:
        library = ctypes.CDLL(module.origin)
    except OSError:
        return None
    for name in _NAMES:
        read, write = (getattr(library, name.format(verb), None) for verb in ("get", "set"))
        if read is not None and write is not None:
            return read, write
    return None
