r"""Images a second on one core: tfprune's input pipeline beside Pillow's done as torchvision does it.

    python benchmarks/input_pipeline.py
    python benchmarks/input_pipeline.py --dataset=cifar10 --data_dir=DIR

Four things are timed, in turn and repeatedly, in one process on one core:

- `tfprune, tf.data`: `train_batches` (shuffle, resize, AutoAugment, batch), uint8 batches out of
  the dataset's iterator. Normalisation is the model's first layer.
- `Pillow, as torchvision, batched`: resize, AutoAugment with the table of magnitudes made for every
  image, ToTensor and Normalize to float32 in PyTorch, and `torch.stack`, as a DataLoader batches.
- `Pillow, as torchvision`: the same without batches.
- `Pillow, uint8, batched`: resize, AutoAugment's operations and `numpy.stack` alone.

All draw from the same policy. The time is the process's CPU time, all threads together, so that
other programs on the machine matter less; the process is bound to one core where the system allows
it.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

from absl import app, flags

if hasattr(os, "sched_setaffinity"):
    # Before TensorFlow counts the cores.
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from tests.support import pillow_reference  # noqa: E402
from tfprune.data import datasets, pipeline  # noqa: E402
from tfprune.data.autoaugment import DRAWS, AutoAugment  # noqa: E402
from tfprune.data.policies import LEVELS, POLICIES  # noqa: E402

DATASET = flags.DEFINE_enum("dataset", "digits", ["digits", "cifar10", "cifar100"], "Which images.")
DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of the prepared dataset, for cifar10 and cifar100.")
IMAGE_SIZE = flags.DEFINE_integer("image_size", 224, "Side to resize to, in pixels.", lower_bound=1)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 128, "Images a batch.", lower_bound=1)
POLICY = flags.DEFINE_enum("autoaugment", "cifar10", POLICIES, "AutoAugment's policy.")
ROUNDS = flags.DEFINE_integer("rounds", 7, "How often each pipeline is timed.", lower_bound=1)
IMAGES = flags.DEFINE_integer("images", 1280, "Images a round.", lower_bound=1)


def our_epoch(split: datasets.Split, epoch: int) -> None:
    """Makes one epoch with `train_batches`."""
    batches = pipeline.train_batches(
        split,
        image_size=IMAGE_SIZE.value,
        batch_size=BATCH_SIZE.value,
        autoaugment=POLICY.value,
        seed=0,
        first_epoch=epoch,
        epochs=epoch + 1,
    )
    for _ in batches:
        pass


def pillow_epoch(
    images: list[Image.Image],
    epoch: int,
    *,
    normalise: Callable[[np.ndarray], torch.Tensor] | None,
    stack: Callable[[list], object] | None,
) -> None:
    """Makes one epoch with Pillow; with what torchvision does around it where `normalise` is given."""
    augment = AutoAugment(POLICY.value)
    generator = np.random.default_rng(epoch)
    size = (IMAGE_SIZE.value, IMAGE_SIZE.value)
    batch = []
    for index in generator.permutation(len(images)):
        image = images[index].resize(size, Image.Resampling.BILINEAR)
        draws = torchvision_draws(*size) if normalise else generator.random(DRAWS)
        image = pillow_reference.apply_operations(image, augment.operations(draws, *size))
        batch.append(normalise(np.array(image)) if normalise else np.asarray(image))
        if stack is None:
            batch.clear()
        elif len(batch) == BATCH_SIZE.value:
            stack(batch)
            batch.clear()


def torchvision_draws(height: int, width: int) -> list[float]:
    """Draws for an image and makes the tables of magnitudes, as torchvision does for every image."""
    sub_policy = (torch.randint(25, (1,)).item() + 0.5) / 25
    draws = [sub_policy, *torch.rand(2).tolist(), *(torch.randint(2, (2,)) / 2).tolist()]
    ends = (0.3, 0.3, 150 / 331 * width, 150 / 331 * height, 30.0, 0.9, 0.9, 0.9, 0.9)
    for end in ends:
        torch.linspace(0.0, end, LEVELS)
    8 - (torch.arange(LEVELS) / ((LEVELS - 1) / 4)).round().int()
    torch.linspace(255.0, 0.0, LEVELS)
    for _ in range(3):
        torch.tensor(0.0)
    return draws


def to_normalised_tensor(
    mean: tuple[float, ...], std: tuple[float, ...]
) -> Callable[[np.ndarray], torch.Tensor]:
    """Returns ToTensor followed by Normalize; the statistics are in 0 to 255."""
    mean, std = ([value / 255 for value in values] for values in (mean, std))

    def normalise(image: np.ndarray) -> torch.Tensor:
        tensor = torch.from_numpy(image).permute(2, 0, 1).contiguous().to(torch.float32).div(255)
        means, stds = (torch.as_tensor(values).view(-1, 1, 1) for values in (mean, std))
        return tensor.clone().sub_(means).div_(stds)

    return normalise


def images_per_second(make_epoch: Callable[[int], None], epoch: int) -> float:
    """Returns images per CPU second of one epoch."""
    start = time.process_time()
    make_epoch(epoch)
    return IMAGES.value / (time.process_time() - start)


def main(argv: list[str]) -> None:
    """Prints the rates and their ratios."""
    del argv
    torch.set_num_threads(1)
    dataset = datasets.load(DATASET.value, DATA_DIR.value, train_examples=IMAGES.value)
    images = [Image.fromarray(image) for image in dataset.train.inputs]
    normalise = to_normalised_tensor(dataset.mean, dataset.std)
    pipelines = {
        "tfprune, tf.data": lambda epoch: our_epoch(dataset.train, epoch),
        "Pillow, as torchvision, batched": lambda epoch: pillow_epoch(
            images, epoch, normalise=normalise, stack=torch.stack
        ),
        "Pillow, as torchvision": lambda epoch: pillow_epoch(images, epoch, normalise=normalise, stack=None),
        "Pillow, uint8, batched": lambda epoch: pillow_epoch(images, epoch, normalise=None, stack=np.stack),
    }
    rates = {name: [] for name in pipelines}
    for epoch in range(ROUNDS.value + 1):
        for name, make_epoch in pipelines.items():
            rate = images_per_second(make_epoch, epoch)
            if epoch > 0:  # The first one warms up.
                rates[name].append(rate)

    side = IMAGE_SIZE.value
    print(
        f"{DATASET.value} to {side}x{side}, AutoAugment {POLICY.value}, "
        f"{ROUNDS.value} rounds of {IMAGES.value} images, in turn"
    )
    first = next(iter(rates))
    for name, values in rates.items():
        print(
            f"{name:32}{statistics.median(values):8.0f} images/s and core "
            f"({min(values):.0f} to {max(values):.0f})"
        )
    for name in list(rates)[1:]:
        ratios = [ours / other for ours, other in zip(rates[first], rates[name], strict=True)]
        print(
            f"{first} / {name}: {statistics.median(ratios):.1f} times "
            f"({min(ratios):.1f} to {max(ratios):.1f})"
        )


if __name__ == "__main__":
    app.run(main)
