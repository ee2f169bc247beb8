"""`--dataset=image_folder`: a folder of image files for each class, held in memory where they fit."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from tfprune.data.image_files import class_files, read_image
from tfprune.data.resize import resize
from tfprune.data.splits import Dataset, Split, chosen_examples
from tfprune.data.statistics import ChannelValues, Told
from tfprune.errors import FileError
from tfprune.machine import available_cores
from tfprune.memory import available_bytes, size_text

# Of the memory that is left, the part that a split's images may take: the network needs some, too.
_SHARE = 0.5
# Bytes of the images that are read together.
_TOGETHER = 2**26


class FileImages:
    """The images of files, read and resized each time they are asked for; otherwise like an array of them.

    Args:
        paths: The files.
        size: Side of the images in pixels.

    Attributes:
        shape: [images, size, size, 3].
        dtype: uint8.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, paths: Sequence[Path], size: int) -> None:
        self._paths = paths
        self.shape = (len(paths), size, size, 3)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, number: int) -> np.ndarray:
        """Returns an image, a uint8 array of shape [size, size, 3].

        Raises:
            FileError: If it cannot be read any more.
        """
        return resize(read_image(self._paths[number]), out=np.empty(self.shape[1:], np.uint8))


def load_image_folder(
    root: Path | None,
    *,
    train_examples: int,
    test_examples: int,
    image_size: int,
    log: Callable[[str], Any],
) -> Dataset:
    """Returns the dataset of a folder; arguments as for `datasets.load`.

    Every file is read once. Images that would take more than half of the memory that is left are read again
    for each batch.

    Raises:
        FileError: If there is no such folder, an image cannot be read, a class has none, or train and test
            have other classes.
        ValueError: If no folder or size is given, or there are fewer examples.
    """
    if root is None:
        raise ValueError("`data_dir` must name the folder for image_folder. Received: nothing")
    if image_size < 1:
        raise ValueError(
            f"`image_size` must be at least 1 for image_folder. Received: image_size={image_size}"
        )
    files = {}
    for split in ("train", "test"):
        if not (root / split).is_dir():
            raise FileError(f"{root} must have the folders train and test. Missing: {split}")
        files[split] = class_files(root / split)
    if files["train"].keys() != files["test"].keys():
        different = sorted(files["train"].keys() ^ files["test"].keys())
        raise FileError(f"{root}/train and {root}/test must have the same classes. Only in one: {different}")
    train, channels = _read("train", files["train"], train_examples, image_size, log)
    test, _ = _read("test", files["test"], test_examples, image_size, log)
    return Dataset("image_folder", train, test, tuple(files["train"]), *channels.statistics(), image_size)


def _read(
    split: str, files: dict[str, list[Path]], examples: int, image_size: int, log: Callable[[str], Any]
) -> tuple[Split, ChannelValues]:
    labelled = [(path, label) for label, paths in enumerate(files.values()) for path in paths]
    used = [labelled[number] for number in chosen_examples(split, len(labelled), examples)]
    images = FileImages([path for path, _ in used], image_size)
    image_bytes, left = 3 * image_size**2, available_bytes()
    if image_bytes > left:
        raise ValueError(
            f"`image_size` must be smaller: an image takes {size_text(image_bytes)} of memory, and "
            f"{size_text(left)} are left. Received: image_size={image_size}"
        )
    needed = image_bytes * len(used)
    held = np.empty(images.shape, np.uint8) if needed <= _SHARE * left else None
    if held is None:
        log(
            f"{len(used):,} {split} images would take {size_text(needed)} of the {size_text(left)} of memory "
            "that are left: each is read from its file when it is used"
        )
    channels, told = ChannelValues(), Told(f"reads {split}", log, len(used))
    together = max(1, int(min(_TOGETHER, left / 4)) // image_bytes)
    with ThreadPoolExecutor(available_cores()) as threads:
        for start in range(0, len(used), together):
            part = np.stack(list(threads.map(images.__getitem__, range(len(used))[start : start + together])))
            channels.add(part)
            if held is not None:
                held[start : start + together] = part
            told(start + len(part))
    labels = np.array([label for _, label in used], np.int32)
    return Split(images if held is None else held, labels, len(labelled)), channels
