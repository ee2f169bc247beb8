"""The time of each kernel at each level in the sparse runtime, and of whole networks."""

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfprune.network.calibration import kept
from tfprune.sparsity.apply import pruned_layers
from tfprune.sparsity.prune import strip_pruning
from tfprune.sparsity.search.kernels import PrunedKernels, Searched

# The densities whose times are measured; between them times lie on lines.
MEASURED = (1.0, 0.7, 0.5, 0.35, 0.25, 0.18, 0.12, 0.08, 0.05, 0.03, 0.015, 0.0)


class Times:
    """Measured times of a network in the sparse runtime, in milliseconds, of one example on one thread.

    Compiled is the model itself, with pruned kernels in it, which are as before at the end of each
    measurement.

    Args:
        model: A built functional or Sequential model.
        kernels: The kernels that are pruned.
        pruned: What is left of them.
        input_shape: The shape of an input with the batch's axis, of a model that leaves sizes open.
    """

    def __init__(
        self,
        model: keras.Model,
        kernels: Sequence[Searched],
        pruned: PrunedKernels,
        input_shape: Any = None,
    ) -> None:
        self._kernels, self._pruned = kernels, pruned
        self._sizes = None if input_shape is None else {model.inputs[0].name: tuple(input_shape[1:])}
        if pruned_layers(model):
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "The stripped model has")
                model = strip_pruning(model)
        self._model = model

    def of_kernels(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Measures every kernel at the levels of `MEASURED`, all kernels at one level in one network.

        A kernel's time is that on the faster path.

        Returns:
            The removed weights of each kernel at the levels, ascending, and the time at each.

        Raises:
            UserError: The runtime cannot run the model.
            ValueError: A kernel has no time of its own in the runtime.
        """
        removed = [np.array(sorted({kernel.removed, *_counts(kernel)}), np.int64) for kernel in self._kernels]
        rows = []
        for density in MEASURED:
            counts = [_count(kernel, density) for kernel in self._kernels]
            nodes = self._nodes(counts)
            each = [_of_kernel(nodes, kernel) for kernel in self._kernels]
            rows.append(dict(enumerate(zip(counts, each, strict=True))))
        times = []
        for number, counts in enumerate(removed):
            by_count: dict[int, list[float]] = {}
            for row in rows:
                by_count.setdefault(row[number][0], []).append(row[number][1])
            times.append(np.array([float(np.median(by_count[int(count)])) for count in counts]))
        return removed, times

    def of_networks(self, removed: Mapping[str, Sequence[int]]) -> dict[str, float]:
        """Measures whole networks by turns; each takes the time of its fastest turn.

        Args:
            removed: Name -> the weights removed from each kernel.
        """
        # The runtime is an extra: whoever measures no time does without.
        from tfprune.compiler.latency import network_times

        return network_times({name: self._graph(counts) for name, counts in removed.items()})

    def _nodes(self, counts: Sequence[int]) -> list[tuple[str, float]]:
        """Returns the name of each operation of a network, and its time."""
        from tfprune.compiler.latency import operation_times

        return operation_times(self._graph(counts))

    def _graph(self, counts: Sequence[int]) -> Any:
        from tfprune.compiler.latency import compiled

        with self._exchanged(counts):
            return compiled(self._model, self._sizes)

    @contextlib.contextmanager
    def _exchanged(self, counts: Sequence[int]) -> Iterator[None]:
        with kept(self._pruned.variables):
            for number, count in enumerate(counts):
                for variable, values in self._pruned.at(number, int(count)):
                    variable.assign(values)
            yield


def _count(kernel: Searched, density: float) -> int:
    """Returns the removed weights of a kernel at a density, of which one stays."""
    return max(kernel.size - max(round(density * kernel.size), 1), kernel.removed)


def _counts(kernel: Searched) -> list[int]:
    return [_count(kernel, density) for density in MEASURED]


def _of_kernel(nodes: Sequence[tuple[str, float]], kernel: Searched) -> float:
    """Returns the time of all operations with a kernel.

    Raises:
        ValueError: If there is none.
    """
    names = {kernel.path, f"{kernel.path}/{kernel.attribute.removesuffix('_kernel')}"}
    own = [time for name, time in nodes if name in names]
    if not own:
        raise ValueError(
            "Each kernel must have an operation of its own in the sparse runtime: `spare` the others. "
            f"Received: {kernel.name!r}, which has none"
        )
    return sum(own)
