"""The parts that a step is cut into, so that several threads can share it."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from tfprune.runtime.kernels.program import PART_WORDS

# Parts of a step for each thread: one that is late or slow then leaves more of them to the others.
_PARTS_PER_THREAD = 4
# Threads take whole tiles, because each then reads mostly what it wrote itself, if that leaves no more than
# this share of their time idle; else groups of channels.
_MOST_IDLE = 0.15


class Parts(Protocol):
    """A way to cut a step."""

    def cut(self, threads: int) -> list[tuple[int, ...]]:
        """Returns the parts for a number of threads, none of them empty.

        Args:
            threads: At least 1.

        Returns:
            The numbers of each part, `PART_WORDS` at most, in the order in which the kernel takes them.
        """


@dataclasses.dataclass(frozen=True)
class Even:
    """Ranges of things that cost the same, such as planes.

    Attributes:
        total: The number of things.
    """

    total: int

    def cut(self, threads: int) -> list[tuple[int, ...]]:
        """See `Parts`."""
        return _ranges(_even_edges(self.total, _most_parts(threads)))


@dataclasses.dataclass(frozen=True)
class TilesOrGroups:
    """The parts of a convolution: tiles where there are enough, else groups of about equal cost.

    Attributes:
        tiles: The number of tiles.
        group_costs: The cost of each group of output channels.
    """

    tiles: int
    group_costs: tuple[int, ...]

    def cut(self, threads: int) -> list[tuple[int, ...]]:
        """See `Parts`."""
        most, groups = _most_parts(threads), len(self.group_costs)
        at_once = -(-self.tiles // threads) * threads
        if at_once - self.tiles <= _MOST_IDLE * at_once:
            edges = _even_edges(self.tiles, min(most, self.tiles))
            return [(start, stop, 0, groups) for start, stop in _ranges(edges)]
        cost = np.concatenate([[0], np.cumsum(self.group_costs)])
        edges = np.searchsorted(cost, cost[-1] * np.arange(most + 1) / most).tolist()
        edges[-1] = groups
        return [(0, self.tiles, start, stop) for start, stop in _ranges(edges)]


def table(parts: Parts, threads: int) -> np.ndarray:
    """Returns the parts as the compiled loop reads them.

    Args:
        parts: The way to cut the step.
        threads: The number of threads.

    Returns:
        int64 `[parts, PART_WORDS]`.
    """
    rows = parts.cut(threads)
    filled = np.zeros((len(rows), PART_WORDS), np.int64)
    for row, numbers in zip(filled, rows, strict=True):
        row[: len(numbers)] = numbers
    return filled


def _most_parts(threads: int) -> int:
    return 1 if threads == 1 else _PARTS_PER_THREAD * threads


def _even_edges(total: int, parts: int) -> list[int]:
    return [total * i // parts for i in range(parts + 1)]


def _ranges(edges: Sequence[int]) -> list[tuple[int, int]]:
    """Returns the ranges between edges, without empty ones."""
    return [(start, stop) for start, stop in zip(edges, edges[1:], strict=False) if start < stop]
