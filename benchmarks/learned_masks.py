"""Compares learned masks with magnitude at extreme sparsity: digits, a small network, exact targets.

    python benchmarks/learned_masks.py
    python benchmarks/learned_masks.py --network=plain --learning_rate=6e-3 --methods=magnitude,cs
    KERAS_BACKEND=tensorflow PYTHONPATH=pq python benchmarks/learned_masks.py --pquantml=dst:3e-4,cs:1e-5

A network of two convolutions and two dense layers learns scikit-learn's digits (tfprune's split: 1,437 to
train on, 360 to test) in --epochs, from random weights, with Adam and a cosine; in the first 60 % of the
steps it is pruned, all kernels together, to the target. All methods have the same steps, batches and
seeds. The table has the mean accuracy on the test images after the last epoch, with the lowest and
highest of the seeds.

With --pquantml the same network learns the same data in as many epochs by PQuantML (arXiv:2603.26595),
without its quantization, with the same optimizer, seeds and batches: the first 60 % of the epochs by its DST
or CS, the others its fine-tuning. It cannot be told a sparsity: each entry is a method and its strength, the
penalty's factor, and the table has the sparsity that it came to. It is installed in a folder of its own:

    pip install --target=pq --no-deps pquant-ml==0.1.0 hgq2 quantizers optuna pydantic pydantic-core \\
        annotated-types typing-inspection
"""

import importlib.util
import os
import statistics
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from absl import app, flags  # noqa: E402

NAMES = ("magnitude", "magnitude_layer", "magnitude_steep", "lamp", "dst", "dst_unit", "cs", "acdc", "dense")
METHODS = flags.DEFINE_list("methods", ["magnitude", "dst", "cs", "acdc"], f"Of {', '.join(NAMES)}.")
TARGETS = flags.DEFINE_list("targets", ["0.98", "0.984", "0.994"], "Exact sparsities.")
NETWORK = flags.DEFINE_enum("network", "normalized", ["normalized", "plain"], "With BatchNorm, or without.")
SEEDS = flags.DEFINE_integer("seeds", 3, "Seeds, from 0.", lower_bound=1)
EPOCHS = flags.DEFINE_integer("epochs", 15, "Epochs of each training.", lower_bound=3)
LEARNING_RATE = flags.DEFINE_float("learning_rate", 3e-3, "Adam's first rate.", lower_bound=0.0)
POWER = flags.DEFINE_float("power", 9.0, "The schedule's, but 3 for magnitude and lamp.")
PQUANTML = flags.DEFINE_list("pquantml", [], "Methods and strengths of PQuantML, such as dst:1e-3,cs:1e-5.")
PQUANTML_CAP = flags.DEFINE_float(
    "pquantml_cap", 0.999, "The sparsity at which a layer of its DST is dense again; its own default is 0.99."
)
FREQUENCY = flags.DEFINE_integer("frequency", 10, "Steps from one update to the next.", lower_bound=1)

BATCH, RAMP = 32, 0.6
INSTALL = __doc__[__doc__.rindex("    pip install") :]


def network() -> Any:
    """Returns the network: 151,000 weights."""
    import keras

    def convolution(filters: int, name: str) -> list[Any]:
        if NETWORK.value == "plain":
            return [keras.layers.Conv2D(filters, 3, padding="same", activation="relu", name=name)]
        return [
            keras.layers.Conv2D(filters, 3, padding="same", use_bias=False, name=name),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
        ]

    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            *convolution(32, "conv1"),
            keras.layers.MaxPooling2D(),
            *convolution(64, "conv2"),
            keras.layers.Flatten(),
            keras.layers.Dense(128, activation="relu", name="hidden"),
            keras.layers.Dense(10, name="head"),
        ]
    )


def pruned(method: str, target: float, steps: int) -> Any:
    """Returns a network that a method is going to prune in so many steps."""
    from tfprune import sparsity

    if method == "dense":
        return network()
    end = int(RAMP * steps)
    power = 3 if method in ("magnitude", "magnitude_layer", "lamp") else POWER.value
    schedule: Any = sparsity.PolynomialDecay(0.0, target, 0, end, power=power, frequency=FREQUENCY.value)
    options: dict[str, Any] = {}
    if method == "acdc":  # Three phases with masks and three without, an epoch each.
        epoch = steps // EPOCHS.value
        schedule = sparsity.AlternatingSparsity(target, max(end - 6 * epoch, 0), end, epoch)
    elif method == "lamp":
        options["score"] = "lamp"
    elif not method.startswith("magnitude"):
        options["learning"] = {
            "dst": sparsity.DST("weight"),
            "dst_unit": sparsity.DST("unit"),
            "cs": sparsity.CS(),
        }[method]
    scope = "layer" if method == "magnitude_layer" else "global"
    return sparsity.prune_low_magnitude(network(), schedule, scope=scope, **options)


