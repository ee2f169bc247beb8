"""The least that training holds, beside what is left: what is refused and what is not."""

import numpy as np
import pytest

from tfprune.data.splits import Dataset, Split
from tfprune.errors import UserError
from tfprune.experiments import memory
from tfprune.experiments.devices import ONE_DEVICE
from tfprune.models.resnet import resnet_size
from tfprune.runs.config import ExperimentConfig

pytestmark = pytest.mark.one_backend

SPLIT = Split(np.zeros((10, 8, 8, 3), np.uint8), np.zeros(10, np.int32), 10)
DATASET = Dataset("digits", SPLIT, SPLIT, ("a", "b"), (0.0,) * 3, (1.0,) * 3, image_size=32)


class Processes:
    """Three processes that share each batch."""

    shard = (0, 3)


@pytest.fixture
def left(monkeypatch):
    """Sets the bytes that are left."""
    return lambda number: monkeypatch.setattr(memory, "available_bytes", lambda: number)


def config(**settings):
    return ExperimentConfig("e", width=16, image_size=32, model="resnet18", **settings)


def sizes():
    """Bytes of the weights with their moments, and of an image's 32-bit outputs and pixels."""
    weights, outputs = resnet_size("resnet18", classes=2, image_size=32, width=16)
    return 12 * weights, 4 * outputs, 3 * 32 * 32


@pytest.mark.parametrize(
    ("settings", "devices", "images", "bits"),
    [
        ({"batch_size": 8}, ONE_DEVICE, 8, 32),
        ({"batch_size": 8, "mixed_precision": "bfloat16"}, ONE_DEVICE, 8, 16),
        ({"batch_size": 10**12}, ONE_DEVICE, 10, 32),
        ({"batch_size": 9}, Processes(), 3, 32),
        ({"batch_size": 1}, Processes(), 1, 32),
    ],
)
def test_the_flag_that_asks_for_too_much_is_named(settings, devices, images, bits, left):
    weights, outputs, pixels = sizes()
    image = outputs * bits // 32 + pixels
    left(weights + images * image)
    memory.check_memory(config(**settings), DATASET, devices)
    for flag, needed in (
        (
            f"--batch_size={settings['batch_size']}: .* for training with {images} images",
            weights + images * image,
        ),
        ("--image_size=32: .* for training with one image", weights + image),
        ("--width=16: .* for the weights and their moments", weights),
    ):
        if images == 1 and flag.startswith("--batch_size"):
            continue
        left(needed - 1)
        with pytest.raises(UserError, match=rf"^{flag}.*, and .* are left$"):
            memory.check_memory(config(**settings), DATASET, devices)


def test_an_accelerators_memory_is_its_own(left, monkeypatch):
    left(0)
    monkeypatch.setattr(memory, "hardware", lambda: {"devices": ["cpu", "cpu"]})
    with pytest.raises(UserError, match="--width=16"):
        memory.check_memory(config(), DATASET, ONE_DEVICE)
    monkeypatch.setattr(memory, "hardware", lambda: {"devices": ["A100"]})
    memory.check_memory(config(), DATASET, ONE_DEVICE)
