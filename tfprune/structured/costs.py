"""Counts the parameters and multiply-accumulates of what is left of a model, without building it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfprune.channels.groups import Traced
from tfprune.channels.labels import FIXED
from tfprune.network.macs import KernelUse, kernel_uses
from tfprune.sparsity import pruned_layers


@dataclass(frozen=True)
class Size:
    """The size of a network.

    Attributes:
        parameters: Weights, trainable or not; masks and steps of pruning are none.
        macs: Multiply-accumulates of the kernels for one example; None where unknown.
        seconds: The median time of a call for one example; None where it was not measured.
    """

    parameters: int
    macs: int | None
    seconds: float | None = None


@dataclass(frozen=True)
class PlannedGroup:
    """A group of channels in a plan.

    Its parameters and MACs are those of the weights that make its channels or scale them as they pass.

    Attributes:
        layers: Names of the layers that make the channels.
        takers: Names of the layers that take them.
        channels: The number of channels, as in `ChannelGroup`.
        kept: How many of them stay.
        before: Parameters and MACs of the whole network.
        after: Those of the planned one.
        fixed: Why none goes; empty where they can.
    """

    layers: tuple[str, ...]
    takers: tuple[str, ...]
    channels: int
    kept: int
    before: Size
    after: Size
    fixed: str = ""


class Costs:
    """The parameters and MACs of a traced model as functions of the sets of channels that stay.

    The size of a weight is the product of the places that stay along each of its axes, and each of its values
    takes part in as many multiply-accumulates as before, but where channels pass by it: of a dense layer
    over the last axis the channels along another one are positions.

    Args:
        traced: The model's channels.
        input_shape: As in `network.macs.kernel_uses`.

    Attributes:
        uses: What is known of each kernel.
    """

    def __init__(self, traced: Traced, input_shape: Any = None) -> None:
        self._traced = traced
        self._numberings: dict[bytes, int] = {}
        self.numberings: list[np.ndarray] = []
        model = traced.model
        self.uses: list[KernelUse] = kernel_uses(model, input_shape)
        uses = {id(use.variable): use.uses for use in self.uses}
        own = {
            id(weight)
            for wrapper in pruned_layers(model)
            for weight in wrapper.weights[len(wrapper.layer.weights) :]
        }
        slices: dict[int, list] = {}
        for one in traced.slices:
            slices.setdefault(id(one.variable), []).append(one)
        passing = self._passing()
        self._known = all(use.uses is not None for use in self.uses)
        parameters, macs, self._owners = [], [], []
        for weight in model.weights:
            if id(weight) in own:
                continue
            axes = slices.get(id(weight), ())
            along = [self._number(one.labels) for one in axes]
            numbered = {one.axis % len(weight.shape) for one in axes}
            rest = math.prod(size for axis, size in enumerate(weight.shape) if axis not in numbered)
            owners = [one for role in ("makes", "scales", "takes") for one in axes if one.role == role]
            owner = owners[0] if owners else None
            self._owners.append(None if owner is None else (owner.layer.name, along[axes.index(owner)]))
            parameters.append((rest, along))
            by = passing.get(id(weight), ())
            positions = math.prod(len(self.numberings[number]) for number in by)
            macs.append((rest * (uses.get(id(weight)) or 0) // positions, [*along, *by]))
        self._parameters, self._macs = _Terms(parameters), _Terms(macs)
        self._places = np.concatenate(self.numberings) if self.numberings else np.zeros(0, int)
        self._starts = np.cumsum([0, *(len(sets) for sets in self.numberings[:-1])])

    def size(self, stays: np.ndarray) -> Size:
        """Returns the size of the network of which some sets stay."""
        counts = self._counts(stays)
        macs = int(self._macs.values(counts).sum()) if self._known else None
        return Size(int(self._parameters.values(counts).sum()), macs)

    def cost(self, stays: np.ndarray, unit: str) -> int:
        """Returns the "parameters" or the "macs" alone, of kernels that are known."""
        terms = self._macs if unit == "macs" else self._parameters
        return int(terms.values(self._counts(stays)).sum())

    def by_owner(self, stays: np.ndarray, group_of: np.ndarray) -> dict[Any, tuple[int, int]]:
        """Returns parameters and MACs by what the weights make, or scale, or take.

        Args:
            stays: Whether each set stays.
            group_of: The number of the group of each set.

        Returns:
            Number of a group, or name of a layer for its fixed channels, or None for all else -> parameters
            and MACs.
        """
        counts = self._counts(stays)
        found: dict[Any, np.ndarray] = {}
        costs = zip(self._parameters.values(counts), self._macs.values(counts), strict=True)
        for owner, both in zip(self._owners, costs, strict=True):
            both = np.array(both)
            if owner is None:
                found[None] = found.get(None, 0) + both
                continue
            layer, numbering = owner
            sets = self.numberings[numbering]
            kept = sets[stays[sets]]
            for group, places in zip(*np.unique(group_of[kept], return_counts=True), strict=True):
                key = int(group) if group >= 0 else layer
                found[key] = found.get(key, 0) + both * places // len(kept)
        return {key: (int(both[0]), int(both[1])) for key, both in found.items()}

    def unknown(self) -> list[str]:
        """Returns the names of the layers of which the MACs are not known."""
        return sorted({use.layer.name for use in self.uses if use.uses is None})

    def _counts(self, stays: np.ndarray) -> np.ndarray:
        """Returns the places that stay in each numbering, after a 1."""
        if not self.numberings:
            return np.ones(1, np.int64)
        return np.concatenate([[1], np.add.reduceat(stays[self._places].astype(np.int64), self._starts)])

    def _number(self, labels: np.ndarray) -> int:
        sets = self._traced.sets[labels]
        key = sets.tobytes()
        if key not in self._numberings:
            self._numberings[key] = len(self.numberings)
            self.numberings.append(sets)
        return self._numberings[key]

    def _passing(self) -> dict[int, list[int]]:
        """Finds the kernels that channels pass by: id -> their numberings."""
        found: dict[int, list[int]] = {}
        kernels = {id(use.variable) for use in self.uses}
        for call in self._traced.trace.calls:
            taken = np.concatenate([[FIXED], *(channels.labels.ravel() for channels in call.inputs)])
            passed = call.outputs[0].labels.ravel() if call.outputs else taken[:1]
            differing = passed[passed != FIXED]
            if not len(differing) or not np.isin(differing, taken).all():
                continue
            for weight in getattr(call.layer, "weights", ()):
                numbered = [one.labels for one in call.slices if one.variable is weight]
                if id(weight) in kernels and not any(np.isin(differing, labels).any() for labels in numbered):
                    found.setdefault(id(weight), [self._number(passed)])
        return found


class _Terms:
    """Products of a constant and of some numbers of places."""

    def __init__(self, terms: Sequence[tuple[int, Sequence[int]]]) -> None:
        self._constants = np.array([constant for constant, _ in terms], np.int64)
        width = max((len(along) for _, along in terms), default=0)
        # Place 0 of the counts is 1.
        self._along = np.array(
            [[number + 1 for number in along] + [0] * (width - len(along)) for _, along in terms], int
        ).reshape(len(terms), width)

    def values(self, counts: np.ndarray) -> np.ndarray:
        """Returns each product."""
        values = self._constants
        for along in self._along.T:
            values = values * counts[along]
        return values
