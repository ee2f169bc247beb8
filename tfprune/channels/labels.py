"""Labels of channels: what carries the same label, or labels that were united, is removed together."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

FIXED = 0
"""The label of what is never removed."""


@dataclass(frozen=True, eq=False)
class Channels:
    """The labels of the values of a tensor.

    Attributes:
        shape: The tensor's, without the batch's axis; None for a size that is not known.
        labels: Whole numbers with as many axes, of the same size or of size 1 where the labels are the same
            along an axis.
    """

    shape: tuple[int | None, ...]
    labels: np.ndarray

    @classmethod
    def fixed(cls, shape: Sequence[int | None]) -> "Channels":
        """Returns the channels of a tensor that keeps its shape."""
        return cls(tuple(shape), np.full((1,) * len(shape), FIXED))

    @classmethod
    def along(cls, shape: Sequence[int | None], axis: int, labels: np.ndarray) -> "Channels":
        """Returns the channels of a tensor whose labels differ along one axis only."""
        sizes = [1] * len(shape)
        sizes[axis] = len(labels)
        return cls(tuple(shape), np.asarray(labels).reshape(sizes))

    @property
    def is_fixed(self) -> bool:
        """Returns whether no label is there that could be removed."""
        return not self.labels.any()

    def axes(self) -> tuple[int, ...]:
        """Returns the axes along which the labels differ."""
        return tuple(axis for axis, size in enumerate(self.labels.shape) if size > 1)

    def on(self, axis: int) -> np.ndarray | None:
        """Returns the labels along an axis; None where they differ along another one too."""
        axis %= len(self.shape)
        if any(other != axis for other in self.axes()):
            return None
        labels = self.labels.ravel()
        size = self.shape[axis]
        return np.broadcast_to(labels, (size,)) if size is not None else labels

    def whole(self) -> np.ndarray | None:
        """Returns the labels in the tensor's whole shape; None where a size is not known."""
        return None if None in self.shape else np.broadcast_to(self.labels, self.shape)


def narrowed(labels: np.ndarray) -> np.ndarray:
    """Returns labels with axes of size 1 in the place of those along which nothing differs."""
    for axis, size in enumerate(labels.shape):
        first = labels.take([0], axis) if size else labels
        if size > 1 and (labels == first).all():
            labels = first
    return labels


class Union:
    """Sets of labels that belong together, in which `FIXED` may be one.

    Label 0 is `FIXED`. The labels that one call of `new` makes are a block.
    """

    def __init__(self) -> None:
        self._parents = np.zeros(1, np.int64)
        self._blocks = np.zeros(1, np.int64)
        self._names: list[str] = ["fixed"]
        self._reasons: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._parents)

    def new(self, count: int, name: str) -> np.ndarray:
        """Returns new labels, each a set of its own.

        Args:
            count: How many.
            name: What makes the channels, for readers.
        """
        labels = np.arange(len(self._parents), len(self._parents) + count)
        self._parents = np.concatenate([self._parents, labels])
        self._blocks = np.concatenate([self._blocks, np.full(count, len(self._names))])
        self._names.append(name)
        return labels

    def names(self, labels: Iterable[int]) -> list[str]:
        """Returns what makes the channels that have some labels, each once."""
        return [self._names[block] for block in sorted({int(self._blocks[label]) for label in labels})]

    def block(self, labels: np.ndarray) -> np.ndarray:
        """Returns the number of the block of each label."""
        return self._blocks[labels]

    def find(self, labels: np.ndarray) -> np.ndarray:
        """Returns the lowest label of the set of each."""
        roots = self._parents[labels]
        while True:
            above = self._parents[roots]
            if (above == roots).all():
                return roots
            roots = above

    def unite(self, first: np.ndarray, second: np.ndarray) -> None:
        """Unites the sets of labels, pair by pair; the arrays are broadcast against each other."""
        first, second = (array.ravel() for array in np.broadcast_arrays(first, second))
        while True:
            one, other = self.find(first), self.find(second)
            apart = one != other
            if not apart.any():
                return
            first, second, one, other = first[apart], second[apart], one[apart], other[apart]
            low, high = np.minimum(one, other), np.maximum(one, other)
            for place in np.flatnonzero(low == FIXED):
                if high[place] not in self._reasons:
                    label = first[place] if one[place] == FIXED else second[place]
                    self._reasons[int(high[place])] = self.reason(label)
            # Of several partners of a set the lowest now, the others in the next round.
            np.minimum.at(self._parents, high, low)

    def fix(self, labels: np.ndarray, reason: str) -> None:
        """Notes that channels are never removed.

        Args:
            labels: Their labels.
            reason: Why, for readers.
        """
        for root in np.unique(self.find(labels)):
            if root != FIXED:
                self._parents[root] = FIXED
                self._reasons[int(root)] = reason

    def reason(self, label: int) -> str:
        """Returns why a label's set is fixed; empty for one that is not, or that was made so."""
        seen = int(label)
        while seen != FIXED:
            if self._reasons.get(seen):
                return self._reasons[seen]
            seen = int(self._parents[seen])
        return ""
