"""Steps of a pass, compiled and run on several threads in one call."""

import collections
import dataclasses
import functools
import os
import time
from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar

import numpy as np

from tfprune.runtime import machine
from tfprune.runtime.crew import Crew
from tfprune.runtime.kernels import program
from tfprune.runtime.kernels.kernel import Kernel
from tfprune.runtime.plan.parts import Parts, table
from tfprune.sparse_training.kernels.chain import Chain


@dataclasses.dataclass(frozen=True)
class _Loop(Kernel):
    """Stands for the loop over the steps, which every module has."""

    @property
    def name(self) -> str:
        return program.RUN


LOOP, CHAIN = _Loop(), Chain()
# What is compiled takes about 20 kB each; a large network has about a hundred.
_MOST_KERNELS = 1024
# A batch is cut into so many pieces for chains, at most, and at least so many for each thread.
PIECES = 8
_LEAST_PIECES_PER_THREAD = 2
OF_PIECES = -1
# Parts of a step for each thread: one that is late leaves more of them to the others.
_PARTS_PER_THREAD = 4


@dataclasses.dataclass(frozen=True)
class LinesAndChannels:
    """Parts of lines, such as rows of all tiles; where they are few, of channels, too.

    Attributes:
        lines: The number of lines.
        channels: The number of channels of a line.
    """

    lines: int
    channels: int

    def cut(self, threads: int) -> list[tuple[int, ...]]:
        """Returns first and last line, first and last channel of each part; see `Parts`."""
        wanted = 1 if threads == 1 else _PARTS_PER_THREAD * threads
        by_channel = min(self.channels, -(-wanted // self.lines)) if self.lines < wanted else 1
        lines = _edges(self.lines, min(wanted, self.lines))
        channels = _edges(self.channels, by_channel)
        return [(*line, *some) for line in lines for some in channels]


def _edges(total: int, parts: int) -> list[tuple[int, int]]:
    return [(total * i // parts, total * (i + 1) // parts) for i in range(parts)]


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """A call of a kernel.

    Attributes:
        kind: The kind of operation, in words.
        kernel: The kernel.
        arguments: The values of the kernel's parameters; an array stands for its address.
        parts: The way to cut the step for several threads.
        bytes: The bytes that it must read and write at least.
        multiply_adds: The products that it must add up at least.
        units_of_tile: Where `parts` are `TilesOrGroups`, how many of its tiles a tile of the batch has; 0:
            one may lie in several; `OF_PIECES`: they are the pieces of the batch.
    """

    kind: str
    kernel: Kernel
    arguments: tuple[int | np.ndarray, ...]
    parts: Parts
    bytes: int = 0
    multiply_adds: int = 0
    units_of_tile: int = 0

    def of_tiles(self, edges: np.ndarray, tiles: int) -> np.ndarray | None:
        """Returns the parts that do pieces of the batch; None if the step cannot be cut so.

        Args:
            edges: The first tile of each piece, and the end.
            tiles: The tiles of the batch.

        Returns:
            int64 `[pieces, PART_WORDS]`.
        """
        pieces = len(edges) - 1
        if isinstance(self.parts, LinesAndChannels):
            units, groups = self.parts.lines // tiles * edges, self.parts.channels
        elif self.units_of_tile == OF_PIECES and self.parts.tiles == pieces:
            units, groups = np.arange(pieces + 1), len(self.parts.group_costs)
        elif self.units_of_tile > 0:
            units, groups = self.units_of_tile * edges, len(self.parts.group_costs)
        else:
            return None
        nothing = np.zeros(pieces, np.int64)
        return np.column_stack([units[:-1], units[1:], nothing, nothing + groups])


class Code:
    """The compiled kernels of some steps, and the loop that runs them.

    The kernels that a process has compiled last are not compiled again: a network whose masks have changed
    has mostly the same.
    """

    _last: ClassVar[collections.OrderedDict[tuple[Kernel, machine.Machine], tuple[machine.Compiled, int]]] = (
        collections.OrderedDict()
    )

    def __init__(self, steps: Iterable[Step], target: machine.Machine) -> None:
        """Compiles.

        Args:
            steps: The steps.
            target: The machine that it runs on.
        """
        kernels = {LOOP, CHAIN, *(step.kernel for step in steps)}
        self._compiled = {k: self._last[k, target] for k in kernels if (k, target) in self._last}
        new = sorted(kernels - self._compiled.keys(), key=lambda kernel: kernel.name)
        if new:
            text = program.assembly([kernel for kernel in new if kernel is not LOOP], target.lanes)
            machine.provide(program.GIVE_WAY)
            code = machine.Compiled(text, target)
            for kernel in new:
                self._compiled[kernel] = code, code.address(kernel.name)
        for kernel, compiled in self._compiled.items():
            self._last[kernel, target] = compiled
            self._last.move_to_end((kernel, target))
        while len(self._last) > _MOST_KERNELS:
            self._last.popitem(last=False)
        self.run = program.RUN_TYPE(self.address(LOOP))

    def address(self, kernel: Kernel) -> int:
        """Returns the address of a kernel."""
        return self._compiled[kernel][1]


class Program:
    """Steps as the compiled loop reads them.

    Attributes:
        steps: The steps.
    """

    def __init__(self, code: Code, steps: Sequence[Step], threads: int, tiles: int = 0) -> None:
        """Makes the table of the steps.

        Steps that can be cut by tiles, one behind the other, become a chain: a thread does all of them for
        some tiles, and then for the next. Every other step takes its parts in the reverse order: those that
        the one before has done last are still in the cache.

        Args:
            code: Has all the steps' kernels, and `CHAIN`.
            steps: The steps in their order.
            threads: The threads to cut the steps for.
            tiles: The tiles of the batch; 0: no chains.
        """
        self.steps = tuple(steps)
        self._code, self._threads = code, threads
        self._kept: list[object] = []  # The table has their addresses.
        pieces = min(tiles, PIECES) if tiles >= _LEAST_PIECES_PER_THREAD * threads else 0
        edges = tiles * np.arange(pieces + 1) // max(1, pieces)
        rows, chain = [], []
        for step in self.steps:
            parts = step.of_tiles(edges, tiles) if pieces else None
            if parts is not None:
                chain.append((step, parts))
                continue
            rows += self._chained(chain, len(rows))
            rows.append(self._row(step.kernel, step.arguments, table(step.parts, threads), len(rows)))
            chain = []
        rows += self._chained(chain, len(rows))
        self._table = np.array(rows, np.int64).reshape(len(rows), program.STEP_WORDS)

    def _chained(self, chain: list[tuple[Step, np.ndarray]], number: int) -> list[tuple[int, ...]]:
        """Returns the row of a chain, or no row."""
        if not chain:
            return []
        links = []
        for step, parts in chain:
            kernel, arguments, address, _ = self._row(step.kernel, step.arguments, parts, 0)
            links.append((kernel, arguments, address))
        pieces = np.zeros((len(chain[0][1]), program.PART_WORDS), np.int64)
        pieces[:, 0] = np.arange(len(pieces))
        return [self._row(CHAIN, (np.array(links, np.int64), len(links)), pieces, number)]

    def _row(
        self, kernel: Kernel, arguments: Sequence[int | np.ndarray], parts: np.ndarray, number: int
    ) -> tuple[int, ...]:
        numbers = np.array([a.ctypes.data if isinstance(a, np.ndarray) else a for a in arguments], np.int64)
        if number % 2:  # Each thread's parts, as the loop deals them.
            shares = np.array_split(parts, [len(parts) * i // self._threads for i in range(1, self._threads)])
            parts = np.concatenate([share[::-1] for share in shares])
        parts = np.ascontiguousarray(parts)
        self._kept.append((numbers, parts, arguments))
        return self._code.address(kernel), numbers.ctypes.data, parts.ctypes.data, len(parts)

    def work(self, arena: np.ndarray, threads: int, span: slice = slice(None)) -> Callable[[int], None]:
        """Returns a function that does a thread's share of the steps, given the thread's number.

        The steps are done when it has returned for one thread.

        Args:
            arena: The values between the operations.
            threads: The number of threads.
            span: The steps to do.
        """
        rows = self._table[span]
        counters = np.zeros((len(rows), 1 + threads, program.COUNTER_WORDS), np.int64)
        address = counters.ctypes.data if threads > 1 else None
        held = (self, arena, counters)

        def work(thread: int) -> None:
            program, arena, _ = held
            program._code.run(rows.ctypes.data, len(rows), arena.ctypes.data, address, thread, threads)

        return work


class Runner:
    """Runs programs, one after the other, on the caller's thread and others beside it.

    A call may be interrupted at any moment, such as by Ctrl-C: what it has left undone is done before the
    next one begins, so that nobody writes memory that the next one works on. After a fork the child has new
    threads.

    Attributes:
        threads: Their number.
    """

    def __init__(self, threads: int) -> None:
        """Starts no thread yet.

        Args:
            threads: At least 1.
        """
        self.threads = threads
        self._process = os.getpid()
        self._crew: Crew | None = None
        self._unfinished: Callable[[int], None] | None = None

    def run(self, program: Program, arena: np.ndarray, span: slice = slice(None)) -> None:
        """Runs steps of a program.

        Args:
            program: The program, cut for this number of threads.
            arena: The values between the operations.
            span: The steps to run.
        """
        self.finish()
        work = program.work(arena, self.threads, span)
        if self.threads == 1:
            work(0)
            return
        crew, self._crew = self._crew or Crew(self.threads - 1), None
        self._unfinished = work
        crew.run(work)
        self._unfinished = None
        self._crew = crew  # A crew whose call was interrupted is not used again.

    def finish(self) -> None:
        """Does what an interrupted call has left undone."""
        if self._process != os.getpid():
            self._process, self._crew, self._unfinished = os.getpid(), None, None
        if self._unfinished is not None:
            self._unfinished(0)
            self._unfinished = None

    def time(self, program: Program, arena: np.ndarray) -> list[float]:
        """Runs a program without chains step by step, and returns the seconds of each."""
        seconds = []
        for index in range(len(program.steps)):
            work = functools.partial(self.run, program, arena, slice(index, index + 1))
            before = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - before)
        return seconds
