"""tf.data pipelines of uint8 batches.

A training batch depends on the seed, the epoch and its number in the epoch, and an example's
augmentation on the seed, the epoch and the example: on nothing that came before, and not on the
number of threads. So a run that resumes at an epoch sees what an uninterrupted one sees.
"""

import functools
import math
from collections.abc import Callable

import numpy as np

from tfprune.data.autoaugment import DRAWS, AutoAugment
from tfprune.data.datasets import Split
from tfprune.data.policies import POLICIES
from tfprune.data.resize import resize
from tfprune.extras import extra

with extra("experiments"):
    import cv2
    import tensorflow as tf

AUTOAUGMENT_CHOICES = (*POLICIES, "none")

# TensorFlow copies what numpy_function returns unless it begins at a multiple of this.
_ALIGNMENT_BYTES = 64

# Separate random streams of an epoch.
_ORDER_STREAM, _AUGMENTATION_STREAM = 0, 1


def train_batches(
    split: Split,
    *,
    image_size: int,
    batch_size: int,
    autoaugment: str,
    seed: int,
    epochs: int,
    first_epoch: int = 0,
    shard: tuple[int, int] = (0, 1),
) -> tf.data.Dataset:
    """Resized, augmented batches of whole epochs, one epoch after the other.

    Every epoch is a permutation of the split, with its own order and augmentation. Its last batch
    holds what is left over, so an epoch has `ceil(len(split) / batch_size)` batches: pass that as
    `steps_per_epoch` to `model.fit`.

    Example:

    ```python
    batches = train_batches(
        dataset.train, image_size=224, batch_size=128, autoaugment="cifar10", seed=0, epochs=30
    )
    ```

    Args:
        split: The examples.
        image_size: Side of the images in pixels.
        batch_size: Examples a batch.
        autoaugment: AutoAugment's policy, `"cifar10"`, `"imagenet"` or `"svhn"`, or `"none"`.
        seed: Not negative.
        epochs: Number of the epoch to stop before.
        first_epoch: Number of the epoch to start with; with `epochs`, the dataset is empty.
        shard: (index, count): only part `index` of each batch, cut into `count` equal parts in its
            order. Its examples are those of the whole batch, augmented alike.

    Returns:
        A dataset of (uint8 images [batch, image_size, image_size, 3], int32 labels [batch]), of
        known cardinality.

    Raises:
        ValueError: An argument breaks the rules above.
    """
    _check_sizes(split, image_size, batch_size, shard)
    if autoaugment not in AUTOAUGMENT_CHOICES:
        raise ValueError(
            f"Unknown AutoAugment policy {autoaugment!r}. The choices are: {', '.join(AUTOAUGMENT_CHOICES)}"
        )
    if seed < 0:
        raise ValueError(f"`seed` must not be negative. Received: seed={seed}")
    if not 0 <= first_epoch <= epochs:
        raise ValueError(
            "`first_epoch` must be at least 0 and at most `epochs`. "
            f"Received: first_epoch={first_epoch}, epochs={epochs}"
        )
    augment = None if autoaugment == "none" else AutoAugment(autoaugment)
    steps_per_epoch = math.ceil(len(split) / batch_size)

    # Two epochs at a time: the next one's first batches are made before this one's last are used.
    @functools.lru_cache(maxsize=2)
    def plan(epoch: int) -> tuple[np.ndarray, np.ndarray]:
        order = _generator(seed, epoch, _ORDER_STREAM).permutation(len(split))
        draws = _generator(seed, epoch, _AUGMENTATION_STREAM).random((len(split), DRAWS))
        return order, draws

    def batch(step: int) -> tuple[np.ndarray, np.ndarray]:
        epoch, number = divmod(int(step), steps_per_epoch)
        order, draws = plan(epoch)
        examples = _part(order[number * batch_size : (number + 1) * batch_size], shard)
        images = make_images(split.images, examples, image_size, augment, draws)
        return images, split.labels[examples]

    steps = range(first_epoch * steps_per_epoch, epochs * steps_per_epoch)
    return _batches(batch, steps, split, image_size, batch_size, shard)


def test_batches(
    split: Split, *, image_size: int, batch_size: int, shard: tuple[int, int] = (0, 1)
) -> tf.data.Dataset:
    """Resized batches of a split, once, in its order.

    Args:
        split: The examples.
        image_size: Side of the images in pixels.
        batch_size: Examples a batch; the last batch holds what is left over.
        shard: (index, count): only part `index` of each batch, cut into `count` equal parts.

    Returns:
        A dataset of (uint8 images [batch, image_size, image_size, 3], int32 labels [batch]), of
        known cardinality.

    Raises:
        ValueError: A size is below 1, the split is empty, or `shard` does not fit.
    """
    _check_sizes(split, image_size, batch_size, shard)

    def batch(step: int) -> tuple[np.ndarray, np.ndarray]:
        examples = _part(np.arange(step * batch_size, min((step + 1) * batch_size, len(split))), shard)
        return make_images(split.images, examples, image_size), split.labels[examples]

    steps = range(math.ceil(len(split) / batch_size))
    return _batches(batch, steps, split, image_size, batch_size, shard)


# A test runner that collects by name must not take it for a test.
test_batches.__test__ = False


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
        image_size: Side of the result in pixels.
        augment: What to augment with; None for nothing.
        draws: Where `augment` is given, its random numbers for every example: [all examples, DRAWS].

    Returns:
        uint8 array of shape [len(examples), image_size, image_size, 3].
    """
    made = _aligned_empty((len(examples), image_size, image_size, 3))
    for image, example in zip(made, examples, strict=True):
        resize(images[example], out=image)
        if augment is not None:
            augmented = augment.apply(image, draws[example])
            if augmented is not image:
                image[...] = augmented
    return made


def _aligned_empty(shape: tuple[int, ...]) -> np.ndarray:
    """Returns an uninitialised uint8 array whose memory TensorFlow takes over without a copy."""
    size = math.prod(shape)
    memory = np.empty(size + _ALIGNMENT_BYTES, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT_BYTES
    return memory[start : start + size].reshape(shape)


def _part(examples: np.ndarray, shard: tuple[int, int]) -> np.ndarray:
    """Returns one of `count` equal parts."""
    index, count = shard
    size = len(examples) // count
    return examples[index * size : (index + 1) * size]


def _generator(seed: int, epoch: int, stream: int) -> np.random.Generator:
    return np.random.default_rng([seed, epoch, stream])


def _batches(
    batch: Callable[[int], tuple[np.ndarray, np.ndarray]],
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

    def numpy_batch(step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        images, labels = tf.numpy_function(batch, [step], (tf.uint8, tf.int32), stateful=False)
        images.set_shape((static_batch, image_size, image_size, 3))
        labels.set_shape((static_batch,))
        return images, labels

    return (
        tf.data.Dataset.range(steps.start, steps.stop)
        .map(numpy_batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        .prefetch(tf.data.AUTOTUNE)
    )


def _check_sizes(split: Split, image_size: int, batch_size: int, shard: tuple[int, int]) -> None:
    for argument, value in (("image_size", image_size), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"`{argument}` must be at least 1. Received: {argument}={value}")
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
