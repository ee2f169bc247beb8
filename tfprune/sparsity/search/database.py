"""Kernels pruned with data at some levels, made once: what a search puts together."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from tfprune.network.calibration import inputs_of
from tfprune.network.gram import Product
from tfprune.network.replay import Stop, replay
from tfprune.network.wrapping import unwrapped
from tfprune.sparsity.error_curves import by_errors
from tfprune.sparsity.layer_problems import Meter, Target
from tfprune.sparsity.search.kernels import ByMagnitude, PrunedKernels, Searched, Values, removal_order

# The shares of a kernel's weights that are solved for.
_DENSITIES = tuple(0.7**step for step in range(1, 15))
_BATCH = 64


@dataclass(frozen=True)
class _Level:
    """A kernel at one level: the weights that stay, and the bias that goes with them; None for the old."""

    removed: int
    places: np.ndarray
    weights: np.ndarray
    bias: np.ndarray | None


class Database(PrunedKernels):
    """Kernels that a method of `prune_with_data` has pruned, each alone in the dense model.

    Between two levels the smallest weights of the denser one go as well. A kernel whose inputs cannot be seen
    is pruned by magnitude.

    Args:
        model: A built model.
        kernels: The kernels, with the weights that they have now.
        images: Inputs of the model.
        method: A method of `prune_with_data`.
        correct: Whether the weights that stay are corrected.
        verbose: 1: a line of progress.

    Raises:
        ValueError: If a layer is not called when the model is, or images give values that are not finite.
    """

    def __init__(
        self,
        model: keras.Model,
        kernels: Sequence[Searched],
        images: Any,
        method: str,
        correct: bool,
        verbose: int,
    ) -> None:
        self._kernels, self._method, self._correct = kernels, method, correct
        self._by_magnitude = ByMagnitude(kernels)
        self._numbers = {id(kernel.variable): number for number, kernel in enumerate(kernels)}
        self._biases: dict[int, tuple[keras.Variable, np.ndarray]] = {}
        self._levels: list[list[_Level]] = [[] for _ in kernels]
        self._model, self._verbose = model, verbose
        self._targets = [kernel.target for kernel in kernels]
        self._batches = inputs_of(model, images, _BATCH)
        self._meter = Meter(model, self._targets, len(self._batches))
        self._progress = keras.utils.Progbar(len(self._targets), verbose=verbose, unit_name="kernel")
        replay(model, self._batches, self._meter.layers, self._visit, unwrapped)

    def by_errors(self, sparsity: float) -> list[int]:
        """Returns the weights removed from each kernel where the sum of the layers' errors is smallest.

        Args:
            sparsity: Of all kernels together.
        """
        shares = by_errors(self._model, self._targets, sparsity, self._batches, self._verbose)
        removed = [0] * len(self._kernels)
        for target, share in zip(self._targets, shares, strict=True):
            number = self._numbers[id(target.kernel.variable)]
            removed[number] = round(share * self._kernels[number].size)
        return removed

    @property
    def variables(self) -> list[keras.Variable]:
        return [*self._by_magnitude.variables, *(bias for bias, _ in self._biases.values())]

    def at(self, kernel: int, removed: int) -> Values:
        level = max(
            (level for level in self._levels[kernel] if level.removed <= removed),
            key=lambda level: level.removed,
            default=None,
        )
        variable = self._kernels[kernel].variable
        bias = self._biases.get(kernel)
        values = [] if bias is None else [bias]
        if level is None:
            return [*self._by_magnitude.at(kernel, removed), *values]
        weights = np.zeros(self._kernels[kernel].size, np.float32)
        weights[level.places] = level.weights
        weights = weights.reshape(variable.shape)
        if removed > level.removed:
            weights.ravel()[removal_order(weights, weights != 0)[:removed]] = 0
        if bias is not None and level.bias is not None:
            values = [(bias[0], level.bias)]
        return [(variable, weights), *values]

    def _visit(self, stop: Stop) -> None:
        for target, product in self._meter.stops[id(stop.layer)][1]:
            if product is not None:
                self._solve(stop, target, product)
            self._progress.add(1)

    def _solve(self, stop: Stop, target: Target, product: Product) -> None:
        number = self._numbers[id(target.kernel.variable)]
        size, least = self._kernels[number].size, self._kernels[number].removed
        measured = self._meter.measure(stop, target, product)
        bias = target.kernel.layer.bias if product.bias is not None else None
        if bias is not None:
            self._biases[number] = bias, np.array(ops.convert_to_numpy(bias))
        for count in sorted({size - max(round(density * size), 1) for density in _DENSITIES}):
            if count <= least:
                continue
            mask, weights, shifted = measured.pruned(
                self._method, self._correct, not self._correct, count / size
            )
            places = np.flatnonzero(product.values(mask))
            values = product.values(weights.astype(np.float32)).ravel()[places]
            self._levels[number].append(_Level(size - len(places), places, values, shifted))
