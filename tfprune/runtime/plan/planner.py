"""The making of a plan: values get places, and steps are added one by one."""

import numpy as np

from tfprune.runtime.graph import Conv, Graph, Node, Shape, nonnegative_values
from tfprune.runtime.kernels.kernel import Kernel
from tfprune.runtime.machine import Machine
from tfprune.runtime.plan.arena import Arena, mask_of, require_memory
from tfprune.runtime.plan.layout import Geometry, Layout, Value, is_vector, phase_shape, reads
from tfprune.runtime.plan.parts import Parts
from tfprune.runtime.plan.plan import Constant, Plan, Step


class Planner:
    """A plan in the making; `lowering` adds its steps.

    Attributes:
        graph: The network.
        shapes: The shapes of its values.
        nonnegative: For each value, whether it is known to have no number below zero.
        target: The machine.
        arena: The places of the values.
    """

    def __init__(self, graph: Graph, target: Machine) -> None:
        """Checks a graph and lays out its values.

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
        self._layout = Layout(graph, self.shapes, target)
        self.arena = Arena()
        self._steps: list[Step] = []
        self._constants: list[np.ndarray] = []
        self._constant_of: dict[int, Constant] = {}  # by the array's id
        self._places: dict[Value, int] = {}
        self._temporaries: list[int] = []
        self._masks: dict[tuple[Geometry, Shape], np.ndarray] = {}
        self._now = 0
        self._output = Value(len(graph.nodes) - 1)
        # The network's output is read by the caller, after all nodes.
        self._last_reader = {
            value: index for index, node in enumerate(graph.nodes) for value in self._read_by(index, node)
        } | {self._output: len(graph.nodes)}

    def _read_by(self, index: int, node: Node) -> list[Value]:
        values = [Value(source) for source in node.inputs]
        if isinstance(node, Conv) and not is_vector(self.shapes[index]):
            values[0] = reads(node)
        return values

    # Values

    def wanted(self, index: int) -> set[Value]:
        """Returns the values of a node, plain or split into phases, that are read after it."""
        return {value for value in self._last_reader if value.node == index}

    def shape(self, value: Value) -> Shape:
        """Returns the shape of a value."""
        return phase_shape(self.shapes[value.node], value.strides)

    def geometry(self, value: Value) -> Geometry:
        """Returns the geometry of a value's planes."""
        return self._layout.geometry(value)

    def place(self, value: Value) -> int:
        """Returns the place of a value in the arena; takes a place for one that is new."""
        if value not in self._places:
            shape = self.shape(value)
            if is_vector(shape) and not value.is_split:
                self._places[value] = self.arena.vector(shape[2])
            else:
                # The last row and column of some phases may be missing, by the plain value's size.
                pixels = (value.strides, self.shapes[value.node][:2]) if value.is_split else None
                self._places[value] = self.arena.planes(self.geometry(value), shape[2], pixels)
        return self._places[value]

    def has_place(self, value: Value) -> bool:
        """Returns whether a value is in memory."""
        return value in self._places

    def temporary_vector(self, size: int) -> int:
        """Takes a place for a vector that only the present node needs."""
        self._temporaries.append(self.arena.vector(size))
        return self._temporaries[-1]

    def mask(self, value: Value) -> np.ndarray:
        """Returns the mask of a value's planes."""
        at = (self.geometry(value), (*self.shape(value)[:2], 1))
        if at not in self._masks:
            self._masks[at] = mask_of(*at)
        return self._masks[at]

    def begin(self, index: int) -> None:
        """Begins a node: the steps that follow belong to it."""
        self._now = index

    def end(self) -> None:
        """Gives back the places that nothing after the present node reads."""
        # Phases are made of the plain value when their first reader comes; until then it is needed.
        unmade = {
            Value(value.node)
            for value in self._last_reader
            if value not in self._places and self._is_read(value)
        }
        for value in [value for value in self._places if not self._is_read(value) and value not in unmade]:
            self.arena.release(self._places.pop(value))
        while self._temporaries:
            self.arena.release(self._temporaries.pop())

    def _is_read(self, value: Value) -> bool:
        return self._last_reader.get(value, -1) > self._now

    # Steps

    def add(self, kernel: Kernel, arguments: dict[str, int | np.ndarray], parts: Parts) -> None:
        """Adds a step.

        Args:
            kernel: The kernel.
            arguments: The value of each of the kernel's parameters: a number, or an array that becomes one
                of the plan's constants.
            parts: The way to cut the step for several threads.
        """
        values = tuple(self._argument(arguments[name]) for name in kernel.parameters)
        self._steps.append(Step(self._now, kernel, values, parts))

    def _argument(self, value: int | np.ndarray) -> int | Constant:
        if not isinstance(value, np.ndarray):
            return int(value)
        if id(value) not in self._constant_of:
            # Several steps may share an array, such as a mask.
            self._constant_of[id(value)] = Constant(len(self._constants))
            self._constants.append(value)
        return self._constant_of[id(value)]

    def require_memory(self, numbers: int) -> None:
        """Refuses the graph if it needs more memory than the machine has.

        Args:
            numbers: The float32 numbers that are needed at once.

        Raises:
            GraphError: The machine's memory is smaller; names the present node.
        """
        require_memory(numbers, self.graph.nodes[self._now].refuse)

    def plan(self) -> Plan:
        """Returns the plan, when all nodes have their steps."""
        return Plan(
            target=self.target,
            nodes=len(self.graph.nodes),
            input_shape=self.shapes[0],
            output=self.place(self._output),
            classes=self.shapes[-1][2],
            arena_size=self.arena.size,
            steps=tuple(self._steps),
            constants=tuple(np.ascontiguousarray(constant) for constant in self._constants),
        )
