"""A format, as an export, its audit and the benchmark see it."""

import abc
import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tfprune.export.names import Options

if TYPE_CHECKING:
    from tfprune.export.network import Network

# Takes a batch of examples and returns the outputs: an array, or arrays by name where there are several. A
# network of images takes uint8 [n, height, width, 3] and returns float32 logits [n, classes].
Run = Callable[[Any], Any]
# How far float16 weights may move the outputs, relative to the largest. Random inputs and some tens of layers
# stay well below.
LARGEST_DIFFERENCE = 0.02
# The same for weights of 8 bits, of networks trained without them.
LARGEST_INT8_DIFFERENCE = 0.5


@dataclasses.dataclass(frozen=True)
class Timing:
    """The benchmark's names for a format, and what it judges the format by.

    Attributes:
        name: For flags and files.
        title: For people.
        kind: `"dense"` computes with the zeros as with any weight, in float32; `"sparse"` stores or skips
            them; `"int8"` is dense with weights of 8 bits.
        modules: The modules that must be importable.
        packages: The packages to install for them, with blanks between.
        largest_difference: The largest difference of its logits from the network's, relative to the largest
            logit. One that differs more is another network, and is not timed.
        own_process: Whether a runtime has its threads once for a whole process, so that the benchmark
            must run each setting in another one.
    """

    name: str
    title: str
    kind: str
    modules: tuple[str, ...]
    packages: str
    largest_difference: float = LARGEST_DIFFERENCE
    own_process: bool = False


class Format(abc.ABC):
    """A file or a folder that a network is exported to.

    A subclass that is listed in `tfprune.export.formats.FORMATS` is written, audited, measured and timed. Its
    module imports NumPy alone; its methods import what they need, so that a process that only runs
    a file has no more in memory than the file's own runtime.

    Attributes:
        group: The format's name in `--formats`. Several files may share one.
        by_default: Whether the format is written where none is asked for.
        name: The name of the file or the folder.
        weights: How the weights are stored: `"float32"`, `"float16"`, `"float16 sparse"` or `"int8"`. The
            audit asks for equal logits of float32, and for equal predictions of the others.
        timing: How the benchmark times the format; None if it does not.
    """

    group: ClassVar[str]
    by_default: ClassVar[bool] = True
    name: str
    weights: str = "float32"
    timing: Timing | None = None

    @classmethod
    def files(cls, options: Options) -> Sequence["Format"]:
        """Returns the files that the group consists of.

        Args:
            options: What formats are told besides the network.
        """
        return [cls()]

    def is_asked(self) -> bool:
        """Returns whether what was asked for has something for this file."""
        return True

    def source(self, network: "Network") -> "Network":
        """Returns that form of a network that the file is made from and is held against."""
        return network

    def check(self, network: "Network") -> None:  # noqa: B027 - most formats hold any network.
        """Refuses a network that the format cannot hold, before anything is written.

        Args:
            network: The network.

        Raises:
            UserError: The format cannot hold it; the message says why.
        """

    @abc.abstractmethod
    def write(self, network: "Network", path: str) -> None:
        """Writes the file.

        Args:
            network: The network.
            path: The file or the folder, which does not exist.
        """

    @abc.abstractmethod
    def load(self, path: str, threads: int | None = None) -> Run:
        """Loads the file in its own runtime, as its users do.

        Args:
            path: The file.
            threads: How many threads the runtime may use; None for its default.

        Returns:
            A function that takes a batch of any size.
        """

    def load_for_audit(self, path: str, network: "Network") -> Run:
        """Loads the file as `load` does; what its users have besides the file comes from the network.

        Args:
            path: The file.
            network: The network that it was made from.
        """
        return self.load(path)

    def load_batch(self, path: str, threads: int, batch_size: int) -> Run:
        """Loads the file for batches of one size, on the runtime's fastest way.

        Args:
            path: The file.
            threads: How many threads the runtime may use.
            batch_size: The only number of images that the function will be called with.

        Returns:
            A function that takes a batch of that size.
        """
        return self.load(path, threads)

    @property
    def largest_difference(self) -> float:
        """Returns the largest difference of its outputs from the network's, relative to the largest."""
        return self.timing.largest_difference if self.timing else LARGEST_DIFFERENCE

    def difference_of(self, path: str) -> float:
        """Returns the largest difference of the outputs of a file whose kind of weights is not known.

        Args:
            path: The file.
        """
        return self.largest_difference

    @abc.abstractmethod
    def kernels(self, path: str, network: "Network") -> dict[str, list[np.ndarray]]:
        """Decodes the stored copies of each masked kernel.

        Args:
            path: The file.
            network: The network that it was made from.

        Returns:
            Name to the stored copies of the kernel, in its layout (see `Network.allowed_copies`).

        Raises:
            RuntimeError: The file is not what the format writes; also ValueError and OSError.
        """

    def shortcoming(self, entry: dict[str, Any]) -> str:
        """Returns why a file that did not pass is no fault of the export, but as good as its format can be.

        Such a file is left out, and said.

        Args:
            entry: The file's entry of the audit.

        Returns:
            The reason; empty if it is a fault.
        """
        return ""

    def findings(self, path: str, network: "Network") -> tuple[dict[str, Any], list[str]]:
        """Checks the rules of this format alone.

        Args:
            path: The file.
            network: The network that it was made from.

        Returns:
            Further entries of the audit, and a line for each broken rule: the measured value, and the rule.
        """
        return {}, []
