"""The making of a plan: values get places, and steps are added one by one."""

import math
from collections.abc import Callable

import numpy as np

from tfprune.runtime.graph import INTEGER_PATH, Conv, Graph, Quantize, Shape, nonnegative_values
from tfprune.runtime.kernels import planes
from tfprune.runtime.kernels.kernel import Kernel
from tfprune.runtime.limits import require_memory
from tfprune.runtime.machine import Machine
from tfprune.runtime.plan.arena import VECTOR_SLACK, Arena, Table, mask_of, mask_of_bytes, plane_numbers
from tfprune.runtime.plan.layout import Geometry, Layout, Value, is_vector, phase_shape, reads
from tfprune.runtime.plan.parts import Even, Parts
from tfprune.runtime.plan.plan import Constant, Plan, Port, Step

# Each is compiled, which takes up to 20 ms. Networks have about ten.
MAX_KERNELS = 96
# Masks and counts: more than 1,000 planes of 224 x 224, and a second of time.
MAX_TABLE_NUMBERS = 2**26


# The activations that are the largest of a number and zero, perhaps with a largest number.
LARGEST_ACTIVATED = {"relu": math.inf, "relu6": 6.0}


def float_bits(number: float) -> int:
    """Returns a float32's bits, as a step's argument."""
    return int(np.float32(number).view(np.int32))


