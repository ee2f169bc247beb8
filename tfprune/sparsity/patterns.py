"""Patterns: the groups of weights that are removed together.

A pattern turns the scores of weights into scores of groups, and a mask of groups into a mask of weights. A
new one is a class, registered so that a saved model finds it again:

```python
@keras.saving.register_keras_serializable("my_project")
class Rows(Groups):
    def pool(self, scores):
        return scores.mean(axis=-1)

    def spread(self, groups, shape):
        return np.broadcast_to(groups[..., None], shape)

    def sizes(self, mask):
        return mask.sum(axis=-1)

prune_low_magnitude(model, schedule, pattern=Rows())
```
"""

import abc
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import keras
import numpy as np

from tfprune.network.kinds import Kernel
from tfprune.sparsity import scores as score_rules
from tfprune.sparsity.scores import Score
from tfprune.sparsity.selection import keep_largest, kept_count

POOLING_TYPES = ("AVG", "MAX")


@dataclass(frozen=True)
class Pattern(abc.ABC):
    """The weights of a tensor that may go together.

    A pattern with arguments is a frozen dataclass: its fields are what a saved model holds. A pattern that
    depends on what the axes of a kernel stand for overrides `fit`.
    """

    @abc.abstractmethod
    def select(self, scores: np.ndarray, mask: np.ndarray, sparsity: float) -> np.ndarray:
        """Returns the mask of one tensor at `sparsity`, a subset of `mask`.

        Args:
            scores: The weights' scores, larger ones kept longer: a float32 array of the tensor's shape.
            mask: The present mask: a boolean array of that shape, True where the weight stays.
            sparsity: The share of the tensor's weights or groups that is to be removed, in [0, 1).
        """

    def reached(self, mask: np.ndarray, sparsity: float) -> bool:
        """Returns whether `select` returns `mask` whatever the scores are; False where that is not known."""
        return False

    @property
    def largest_sparsity(self) -> float:
        """Returns the sparsity that the pattern can reach."""
        return 1.0

    def fit(self, kernel: Kernel, name: str, score: str | Score) -> "Pattern":
        """Returns the pattern for one kernel.

        Args:
            kernel: The kernel, whose axes are known.
            name: Its name, for errors.
            score: The score that ranks its weights.

        Raises:
            ValueError: If the kernel has no such groups; the message has its `name`.
        """
        return self

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of `__init__`."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Returns a pattern with the arguments of `get_config`."""
        return cls(**keras.saving.deserialize_keras_object(dict(config)))

    def __str__(self) -> str:
        """Returns the argument of `prune_low_magnitude` that asks for the pattern."""
        return f"pattern={self!r}"


