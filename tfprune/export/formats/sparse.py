"""`model.tfprune`, for the sparse runtime."""

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tfprune.export.formats.format import LARGEST_INT8_DIFFERENCE, Format, Run, Timing
from tfprune.export.names import SPARSE_WEIGHTS, Options

if TYPE_CHECKING:
    import keras

    from tfprune.export.network import Network
    from tfprune.runtime.graph import Graph


class Sparse(Format):
    """A `model.tfprune`, which `tfprune.runtime.load` reads.

    Args:
        weights: How its weights are stored, one of `SPARSE_WEIGHTS`. Either way it computes in
            float32, unless its values are of 8 bits.
        calibration: Images by which its values are of 8 bits where that is faster; None: float32.
    """

    group = "sparse"
    name = "model.tfprune"
    timing = Timing("tfprune", "tfprune sparse", "sparse", ("llvmlite",), "llvmlite")

    def __init__(self, weights: str = SPARSE_WEIGHTS[0], calibration: Any = None) -> None:
        """Keeps how weights and values are stored."""
        self.weights, self._calibration = weights, calibration
        self._graph: Graph | None = None

    @classmethod
    def files(cls, options: Options) -> Sequence[Format]:
        """Returns the one file."""
        return [cls(options.sparse_weights, options.calibration)]

    def source(self, network: "Network") -> "Network":
        """Returns the network with no convolution narrowed: lists of weights pass over all zeros anyway."""
        return network.wide

    def check(self, network: "Network") -> None:
        """Refuses a layer that the sparse runtime cannot run, and images that do not fit."""
        self._compiled(network)

    def write(self, network: "Network", path: str) -> None:
        """Chooses each convolution's path by measuring all, and writes the graph."""
        from tfprune.compiler.paths import choose_paths
        from tfprune.runtime import write_file

        write_file(choose_paths(self._compiled(network)), path, self.weights)

    def _compiled(self, network: "Network") -> "Graph":
        from tfprune.compiler.eight_bits import with_values_of_8_bits

        if self._calibration is None:
            return network.compiled()
        if self._graph is None:
            self._graph = with_values_of_8_bits(network.compiled(), self._calibration)
        return self._graph

    def load(self, path: str, threads: int | None = None) -> Run:
        """Loads the file in the sparse runtime."""
        from tfprune import runtime

        return runtime.load(path, threads=threads)

    @property
    def largest_difference(self) -> float:
        """Returns the largest difference of its outputs, by its weights."""
        return LARGEST_INT8_DIFFERENCE if self.weights == "int8" else super().largest_difference

    def difference_of(self, path: str) -> float:
        """Looks into the file for its weights."""
        from tfprune.runtime.format.file import stored_types

        weights = "int8" if "int8" in stored_types(path) else "float16"
        return type(self)(weights).largest_difference

    def findings(self, path: str, network: "Network") -> tuple[dict[str, Any], list[str]]:
        """Says how many of the convolutions read values of 8 bits, where these were asked for."""
        from tfprune.runtime import read_file
        from tfprune.runtime.graph import INTEGER_PATH, Conv

        if self._calibration is None:
            return {}, []
        paths = [node.path for node in read_file(path).nodes if isinstance(node, Conv)]
        return {"int8_convolutions": paths.count(INTEGER_PATH), "convolutions": len(paths)}, []

    def kernels(self, path: str, network: "Network") -> dict[str, list[np.ndarray]]:
        """Takes the kernels of the convolutions with the layers' names."""
        from tfprune.runtime import read_file

        return kernels_of(read_file(path), network)


def kernels_of(graph: "Graph", network: "Network") -> dict[str, list[np.ndarray]]:
    """Finds the masked kernels of a network in a graph, as `Format.kernels` does.

    Args:
        graph: The graph.
        network: The network that it was made from.
    """
    from tfprune.compiler.convolutions import transposed_kernel
    from tfprune.compiler.einsum import einsum_kernel
    from tfprune.network.graph import chains

    having = [node for node in graph.nodes if hasattr(node, "kernel")]
    ways = chains(network.model)
    found = {}
    for name, kernel in network.kernels.items():
        shape = kernel.variable.shape
        # A node has the names of the layers on the way to its own, as they are inside other layers, too.
        layer = "/".join(each.name for each in ways[id(kernel.layer)][1:])
        # A separable convolution is two, `layer/depthwise` and `layer/pointwise`; so is a recurrent cell.
        part = f"{layer}/{kernel.name.removesuffix('_kernel')}"
        own = [node for node in having if node.name == part]
        own = own or [node for node in having if node.name == layer or node.name.startswith(f"{layer}/")]
        if type(kernel.layer).__name__.endswith("Transpose"):
            found[name] = [transposed_kernel(np.asarray(node.kernel), kernel.layer) for node in own]
            continue
        if type(kernel.layer).__name__ == "EinsumDense":
            found[name] = [einsum_kernel(np.asarray(node.kernel), kernel.layer) for node in own]
            continue
        size = int(np.prod(shape))
        # A dense layer's kernel and a depthwise one have other axes in the file.
        found[name] = [np.asarray(node.kernel).reshape(shape) for node in own if node.kernel.size == size]
    return found


def export_sparse(
    model: "keras.Model",
    path: str | os.PathLike[str],
    weights: str = "float16",
    *,
    sizes: Mapping[str, Sequence[int]] | None = None,
    values: str = "float32",
    calibration: Any = None,
) -> None:
    """Writes a network as a `model.tfprune`, for `tfprune.runtime.load`.

    Each convolution is measured on this machine on its sparse and on its dense path, and the faster is
    written into the file, with both times. Works on every backend.

    Example:

    ```python
    export_sparse(tfprune.sparsity.strip_pruning(model), "model.tfprune")
    ```

    Args:
        model: A built functional or Sequential model without pruning wrappers, of images, signals or vectors
            of a fixed size.
        path: The file; replaced if it exists.
        weights: How kernels are stored: `"float16"`, `"float32"`, or `"int8"` with a scale for each output
            channel. Computed is in float32 either way.
        sizes: As of `compile_model`: the sizes that the model leaves open. A file is for one size.
        values: As of `compile_model`: `"float32"`; or `"int8"`: in 8 bits where that is faster on this
            machine. What was chosen is in the file, so that results are of the same steps on every machine.
        calibration: As of `compile_model`: images, for `values="int8"`.

    Raises:
        UserError: The runtime cannot run a layer; the message names it. Or the `calibration` images do not
            fit.
        ValueError: `weights` is neither, or `values` and `calibration` do not go together.
    """
    from tfprune.compiler.compile import compile_model
    from tfprune.compiler.paths import choose_paths
    from tfprune.runtime import write_file

    graph = compile_model(model, sizes=sizes, values=values, calibration=calibration)
    write_file(choose_paths(graph), path, weights)