class Planner:
    """A plan in the making; `lowering` adds its steps.

    Attributes:
        graph: The network.
        shapes: The shapes of its values.
        nonnegative: For each value, whether it is known to have no number below zero.
        target: The machine.
        compact: Whether weights take 8 bits.
        arena: The places of the values.
    """

    def __init__(
        self, graph: Graph, target: Machine, allowed: float, arenas: int, compact: bool, tight: bool
    ) -> None:
        """Checks a graph and lays out its values.

        Args:
            graph: The network.
            target: The machine.
            allowed: The bytes that the values and the constants may take.
            arenas: How many images have their values in memory at a time.
            compact: As of `make_plan`.
            tight: As of `make_plan`.

        Raises:
            GraphError: The graph breaks a rule.
        """
        self.graph = graph
        self.shapes = graph.shapes()
        self.nonnegative = nonnegative_values(graph)
        self.target = target
        self.compact = compact
        self._allowed, self._arenas = allowed, arenas
        self._layout = Layout(graph, self.shapes, target)
        self._images = len(graph.inputs)
        self.arena = Arena(2 * planes.IMAGE_WORDS * self._images, tight)
        self._steps: list[Step] = []
        self._kernels: set[Kernel] = set()
        self._constants: list[np.ndarray | Table] = []
        self._constant_bytes = 0
        self._constant_of: dict[int, Constant] = {}  # by the array's id
        self._places: dict[Value, int] = {}
        self._temporaries: list[int] = []
        self._tables: dict[object, Table] = {}
        self._table_numbers = 0
        self._now = 0
        self._results = graph.results(self.shapes)
        # For each node the nodes that take its value; a result is taken by no node.
        self._readers: list[list[int]] = [[] for _ in graph.nodes]
        for index, node in enumerate(graph.nodes):
            for source in node.inputs:
                self._readers[source].append(index)
        for result in self._results:
            self._readers[result.node].append(result.node)
        last_reader = self._last_readers()
        self._read = {value.plain for value in last_reader}
        self._image_values: dict[int, list[Value]] = {}
        for value in sorted(last_reader):
            if value.node < self._images:
                self._image_values.setdefault(value.node, []).append(value)
        # For each node the values that nothing after it reads.
        self._last_read: list[list[Value]] = [[] for _ in range(len(graph.nodes) + 1)]
        for value in {*last_reader, *map(Value, range(len(graph.nodes)))}:
            self._last_read[last_reader.get(value, value.node)].append(value)

    def _last_readers(self) -> dict[Value, int]:
        readers: dict[Value, int] = {}
        for index in range(len(self.graph.nodes)):
            values = self.read_by(index)
            if values and values[0].is_split and values[0] not in readers and values[0].node >= self._images:
                # Phases are made of the plain value for their first reader; the image's with the image.
                readers[values[0].plain] = index
            readers.update(dict.fromkeys(values, index))
        # The network's results are read by the caller, after all nodes.
        return readers | {Value(result.node): len(self.graph.nodes) for result in self._results}

    def read_by(self, index: int) -> list[Value]:
        """Returns the values that a node reads, in the order of its inputs."""
        node = self.graph.nodes[index]
        values = [Value(source) for source in node.inputs]
        if isinstance(node, Conv) and not is_vector(self.shapes[index]):
            values[0] = reads(node)
            if node.path == INTEGER_PATH:
                values[1:] = [
                    Value(source, in_bytes=isinstance(self.graph.nodes[source], Quantize))
                    for source in node.inputs[1:]
                ]
        return values

    # Values

    def is_read(self, value: Value) -> bool:
        """Returns whether a node, or the caller, reads a value, or its phases."""
        return value in self._read

    def steps_of(self, index: int) -> int | None:
        """Returns the `Quantize` that a convolution of whole numbers computes as well; None if it does not.

        It is the only reader of the convolution's value, and only its steps are read.
        """
        node, readers = self.graph.nodes[index], self._readers[index]
        if len(readers) != 1 or not isinstance(self.graph.nodes[readers[0]], Quantize):
            return None
        alone = not self.is_read(Value(readers[0])) and node.activation in LARGEST_ACTIVATED
        return readers[0] if alone else None

    def image_values(self, node: int) -> list[Value]:
        """Returns an image and its phases, those of them that are read; the image if none is."""
        return self._image_values.get(node, [Value(node)])

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
                self._places[value] = self.arena.planes(
                    self.geometry(value), shape[2], pixels, value.in_bytes
                )
                if self.arena.tight:
                    region = self.arena.region(self._places[value])
                    lanes = self.target.lanes
                    self.add(planes.Clear(), {"target": region.start}, Even(region.size // lanes))
        return self._places[value]

    def has_place(self, value: Value) -> bool:
        """Returns whether a value is in memory."""
        return value in self._places

    def temporary_vector(self, size: int) -> int:
        """Takes a place for a vector that only the present node needs."""
        self._temporaries.append(self.arena.vector(size))
        return self._temporaries[-1]

    def mask(self, value: Value) -> Table:
        """Returns the mask of a value's planes."""
        geometry, shape = self.geometry(value), (*self.shape(value)[:2], 1)
        return self.plane_table("mask", geometry, shape, lambda: mask_of(geometry, shape))

    def mask_of_bytes(self, value: Value) -> Table:
        """Returns the mask of a value's planes of bytes."""
        geometry, shape = self.geometry(value), (*self.shape(value)[:2], 1)
        return self.plane_table("bytes", geometry, shape, lambda: mask_of_bytes(geometry, shape))

    def vector_mask(self) -> Table:
        """Returns a mask of `VECTOR_SLACK` numbers, all of them set."""
        return self._table(
            "vector", VECTOR_SLACK, lambda: np.full(VECTOR_SLACK, -1, np.int32).view(np.float32)
        )

    def plane_table(
        self, kind: object, geometry: Geometry, shape: Shape, make: Callable[[], np.ndarray]
    ) -> Table:
        """Returns a table with a number for each pixel of a plane, one for all steps that ask for it.

        Args:
            kind: What the table depends on besides the geometry and the shape.
            geometry: The geometry of the plane.
            shape: The shape of the value.
            make: Makes the table.

        Raises:
            GraphError: The tables are larger than any network's.
        """
        return self._table((kind, geometry, shape), plane_numbers(geometry, shape), make)

    def _table(self, key: object, numbers: int, make: Callable[[], np.ndarray]) -> Table:
        if key not in self._tables:
            self._tables[key] = Table(numbers, make)
            self._table_numbers += numbers
            if self._table_numbers > MAX_TABLE_NUMBERS:
                raise self.graph.nodes[self._now].refuse(
                    f"the planes of a graph's different sizes may have {MAX_TABLE_NUMBERS} numbers in all."
                    f" Received: {self._table_numbers}"
                )
        return self._tables[key]

    def begin(self, index: int) -> None:
        """Begins a node: the steps that follow belong to it."""
        self._now = index

    def end(self) -> None:
        """Gives back the places that nothing after the present node reads.

        Raises:
            GraphError: The network needs more memory than is allowed; names the present node.
        """
        for value in self._last_read[self._now]:
            if value in self._places:
                self.arena.release(self._places.pop(value))
        while self._temporaries:
            self.arena.release(self._temporaries.pop())
        needed = 4 * self.arena.size * self._arenas + self._constant_bytes
        require_memory(needed, self._allowed, self.graph.nodes[self._now].refuse)

    # Steps

    def add(self, kernel: Kernel, arguments: dict[str, int | np.ndarray | Table], parts: Parts) -> None:
        """Adds a step.

        Args:
            kernel: The kernel.
            arguments: The value of each of the kernel's parameters: a number, or an array or a table that
                becomes one of the plan's constants.
            parts: The way to cut the step for several threads.

        Raises:
            GraphError: The network has more different kernels than any.
        """
        self._kernels.add(kernel)
        if len(self._kernels) > MAX_KERNELS:
            raise self.graph.nodes[self._now].refuse(f"a network may need {MAX_KERNELS} different kernels")
        values = tuple(self._argument(arguments[name]) for name in kernel.parameters)
        self._steps.append(Step(self._now, kernel, values, parts))

    def _argument(self, value: int | np.ndarray | Table) -> int | Constant:
        if not isinstance(value, np.ndarray | Table):
            return int(value)
        if id(value) not in self._constant_of:
            # Several steps may share an array, such as a mask.
            self._constant_of[id(value)] = Constant(len(self._constants))
            self._constants.append(value)
            self._constant_bytes += 4 * value.numbers if isinstance(value, Table) else value.nbytes
        return self._constant_of[id(value)]

    def plan(self) -> Plan:
        """Returns the plan, when all nodes have their steps."""
        return Plan(
            target=self.target,
            nodes=len(self.graph.nodes),
            inputs=tuple(Port(image.name, image.given or image.shape) for image in self.graph.inputs),
            outputs=tuple(
                Port(result.name, result.shape, self.place(Value(result.node))) for result in self._results
            ),
            arena_size=self.arena.size,
            steps=tuple(self._steps),
            constants=tuple(
                np.ascontiguousarray(constant.make() if isinstance(constant, Table) else constant)
                for constant in self._constants
            ),
        )
