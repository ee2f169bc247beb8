"""The kernels that a search prunes, and the rest of each when a number of its weights is removed."""

import abc
import math
from collections.abc import Sequence
from dataclasses import dataclass

import keras
import numpy as np

from tfprune.network.graph import inner_layers
from tfprune.network.wrapping import unwrapped
from tfprune.sparsity.apply import read
from tfprune.sparsity.choice import Selection
from tfprune.sparsity.layer_problems import Target, targets_of
from tfprune.sparsity.patterns import Weights


@dataclass(frozen=True, eq=False)
class Searched:
    """A kernel that a search prunes.

    Attributes:
        name: The layer's name, or the kernel's path in it if the layer has several: what `prune_to` knows it
            by.
        path: The layer's path through nested models, and through layers that consist of layers.
        target: The kernel, as data prune it.
        mask: Booleans, True where a weight stays; None if there is no mask.
    """

    name: str
    path: str
    target: Target
    mask: np.ndarray | None

    @property
    def variable(self) -> keras.Variable:
        """Returns the kernel."""
        return self.target.kernel.variable

    @property
    def attribute(self) -> str:
        """Returns the kernel's name in the layer."""
        return self.target.paths[-1].rpartition("/")[2]

    @property
    def size(self) -> int:
        """Returns the number of its weights."""
        return math.prod(self.variable.shape)

    @property
    def removed(self) -> int:
        """Returns the number of weights that its mask removes."""
        return 0 if self.mask is None else self.size - int(np.count_nonzero(self.mask))


def searched_kernels(model: keras.layers.Layer, layers: Selection, spare: Selection) -> list[Searched]:
    """Returns the kernels to search over, in the order of the model.

    Those of a wrapped model are the ones with masks; `layers` and `spare` choose among the kernels of others
    as in `prune_low_magnitude`.

    Raises:
        ValueError: If there is none, if a choice is given for a wrapped model or its masks are still learned,
            if two have one name, if a weight is not finite, or if weights go in groups.
    """
    targets = targets_of(model, None, layers, spare)
    for target in targets:
        if not isinstance(target.pattern, Weights):
            raise ValueError(
                "Single weights are searched: the layers must be wrapped without a pattern. "
                f"Received: {target.pattern}, for {target.name}"
            )
    models = _models_around(model)
    layer_names = [target.paths[0] for target in targets]
    kernels = [
        Searched(
            target.paths[0] if layer_names.count(target.paths[0]) == 1 else target.paths[-1],
            f"{models.get(id(target.outermost), '')}{target.paths[-2]}",
            target,
            None if target.mask is None else target.present(),
        )
        for target in targets
    ]
    every = [kernel.name for kernel in kernels]
    if twice := sorted({name for name in every if every.count(name) > 1}):
        raise ValueError(
            "Layers must have names of their own, by which their sparsity is given. "
            f"Received: several of the name {', '.join(map(repr, twice))}"
        )
    for kernel in kernels:
        kernel.target.values()
    return kernels


def _models_around(model: keras.layers.Layer) -> dict[int, str]:
    """Returns the nested models around each layer that is none: its id -> their names, each with a `/`."""
    found: dict[int, str] = {}
    waiting = [(model, "")]
    for outer, path in waiting:
        for layer in inner_layers(outer):
            if isinstance(layer, keras.Model):
                waiting.append((layer, f"{path}{layer.name}/"))
            else:
                found.setdefault(id(unwrapped(layer)), path)
    return found


Values = list[tuple[keras.Variable, np.ndarray]]


class PrunedKernels(abc.ABC):
    """The rest of each kernel when a number of its weights is removed."""

    @property
    @abc.abstractmethod
    def variables(self) -> list[keras.Variable]:
        """Returns the variables that candidates differ in."""

    @abc.abstractmethod
    def at(self, kernel: int, removed: int) -> Values:
        """Returns a kernel of which so many weights are zero, and what goes with it: variables and values."""


class ByMagnitude(PrunedKernels):
    """The weights of the smallest magnitude go, of equal ones the one with the higher index.

    Args:
        kernels: The kernels, with the weights that they have now.
    """

    def __init__(self, kernels: Sequence[Searched]) -> None:
        self._variables = [kernel.variable for kernel in kernels]
        self._weights = [np.array(read(kernel.variable)) for kernel in kernels]
        self._order = [
            removal_order(weights, kernel.mask)
            for weights, kernel in zip(self._weights, kernels, strict=True)
        ]

    @property
    def variables(self) -> list[keras.Variable]:
        return self._variables

    def at(self, kernel: int, removed: int) -> Values:
        pruned = self._weights[kernel].copy()
        pruned.ravel()[self._order[kernel][:removed]] = 0
        return [(self._variables[kernel], pruned)]


def removal_order(weights: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """Returns the flat indices of weights in the order in which they go by magnitude.

    Args:
        weights: The weights.
        mask: Booleans: False where a weight is removed already, and goes first. None for all True.
    """
    magnitudes = np.abs(np.asarray(weights, np.float32)).ravel()
    if mask is not None:
        magnitudes = np.where(mask.ravel(), magnitudes, np.float32(-1))
    # The last of equal ones goes first: sorted from the end.
    return (magnitudes.size - 1 - np.argsort(magnitudes[::-1], kind="stable")).astype(np.int64)
