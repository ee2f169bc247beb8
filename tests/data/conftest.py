import pathlib

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

HERE = pathlib.Path(__file__).resolve().parent


def photograph(name, width, height):
    image = Image.fromarray(load_sample_image(name))
    return np.asarray(image.resize((width, height), Image.Resampling.BOX))


@pytest.fixture(scope="session")
def photographs():
    """Real photographs of several shapes, and shapes and values that are special."""
    images = {
        f"{name[:-4]} {width}x{height}": photograph(name, width, height)
        for name in ("china.jpg", "flower.jpg")
        for width, height in ((224, 224), (32, 32), (57, 33), (8, 8))
    }
    images["one grey level"] = np.full((20, 20, 3), 77, np.uint8)
    images["two grey levels"] = np.repeat(np.uint8([3, 250]), 300).reshape(20, 10, 3)
    images["two rows"] = photograph("flower.jpg", 5, 2)
    images["one pixel"] = photograph("flower.jpg", 1, 1)
    return images
