"""tf.data pipelines of batches.

A training batch of examples in memory depends on the seed, the epoch and its number in the epoch, and an
image's augmentation on the seed, the epoch and the example: on nothing that came before, and not on the
number of threads. So a run that resumes at an epoch sees what an uninterrupted one sees. A stream gives each
epoch's examples in its own order.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tfprune.data.autoaugment import DRAWS, AutoAugment
from tfprune.data.policies import POLICIES
from tfprune.data.resize import resize
from tfprune.data.splits import ArraySpec, Dataset, Split, Stream, are_images, arrays_of, map_arrays
from tfprune.extras import extra
from tfprune.machine import available_cores

with extra("experiments"):
    import cv2
    import tensorflow as tf

AUTOAUGMENT_CHOICES = (*POLICIES, "none")

# TensorFlow copies what numpy_function returns unless it begins at a multiple of this.
_ALIGNMENT_BYTES = 64

# Separate random streams of an epoch.
_ORDER_STREAM, _AUGMENTATION_STREAM = 0, 1


def train_batches(
    split: Split | Stream,
    *,
    image_size: int = 0,
    batch_size: int,
    autoaugment: str = "none",
    seed: int,
    epochs: int,
    first_epoch: int = 0,
    shard: tuple[int, int] = (0, 1),
) -> tf.data.Dataset:
    """Returns batches of whole epochs, one epoch after the other; images are resized and augmented.

    Every epoch of a `Split` is a permutation of it, with its own order and augmentation; one of a `Stream`
    is a pass over it. Its last batch holds what is left over, so an epoch has
    `ceil(len(split) / batch_size)` batches: pass that as `steps_per_epoch` to `model.fit`.

    Example:

    ```python
    batches = train_batches(
        dataset.train, image_size=224, batch_size=128, autoaugment="cifar10", seed=0, epochs=30
    )
    ```

    Args:
        split: The examples.
        image_size: Side of the images in pixels; 0 leaves all inputs as they are.
        batch_size: Examples a batch.
        autoaugment: AutoAugment's policy, `"cifar10"`, `"imagenet"` or `"svhn"`, or `"none"`.
        seed: Not negative.
        epochs: Number of the epoch to stop before.
        first_epoch: Number of the epoch to start with; with `epochs`, the dataset is empty.
        shard: (index, count): only part `index` of each batch, cut into `count` equal parts in its
            order. Its examples are those of the whole batch, augmented alike.

    Returns:
        A dataset of (inputs, labels) or (inputs, labels, weights), of known cardinality. Images are uint8 of
        shape [batch, image_size, image_size, 3].

    Raises:
        ValueError: An argument breaks the rules above, inputs that are no images are to be resized or
            augmented, or a stream is to be cut into parts.
    """
    if autoaugment not in AUTOAUGMENT_CHOICES:
        raise ValueError(
            f"Unknown AutoAugment policy {autoaugment!r}. The choices are: {', '.join(AUTOAUGMENT_CHOICES)}"
        )
    _check(split, image_size, batch_size, autoaugment, shard)
    if seed < 0:
        raise ValueError(f"`seed` must not be negative. Received: seed={seed}")
    if not 0 <= first_epoch <= epochs:
        raise ValueError(
            "`first_epoch` must be at least 0 and at most `epochs`. "
            f"Received: first_epoch={first_epoch}, epochs={epochs}"
        )
    augment = None if autoaugment == "none" else AutoAugment(autoaugment)
    steps_per_epoch = math.ceil(len(split) / batch_size)
    if isinstance(split, Stream):
        passes = _one_pass(split, batch_size).repeat(epochs - first_epoch)

        def drawn(step: int, examples: int) -> np.ndarray:
            epoch, number = divmod(step, steps_per_epoch)
            return _generator(seed, epoch, _AUGMENTATION_STREAM, number).random((examples, DRAWS))

        return _stream_batches(passes, split, image_size, first_epoch * steps_per_epoch, augment, drawn)

    # Two epochs at a time: the next one's first batches are made before this one's last are used.
    @functools.lru_cache(maxsize=2)
    def plan(epoch: int) -> tuple[np.ndarray, np.ndarray | None]:
        order = _generator(seed, epoch, _ORDER_STREAM).permutation(len(split))
        if augment is None:
            return order, None
        return order, _generator(seed, epoch, _AUGMENTATION_STREAM).random((len(split), DRAWS))

    def batch(step: int) -> list[np.ndarray]:
        epoch, number = divmod(int(step), steps_per_epoch)
        order, draws = plan(epoch)
        examples = _part(order[number * batch_size : (number + 1) * batch_size], shard)
        return _taken_batch(split, examples, image_size, augment, draws)

    steps = range(first_epoch * steps_per_epoch, epochs * steps_per_epoch)
    return _batches(batch, steps, split, image_size, batch_size, shard)


def test_batches(
    split: Split | Stream, *, image_size: int = 0, batch_size: int, shard: tuple[int, int] = (0, 1)
) -> tf.data.Dataset:
    """Returns batches of a split, once, in its order; images are resized.

    Args:
        split: The examples.
        image_size: Side of the images in pixels; 0 leaves all inputs as they are.
        batch_size: Examples a batch; the last batch holds what is left over.
        shard: (index, count): only part `index` of each batch, cut into `count` equal parts.

    Returns:
        A dataset as that of `train_batches`.

    Raises:
        ValueError: A size is out of range, the split is empty, inputs that are no images are to be resized,
            or `shard` does not fit.
    """
    _check(split, image_size, batch_size, "none", shard)
    if isinstance(split, Stream):
        return _stream_batches(_one_pass(split, batch_size), split, image_size)

    def batch(step: int) -> list[np.ndarray]:
        examples = _part(np.arange(step * batch_size, min((step + 1) * batch_size, len(split))), shard)
        return _taken_batch(split, examples, image_size)

    steps = range(math.ceil(len(split) / batch_size))
    return _batches(batch, steps, split, image_size, batch_size, shard)


# A test runner that collects by name must not take it for a test.
test_batches.__test__ = False


def first_test_inputs(dataset: Dataset, count: int) -> Any:
    """Returns the first inputs of the test split as the network sees them.

    Args:
        dataset: The data.
        count: How many examples, at least 1; all, if there are fewer.

    Returns:
        An array, or a dict or tuple of arrays, with the examples along the first axis.
    """
    return _first_inputs(dataset.test, dataset.image_size, count)


def first_training_inputs(dataset: Dataset, count: int) -> Any:
    """Returns the first inputs of the training split, not augmented, as those of the test split.

    Args:
        dataset: The data.
        count: As of `first_test_inputs`.

    Returns:
        As `first_test_inputs`.
    """
    return _first_inputs(dataset.train, dataset.image_size, count)


def _first_inputs(split: Split | Stream, image_size: int, count: int) -> Any:
    batches = test_batches(split, image_size=image_size, batch_size=min(count, len(split)))
    return next(batches.as_numpy_iterator())[0]


def make_images(
    images: np.ndarray,
    examples: np.ndarray,
    image_size: int,
    augment: AutoAugment | None = None,
    draws: np.ndarray | None = None,
) -> np.ndarray:
    """Resizes and augments some images of a split.

    Args:
        images: uint8 array of shape [all examples, height, width, 3].
        examples: Indices of the examples to take.
        image_size: Side of the result in pixels; 0 leaves the images' size.
        augment: What to augment with; None for nothing.
        draws: Where `augment` is given, its random numbers for every example: [all examples, DRAWS].

    Returns:
        uint8 array of shape [len(examples), image_size, image_size, 3].
    """
    size = (image_size, image_size) if image_size else images.shape[1:3]
    made = _aligned_empty((len(examples), *size, 3), np.dtype(np.uint8))
    for image, example in zip(made, examples, strict=True):
        resize(images[example], out=image)
        if augment is not None:
            augmented = augment.apply(image, draws[example])
            if augmented is not image:
                image[...] = augmented
    return made


def _aligned_empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Returns an uninitialised array whose memory TensorFlow takes over without a copy."""
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + _ALIGNMENT_BYTES, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT_BYTES
    return memory[start : start + size].view(dtype).reshape(shape)


