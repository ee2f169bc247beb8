"""The datasets that can be trained on, by name."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tfprune.data.image_folder import load_image_folder
from tfprune.data.own import load_own
from tfprune.data.reasons import tensorflow_reason
from tfprune.data.splits import Dataset, Split, chosen_examples
from tfprune.data.statistics import channel_statistics
from tfprune.errors import FileError, UserError
from tfprune.extras import extra
from tfprune.files import make_folder
from tfprune.named import is_named
from tfprune.text import printable

_TFDS_DATASETS = ("cifar10", "cifar100")

DATASETS = (*_TFDS_DATASETS, "digits", "image_folder")


def load(
    name: str,
    data_dir: str | os.PathLike | None = None,
    *,
    train_examples: int = 0,
    test_examples: int = 0,
    image_size: int = 0,
    seed: int = 0,
    log: Callable[[str], Any] = print,
) -> Dataset:
    """Loads a dataset.

    - `cifar10`, `cifar100`: through TensorFlow Datasets; downloaded where not prepared under
      `data_dir`.
    - `digits`: scikit-learn's 1,797 handwritten digits of 8x8 pixels, three equal channels, their
      values (0 to 16) scaled to 0 to 255; a fixed stratified split of 80 to 20. Needs no files.
    - `image_folder`: `data_dir/{train,test}/<class>/*.png|jpg`, read by `image_files.read_image`.
      Images may differ in size, so they are resized to `image_size` here, and the statistics are of
      the resized images. Those that do not fit into memory are read again for each batch.
    - `package.module:function`: what the function returns: `(train, test)` or `(train, test, class names)`,
      with train and test each (x, y) or (x, y, weights) of arrays, or a `tf.data.Dataset` of them. It is
      called with those of this function's arguments that it names, but for `name` and `log`.

    Args:
        name: One of `DATASETS`, or the name of a function.
        data_dir: Folder of the prepared TensorFlow Datasets, the image folder, or a function's argument.
            None or empty: TensorFlow Datasets' default (`~/tensorflow_datasets`), or the function's.
        train_examples: How many training examples to use: the first ones of one fixed shuffle, the
            same in every run; of a `tf.data.Dataset` the first ones. 0: all of them, in the dataset's order.
        test_examples: The same for the test split.
        image_size: Side in pixels of the network's images. `image_folder` is resized here, the others when
            batches are made; 0 leaves theirs as they are.
        seed: A function's argument.
        log: Receives a line every ten seconds of a pass over examples that are not held in memory.

    Returns:
        The dataset, with statistics computed exactly from the training examples used.

    Raises:
        FileError: A prepared dataset or an image that cannot be read, a class without images, or other
            classes in train than in test.
        ValueError: Unknown name, a folder that does not exist, more examples asked for than there
            are, an image that the memory does not hold, or a function that fails or returns no dataset.
        OSError: The dataset is not prepared and cannot be downloaded.
    """
    if name not in DATASETS and not is_named(name):
        raise ValueError(f"Unknown dataset {name!r}. The datasets are: {', '.join(DATASETS)}")
    for argument, examples in (("train_examples", train_examples), ("test_examples", test_examples)):
        if examples < 0:
            raise ValueError(f"`{argument}` must not be negative. Received: {argument}={examples}")
    if data_dir and not Path(os.path.expanduser(data_dir)).is_dir():
        raise ValueError(f"`data_dir` must be an existing folder. Received: data_dir={data_dir}")
    folder = Path(os.path.expanduser(data_dir)) if data_dir else None

    if is_named(name):
        return load_own(
            name,
            folder,
            train_examples=train_examples,
            test_examples=test_examples,
            image_size=image_size,
            seed=seed,
            log=log,
        )
    if name == "image_folder":
        return load_image_folder(
            folder,
            train_examples=train_examples,
            test_examples=test_examples,
            image_size=image_size,
            log=log,
        )
    if name == "digits":
        train, test, class_names = _load_digits(train_examples, test_examples)
    else:
        train, test, class_names = _load_tfds(name, folder, train_examples, test_examples)
    mean, std = channel_statistics(train.inputs)
    return Dataset(name, train, test, class_names, mean, std, image_size)


def _load_digits(train_examples: int, test_examples: int) -> tuple[Split, Split, tuple[str, ...]]:
    with extra("experiments"):
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

    digits = load_digits()
    grey = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    images = np.repeat(grey[..., np.newaxis], 3, axis=-1)
    labels = digits.target.astype(np.int32)
    parts = train_test_split(np.arange(len(labels)), test_size=0.2, stratify=labels, random_state=0)
    splits = []
    for split, part, examples in zip(("train", "test"), parts, (train_examples, test_examples), strict=True):
        used = part[chosen_examples(split, len(part), examples)]
        splits.append(Split(images[used], labels[used], len(part)))
    return *splits, tuple(str(name) for name in digits.target_names)


def _load_tfds(
    name: str, data_dir: Path | None, train_examples: int, test_examples: int
) -> tuple[Split, Split, tuple[str, ...]]:
    with extra("experiments"):
        import tensorflow as tf
        import tensorflow_datasets as tfds

    folder = Path(data_dir or tfds.core.constants.DATA_DIR).expanduser() / name
    with _reading_prepared(folder):
        builder = tfds.builder(name, data_dir=str(data_dir) if data_dir else None)
    try:
        with contextlib.nullcontext() if builder.data_path.exists() else _one_at_a_time(folder):
            builder = tfds.builder(name, data_dir=str(data_dir) if data_dir else None)
            builder.download_and_prepare()
    # TensorFlow Datasets and what it downloads with raise many unrelated types.
    except Exception as error:
        raise OSError(
            f"{name} is not prepared under data_dir={data_dir or tfds.core.constants.DATA_DIR} and "
            f"could not be downloaded ({type(error).__name__}: {error}). Where there is a network, "
            f"`tfds build {name} --data_dir DIR` prepares it: copy DIR and pass it as data_dir."
        ) from error

    def read(split: str, examples: int) -> Split:
        # Still encoded, so that only the examples used are decoded.
        with _reading_prepared(folder):
            encoded = builder.as_dataset(
                split=split, batch_size=-1, decoders={"image": tfds.decode.SkipDecoding()}
            )
        used = chosen_examples(split, len(encoded["label"]), examples)
        with _reading_prepared(folder):
            images = (
                tf.data.Dataset.from_tensor_slices(tf.gather(encoded["image"], used))
                .map(lambda png: tf.io.decode_png(png, channels=3), tf.data.AUTOTUNE)
                .batch(len(used))
                .get_single_element()
            )
        labels = encoded["label"].numpy()
        return Split(images.numpy(), labels[used].astype(np.int32), len(labels))

    class_names = tuple(builder.info.features["label"].names)
    return read("train", train_examples), read("test", test_examples), class_names


@contextlib.contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Lets one process at a time make a folder; those that waited find it made."""
    with extra("experiments"):
        from tfprune.lock import hold

    make_folder(folder.parent)
    with contextlib.ExitStack() as held:
        with contextlib.suppress(UserError):  # Where the file system cannot lock.
            held.enter_context(hold(folder.parent, part=folder.name, wait_seconds=-1))
        yield


@contextlib.contextmanager
def _reading_prepared(folder: Path) -> Iterator[None]:
    """Turns whatever goes wrong while a prepared dataset is read into one line that names its folder."""
    try:
        yield
    # TensorFlow and TensorFlow Datasets raise many unrelated types.
    except Exception as error:
        raise FileError(
            f"{printable(str(folder))}: not a readable dataset: {tensorflow_reason(error)}; remove the "
            "folder and prepare the dataset anew"
        ) from error
