r"""Measures what is left of a network right after it is pruned without training, by each method.

    python benchmarks/without_training.py --network=model.keras --data_dir=DIR
    python benchmarks/without_training.py --model=efficientnet_lite0 --data_dir=DIR --sparsities=0.5,0.6,0.7

The convolutions of a network are pruned to each of --sparsities by what --images training images of CIFAR-10
without labels show. For each method and sparsity: the accuracy on --test_examples test images; the share of
these on which the first class is still the dense network's; and the seconds. Methods are

- magnitude, global or layer: `prune_to`, with BatchNorm's statistics measured anew on the same images;
- METHOD ALLOCATION: `prune_with_data`, such as `reconstruct global` and `sparsegpt erk`;
- METHOD search: the same, to the sparsities that `search_sparsities` finds by the method on the same images.

With --model the network has its ImageNet weights and takes the images enlarged; its classes are not CIFAR's,
so that the share of equal first classes is all that counts. --picture draws accuracy, or that share, over
sparsity.
"""

import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from absl import app, flags  # noqa: E402

NETWORK = flags.DEFINE_string("network", "", "A .keras file of a network of CIFAR-10's classes.")
MODEL = flags.DEFINE_enum("model", None, ["efficientnet_lite0"], "A network with its ImageNet weights.")
IMAGE_SIZE = flags.DEFINE_integer("image_size", 224, "Size of the images for --model.", lower_bound=32)
DATA_DIR = flags.DEFINE_string("data_dir", "", "Where CIFAR-10 is prepared. Empty: TFDS's own folder.")
IMAGES = flags.DEFINE_integer("images", 512, "Training images to measure on.", lower_bound=2)
TEST_EXAMPLES = flags.DEFINE_integer("test_examples", 2000, "Test images.", lower_bound=1)
SPARSITIES = flags.DEFINE_list("sparsities", ["0.7", "0.8", "0.9"], "Sparsities of the convolutions.")
METHODS = flags.DEFINE_list(
    "methods",
    ["magnitude layer", "magnitude global", "sparsegpt uniform", "reconstruct uniform", "reconstruct global"],
    "METHOD ALLOCATION, ...",
)
PICTURE = flags.DEFINE_string("picture", "", "A file to draw the figures in.")

BATCH = 128


def read_images(split: str, count: int) -> tuple[Any, Any]:
    """Returns images of CIFAR-10 and their labels."""
    import numpy as np
    import tensorflow_datasets as tfds

    data = tfds.load(
        "cifar10",
        split=f"{split}[:{count}]",
        data_dir=os.path.expanduser(DATA_DIR.value) or None,
        as_supervised=True,
        batch_size=-1,
    )
    return tuple(np.asarray(part) for part in data)


def build() -> Any:
    """Returns the network that the flags name."""
    import keras

    if not MODEL.value:
        return keras.models.load_model(os.path.expanduser(NETWORK.value), compile=False)
    from tfprune.models.efficientnet_lite import build_efficientnet_lite0
    from tfprune.models.weights import load_backbone

    model = build_efficientnet_lite0(classes=1000, image_size=IMAGE_SIZE.value)
    load_backbone(model, "imagenet", include_head=True)
    return model


def enlarged(images: Any, size: int) -> Any:
    """Returns images in the network's size, as plain pixels."""
    import numpy as np
    import tensorflow as tf

    if images.shape[1] == size:
        return images
    return np.rint(tf.image.resize(images, (size, size)).numpy()).astype(np.uint8)


def prune(model: Any, method: str, sparsity: float, images: Any) -> Any:
    """Prunes a network; returns it."""
    import keras
    import numpy as np

    from tfprune import sparsity as library

    name, allocation = method.split()
    if name != "magnitude":
        options = {"method": name, "layers": keras.layers.Conv2D, "verbose": 0}
        if allocation == "search":
            best = library.search_sparsities(model, sparsity, images, **options)
            library.prune_with_data(model, best.sparsities, images, **options)
        else:
            library.prune_with_data(model, sparsity, images, allocation=allocation, **options)
        return model
    model = library.prune_low_magnitude(model, None, layers=keras.layers.Conv2D, scope=allocation)
    library.prune_to(model, sparsity)
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    batches = [images[start : start + BATCH] for start in range(0, len(images), BATCH)]
    library.recalibrate(model, [(batch, np.zeros(len(batch))) for batch in batches])
    return model


def draw(figures: dict[str, list[float]], sparsities: list[float], dense: float, unit: str) -> None:
    """Draws the figures of each method over the sparsity."""
    from tfprune.pictures import new_figure, write_picture

    def figure() -> Any:
        picture = new_figure(7, 4)
        panel = picture.subplots()
        for method, values in figures.items():
            panel.plot([100 * each for each in sparsities], values, marker="o", label=method)
        panel.axhline(dense, color="0.5", linestyle=":", label="dense")
        panel.set_xlabel("weights removed from the convolutions, %")
        panel.set_ylabel(unit)
        panel.set_ylim(0, 100)
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend(frameon=False, fontsize=8)
        return picture

    write_picture(PICTURE.value, figure)


def main(arguments: list[str]) -> None:
    """Prints the table."""
    if bool(NETWORK.value) == bool(MODEL.value):
        sys.exit("give --network=FILE.keras or --model=NAME")
    model = build()
    size = model.input_shape[1]
    images = enlarged(read_images("train", IMAGES.value)[0], size)
    test, labels = read_images("test", TEST_EXAMPLES.value)
    test = enlarged(test, size)

    def classes(network: Any) -> Any:
        return network.predict(test, batch_size=BATCH, verbose=0).argmax(-1)

    wanted = classes(model)
    dense = 100.0 if MODEL.value else 100 * float((wanted == labels).mean())
    unit = "same first class, %" if MODEL.value else "accuracy, %"
    if not MODEL.value:
        print(f"dense: accuracy {dense:.1f} %")
    sparsities = [float(text) for text in SPARSITIES.value]
    figures: dict[str, list[float]] = {method: [] for method in METHODS.value}
    print(f"{'sparsity':8}  {'method':22}  {'accuracy':>8}  {'as dense':>8}  {'seconds':>7}")
    for sparsity in sparsities:
        for method in METHODS.value:
            begun = time.perf_counter()
            network = prune(build(), method, sparsity, images)
            seconds = time.perf_counter() - begun
            found = classes(network)
            same, right = (100 * float((found == other).mean()) for other in (wanted, labels))
            accuracy = "" if MODEL.value else f"{right:.1f} %"
            figures[method].append(same if MODEL.value else right)
            print(f"{sparsity:<8g}  {method:22}  {accuracy:>8}  {same:>6.1f} %  {seconds:>7.0f}", flush=True)
    if PICTURE.value:
        draw(figures, sparsities, dense, unit)


if __name__ == "__main__":
    app.run(main)
