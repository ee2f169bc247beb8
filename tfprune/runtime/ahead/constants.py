"""The read-only memory of a compiled network: weights, tables and steps, one after the other."""

from collections.abc import Sequence

import numpy as np

from tfprune.runtime.kernels.kernel import Kernel
from tfprune.runtime.machine import Machine
from tfprune.runtime.plan.parts import table
from tfprune.runtime.plan.plan import Constant, Plan

# A constant is what its first step's kernel calls it; all others are tables.
_WEIGHTS = ("values", "weights", "bias", "scales", "shifts")
_LISTS = ("starts", "offsets", "indices")


class Constants:
    """Arrays one after the other, each where a vector may begin, known by their places in bytes.

    Attributes:
        word: The type of whole numbers.
        alignment: What divides the places.
        bytes_of: Bytes by what they hold: `"weights"`, `"lists"` (where the weights belong), `"tables"`.
    """

    def __init__(self, target: Machine) -> None:
        """Begins with no array.

        Args:
            target: The machine.
        """
        self.word = np.dtype(f"<i{target.word_bits // 8}")
        self.alignment = max(self.word.itemsize, 4 * target.lanes)
        self.bytes_of = {"weights": 0, "lists": 0, "tables": 0}
        self._size = 0
        self._pieces: list[bytes] = []

    def add(self, array: np.ndarray, kind: str = "tables") -> int:
        """Returns the place of a copy of an array.

        Args:
            array: The array, little-endian.
            kind: A key of `bytes_of`.
        """
        place, data = self._size, array.tobytes()
        padded = data + bytes(-len(data) % self.alignment)
        self._pieces.append(padded)
        self._size += len(padded)
        self.bytes_of[kind] += len(padded)
        return place

    def add_words(self, numbers: Sequence[Sequence[int]] | np.ndarray) -> int:
        """Returns the place of whole numbers.

        Args:
            numbers: The numbers, in any shape.

        Raises:
            OverflowError: One does not fit into a word.
        """
        wide = np.array(numbers, np.int64)
        words = wide.astype(self.word)
        if (words != wide).any():
            raise OverflowError(f"a number of the plan does not fit into {8 * self.word.itemsize} bits")
        return self.add(words)

    def data(self) -> bytes:
        """Returns all arrays."""
        return b"".join(self._pieces)


def add_plan(constants: Constants, plan: Plan) -> list[tuple[Kernel, int, list]]:
    """Adds a plan's constants and its steps' numbers.

    Args:
        constants: Where to.
        plan: The plan.

    Returns:
        For each step its kernel, the place of its numbers, and its way to be cut.
    """
    kinds: dict[int, str] = {}
    for step in plan.steps:
        for name, argument in zip(step.kernel.parameters, step.arguments, strict=True):
            if isinstance(argument, Constant):
                kind = "weights" if name in _WEIGHTS else "lists" if name in _LISTS else "tables"
                kinds.setdefault(argument.index, kind)
    places = [constants.add(array, kinds[index]) for index, array in enumerate(plan.constants)]
    return [(step.kernel, constants.add_words(step.numbers(places)), step.parts) for step in plan.steps]


def add_rows(
    constants: Constants, steps: list[tuple[Kernel, int, list]], kernels: list[Kernel], threads: int
) -> int:
    """Adds the steps as the compiled loop reads them.

    Args:
        constants: Where to.
        steps: What `add_plan` returned.
        kernels: The network's kernels; a step names its own by the place among them.
        threads: The number of threads that the steps are cut for.

    Returns:
        The place of the rows.
    """
    cuts: dict[object, tuple[int, int]] = {}
    for _, _, parts in steps:
        if parts not in cuts:
            rows = table(parts, threads)
            cuts[parts] = constants.add_words(rows), len(rows)
    return constants.add_words(
        [(kernels.index(kernel), numbers, *cuts[parts]) for kernel, numbers, parts in steps]
    )
