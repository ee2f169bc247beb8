"""The late step that makes a plan run in this process: code is compiled, constants become addresses."""

import functools

import numpy as np

from tfprune.runtime import machine
from tfprune.runtime.kernels import program
from tfprune.runtime.limits import allowed_bytes, require_memory
from tfprune.runtime.plan import parts
from tfprune.runtime.plan.plan import Plan

# What writing and compiling the code takes at most; 90 large kernels took 40 MB.
_CODE_BYTES, _KERNEL_BYTES = 2**22, 2**19


class Binding:
    """A plan bound to this process. Several bindings of one plan are independent; they share its constants.

    Attributes:
        plan: The plan; its constants must stay as they are.
        frame: The facts that a caller needs.
        run: The compiled loop over steps, `program.RUN`.
    """

    def __init__(self, plan: Plan) -> None:
        """Compiles the plan's kernels.

        Args:
            plan: The plan, made for this machine or for one with fewer instruction sets.

        Raises:
            GraphError: There is not the memory to compile them.
        """
        self.plan, self.frame = plan, plan.frame
        # LLVM ends the process where it gets no memory.
        kernels = plan.kernels
        require_memory(_CODE_BYTES + _KERNEL_BYTES * len(kernels), allowed_bytes(None))
        self._code = _compiled(program.assembly(kernels, plan.target.lanes), plan.target)
        addresses = [constant.ctypes.data for constant in plan.constants]
        self._arguments = [np.array(step.numbers(addresses), np.int64) for step in plan.steps]
        self.run = program.RUN_TYPE(self._code.address(program.RUN))

    def prepare(self, arena: np.ndarray) -> None:
        """Makes an arena of zeros ready for the steps; here it is."""

    def steps(self, threads: int) -> "BoundSteps":
        """Returns the steps cut for a number of threads.

        Args:
            threads: At least 1.
        """
        steps, kernels = self.plan.steps, {}
        for kernel in self.plan.kernels:
            kernels[kernel] = self._code.address(kernel.name)
        # Many steps are cut alike.
        tables = {cut: parts.table(cut, threads) for cut in {step.parts for step in steps}}
        return BoundSteps(
            [kernels[step.kernel] for step in steps],
            self._arguments,
            [tables[step.parts] for step in steps],
        )


class BoundSteps:
    """Steps as the compiled loop reads them.

    Attributes:
        count: The number of steps.
    """

    def __init__(self, kernels: list[int], arguments: list[np.ndarray], tables: list[np.ndarray]) -> None:
        """Makes the table of the steps.

        Args:
            kernels: The address of each step's kernel.
            arguments: Each step's arguments, int64.
            tables: Each step's parts, int64 `[parts, PART_WORDS]`.
        """
        self.count = len(kernels)
        self._kept = (arguments, tables)  # The table has their addresses.
        self._table = np.array(
            [
                (kernel, numbers.ctypes.data, rows.ctypes.data, len(rows))
                for kernel, numbers, rows in zip(kernels, arguments, tables, strict=True)
            ],
            np.int64,
        )

    def address(self, index: int) -> int:
        """Returns the address of a step.

        Args:
            index: The index of the step.
        """
        return self._table.ctypes.data + index * self._table.strides[0]


@functools.lru_cache(maxsize=16)
def _compiled(assembly: str, target: machine.Machine) -> machine.Compiled:
    machine.provide(program.GIVE_WAY)
    return machine.Compiled(assembly, target)
