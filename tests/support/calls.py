"""Runs calls of kernels over an arena, as the engine does."""

import functools
from collections.abc import Sequence

import numpy as np

from tfprune.runtime import machine
from tfprune.runtime.kernels import program
from tfprune.runtime.plan import parts


class Bound:
    """Calls compiled for a machine, cut as for a number of threads, to be run by this thread alone."""

    def __init__(self, calls: Sequence, target: machine.Machine, threads: int = 1) -> None:
        kernels = sorted({call.kernel for call in calls}, key=lambda kernel: kernel.name)
        self._code = _compiled(program.assembly(kernels, target.lanes), target)
        self._run = program.RUN_TYPE(self._code.address(program.RUN))
        self._kept = [
            (
                np.array(
                    [a.ctypes.data if isinstance(a, np.ndarray) else a for a in call.arguments], np.int64
                ),
                parts.table(call.parts, threads),
                call,
            )
            for call in calls
        ]
        self._steps = np.array(
            [
                (self._code.address(call.kernel.name), numbers.ctypes.data, table.ctypes.data, len(table))
                for numbers, table, call in self._kept
            ],
            np.int64,
        )

    def run(self, arena: np.ndarray) -> None:
        self._run(self._steps.ctypes.data, len(self._steps), arena.ctypes.data, None, 0, 1)


_compiled = functools.lru_cache(maxsize=4)(machine.Compiled)


class Arena:
    """Buffers one after the other in one array, each at a cache line's edge."""

    def __init__(self) -> None:
        self._buffers: list[tuple[int, np.ndarray]] = []
        self._size = 0

    def add(self, buffer: np.ndarray) -> int:
        """Returns the place of a copy of a buffer."""
        place = self._size
        self._buffers.append((place, np.ravel(buffer)))
        self._size += -(-buffer.size // 16) * 16
        return place

    def array(self) -> np.ndarray:
        """Returns a new arena."""
        whole = np.zeros(self._size + 16, np.float32)
        whole = whole[(-whole.ctypes.data // 4) % 16 :][: self._size]
        for place, buffer in self._buffers:
            whole[place : place + buffer.size] = buffer
        return whole
