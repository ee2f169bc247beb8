r"""Compares searched sparsities with uniform ones, ERK, LAMP and global magnitude at an equal budget.

    python benchmarks/search_sparsities.py
    python benchmarks/search_sparsities.py --network=model.keras --dataset=cifar10 --data_dir=DIR

A small residual network is trained on scikit-learn's digits, or a network of --network is read. For each of
--targets its sparsities are searched on --images training images without their labels; then it is pruned by
magnitude to those that were found and to those that the search started from, BatchNorm is measured anew on
the same images, and on test images, which no search has seen, are compared:

- the divergence from the dense network's outputs, in nats;
- the share of images on which its first class is the dense network's;
- the accuracy.

With --budget=latency the times of the dense and of the searched network are measured again after the search,
and printed first. Every row is without any training. With --picture the last search is drawn.
"""

import os
import re
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from absl import app, flags  # noqa: E402

NETWORK = flags.DEFINE_string("network", "", "A .keras file whose outputs are logits. Empty: one is trained.")
DATASET = flags.DEFINE_enum("dataset", "digits", ["digits", "cifar10"], "The images.")
DATA_DIR = flags.DEFINE_string("data_dir", "", "Where CIFAR-10 is prepared. Empty: TFDS's own folder.")
TARGETS = flags.DEFINE_list("targets", ["0.8", "0.9", "0.95"], "Shares of the budget's whole that go.")
BUDGET = flags.DEFINE_enum("budget", "weights", ["weights", "macs", "latency"], "The budget.")
IMAGES = flags.DEFINE_integer("images", 512, "Training images for the search.", lower_bound=2)
TEST_IMAGES = flags.DEFINE_integer("test_images", 2000, "Test images, at most.", lower_bound=2)
GENERATIONS = flags.DEFINE_integer("generations", 40, "Generations of the search.", lower_bound=1)
EPOCHS = flags.DEFINE_integer("epochs", 30, "Epochs of the network on digits.", lower_bound=1)
SEED = flags.DEFINE_integer("seed", 0, "Of the search, the images and the training.")
PICTURE = flags.DEFINE_string("picture", "", "A .png, .svg or .pdf to draw the last search in.")

BATCH = 64


def data() -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    """Returns the images and labels for training and for testing."""
    import numpy as np

    from tfprune.data import datasets

    size = 8 if DATASET.value == "digits" else 32
    loaded = datasets.load(DATASET.value, DATA_DIR.value or None, image_size=size, seed=SEED.value)
    return tuple(
        (np.asarray(split.inputs), np.asarray(split.labels)) for split in (loaded.train, loaded.test)
    )


def trained(images: Any, labels: Any) -> Any:
    """Returns a residual network that was trained on digits."""
    import keras

    from tfprune.models.resnet import build_resnet

    keras.utils.set_random_seed(SEED.value)
    model = build_resnet(
        "resnet18",
        classes=10,
        image_size=8,
        width=16,
        stem="cifar",
        mean=(78.0,) * 3,
        std=(96.0,) * 3,
        seed=SEED.value,
    )
    steps = EPOCHS.value * -(-len(images) // BATCH)
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(2e-3, steps)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.fit(images, labels, batch_size=BATCH, epochs=EPOCHS.value, verbose=0)
    return model


def pruned(model: Any, sparsities: dict[str, float], images: Any) -> Any:
    """Returns a copy of a network that is pruned by magnitude, with BatchNorm's statistics measured anew."""
    import keras
    import numpy as np

    from tfprune import sparsity

    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    copy.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    wrapped = sparsity.prune_low_magnitude(copy, None, layers=selected(sparsities), keep_zeros=False)
    sparsity.prune_to(wrapped, {re.escape(name): share for name, share in sparsities.items()})
    parts = [images[i : i + BATCH] for i in range(0, len(images), BATCH)]
    sparsity.recalibrate(wrapped, [(part, np.zeros(len(part), "int32")) for part in parts])
    return wrapped


def selected(sparsities: dict[str, float]) -> str:
    """Returns the regular expression of the names in a mapping."""
    return "|".join(map(re.escape, sparsities))


def squeeze(path: str) -> None:
    """Gives a PNG a palette of 64 colours, which leaves a fourth of its bytes."""
    from PIL import Image

    with Image.open(path) as picture:
        few = picture.convert("RGB").quantize(64, dither=Image.Dither.NONE)
    few.save(path, optimize=True)


def main(argv: list[str]) -> None:
    """Prints the table."""
    import keras
    import numpy as np

    import tfprune.models  # noqa: F401  (the layers of a file)
    from tfprune import sparsity
    from tfprune.sparsity.search.divergence import Divergence
    from tfprune.text import text_table

    (images, labels), (test, test_labels) = data()
    test, test_labels = test[: TEST_IMAGES.value], np.asarray(test_labels[: TEST_IMAGES.value])
    if NETWORK.value:
        model = keras.saving.load_model(NETWORK.value, compile=False)
        model = sparsity.strip_pruning(model)
        model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    else:
        model = trained(images, labels)
    drawn = np.random.default_rng(SEED.value).permutation(len(images))[: IMAGES.value]
    fitness = np.asarray(images[np.sort(drawn)])
    dense = model.predict(test, batch_size=BATCH, verbose=0)
    divergence = Divergence([dense], ["logits"])
    print(f"dense: accuracy {100 * (dense.argmax(1) == test_labels).mean():.2f} %", flush=True)
    rows, result = [], None
    for target in map(float, TARGETS.value):
        began = time.perf_counter()
        result = sparsity.search_sparsities(
            model,
            target,
            fitness,
            budget=BUDGET.value,
            spare="head",
            generations=GENERATIONS.value,
            batch_size=BATCH,
            seed=SEED.value,
        )
        seconds = time.perf_counter() - began
        if result.milliseconds is not None:
            before, after = result.milliseconds
            print(
                f"{target:g}: {before:.4f} ms dense, {after:.4f} ms searched: {1 - after / before:.3f} goes",
                flush=True,
            )
        found = {"searched": (result.sparsities, result.divergence)}
        found |= {start.name: (start.sparsities, start.divergence) for start in result.starts}
        for name, (sparsities, on_images) in found.items():
            outputs = pruned(model, sparsities, fitness).predict(test, batch_size=BATCH, verbose=0)
            rows.append(
                [
                    f"{target:g}",
                    name,
                    f"{on_images:.4f}",
                    f"{divergence.of([outputs], 0).mean():.4f}",
                    f"{100 * (outputs.argmax(1) == dense.argmax(1)).mean():.2f}",
                    f"{100 * (outputs.argmax(1) == test_labels).mean():.2f}",
                    f"{seconds:.0f}" if name == "searched" else "",
                ]
            )
    header = ["target", "sparsities", "search images", "test images", "agreement %", "accuracy %", "seconds"]
    print("\n".join(text_table(header, rows, left=2)))
    if PICTURE.value:
        result.plot(PICTURE.value)
        if PICTURE.value.lower().endswith(".png"):
            squeeze(PICTURE.value)


if __name__ == "__main__":
    app.run(main)
