r"""Measures what a repair keeps of a network's accuracy when half of its MACs are cut.

    python benchmarks/structured_repair.py --data_dir=DIR
    python benchmarks/structured_repair.py --data_dir=DIR --network=/tmp/network.keras --scope=layer

A ResNet-18 is trained on CIFAR-10 (32x32, small stem), or read from --network. A plan by the L2 norm cuts it
to --macs, and is applied with each repair and without one, on images whose labels are not used. For each:

- accuracy right after the cut, over --seeds drawings of the images: the mean, and the lowest and highest;
- with BatchNorm's statistics measured anew on the same images, too;
- accuracy after the same fine-tuning, in the same order of the same images, of the first drawing.

The last rows are Torch-Pruning on the same network, its weights copied: its MagnitudePruner by the L2 norm of
whole groups, cut to the same MACs and trained alike, in PyTorch. One core does all, where the system allows.
"""

import os
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

if hasattr(os, "sched_setaffinity"):
    # Before TensorFlow counts the cores.
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from absl import app, flags  # noqa: E402

DATA_DIR = flags.DEFINE_string("data_dir", "", "Where CIFAR-10 is prepared. Empty: TFDS's own folder.")
NETWORK = flags.DEFINE_string("network", "", "A .keras file: read, or written once it is trained.")
WIDTH = flags.DEFINE_integer("width", 16, "Filters of the first stage.", lower_bound=1)
EPOCHS = flags.DEFINE_integer("epochs", 5, "Epochs of the training.", lower_bound=1)
TRAIN_EXAMPLES = flags.DEFINE_integer("train_examples", 20000, "Examples of an epoch.", lower_bound=512)
TEST_EXAMPLES = flags.DEFINE_integer("test_examples", 0, "Test examples; 0: all.", lower_bound=0)
MACS = flags.DEFINE_float("macs", 0.5, "What stays of the MACs.", 0.0, 1.0)
SCOPE = flags.DEFINE_enum("scope", "global", ["global", "layer", "equal"], "The plan's scope.")
IMAGES = flags.DEFINE_list("images", ["512"], "Numbers of images for the repair.")
SEEDS = flags.DEFINE_integer("seeds", 3, "Drawings of the images.", lower_bound=1)
STEPS = flags.DEFINE_integer("steps", 150, "Steps of the fine-tuning; 0: none.", lower_bound=0)
TORCH_PRUNING = flags.DEFINE_boolean("torch_pruning", True, "Measure Torch-Pruning, too.")

BATCH = 128
REPAIRS = (None, "constant", "merge", "ridge")


