"""A kernel: its parameters and its code in one object."""

import dataclasses
from typing import ClassVar

from llvmlite import ir

from tfprune.runtime.kernels.emitter import KernelEmitter


class Kernel:
    """A function of the compiled module; each subclass is a frozen dataclass.

    The fields are the choices that are written into the code, such as the number of vectors in a tile.
    Kernels of one class with equal fields are equal, and a module needs their code once.

    Attributes:
        parameters: The names of the 64-bit numbers that a step gives the kernel, in their order.
    """

    parameters: ClassVar[tuple[str, ...]]

    @property
    def name(self) -> str:
        """Returns the name of the function, different for different choices."""
        return "_".join([type(self).__name__, *(str(choice) for choice in dataclasses.astuple(self))])

    def emit(self, module: ir.Module, lanes: int) -> None:
        """Emits the function.

        Args:
            module: The module to add the function to.
            lanes: The float32 numbers in a vector.
        """
        e = KernelEmitter(module, self.name, lanes, self.parameters)
        self.write(e)
        e.finish()

    def write(self, e: KernelEmitter) -> None:
        """Writes the body of the function.

        Args:
            e: The function, just begun.
        """
        raise NotImplementedError
