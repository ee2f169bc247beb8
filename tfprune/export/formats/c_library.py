"""A C library, for machines without Python."""

import os
import tempfile
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tfprune.errors import UserError
from tfprune.export.formats.format import LARGEST_INT8_DIFFERENCE, Format, Run
from tfprune.export.formats.sparse import kernels_of
from tfprune.export.names import C_WEIGHTS, INT8_TARGETS, Options

if TYPE_CHECKING:
    from tfprune.export.network import Network
    from tfprune.runtime.graph import Graph


class CLibrary(Format):
    """A folder that `tfprune.runtime.compile_library` writes.

    Targets whose weights take 8 bits have a folder of their own, with a rule of its own. The audit runs this
    machine's own library where it is one of the targets, else one that is compiled for this machine alike.

    Args:
        weights: How the folder's libraries store their weights, one of `C_WEIGHTS`.
        options: The targets, of which the folder has those that store them so, and the processor.
    """

    group = "c"
    by_default = False

    def __init__(self, weights: str, options: Options) -> None:
        """Names the folder after the weights."""
        self.weights = weights
        self.name = "c" if weights == "float32" else f"c_{weights}"
        in_8_bits = options.targets if options.sparse_weights == "int8" else INT8_TARGETS
        self.targets = [name for name in options.targets if (name in in_8_bits) == (weights == "int8")]
        self.cpu, self._all_targets = options.cpu, options.targets

    @classmethod
    def files(cls, options: Options) -> Sequence[Format]:
        """Returns a folder for each way to store weights."""
        return [cls(weights, options) for weights in C_WEIGHTS]

    def is_asked(self) -> bool:
        """Returns whether a target stores its weights so."""
        return bool(self.targets)

    @property
    def largest_difference(self) -> float:
        """Returns the largest difference of its outputs, by its weights."""
        return LARGEST_INT8_DIFFERENCE if self.weights == "int8" else super().largest_difference

    def source(self, network: "Network") -> "Network":
        """Returns the network with no convolution narrowed, as for the sparse runtime."""
        return network.wide

    def check(self, network: "Network") -> None:
        """Refuses a network that cannot be compiled, a target or a processor that there is not."""
        from tfprune.runtime.ahead.targets import check_targets

        network.compiled()
        try:
            check_targets(self._all_targets, self.cpu)
        except ValueError as error:
            raise UserError(str(error)) from error

    def write(self, network: "Network", path: str) -> None:
        """Chooses each convolution's path by measuring both on this machine, and compiles for all targets."""
        from tfprune.compiler.paths import choose_paths
        from tfprune.runtime import compile_library

        compile_library(
            choose_paths(network.compiled()), path, self.targets, cpu=self.cpu, weights=self.weights
        )

    def load(self, path: str, threads: int | None = None) -> Run:
        """Loads this machine's library, which runs on one thread."""
        from tfprune.runtime.ahead.loaded import LoadedLibrary

        return LoadedLibrary(path)

    def load_for_audit(self, path: str, network: "Network") -> Run:
        """Loads this machine's library, or one compiled for this machine."""
        from tfprune.runtime import compile_library
        from tfprune.runtime.ahead.loaded import LoadedLibrary
        from tfprune.runtime.ahead.targets import this_machines_target

        here = this_machines_target()
        if here in self.targets:
            return LoadedLibrary(path)
        if here is None:
            raise UserError(f"{self.name}: the library is not audited: this machine is none of its targets")
        with tempfile.TemporaryDirectory() as folder:
            compile_library(network.compiled(), folder, here, weights=self.weights)
            return LoadedLibrary(folder)

    def kernels(self, path: str, network: "Network") -> dict[str, list[np.ndarray]]:
        """Takes the kernels of the network that was compiled, and finds its lists of weights in the files.

        Raises:
            RuntimeError: A list of weights is not in an object file as the network has it.
        """
        from tfprune.runtime.ahead.targets import find_targets

        graph = network.compiled()
        for target in find_targets(self.targets):
            with open(os.path.join(path, target.name, "model.o"), "rb") as file:
                code = file.read()
            for processor in target.machines(self.cpu, graph.has_integers):
                for layer in _missing(graph, processor, code, self.weights):
                    raise RuntimeError(f"{target.name}/model.o: the weights of {layer} are not the network's")
        return kernels_of(graph, network)

    def findings(self, path: str, network: "Network") -> tuple[dict[str, Any], list[str]]:
        """Says which targets there are, how large their parts are, and whether this machine's was run."""
        import json

        from tfprune.runtime.ahead.targets import this_machines_target

        with open(os.path.join(path, "model.json"), encoding="utf-8") as file:
            built = json.load(file)["built"]
        return {"targets": built, "ran": this_machines_target() in self.targets}, []


def _missing(graph: "Graph", processor: Any, code: bytes, weights: str) -> list[str]:
    """Returns the layers whose weights are not in a file, neither as lists nor as the dense path has them."""
    from tfprune.compiler.paths import on_path
    from tfprune.runtime.graph import FLOAT_PATHS
    from tfprune.runtime.plan.lowering import make_plan

    found: dict[int, bool] = {}
    for way in FLOAT_PATHS:
        plan = make_plan(on_path(graph, way), processor, compact=weights == "int8")
        for step in plan.steps:
            for name, argument in zip(step.kernel.parameters, step.arguments, strict=True):
                if name in ("values", "weights"):
                    data = plan.constants[argument.index].tobytes()
                    found[step.node] = found.get(step.node, False) or data in code
    return [graph.nodes[node].name for node, there in found.items() if not there]
