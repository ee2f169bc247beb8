"""A compiled network as data: no addresses, so that it can be stored and used in any process.

A step's arguments are numbers, such as distances and offsets into the arena (the memory of the values
between the operations), or refer to one of the plan's constants (weights and tables). `binding` makes
addresses of the constants; the arena's comes with each call, and in the arena is that of the image.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tfprune.runtime.kernels.kernel import Kernel
from tfprune.runtime.machine import Machine
from tfprune.runtime.plan.parts import Parts


class Constant(NamedTuple):
    """An argument that stands for the address of a constant.

    Attributes:
        index: The index in `Plan.constants`.
    """

    index: int


@dataclasses.dataclass(frozen=True)
class Port:
    """An input or an output of the network.

    Attributes:
        name: Its name.
        shape: The shape of one example, as the caller has it.
        place: The offset of an output in the arena, in float32 numbers.
    """

    name: str
    shape: tuple[int, ...]
    place: int = 0

    @property
    def size(self) -> int:
        """Returns how many numbers an example has."""
        return math.prod(self.shape)


@dataclasses.dataclass(frozen=True)
class Step:
    """One call of a kernel.

    Attributes:
        node: The index of the node that the step belongs to.
        kernel: The kernel.
        arguments: The values of the kernel's parameters, in their order.
        parts: The way to cut the step for several threads.
    """

    node: int
    kernel: Kernel
    arguments: tuple[int | Constant, ...]
    parts: Parts

    def numbers(self, places: Sequence[int]) -> list[int]:
        """Returns the arguments as numbers.

        Args:
            places: Where each of the plan's constants is, such as its address.
        """
        return [places[a.index] if isinstance(a, Constant) else a for a in self.arguments]


@dataclasses.dataclass(frozen=True)
class Frame:
    """The facts about a plan that its caller needs, whoever has compiled the steps.

    Attributes:
        nodes: The number of nodes of the network.
        inputs: The images that the network takes.
        outputs: The network's results, vectors in the arena.
        arena_size: The length of the arena, in float32 numbers.
        constant_bytes: The bytes of the constants.
        owners: The node that each step belongs to.
    """

    nodes: int
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    arena_size: int
    constant_bytes: int
    owners: tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """The steps of a network on a machine.

    Plain data: NumPy arrays and dataclasses of numbers and names. It can be pickled.

    Attributes:
        target: The machine that the plan was made for.
        nodes: The number of nodes of the network.
        inputs: The images that the network takes.
        outputs: The network's results, vectors in the arena.
        arena_size: The length of the arena, in float32 numbers.
        steps: The steps in their order.
        constants: Weights and tables, each a contiguous array.
    """

    target: Machine
    nodes: int
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    arena_size: int
    steps: tuple[Step, ...]
    constants: tuple[np.ndarray, ...]

    @property
    def kernels(self) -> list[Kernel]:
        """Returns the kernels that the steps call, each once, in the order of their names."""
        return sorted({step.kernel for step in self.steps}, key=lambda kernel: kernel.name)

    @property
    def frame(self) -> Frame:
        """Returns the facts that a caller needs."""
        owners = tuple(step.node for step in self.steps)
        return Frame(self.nodes, self.inputs, self.outputs, self.arena_size, self.constant_bytes, owners)

    @property
    def constant_bytes(self) -> int:
        """Returns the bytes of the constants."""
        return sum(constant.nbytes for constant in self.constants)
