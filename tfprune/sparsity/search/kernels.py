"""The kernels that a search prunes, and the rest of each when a number of its weights is removed."""

import abc
import math
from collections.abc import Sequence
from dataclasses import dataclass

import keras
import numpy as np

from tfprune.network.graph import walk
from tfprune.sparsity.apply import parts_of, pruned_layers, read
from tfprune.sparsity.choice import Choice, Selection, check_names, names_in
from tfprune.sparsity.masks import all_finite
from tfprune.sparsity.model_masks import kernel_names


@dataclass(frozen=True, eq=False)
class Searched:
    """A kernel that a search prunes.

    Attributes:
        name: The layer's name, or the kernel's path in it if the layer has several: what `prune_to` knows it
            by.
        path: The layer's path through the model.
        variable: The kernel.
        mask: Booleans, True where a weight stays; None if there is no mask.
    """

    name: str
    path: str
    variable: keras.Variable
    mask: np.ndarray | None

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
        ValueError: If there is none, if a choice is given for a wrapped model, if two have one name, or if a
            weight is not finite.
    """
    found: list[tuple[tuple[str, ...], keras.Variable, np.ndarray | None]] = []
    wrappers = pruned_layers(model)
    if wrappers:
        if layers is not None or spare is not None:
            raise ValueError(
                "`layers` and `spare` must be None for a wrapped model, whose masks say what is pruned. "
                f"Received: layers={layers!r}, spare={spare!r}"
            )
        for part in parts_of(wrappers):
            found.append((part.paths, part.variable, np.array(read(part.mask), bool)))
    else:
        choose = Choice(layers, spare, None)
        own = [part for part in walk(model, lambda layer: isinstance(layer, keras.Model))]
        own = [layer for layer in own if not isinstance(layer, keras.Model)]
        if isinstance(spare, str):
            names = [name for layer in own for name in names_in(layer)]
            check_names("spare", [spare], names, "a layer or a kernel")
        seen = set()
        for layer in own:
            for chosen in choose(layer):
                kernel = chosen.place.kernel
                if kernel is not None and id(kernel.variable) not in seen:
                    seen.add(id(kernel.variable))
                    found.append((chosen.place.names, kernel.variable, None))
    if not found:
        raise ValueError(
            "Nothing to search: no layer selected has a kernel or an embedding table. "
            f"Received: layers={layers!r}, spare={spare!r}, model={model!r}"
        )
    for paths, variable, _ in found:
        if not all_finite(np.asarray(read(variable), np.float32)):
            raise ValueError(f"Weights must be finite. Received: NaN or infinity in {paths[-1]}")
    return _named(model, found)


def _named(
    model: keras.layers.Layer, found: Sequence[tuple[tuple[str, ...], keras.Variable, np.ndarray | None]]
) -> list[Searched]:
    paths = {id(kernel.variable): name.rpartition("/")[0] for name, kernel in kernel_names(model).items()}
    layers = [names[0] for names, _, _ in found]
    kernels = [
        Searched(
            names[0] if layers.count(names[0]) == 1 else names[-1],
            paths.get(id(variable), names[0]),
            variable,
            mask,
        )
        for names, variable, mask in found
    ]
    every = [kernel.name for kernel in kernels]
    if twice := sorted({name for name in every if every.count(name) > 1}):
        raise ValueError(
            "Layers must have names of their own, by which their sparsity is given. "
            f"Received: several of the name {', '.join(map(repr, twice))}"
        )
    return kernels


class PrunedKernels(abc.ABC):
    """The rest of each kernel when a number of its weights is removed."""

    @abc.abstractmethod
    def at(self, kernel: int, removed: int) -> np.ndarray:
        """Returns a kernel of which so many weights are zero, an array of its shape and type."""


class ByMagnitude(PrunedKernels):
    """The weights of the smallest magnitude go, of equal ones the one with the higher index.

    Args:
        kernels: The kernels, with the weights that they have now.
    """

    def __init__(self, kernels: Sequence[Searched]) -> None:
        self._weights = [np.array(read(kernel.variable)) for kernel in kernels]
        self._order = [
            removal_order(weights, kernel.mask)
            for weights, kernel in zip(self._weights, kernels, strict=True)
        ]

    def at(self, kernel: int, removed: int) -> np.ndarray:
        pruned = self._weights[kernel].copy()
        pruned.ravel()[self._order[kernel][:removed]] = 0
        return pruned


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
