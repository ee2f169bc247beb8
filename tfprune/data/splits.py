"""Datasets: examples in arrays or as a stream, and their form."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class ArraySpec:
    """The form of an array of examples.

    Attributes:
        shape: Its shape without the first axis, that of the examples.
        dtype: Name of its type, such as `"uint8"`.
    """

    shape: tuple[int, ...]
    dtype: str

    @property
    def bytes(self) -> int:
        """The number of bytes of an example."""
        size = 2 if self.dtype == "bfloat16" else np.dtype(self.dtype).itemsize
        return math.prod(self.shape) * size

    def __str__(self) -> str:
        """Returns `uint8 [n, 32, 32, 3]`, the examples' axis called n."""
        return f"{self.dtype} [{', '.join(['n', *map(str, self.shape)])}]"


@dataclasses.dataclass(frozen=True)
class DataSpec:
    """The form of a dataset's examples: each an `ArraySpec`, or a dict or tuple of them.

    Attributes:
        inputs: What a network is given.
        labels: What it is to give.
        weights: Each example's weight in the loss; None without.
    """

    inputs: Any
    labels: Any
    weights: Any = None


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Examples that are held in memory, or that an array-like object reads when they are asked for.

    Attributes:
        inputs: An array, or a dict or tuple of arrays, of any shape; the first axis is that of the examples.
        labels: The same for what a network is to give: for classes, int32 of shape [examples].
        available: How many examples the split has in all, used here or not.
        weights: Each example's weight in the loss; None without.
    """

    inputs: Any
    labels: Any
    available: int
    weights: Any = None

    def __len__(self) -> int:
        return len(next(arrays_of(self.inputs)))

    @property
    def spec(self) -> DataSpec:
        """The form of the examples."""
        return DataSpec(*(map_arrays(_spec_of, part) for part in (self.inputs, self.labels, self.weights)))


@dataclasses.dataclass(frozen=True, eq=False)
class Stream:
    """Examples that a `tf.data.Dataset` gives, which are not held in memory.

    Attributes:
        batches: Gives each pass's examples in batches of any size: (inputs, labels) or (inputs, labels,
            weights), which are tensors, or dicts or tuples of tensors.
        examples: How many of them are used: the first ones of each pass.
        available: How many a pass gives, where it was counted to its end; else `examples`.
        spec: The form of the examples.
    """

    batches: Any
    examples: int
    available: int
    spec: DataSpec

    def __len__(self) -> int:
        return self.examples


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A dataset.

    Attributes:
        name: One of `DATASETS`, or the function that gave it.
        train: The examples to train on.
        test: The examples to evaluate on.
        class_names: Name of each label; None where labels are not the whole numbers of classes.
        mean: Mean of each channel over all pixels of `train`, in 0 to 255; None if its inputs are no images.
        std: Standard deviation (of the population) of each channel over all pixels of `train`, or None.
        image_size: Side in pixels to which images are resized for the network; 0: they stay as they are.
        arguments: Names of the settings that the function that gave it was called with.
    """

    name: str
    train: Split | Stream
    test: Split | Stream
    class_names: tuple[str, ...] | None
    mean: tuple[float, float, float] | None
    std: tuple[float, float, float] | None
    image_size: int = 0
    arguments: frozenset[str] = frozenset()

    @property
    def is_images(self) -> bool:
        """Whether the inputs are images: uint8 of shape [examples, height, width, 3]."""
        return are_images(self.train.spec)

    @property
    def spec(self) -> DataSpec:
        """The form of the examples as the network sees them: images are resized."""
        spec = self.train.spec
        if not self.is_images or not self.image_size:
            return spec
        return dataclasses.replace(spec, inputs=ArraySpec((self.image_size, self.image_size, 3), "uint8"))

    @property
    def noun(self) -> str:
        """The word for its examples."""
        return "images" if self.is_images else "examples"


def are_images(spec: DataSpec) -> bool:
    """Returns whether inputs are images: uint8 of shape [examples, height, width, 3]."""
    inputs = spec.inputs
    return (
        isinstance(inputs, ArraySpec)
        and inputs.dtype == "uint8"
        and len(inputs.shape) == 3
        and inputs.shape[2] == 3
    )


def are_classes(spec: DataSpec) -> bool:
    """Returns whether labels are whole numbers of classes, one an example."""
    return spec.labels == ArraySpec((), "int32")


def chosen_examples(split: str, available: int, examples: int) -> np.ndarray:
    """Returns the numbers of the examples to use of a split that is held in memory.

    Args:
        split: `"train"` or `"test"`.
        available: How many there are.
        examples: How many to use: the first ones of one fixed shuffle. 0: all, in their order.

    Raises:
        ValueError: If there are fewer.
    """
    if examples > available:
        raise ValueError(
            f"`{split}_examples` must be at most {available}, the number of {split} examples. "
            f"Received: {split}_examples={examples}"
        )
    if examples == 0:
        return np.arange(available)
    return np.random.default_rng(0).permutation(available)[:examples]


def form_text(tree: Any) -> str:
    """Returns the form of inputs or labels, an `ArraySpec` or a dict or tuple of them, in words."""
    if isinstance(tree, dict):
        return ", ".join(f"{name}: {form_text(part)}" for name, part in tree.items())
    return ", ".join(map(form_text, tree)) if isinstance(tree, tuple) else str(tree)


def map_arrays(change: Callable[[Any], Any], tree: Any) -> Any:
    """Returns a dict or tuple of arrays, or a single one, with each array changed; None stays None."""
    if tree is None:
        return None
    if isinstance(tree, dict):
        return {name: map_arrays(change, part) for name, part in tree.items()}
    if isinstance(tree, tuple):
        return tuple(map_arrays(change, part) for part in tree)
    return change(tree)


def arrays_of(tree: Any) -> Iterator[Any]:
    """Yields the arrays of a dict or tuple of arrays, in its order, or the single one; none of None."""
    if isinstance(tree, dict | tuple):
        for part in tree.values() if isinstance(tree, dict) else tree:
            yield from arrays_of(part)
    elif tree is not None:
        yield tree


def _spec_of(array: Any) -> ArraySpec:
    return ArraySpec(tuple(array.shape[1:]), str(array.dtype))