class Groups(Pattern):
    """A partition of a tensor's weights into groups; each group stays or goes as a whole.

    Of G groups `max(G - round(sparsity * G), 1)` stay, those with the largest scores.

    Attributes:
        score_type: The type of the groups' scores.
    """

    score_type = np.float32

    @abc.abstractmethod
    def pool(self, scores: np.ndarray) -> np.ndarray:
        """Returns one score a group.

        Args:
            scores: The weights' scores, an array of the tensor's shape; 0 for removed weights.

        Returns:
            An array with one number for each group, of any shape.
        """

    @abc.abstractmethod
    def spread(self, groups: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Returns an array of the weights' `shape`, each weight with its group's value.

        Args:
            groups: A value for each group, an array of the shape that `pool` returns.
            shape: The tensor's shape.
        """

    @abc.abstractmethod
    def sizes(self, mask: np.ndarray) -> np.ndarray:
        """Returns how many weights of each group are left.

        Args:
            mask: A boolean array of the tensor's shape, True where the weight stays.

        Returns:
            An array of the shape that `pool` returns.
        """

    def largest_group(self, shape: tuple[int, ...]) -> int:
        """Returns the number of weights in the largest group of a tensor of that shape."""
        return int(self.sizes(np.ones(shape, bool)).max())

    def candidates(self, scores: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Returns the groups' scores; -inf for those of which nothing is left."""
        pooled = self.pool(np.where(mask, scores, np.float32(0)))
        return np.where(self.sizes(mask) > 0, pooled, np.float32(-np.inf))

    def reached(self, mask: np.ndarray, sparsity: float) -> bool:
        sizes = self.sizes(mask)
        return np.count_nonzero(sizes) <= kept_count(sizes.size, sparsity)

    def select(self, scores: np.ndarray, mask: np.ndarray, sparsity: float) -> np.ndarray:
        left = self.sizes(mask) > 0
        pooled = self.pool(np.where(mask, scores, np.float32(0)))
        keep = keep_largest(pooled.ravel(), kept_count(left.size, sparsity), left.ravel())
        return mask & self.spread(keep.reshape(left.shape), mask.shape)


@keras.saving.register_keras_serializable("tfprune")
class Weights(Groups):
    """Single weights: unstructured sparsity."""

    def pool(self, scores: np.ndarray) -> np.ndarray:
        return scores

    def spread(self, groups: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        return groups

    def sizes(self, mask: np.ndarray) -> np.ndarray:
        return mask

    def candidates(self, scores: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return np.where(mask, scores, np.float32(-np.inf))

    def select(self, scores: np.ndarray, mask: np.ndarray, sparsity: float) -> np.ndarray:
        keep = keep_largest(scores.ravel(), kept_count(mask.size, sparsity), mask.ravel())
        return keep.reshape(mask.shape)


@keras.saving.register_keras_serializable("tfprune")
@dataclass(frozen=True)
class Blocks(Groups):
    """Blocks of the last two axes, ranked by their mean or largest score.

    For a matrix these are tfmot's blocks. For a convolution's kernel the last two axes are the channels:
    each spatial position has its own blocks. Blocks at the far edges are smaller where the size does not
    divide.

    Args:
        block_size: (height, width): weights along the last axis but one, and along the last.
        block_pooling_type: "AVG" or "MAX".

    Raises:
        ValueError: On anything else.
    """

    block_size: tuple[int, int]
    block_pooling_type: str = "AVG"

    def __post_init__(self) -> None:
        object.__setattr__(self, "block_size", _two_numbers("block_size", self.block_size))
        if self.block_pooling_type not in POOLING_TYPES:
            raise ValueError(
                f"`block_pooling_type` must be one of {list(POOLING_TYPES)}. Received: "
                f"block_pooling_type={self.block_pooling_type!r}"
            )

    def fit(self, kernel: Kernel, name: str, score: str | Score) -> "Blocks":
        if len(kernel.variable.shape) < 2:
            raise ValueError(
                f"Blocks need a variable with two axes or more. Received: {self}, {name}, of shape "
                f"{tuple(kernel.variable.shape)}"
            )
        return self

    def __str__(self) -> str:
        pooling = (
            "" if self.block_pooling_type == "AVG" else f", block_pooling_type={self.block_pooling_type!r}"
        )
        return f"block_size={self.block_size}{pooling}"

    def pool(self, scores: np.ndarray) -> np.ndarray:
        total = np.maximum if self.block_pooling_type == "MAX" else np.add
        pooled = self._reduce(total, scores)
        if self.block_pooling_type == "AVG":
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


@keras.saving.register_keras_serializable("tfprune")
@dataclass(frozen=True)
class Channels(Groups):
    """Whole output channels, ranked by the root mean square or the mean of their scores.

    The root mean square orders the channels of one tensor as their L2 norm does, and makes channels of
    different tensors comparable.

    Args:
        output_axes: The axes of the kernel that number the output channels. Default: each kernel's own.
        norm: 2: root mean square; 1: mean. Default: the score's `group_norm`, 2 for the magnitude, else 1.
    """

    output_axes: tuple[int, ...] | None = None
    norm: int | None = None

    score_type = np.float64

    def fit(self, kernel: Kernel, name: str, score: str | Score) -> "Channels":
        axes = self.output_axes or kernel.output_axes
        if not axes:
            raise ValueError(
                f"Whole output channels can be removed where there are such. Received: {self}, {name}, which "
                "has none; leave it out with `layers`"
            )
        norm = self.norm or getattr(score_rules.get(score), "group_norm", 1)
        return Channels(tuple(axes), norm)

    def __str__(self) -> str:
        return "granularity='channel'"

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


@keras.saving.register_keras_serializable("tfprune")
@dataclass(frozen=True)
class MOfN(Pattern):
    """m zeros in every n consecutive weights along the input channels, as sparse tensor cores need.

    At sparsity s every group of n loses the `min(round(s * n), m)` weights with the lowest scores. A last
    group of fewer than n weights keeps as many as the others do, if it has them.

    Args:
        m: Zeros in a group.
        n: Weights in a group.
        input_axis: The axis of the kernel that numbers the input channels. Default: each kernel's own.

    Raises:
        ValueError: Unless m is at least 1 and below n.
    """

    m: int
    n: int
    input_axis: int | None = None

    def __post_init__(self) -> None:
        _two_numbers("sparsity_m_by_n", (self.m, self.n))
        if self.m >= self.n:
            raise ValueError(
                "`sparsity_m_by_n` must be (m, n), m zeros in every n weights, with m below n. "
                f"Received: {self}"
            )

    @property
    def largest_sparsity(self) -> float:
        return self.m / self.n

    def fit(self, kernel: Kernel, name: str, score: str | Score) -> "MOfN":
        axis = self.input_axis if self.input_axis is not None else kernel.input_axis
        if axis is None:
            raise ValueError(
                f"m zeros in n weights along the input channels need input channels. Received: {self}, "
                f"{name}, which has none; leave it out with `layers`"
            )
        return replace(self, input_axis=axis)

    def __str__(self) -> str:
        return f"sparsity_m_by_n={(self.m, self.n)}"

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
# What `granularity` may be.
GRANULARITIES: dict[str, Pattern] = {"weight": WEIGHTS, "channel": Channels()}


def from_arguments(
    block_size: tuple[int, int] = (1, 1),
    block_pooling_type: str = "AVG",
    sparsity_m_by_n: tuple[int, int] | None = None,
    granularity: str = "weight",
    pattern: Pattern | None = None,
) -> Pattern:
    """Returns the pattern that the arguments of `prune_low_magnitude` ask for.

    Raises:
        ValueError: On an argument out of range, and on more than one pattern.
    """
    if granularity not in GRANULARITIES:
        raise ValueError(
            f"`granularity` must be one of {list(GRANULARITIES)}. Received: granularity={granularity!r}"
        )
    if pattern is not None and not isinstance(pattern, Pattern):
        raise ValueError(
            f"`pattern` must be a `Pattern`, such as `Blocks((4, 4))`, or None. Received: pattern={pattern!r}"
        )
    blocks = Blocks(block_size, block_pooling_type)
    # As in tfmot, a pooling type without blocks asks for nothing; but a `pattern` excludes it.
    pools = blocks.block_size != (1, 1) or (pattern is not None and block_pooling_type != "AVG")
    asked = [blocks] if pools else []
    if sparsity_m_by_n is not None:
        asked.append(MOfN(*_two_numbers("sparsity_m_by_n", sparsity_m_by_n)))
    if granularity != "weight":
        asked.append(GRANULARITIES[granularity])
    if pattern is not None:
        asked.append(pattern)
    if len(asked) > 1:
        raise ValueError(f"Only one pattern can be asked for. Received: {', '.join(map(str, asked))}")
    return asked[0] if asked else WEIGHTS


def _two_numbers(name: str, value: Any) -> tuple[int, int]:
    try:
        numbers = tuple(value)
    except TypeError:
        numbers = ()
    if len(numbers) != 2 or any(type(n) is not int or n < 1 for n in numbers):
        raise ValueError(f"`{name}` must be two whole numbers, at least 1. Received: {name}={value!r}")
    return numbers
