"""A C library, for machines without Python."""

import os
import tempfile
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tfprune.errors import UserError
from tfprune.export.formats.format import Format, Run
from tfprune.export.formats.sparse import kernels_of
from tfprune.export.names import Options

if TYPE_CHECKING:
    from tfprune.export.network import Network
    from tfprune.runtime.graph import Graph


class CLibrary(Format):
    """A folder that `tfprune.runtime.compile_library` writes.

    The audit runs this machine's own library where it is one of the targets, else one that is compiled for
    this machine from the same network.

    Args:
        options: The targets, and the processor.
    """

    group = "c"
    name = "c"
    by_default = False

    def __init__(self, options: Options) -> None:
        """Keeps the targets."""
        self.targets, self.cpu = options.targets, options.cpu

    @classmethod
    def files(cls, options: Options) -> Sequence[Format]:
        """Returns the one folder."""
        return [cls(options)]

    def source(self, network: "Network") -> "Network":
        """Returns the network with no convolution narrowed, as for the sparse runtime."""
        return network.wide

    def check(self, network: "Network") -> None:
        """Refuses a layer that the sparse runtime cannot run, a target or a processor that there is not."""
        from tfprune.runtime.ahead.targets import check_targets

        network.compiled()
        try:
            check_targets(self.targets, self.cpu)
        except ValueError as error:
            raise UserError(str(error)) from error

    def write(self, network: "Network", path: str) -> None:
        """Chooses each convolution's path by measuring both on this machine, and compiles for all targets."""
        from tfprune.compiler.paths import choose_paths
        from tfprune.runtime import compile_library

        compile_library(choose_paths(network.compiled()), path, self.targets, cpu=self.cpu)

    def load(self, path: str, threads: int | None = None) -> Run:
        """Loads this machine's library, which runs on one thread."""
        from tfprune.runtime.ahead.loaded import LoadedLibrary

        return LoadedLibrary(path)

    def load_for_audit(self, path: str, network: "Network") -> Run:
        """Loads this machine's library, or one compiled for this machine."""
        from tfprune.runtime import compile_library
        from tfprune.runtime.ahead.loaded import LoadedLibrary, this_machines_target

        here = this_machines_target()
        if here in self.targets:
            return LoadedLibrary(path)
        if here is None:
            raise UserError(f"{self.name}: the library is not audited: this machine is none of its targets")
        with tempfile.TemporaryDirectory() as folder:
            compile_library(network.compiled(), folder, here)
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
            for processor in target.machines(self.cpu):
                for layer in _missing(graph, processor, code):
                    raise RuntimeError(f"{target.name}/model.o: the weights of {layer} are not the network's")
        return kernels_of(graph, network)

    def findings(self, path: str, network: "Network") -> tuple[dict[str, Any], list[str]]:
        """Says which targets there are, how large their parts are, and whether this machine's was run."""
        import json

        from tfprune.runtime.ahead.loaded import this_machines_target

        with open(os.path.join(path, "model.json"), encoding="utf-8") as file:
            built = json.load(file)["built"]
        return {"targets": built, "ran": this_machines_target() in self.targets}, []


def _missing(graph: "Graph", processor: Any, code: bytes) -> list[str]:
    """Returns the convolutions whose values are not in a file, neither as lists nor as a dense path has them."""
    from tfprune.compiler.paths import on_path
    from tfprune.runtime.graph import PATHS, Conv
    from tfprune.runtime.plan.lowering import make_plan

    found: dict[int, bool] = {}
    for way in PATHS:
        plan = make_plan(on_path(graph, way), processor)
        for step in plan.steps:
            for name, argument in zip(step.kernel.parameters, step.arguments, strict=True):
                if name in ("values", "weights"):
                    data = plan.constants[argument.index].tobytes()
                    found[step.node] = found.get(step.node, False) or data in code
    return [
        graph.nodes[node].name for node, there in found.items() if not there and isinstance(graph.nodes[node], Conv)
    ]
