"""A folder of images of three classes that a network learns in a few steps."""

import numpy as np
from PIL import Image

CLASSES = ("disc", "ring", "stripes")


def make_photos(folder, train=40, test=8, side=80):
    """Writes folder/{train,test}/CLASS/NNN.png, with `train` and `test` images of each class."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side]
    for split, count in (("train", train), ("test", test)):
        for name in CLASSES:
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                across, down = rng.uniform(0.3, 0.7, 2) * side
                distance, radius = np.hypot(x - across, y - down), rng.uniform(0.15, 0.28) * side
                shape = {
                    "disc": distance < radius,
                    "ring": np.abs(distance - radius) < side / 20,
                    "stripes": (x * np.cos(across) + y * np.sin(across)) // 6 % 2 < 1,
                }[name]
                colours = rng.integers(0, 120, 3), rng.integers(130, 256, 3)
                pixels = np.where(shape[..., None], colours[1], colours[0]) + rng.normal(
                    0, 8, (side, side, 3)
                )
                image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
                image.save(folder / split / name / f"{number:03}.png")