def augmented(images: Any, labels: Any, steps: int, seed: int) -> Iterator[tuple[Any, Any]]:
    """Yields batches, each image flipped or not and shifted by up to four pixels."""
    import numpy as np

    rng = np.random.default_rng(seed)
    order = np.concatenate([rng.permutation(len(images)) for _ in range(steps * BATCH // len(images) + 1)])
    for step in range(steps):
        chosen = order[step * BATCH : (step + 1) * BATCH]
        padded = np.pad(images[chosen], ((0, 0), (4, 4), (4, 4), (0, 0)), "reflect")
        batch = np.empty_like(images[chosen])
        for number, (top, left) in enumerate(rng.integers(0, 9, (BATCH, 2))):
            image = padded[number, top : top + 32, left : left + 32]
            batch[number] = image[:, ::-1] if rng.random() < 0.5 else image
        yield batch, labels[chosen]


def rates(steps: int, peak: float) -> list[float]:
    """Returns the learning rate of each step: up for a fifth of them, then down by a cosine."""
    import numpy as np

    warm = max(1, steps // 5)
    up = np.linspace(peak / warm, peak, warm)
    down = peak * (1 + np.cos(np.pi * np.arange(steps - warm) / max(1, steps - warm))) / 2
    return [*up.tolist(), *down.tolist()]


def train(model: Any, data: Any, steps: int, peak: float, seed: int) -> None:
    """Trains a Keras model."""
    import keras

    model.compile(
        keras.optimizers.SGD(peak, momentum=0.9, nesterov=True, weight_decay=5e-4),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    for rate, batch in zip(rates(steps, peak), augmented(*data, steps, seed), strict=True):
        model.optimizer.learning_rate.assign(rate)
        model.train_on_batch(*batch)


def accuracy(model: Any, data: Any) -> float:
    """Returns the accuracy of a Keras model in percent."""
    images, labels = data
    return 100 * float((model.predict(images, batch_size=500, verbose=0).argmax(1) == labels).mean())


def our_rows(model: Any, train_data: Any, test_data: Any) -> Iterator[list[str]]:
    """Yields the row of each repair."""
    import numpy as np

    from tfprune import structured
    from tfprune.sparsity.batchnorm import recalibrate

    plan = structured.plan(model, macs=MACS.value, scope=SCOPE.value)
    print(f"{plan.after.macs / plan.before.macs:.3f} of the MACs, ", end="")
    print(f"{plan.after.parameters / plan.before.parameters:.3f} of the parameters", flush=True)
    for repair in REPAIRS:
        for count in [0] if repair is None else map(int, IMAGES.value):
            cut, measured, seconds, tuned = [], [], [], ""
            for seed in range(SEEDS.value):
                drawn = np.random.default_rng(seed).permutation(len(train_data[0]))
                images = train_data[0][drawn[: count or 512]]
                start = time.perf_counter()
                small = plan.apply(repair, images if repair else None)
                seconds.append(time.perf_counter() - start)
                if repair or not cut:
                    cut.append(accuracy(small, test_data))
                weights = small.get_weights()
                small.compile(loss="mse")  # Not computed with: labels are zeros.
                parts = [images[i : i + BATCH] for i in range(0, len(images), BATCH)]
                recalibrate(small, [(part, np.zeros((len(part), 10))) for part in parts])
                measured.append(accuracy(small, test_data))
                if STEPS.value and seed == 0:
                    small.set_weights(weights)
                    train(small, train_data, STEPS.value, 0.02, seed=100)
                    tuned = f"{accuracy(small, test_data):.1f}"
            name = "nothing" if repair is None else f"{repair}, {count} images"
            yield [name, spread(cut), spread(measured), tuned, f"{statistics.median(seconds):.1f}"]


def spread(values: list[float]) -> str:
    """Returns a mean with the lowest and the highest."""
    mean = f"{statistics.fmean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.1f} to {max(values):.1f})"


def twin_of(model: Any) -> Any:
    """Returns the network in PyTorch."""
    import numpy as np
    import torch
    from torch import nn

    from tests.support.torch_twin import Twin

    twin = Twin(model)
    with torch.no_grad():
        for name, module in twin.modules_of.items():
            weights = [torch.from_numpy(np.array(weight)) for weight in model.get_layer(name).get_weights()]
            if isinstance(module, nn.BatchNorm2d):
                module.weight.copy_(weights[0])
                module.bias.copy_(weights[1])
                module.running_mean.copy_(weights[2])
                module.running_var.copy_(weights[3])
                module.eps = model.get_layer(name).epsilon
                continue
            order = (3, 2, 0, 1) if isinstance(module, nn.Conv2d) else (1, 0)
            module.weight.copy_(weights[0].permute(order))
            module.bias.zero_()
            if len(weights) > 1:
                module.bias.copy_(weights[1])
    return twin


def their_rows(model: Any, train_data: Any, test_data: Any) -> Iterator[list[str]]:
    """Yields the rows of Torch-Pruning."""
    import numpy as np
    import torch
    import torch_pruning

    torch.set_num_threads(1)
    layer = model.get_layer("normalization")
    mean, std = (np.asarray(values, "float32").ravel() for values in (layer.mean, layer.variance**0.5))

    def prepared(images: Any) -> Any:
        return torch.from_numpy(((images.astype("float32") - mean) / std).transpose(0, 3, 1, 2).copy())

    def accuracy_of(twin: Any) -> float:
        twin.eval()
        with torch.no_grad():
            parts = [twin(prepared(test_data[0][i : i + 500])) for i in range(0, len(test_data[0]), 500)]
        return 100 * float((torch.cat(parts).argmax(1).numpy() == test_data[1]).mean())

    example = torch.zeros(1, 3, 32, 32)
    whole = twin_of(model).eval()
    macs = torch_pruning.utils.count_ops_and_params(whole, example)[0]
    yield ["whole, in PyTorch", f"{accuracy_of(whole):.1f}", "", "", ""]

    def pruned(ratio: float) -> Any:
        twin = twin_of(model).eval()
        torch_pruning.pruner.MagnitudePruner(
            twin,
            example,
            importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
            global_pruning=SCOPE.value == "global",
            pruning_ratio=ratio,
            ignored_layers=[twin.modules_of[model.layers[-1].name]],
        ).step()
        return twin

    low, high = 0.0, 0.9
    for _ in range(8):
        middle = (low + high) / 2
        if torch_pruning.utils.count_ops_and_params(pruned(middle), example)[0] > MACS.value * macs:
            low = middle
        else:
            high = middle
    twin = pruned(high)
    left, size = torch_pruning.utils.count_ops_and_params(twin, example)
    cut = accuracy_of(twin)
    tuned = ""
    if STEPS.value:
        twin.train()
        optimizer = torch.optim.SGD(
            twin.parameters(), lr=0.02, momentum=0.9, nesterov=True, weight_decay=5e-4
        )
        batches = augmented(*train_data, STEPS.value, 100)
        for rate, (images, labels) in zip(rates(STEPS.value, 0.02), batches, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad()
            logits = twin(prepared(images))
            torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels).long()).backward()
            optimizer.step()
        tuned = f"{accuracy_of(twin):.1f}"
    yield [f"Torch-Pruning, {left / macs:.3f} of the MACs, {size:,} parameters", f"{cut:.1f}", "", tuned, ""]


def main(_: list[str]) -> None:
    """Trains or reads the network, and prints a table."""
    import keras
    import numpy as np

    from tfprune.data.datasets import load
    from tfprune.models.resnet import build_resnet
    from tfprune.text import text_table

    dataset = load(
        "cifar10",
        DATA_DIR.value or None,
        train_examples=TRAIN_EXAMPLES.value,
        test_examples=TEST_EXAMPLES.value,
    )
    train_data, test_data = (
        (np.asarray(split.inputs), np.asarray(split.labels)) for split in (dataset.train, dataset.test)
    )
    if NETWORK.value and Path(NETWORK.value).exists():
        model = keras.models.load_model(NETWORK.value, compile=False)
    else:
        shape = {"classes": 10, "image_size": 32, "width": WIDTH.value, "stem": "cifar"}
        model = build_resnet("resnet18", **shape, mean=dataset.mean, std=dataset.std, seed=0)
        train(model, train_data, EPOCHS.value * len(train_data[0]) // BATCH, 0.2, seed=0)
        if NETWORK.value:
            model.save(NETWORK.value)
    print(f"Whole: {accuracy(model, test_data):.1f} %", flush=True)
    rows = []
    for make in [our_rows, *([their_rows] if TORCH_PRUNING.value else [])]:
        for row in make(model, train_data, test_data):
            print(*row, sep=" | ", flush=True)
            rows.append(row)
    header = ["repair", "after the cut, %", "BatchNorm anew, %", "fine-tuned, %", "seconds"]
    print(*text_table(header, rows), sep="\n")


if __name__ == "__main__":
    app.run(main)
