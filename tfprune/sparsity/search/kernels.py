"""The kernels that a search prunes, and the rest of each when a number of its weights is removed."""

import abc
import math
from collections.abc import Sequence
from dataclasses import dataclass

import keras
import numpy as np

from tfprune.network.graph import inner_layers, walk
from tfprune.network.wrapping import check_fixed
from tfprune.sparsity.apply import parts_of, pruned_layers, read
from tfprune.sparsity.choice import Choice, Selection, check_names, names_in
from tfprune.sparsity.masks import all_finite
from tfprune.sparsity.patterns import Weights


@dataclass(frozen=True, eq=False)
class Searched:
    """A kernel that a search prunes.

    Attributes:
        name: The layer's name, or the kernel's path in it if the layer has several: what `prune_to` knows it
            by.
        path: The layer's path through nested models, and through layers that consist of layers.
        attribute: The kernel's name in the layer.
        variable: The kernel.
        mask: Booleans, True where a weight stays; None if there is no mask.
    """

    name: str
    path: str
    attribute: str
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
        ValueError: If there is none, if a choice is given for a wrapped model or its masks are still learned,
            if two have one name, if a weight is not finite, or if weights go in groups.
    """
    models = _models_around(model)
    wrappers = pruned_layers(model)
    check_fixed(model)
    if wrappers:
        if layers is not None or spare is not None:
            raise ValueError(
                "`layers` and `spare` must be None for a wrapped model, whose masks say what is pruned. "
                f"Received: layers={layers!r}, spare={spare!r}"
            )
        found = [
            (models.get(id(part.layer), ""), part.paths, part.variable, np.array(read(part.mask), bool))
            for part in parts_of(wrappers)
        ]
        for part in parts_of(wrappers):
            if not isinstance(part.pattern, Weights):
                raise ValueError(
                    "Single weights are searched: the layers must be wrapped without a pattern. "
                    f"Received: {part.pattern}, for {part.name}"
                )
    else:
        own = [layer for layer in walk(model) if id(layer) in models]
        if isinstance(spare, str):
            check_names("spare", [spare], [name for layer in own for name in names_in(layer)], "a layer")
        choose = Choice(layers, spare, None)
        places = [(models[id(layer)], chosen.place) for layer in own for chosen in choose(layer)]
        with_kernel = {
            id(place.kernel.variable): (around, place.names, place.kernel.variable, None)
            for around, place in reversed(places)
            if place.kernel is not None
        }
        found = list(reversed(with_kernel.values()))  # A shared one counts where it comes first.
    if not found:
        raise ValueError(
            "Nothing to search: no layer selected has a kernel or an embedding table. "
            f"Received: layers={layers!r}, spare={spare!r}, model={model!r}"
        )
    layer_names = [names[0] for _, names, _, _ in found]
    kernels = [
        Searched(
            names[0] if layer_names.count(names[0]) == 1 else names[-1],
            f"{around}{names[-2]}",
            names[-1].rpartition("/")[2],
            variable,
            mask,
        )
        for around, names, variable, mask in found
    ]
    every = [kernel.name for kernel in kernels]
    if twice := sorted({name for name in every if every.count(name) > 1}):
        raise ValueError(
            "Layers must have names of their own, by which their sparsity is given. "
            f"Received: several of the name {', '.join(map(repr, twice))}"
        )
    for kernel in kernels:
        if not all_finite(np.asarray(read(kernel.variable), np.float32)):
            raise ValueError(f"Weights must be finite. Received: NaN or infinity in {kernel.name}")
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
                found.setdefault(id(layer), path)
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
