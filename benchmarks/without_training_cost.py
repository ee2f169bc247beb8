r"""Measures what pruning without training costs: seconds, processor seconds and memory of `prune_with_data`.

    python benchmarks/without_training_cost.py
    python benchmarks/without_training_cost.py --width=16 --data_dir=DIR --allocations=global
    python benchmarks/without_training_cost.py --network=FILE.keras --data_dir=DIR --profile=30

The convolutions of a ResNet-34 that is not trained, but has BatchNorm's statistics of these images, or those
of the network of --network, are pruned to --sparsity by --images training images of CIFAR-10, or by random
ones without --data_dir. Each allocation has a process of its own. Memory is the most that the process had,
less what it had when the network was built and had run once.
"""

import cProfile
import os
import pstats
import resource
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from absl import app, flags  # noqa: E402
from paired_processes import Worker, answer_lines  # noqa: E402

NETWORK = flags.DEFINE_string("network", "", "A .keras file of a network for CIFAR-10. Empty: untrained.")
WIDTH = flags.DEFINE_integer("width", 64, "Filters of the first stage, without --network.", lower_bound=1)
IMAGES = flags.DEFINE_integer("images", 512, "Images to measure on.", lower_bound=2)
DATA_DIR = flags.DEFINE_string("data_dir", "", "Where CIFAR-10 is prepared. Empty: random images.")
SPARSITY = flags.DEFINE_float("sparsity", 0.9, "Sparsity of the convolutions.", 0.0, 1.0)
METHOD = flags.DEFINE_string("method", "reconstruct", "A method of `prune_with_data`.")
ALLOCATIONS = flags.DEFINE_list("allocations", ["uniform", "global"], "Allocations of `prune_with_data`.")
PROFILE = flags.DEFINE_integer("profile", 0, "Functions to list by processor seconds.", lower_bound=0)
WORKER = flags.DEFINE_string("worker", "", "Internal: the allocation of this process.")

SIZE = 32


def read_images() -> Any:
    """Returns images, uint8."""
    import numpy as np

    if not DATA_DIR.value:
        return np.random.default_rng(0).integers(0, 256, (IMAGES.value, SIZE, SIZE, 3)).astype("uint8")
    import tensorflow_datasets as tfds

    split, folder = f"train[:{IMAGES.value}]", os.path.expanduser(DATA_DIR.value)
    return np.asarray(tfds.load("cifar10", split=split, data_dir=folder, batch_size=-1)["image"])


def build(images: Any) -> Any:
    """Returns the network, which has run."""
    import keras
    import numpy as np

    from tfprune import sparsity
    from tfprune.models.resnet import build_resnet

    if NETWORK.value:
        model = keras.models.load_model(os.path.expanduser(NETWORK.value), compile=False)
        model.predict(images[:64], verbose=0)
        return model
    model = build_resnet(
        "resnet34",
        classes=10,
        image_size=SIZE,
        width=WIDTH.value,
        stem="cifar",
        mean=[127] * 3,
        std=[64] * 3,
        seed=0,
    )
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    batches = [images[start : start + 64] for start in range(0, min(len(images), 256), 64)]
    sparsity.recalibrate(model, [(batch, np.zeros(len(batch))) for batch in batches])
    return model


def resident_bytes() -> int:
    """Returns the memory that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def serve() -> None:
    """Prunes when it is asked to; answers with the figures."""
    import keras

    from tfprune import sparsity

    images = read_images()
    model = build(images)

    def answer(question: str) -> dict[str, float]:
        start, wall, processor = resident_bytes(), time.perf_counter(), time.process_time()
        profile = cProfile.Profile(time.process_time) if PROFILE.value else None
        if profile is not None:
            profile.enable()
        report = sparsity.prune_with_data(
            model,
            SPARSITY.value,
            images,
            method=METHOD.value,
            allocation=WORKER.value,
            layers=keras.layers.Conv2D,
            verbose=0,
        )
        if profile is not None:
            profile.disable()
            pstats.Stats(profile, stream=sys.stderr).sort_stats("tottime").print_stats(PROFILE.value)
        return {
            "wall": time.perf_counter() - wall,
            "processor": time.process_time() - processor,
            "bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - start,
            "weights": sum(layer.size for layer in report.layers),
            "sparsity": report.sparsity,
            "error": sum(layer.error_after for layer in report.layers) / len(report.layers),
        }

    answer_lines(None, answer)


def main(arguments: list[str]) -> None:
    """Prints the table."""
    if WORKER.value:
        serve()
        return
    names = f"{'allocation':10}  {'weights':>10}  {'zero':>6}  {'error':>7}"
    print(f"{names}  {'seconds':>7}  {'processor':>9}  {'memory':>8}")
    for allocation in ALLOCATIONS.value:
        worker = Worker([*sys.argv, f"--worker={allocation}"], allocation, {})
        found = worker.ask("prune")
        worker.close()
        what = f"{allocation:10}  {found['weights']:>10,}  {found['sparsity']:>6.3f}"
        what = f"{what}  {100 * found['error']:>5.2f} %"
        times = f"{found['wall']:>7.0f}  {found['processor']:>9.0f}"
        print(f"{what}  {times}  {found['bytes'] / 1e9:>5.2f} GB", flush=True)


if __name__ == "__main__":
    app.run(main)
