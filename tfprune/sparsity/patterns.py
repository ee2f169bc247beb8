"""Which weights are removed together: single weights, blocks, whole output channels, or m of every n.

A pattern turns the scores of weights into scores of groups, and a mask of groups into a mask of weights.
NumPy arrays only, no model.
"""

import abc
from collections.abc import Sequence

import numpy as np

from tfprune.sparsity.selection import keep_largest, kept_count

GRANULARITIES = ("weight", "channel")
POOLING_TYPES = ("AVG", "MAX")


class Pattern(abc.ABC):
    """Which weights of a tensor may go together."""

    @abc.abstractmethod
    def select(self, scores: np.ndarray, mask: np.ndarray, sparsity: float) -> np.ndarray:
        """Returns the mask of this one tensor at `sparsity`, a subset of `mask`."""


class Groups(Pattern):
    """A partition of a tensor's weights into groups; each group stays or goes as a whole.

    Of G groups `max(G - round(sparsity * G), 1)` stay, those with the largest scores.

    Attributes:
        score_type: The type of the groups' scores.
    """

    score_type = np.float32

    @abc.abstractmethod
    def pool(self, scores: np.ndarray) -> np.ndarray:
        """Returns one score a group, of any shape."""

    @abc.abstractmethod
    def spread(self, groups: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Returns an array of the weights' `shape`, each weight with its group's value."""

    @abc.abstractmethod
    def sizes(self, mask: np.ndarray) -> np.ndarray:
        """Returns how many weights of each group are left."""

    def candidates(self, scores: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Returns the groups' scores; -inf for those of which nothing is left."""
        pooled = self.pool(np.where(mask, scores, np.float32(0)))
        return np.where(self.sizes(mask) > 0, pooled, np.float32(-np.inf))

    def select(self, scores: np.ndarray, mask: np.ndarray, sparsity: float) -> np.ndarray:
        left = self.sizes(mask) > 0
        count = kept_count(left.size, sparsity)
        if np.count_nonzero(left) <= count:
            return mask
        candidates = self.candidates(scores, mask)
        keep = keep_largest(candidates.ravel(), count).reshape(candidates.shape)
        return mask & self.spread(keep, mask.shape)


class Weights(Groups):
    """Each weight by itself: unstructured sparsity."""

    def pool(self, scores: np.ndarray) -> np.ndarray:
        return scores

    def spread(self, groups: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        return groups

    def sizes(self, mask: np.ndarray) -> np.ndarray:
        return mask

    def candidates(self, scores: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return np.where(mask, scores, np.float32(-np.inf))


class Blocks(Groups):
    """Blocks of the last two axes, ranked by their mean or largest score.

    For a matrix these are tfmot's blocks. For a convolution's kernel the last two axes are the channels:
    each spatial position has its own blocks. Blocks at the far edges are smaller where the size does not
    divide.

    Args:
        block_size: (height, width): weights along the last axis but one, and along the last.
        pooling_type: "AVG" or "MAX".
    """

    def __init__(self, block_size: tuple[int, int], pooling_type: str) -> None:
        self.block_size, self.pooling_type = block_size, pooling_type

    def pool(self, scores: np.ndarray) -> np.ndarray:
        total = np.maximum if self.pooling_type == "MAX" else np.add
        pooled = self._reduce(total, scores)
        if self.pooling_type == "AVG":
            pooled = pooled / self._reduce(np.add, np.ones(scores.shape[-2:], np.float32))
        return pooled

    def _reduce(self, total: np.ufunc, scores: np.ndarray) -> np.ndarray:
        for axis, length in zip((-2, -1), self.block_size, strict=True):
            scores = total.reduceat(scores, np.arange(0, scores.shape[axis], length), axis=axis)
        return scores

    def spread(self, groups: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        for axis, length in zip((-2, -1), self.block_size, strict=True):
            groups = np.repeat(groups, length, axis=axis)
        return groups[..., : shape[-2], : shape[-1]]

    def sizes(self, mask: np.ndarray) -> np.ndarray:
        return self._reduce(np.add, mask.astype(np.int64))


class Channels(Groups):
    """Whole output channels, ranked by the root mean square or the mean of their scores.

    The root mean square orders the channels of one tensor as their L2 norm does, and makes channels of
    different tensors comparable.

    Args:
        output_axes: The axes of the kernel that number the output channels.
        norm: 2: root mean square; 1: mean.
    """

    score_type = np.float64

    def __init__(self, output_axes: Sequence[int], norm: int) -> None:
        self.output_axes, self.norm = tuple(output_axes), norm

    def _other_axes(self, rank: int) -> tuple[int, ...]:
        kept = {axis % rank for axis in self.output_axes}
        return tuple(axis for axis in range(rank) if axis not in kept)

    def pool(self, scores: np.ndarray) -> np.ndarray:
        others = self._other_axes(scores.ndim)
        if self.norm == 1:
            return scores.mean(axis=others, dtype=np.float64)
        return np.sqrt(np.square(scores, dtype=np.float64).mean(axis=others))

    def spread(self, groups: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        return np.broadcast_to(np.expand_dims(groups, self._other_axes(len(shape))), shape)

    def sizes(self, mask: np.ndarray) -> np.ndarray:
        return mask.sum(axis=self._other_axes(mask.ndim))


class MOfN(Pattern):
    """m zeros in every n consecutive weights along the input channels, as sparse tensor cores need.

    At sparsity s every group of n loses the `min(round(s * n), m)` weights with the lowest scores. A last
    group of fewer than n weights keeps as many as the others do, if it has them.

    Args:
        m: Zeros in a group.
        n: Weights in a group.
        input_axis: The axis of the kernel that numbers the input channels.
    """

    def __init__(self, m: int, n: int, input_axis: int) -> None:
        self.m, self.n, self.input_axis = m, n, input_axis

    def select(self, scores: np.ndarray, mask: np.ndarray, sparsity: float) -> np.ndarray:
        kept = self.n - min(round(sparsity * self.n), self.m)
        ranks = np.moveaxis(np.where(mask, scores, np.float32(-np.inf)), self.input_axis, -1)
        filling = [(0, 0)] * (ranks.ndim - 1) + [(0, -ranks.shape[-1] % self.n)]
        groups = np.pad(ranks, filling, constant_values=-np.inf)
        groups = groups.reshape(*groups.shape[:-1], -1, self.n)
        best = np.argsort(-groups, axis=-1, kind="stable")[..., :kept]
        keep = np.zeros(groups.shape, bool)
        np.put_along_axis(keep, best, True, axis=-1)
        keep = keep.reshape(*ranks.shape[:-1], -1)[..., : ranks.shape[-1]]
        return mask & np.moveaxis(keep, -1, self.input_axis)


WEIGHTS = Weights()