def _taken_batch(
    split: Split,
    examples: np.ndarray,
    image_size: int,
    augment: AutoAugment | None = None,
    draws: np.ndarray | None = None,
) -> list[np.ndarray]:
    """Returns the arrays of some examples: inputs, labels, weights."""
    if are_images(split.spec):
        inputs = [make_images(split.inputs, examples, image_size, augment, draws)]
    else:
        inputs = [_taken(array, examples) for array in arrays_of(split.inputs)]
    others = (*arrays_of(split.labels), *arrays_of(split.weights))
    return [*inputs, *(_taken(array, examples) for array in others)]


def _taken(array: np.ndarray, examples: np.ndarray) -> np.ndarray:
    out = _aligned_empty((len(examples), *array.shape[1:]), array.dtype)
    return np.take(array, examples, axis=0, out=out, mode="clip")  # Other modes write to a buffer first.


def _part(examples: np.ndarray, shard: tuple[int, int]) -> np.ndarray:
    """Returns one of `count` equal parts."""
    index, count = shard
    size = len(examples) // count
    return examples[index * size : (index + 1) * size]


def _generator(*numbers: int) -> np.random.Generator:
    return np.random.default_rng(numbers)


def _element(split: Split | Stream, image_size: int) -> tuple[Any, ...]:
    """Returns what a batch looks like to the network: `ArraySpec`s of inputs, labels and weights."""
    spec = split.spec
    inputs = ArraySpec((image_size, image_size, 3), "uint8") if image_size else spec.inputs
    return (inputs, spec.labels) if spec.weights is None else (inputs, spec.labels, spec.weights)


