"""Draws every AutoAugment operation at several magnitudes on real photographs.

python benchmarks/autoaugment_contact_sheet.py --output=contact_sheet.png
"""

import os
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import numpy as np  # noqa: E402
from absl import app, flags  # noqa: E402
from matplotlib import pyplot as plt  # noqa: E402
from sklearn.datasets import load_sample_image  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tfprune.data import policies  # noqa: E402
from tfprune.data.operations import OPERATIONS, apply_operations  # noqa: E402
from tfprune.data.resize import resize  # noqa: E402

OUTPUT = flags.DEFINE_string("output", None, "Path of the PNG to write.", required=True)
IMAGE_SIZE = flags.DEFINE_integer("image_size", 128, "Side of each image.", lower_bound=1)

PHOTOGRAPHS = ("china.jpg", "flower.jpg")
LEVELS = (3, 6, 9)
COLUMNS = 1 + 2 * len(LEVELS)


def variants(name: str, size: int) -> list[tuple[str, float]]:
    """Returns the titles and magnitudes at which an operation is drawn."""
    if name not in policies.WITH_MAGNITUDE:
        return [("", 0.0)]
    chosen = [policies.magnitudes(name, size, size)[level] for level in LEVELS]
    if name in policies.SIGNED:
        chosen = [-magnitude for magnitude in reversed(chosen)] + chosen
    return [(f"{magnitude:.3g}", magnitude) for magnitude in chosen]


def main(argv: list[str]) -> None:
    """Writes the sheet."""
    del argv
    size = IMAGE_SIZE.value
    photographs = []
    for name in PHOTOGRAPHS:
        photograph = load_sample_image(name)
        side = min(photograph.shape[:2])
        square = np.ascontiguousarray(photograph[:side, :side])
        photographs.append(resize(square, out=np.empty((size, size, 3), np.uint8)))

    rows, columns = len(OPERATIONS), COLUMNS * len(photographs)
    figure, axes = plt.subplots(rows, columns, figsize=(columns * 1.1, rows * 1.25), layout="constrained")
    for axis in axes.flat:
        axis.axis("off")
    for row, name in zip(axes, OPERATIONS, strict=True):
        for number, photograph in enumerate(photographs):
            cells = iter(row[number * COLUMNS :])
            shown = [("original", photograph)] + [
                (title, apply_operations(photograph, [(name, magnitude)]))
                for title, magnitude in variants(name, size)
            ]
            for (title, image), axis in zip(shown, cells, strict=False):
                axis.imshow(image, interpolation="nearest")
                axis.set_title(title, fontsize=7, pad=2)
        row[0].text(-0.12, 0.5, name, transform=row[0].transAxes, rotation=90, ha="right", va="center")

    output = Path(OUTPUT.value)
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.with_name(f".{output.name}.tmp")
    figure.savefig(temporary, dpi=120, format="png")
    os.replace(temporary, output)
    print(output)


if __name__ == "__main__":
    app.run(main)
