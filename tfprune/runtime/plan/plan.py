"""A network as steps: which kernel, with which parameters, and into which parts it can be cut."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from tfprune.runtime.graph import Conv, Graph, Node, Shape, nonnegative_values
from tfprune.runtime.kernels.program import PART_WORDS, Emit
from tfprune.runtime.machine import Machine, memory_bytes
from tfprune.runtime.plan.arena import Arena, mask_of
from tfprune.runtime.plan.layout import Geometry, Layout, is_vector, phase_shape, reads

# Parts of a step for each thread: one that is late or slow then leaves more of them to the others.
PARTS_PER_THREAD = 4
# Cuts a step for a number of threads into parts, each a row of at most PART_WORDS numbers.
Share = Callable[[int], list[tuple[int, ...]]]


@dataclasses.dataclass
class Step:
    """One call of a kernel.

    Attributes:
        node: Index of the node that it belongs to.
        kernel: The kernel's name.
        parameters: int64 numbers, in the order of the kernel's parameters.
        share: Cuts it into parts.
    """

    node: int
    kernel: str
    parameters: np.ndarray
    share: Share

    def parts(self, threads: int) -> np.ndarray:
        """Returns the parts for so many threads, int64 `[parts, PART_WORDS]`, none of them empty."""
        rows = self.share(threads)
        table = np.zeros((len(rows), PART_WORDS), np.int64)
        for row, numbers in zip(table, rows, strict=True):
            row[: len(numbers)] = numbers
        return table


class Plan:
    """The steps of a network on a machine; `lowering` fills it.

    Attributes:
        graph: The network.
        shapes: The shapes of its values.
        nonnegative: Which of them have no number below zero.
        target: The machine.
        layout: How the values lie.
        arena: Where.
        kernels: Name to function that emits it.
        steps: In their order.
    """

    def __init__(self, graph: Graph, target: Machine) -> None:
        """Checks the graph and lays out its values.

        Args:
            graph: The network.
            target: The machine.

        Raises:
            GraphError: The graph breaks a rule.
        """
        self.graph = graph
        self.shapes = graph.shapes()
        self.nonnegative = nonnegative_values(graph)
        self.target = target
        self.layout = Layout(graph, self.shapes, target)
        self.arena = Arena()
        self.kernels: dict[str, Emit] = {}
        self.steps: list[Step] = []
        self._places: dict[tuple, int] = {}
        self._kept: list[np.ndarray] = []
        self._masks: dict[tuple[Geometry, Shape], np.ndarray] = {}
        self._now = 0
        # The network's output is read by the caller, after all nodes.
        self._last_reader = {
            key: index for index, node in enumerate(graph.nodes) for key in self._read_keys(index, node)
        } | {(len(graph.nodes) - 1,): len(graph.nodes)}

    def _read_keys(self, index: int, node: Node) -> list[tuple]:
        keys = [(source,) for source in node.inputs]
        if isinstance(node, Conv) and not is_vector(self.shapes[index]):
            keys[0] = reads(node)
        return keys

    # Values: a key is (node,), or (node, strides) for a node's phases.

    def wanted(self, index: int) -> set[tuple]:
        """Returns the keys under which later nodes read a node's value, or the caller its output."""
        return {key for key in self._last_reader if key[0] == index}

    def shape(self, key: tuple) -> Shape:
        """Returns a value's shape."""
        shape = self.shapes[key[0]]
        return shape if len(key) == 1 else phase_shape(shape, key[1])

    def geometry(self, key: tuple) -> Geometry:
        """Returns how a value's planes lie."""
        return self.layout.geometry(*key)

    def place(self, key: tuple) -> int:
        """Returns where a value lies; takes a place for one that is new."""
        if key not in self._places:
            shape = self.shape(key)
            if len(key) == 1 and is_vector(shape):
                self._places[key] = self.arena.vector(shape[2])
            else:
                # The last row and column of some phases may be missing, by the plain value's size.
                pixels = (key[1], self.shapes[key[0]][:2]) if len(key) > 1 else None
                self._places[key] = self.arena.planes(self.geometry(key), shape[2], pixels)
        return self._places[key]

    def has_place(self, key: tuple) -> bool:
        """Whether a value is in memory."""
        return key in self._places

    def temporary_vector(self, size: int) -> int:
        """Takes a place for a vector that only the present node needs."""
        place = self.arena.vector(size)
        self._places[("temporary", place)] = place
        return place

    def begin(self, index: int) -> None:
        """Says that the steps that follow belong to a node."""
        self._now = index

    def end(self) -> None:
        """Gives back the places that nothing after the present node reads."""
        # Phases are made of the plain value when their first reader comes; until then it is needed.
        unmade = {(key[0],) for key in self._last_reader if key not in self._places and self._is_read(key)}
        for key in [key for key in self._places if not self._is_read(key) and key not in unmade]:
            self.arena.release(self._places.pop(key))

    def _is_read(self, key: tuple) -> bool:
        return self._last_reader.get(key, -1) > self._now

    # Steps

    def add(
        self,
        name: tuple,
        emit: Emit,
        names: tuple[str, ...],
        parameters: dict[str, int | np.ndarray],
        share: Share,
    ) -> None:
        """Adds a step.

        Args:
            name: What tells this kernel from others.
            emit: Emits it.
            names: The kernel's parameters, in their order.
            parameters: Their values: numbers, or arrays, whose addresses are passed and which are kept.
            share: See `Step`.
        """
        kernel = "_".join(str(part) for part in name)
        self.kernels[kernel] = emit
        numbers = []
        for parameter in names:
            value = parameters[parameter]
            if isinstance(value, np.ndarray):
                self._kept.append(value)
                value = value.ctypes.data
            numbers.append(value)
        self.steps.append(Step(self._now, kernel, np.array(numbers, np.int64), share))

    def require_memory(self, numbers: int) -> None:
        """Refuses what the system would at first promise and then kill the process for.

        Args:
            numbers: float32 numbers that are needed at once.

        Raises:
            GraphError: They are more than the machine's memory.
        """
        if 4 * numbers > memory_bytes():
            raise self.graph.nodes[self._now].refuse(
                f"the network needs {4 * numbers} bytes, more memory than this machine has"
            )

    def mask(self, key: tuple) -> np.ndarray:
        """Returns the mask of a value's planes."""
        at = (self.geometry(key), (*self.shape(key)[:2], 1))
        if at not in self._masks:
            self._masks[at] = mask_of(*at)
        return self._masks[at]

    def kept_bytes(self) -> int:
        """Returns the bytes of weights and tables that the steps refer to."""
        return sum({id(array): array.nbytes for array in self._kept}.values())


def ranges(edges: Sequence[int]) -> list[tuple[int, int]]:
    """Returns the ranges between edges, without empty ones."""
    return [(start, stop) for start, stop in zip(edges, edges[1:], strict=False) if start < stop]


def parts_for(threads: int) -> int:
    """Returns into how many parts a step is cut at most."""
    return 1 if threads == 1 else PARTS_PER_THREAD * threads


def even(total: int) -> Share:
    """Cuts things of equal cost into ranges."""

    def share(threads: int) -> list[tuple[int, ...]]:
        most = parts_for(threads)
        return ranges([total * i // most for i in range(most + 1)])

    return share


def whole(total: int) -> Share:
    """Leaves everything in one part."""
    return lambda threads: [(0, total)]
