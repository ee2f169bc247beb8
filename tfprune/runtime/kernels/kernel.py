"""A kernel: its parameters and its code in one object."""

import dataclasses
from typing import ClassVar

from tfprune.runtime.kernels.emitter import Code, KernelEmitter


class Kernel:
    """A function of the compiled module; each subclass is a frozen dataclass.

    The fields are the choices that are written into the code, such as the number of vectors in a tile.
    Kernels of one class with equal fields are equal, and a module needs their code once.

    Attributes:
        parameters: The names of the whole numbers that a step gives the kernel, in their order.
    """

    parameters: ClassVar[tuple[str, ...]]

    @property
    def name(self) -> str:
        """Returns the name of the function, different for different choices."""
        return "_".join([type(self).__name__, *(str(choice) for choice in dataclasses.astuple(self))])

    def emit(self, code: Code) -> None:
        """Emits the function.

        Args:
            code: The module to add the function to.
        """
        e = KernelEmitter(code, self.name, self.parameters)
        self.write(e)
        e.finish()

    def write(self, e: KernelEmitter) -> None:
        """Writes the body of the function.

        Args:
            e: The function, just begun.
        """
        raise NotImplementedError