def fitted(model: Any, data: Any, callbacks: list[Any]) -> float:
    """Returns the accuracy in percent of a network that was trained by the recipe."""
    import keras

    train, test = data
    steps = EPOCHS.value * -(-len(train[0]) // BATCH)
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(LEARNING_RATE.value, steps)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(*train, batch_size=BATCH, epochs=EPOCHS.value, verbose=0, callbacks=callbacks)
    return 100 * model.evaluate(*test, verbose=0, return_dict=True)["accuracy"]


def by_pquantml(method: str, strength: float, seed: int, data: Any) -> tuple[float, float]:
    """Returns the accuracy in percent of a network trained by PQuantML, and the sparsity that it came to."""
    import keras
    import pquant
    from pquant.core.keras.train import PQuantCallback

    keras.utils.set_random_seed(seed)
    config = {"dst": pquant.dst_config, "cs": pquant.cs_config}[method]()
    setattr(config.pruning_parameters, {"dst": "alpha", "cs": "threshold_decay"}[method], strength)
    if method == "dst":
        config.pruning_parameters.max_pruning_pct = PQUANTML_CAP.value
    quantization = config.quantization_parameters
    quantization.enable_quantization = quantization.quantize_input = quantization.quantize_output = False
    learning = round(RAMP * EPOCHS.value)
    training = config.training_parameters
    training.rounds, training.rewind, training.save_weights_epoch = 1, "never", -1
    training.pretraining_epochs, training.epochs = 0, learning
    training.fine_tuning_epochs = EPOCHS.value - learning
    model = pquant.add_compression_layers(network(), config, (None, 8, 8, 1))
    callback = PQuantCallback(config, log_ebops=False, log_keep_ratio=False)
    accuracy = fitted(model, data, [callback])
    return accuracy, 1.0 - float(pquant.get_layer_keep_ratio(model))


def trained(method: str, target: float, seed: int, data: Any) -> tuple[float, dict[str, float]]:
    """Returns the accuracy in percent of a network trained by a method, and the density of each kernel."""
    import keras

    from tfprune import sparsity

    keras.utils.set_random_seed(seed)
    steps = EPOCHS.value * -(-len(data[0][0]) // BATCH)
    model = pruned(method, target, steps)
    accuracy = fitted(model, data, [] if method == "dense" else [sparsity.UpdatePruningStep()])
    summary = sparsity.summarize(model)
    counted = {v.layer: 1.0 - v.sparsity for v in summary.counted}
    if method != "dense":
        masks = sparsity.masks_of(model).values()
        kept, size = sum(int(mask.sum()) for mask in masks), sum(mask.size for mask in masks)
        if method != "magnitude_layer" and kept != size - round(target * size):
            raise RuntimeError(f"{kept} of {size} weights stay at {target}")
    return accuracy, counted


def main(argv: list[str]) -> None:
    """Measures, and prints the table."""
    import numpy as np

    from tfprune.data.datasets import load

    for method in METHODS.value:
        if method not in NAMES:
            raise app.UsageError(f"--methods must be of {', '.join(NAMES)}. Received: {method}")
    strengths = pquantml_strengths()
    warnings.simplefilter("ignore")  # A layer of which hardly a weight stays; the table has what that does.
    digits = load("digits")
    data = [
        (split.inputs[..., :1].astype("float32") / 255, np.asarray(split.labels))
        for split in (digits.train, digits.test)
    ]
    rows = []
    for method in METHODS.value:
        cells = []
        for target in TARGETS.value if method != "dense" else ["0"]:
            start = time.monotonic()
            found = [trained(method, float(target), seed, data) for seed in range(SEEDS.value)]
            accuracies = [accuracy for accuracy, _ in found]
            cells.append(spread(accuracies, 2))
            density = ", ".join(f"{name} {share:.1%}" for name, share in found[0][1].items())
            seconds = time.monotonic() - start
            print(f"{method} {target}: {cells[-1]}; of seed 0 stay {density}; {seconds:.0f} s", flush=True)
        rows.append([method, *cells])
    if rows:
        print_table(["method", *TARGETS.value], rows)
    rows = []
    for method, strength in strengths:
        found = [by_pquantml(method, strength, seed, data) for seed in range(SEEDS.value)]
        accuracies, sparsities = zip(*found, strict=True)
        rows.append([f"PQuantML {method} {strength:g}", spread(sparsities, 4), spread(accuracies, 2)])
        print(": ".join(rows[-1]), flush=True)
    if rows:
        print_table(["method and strength", "sparsity", "accuracy %"], rows)


def spread(values: Sequence[float], digits: int) -> str:
    """Returns the mean of numbers, with the lowest and the highest."""
    mean, low, high = (f"{value:.{digits}f}" for value in (statistics.mean(values), min(values), max(values)))
    return f"{mean} ({low} to {high})"


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a Markdown table."""
    print("| " + " | ".join(header) + " |")
    print("|---" * len(header) + "|")
    for row in rows:
        print("| " + " | ".join(row) + " |")


def pquantml_strengths() -> list[tuple[str, float]]:
    """Returns the methods and strengths of --pquantml, all of them usable.

    Raises:
        UsageError: If one is not, PQuantML is not installed, or the backend is not TensorFlow.
    """
    found = []
    for entry in PQUANTML.value:
        method, _, strength = entry.partition(":")
        try:
            found.append((method, float(strength)))
        except ValueError:
            method = ""
        if method not in ("dst", "cs"):
            raise app.UsageError(f"--pquantml must be dst:STRENGTH or cs:STRENGTH. Received: {entry}")
    if found and os.environ["KERAS_BACKEND"] != "tensorflow":
        raise app.UsageError("--pquantml needs KERAS_BACKEND=tensorflow")
    if found and importlib.util.find_spec("pquant") is None:
        raise app.UsageError(
            f"--pquantml: PQuantML is not installed. Beside tfprune, not among it:\n{INSTALL}"
        )
    return found


if __name__ == "__main__":
    app.run(main)