def _batches(
    batch: Callable[[int], list[np.ndarray]],
    steps: range,
    split: Split,
    image_size: int,
    batch_size: int,
    shard: tuple[int, int],
) -> tf.data.Dataset:
    """Makes batches in parallel, in order; OpenCV releases the interpreter lock."""
    # tf.data's threads are the parallelism; OpenCV's own would only compete with them.
    cv2.setNumThreads(1)
    static_batch = batch_size // shard[1] if len(split) % batch_size == 0 else None
    element = _element(split, image_size)
    types = [tf.as_dtype(spec.dtype) for spec in arrays_of(element)]

    def numpy_batch(step: tf.Tensor) -> tuple[Any, ...]:
        tensors = iter(tf.numpy_function(batch, [step], types, stateful=False))

        def shaped(spec: ArraySpec) -> tf.Tensor:
            tensor = next(tensors)
            tensor.set_shape((static_batch, *spec.shape))
            return tensor

        return map_arrays(shaped, element)

    numbers = tf.data.Dataset.range(steps.start, steps.stop)
    return _in_parallel(numbers, numpy_batch).prefetch(tf.data.AUTOTUNE)


def _in_parallel(dataset: tf.data.Dataset, python_step: Callable[..., Any]) -> tf.data.Dataset:
    """Maps a step in Python over a dataset, in order."""
    # Not AUTOTUNE, which may keep every thread, the one of `WaitingTime`'s clock, too.
    return dataset.map(python_step, num_parallel_calls=available_cores(), deterministic=True)


def _one_pass(stream: Stream, batch_size: int) -> tf.data.Dataset:
    """Returns the batches of a pass over a stream; a pass that gives too few is an error of tf.data's."""
    steps = math.ceil(len(stream) / batch_size)

    def used(number: tf.Tensor, batch: tuple[Any, ...]) -> tuple[Any, ...]:
        left = len(stream) - number * batch_size
        return map_arrays(lambda tensor: tensor[:left], batch)

    batches = stream.batches.rebatch(batch_size).take(steps).enumerate().map(used)
    return batches.apply(tf.data.experimental.assert_cardinality(steps))


def _stream_batches(
    batches: tf.data.Dataset,
    stream: Stream,
    image_size: int,
    first_step: int = 0,
    augment: AutoAugment | None = None,
    drawn: Callable[[int, int], np.ndarray] | None = None,
) -> tf.data.Dataset:
    """Resizes and augments the batches of a stream's passes where they are images.

    Args:
        batches: The batches.
        stream: Whose they are.
        image_size: Side of the images in pixels; 0 leaves them as they are.
        first_step: Number of the first batch.
        augment: What to augment with; None for nothing.
        drawn: Where `augment` is given, a function from a batch's number and size to its random numbers.
    """
    if image_size or augment is not None:
        cv2.setNumThreads(1)
        shape = _element(stream, image_size)[0].shape

        def made(step: np.ndarray, images: np.ndarray) -> np.ndarray:
            draws = drawn(int(step), len(images)) if augment is not None else None
            return make_images(images, np.arange(len(images)), image_size, augment, draws)

        def images_made(step: tf.Tensor, batch: tuple[Any, ...]) -> tuple[Any, ...]:
            images = tf.numpy_function(made, [step, batch[0]], tf.uint8, stateful=False)
            images.set_shape((None, *shape))
            return images, *batch[1:]

        numbered = batches.enumerate(first_step)
        batches = _in_parallel(numbered, images_made)
    return batches.prefetch(tf.data.AUTOTUNE)


def _check(
    split: Split | Stream, image_size: int, batch_size: int, autoaugment: str, shard: tuple[int, int]
) -> None:
    for argument, value, least in (("image_size", image_size, 0), ("batch_size", batch_size, 1)):
        if value < least:
            raise ValueError(f"`{argument}` must be at least {least}. Received: {argument}={value}")
    if not are_images(split.spec):
        for argument, value, none in (("image_size", image_size, 0), ("autoaugment", autoaugment, "none")):
            if value != none:
                raise ValueError(
                    f"`{argument}` must be {none} where inputs are not uint8 images of shape "
                    f"[examples, height, width, 3]. Received: {argument}={value}"
                )
    if len(split) == 0:
        raise ValueError("`split` must have at least one example. Received: an empty split")
    index, count = shard
    if not 0 <= index < count:
        raise ValueError(
            f"`shard` must be (index, count), index from 0, below count. Received: shard={shard}"
        )
    if batch_size % count or len(split) % count:
        raise ValueError(
            "Every batch, the last one too, must be a multiple of the number of shards. "
            f"Received: shard={shard}, batch_size={batch_size}, {len(split)} examples"
        )
    if count > 1 and isinstance(split, Stream):
        raise ValueError(
            f"A stream, whose order differs in each process, has no shards. Received: shard={shard}"
        )
