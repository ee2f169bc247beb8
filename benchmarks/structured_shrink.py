r"""Measures how much smaller and faster a network is whose dead channels are cut, after unstructured pruning.

    python benchmarks/structured_shrink.py --data_dir=DIR
    python benchmarks/structured_shrink.py --data_dir=DIR --train_examples=15000 --variants=one_shot,gathered

A ResNet-34 is trained on CIFAR-10 (32x32, small stem) and pruned by magnitude over all convolutions together,
at once and in six rounds, with BatchNorm as it was and with `reset_removed`; then trained again, masks fixed.
Each run is one of `tfprune.bin.train`, a folder in --output_dir; one that is finished there is not trained
anew. `shrink` then cuts what changes no output, and the dense TFLite float32 files before and after are timed
by turns. A ratio is the median over the rounds of the ratio within a round, with its quartiles.

`gathered` and `gathered_more` say how much the choice of the masks adds: as many weights stay as of
`one_shot`, and the training is the same, but a weight of a channel that keeps few of the largest weights
counts less, so that such channels die.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from absl import app, flags  # noqa: E402

from tfprune.bin.benchmark import parse_threads  # noqa: E402

OUTPUT_DIR = flags.DEFINE_string("output_dir", "saved_models", "Where the run folders are.")
DATA_DIR = flags.DEFINE_string("data_dir", "", "Where CIFAR-10 is prepared. Empty: TFDS's own folder.")
WIDTH = flags.DEFINE_integer("width", 16, "Filters of the first stage.", lower_bound=1)
SPARSITY = flags.DEFINE_float("sparsity", 0.995, "Of all convolutions together.", 0.0, 1.0)
DENSE_EPOCHS = flags.DEFINE_integer("dense_epochs", 3, "Epochs of the dense network, on all examples.")
EPOCHS = flags.DEFINE_integer(
    "epochs", 3, "Epochs after one-shot pruning; of six rounds, half an epoch each."
)
TRAIN_EXAMPLES = flags.DEFINE_integer("train_examples", 50000, "Examples of these epochs.", lower_bound=2)
TEST_EXAMPLES = flags.DEFINE_integer("test_examples", 0, "Test examples; 0: all.", lower_bound=0)
VARIANTS = flags.DEFINE_list("variants", [], "Which; empty: all.")
THREADS = flags.DEFINE_list("threads", ["1"], "Numbers of threads; all: the cores of this process.")
CLOCK = flags.DEFINE_enum(
    "clock", "wall", ["wall", "cpu"], "cpu: what one thread computes, where other programs run beside it."
)
ROUNDS = flags.DEFINE_integer("rounds", 41, "How often each file is timed.", lower_bound=1)

DENSE = "shrink_dense"
GATHERED = {"gathered": 0.5, "gathered_more": 1.0}
"""Variant -> the strength of `gather`."""
VARIANT_FLAGS = {
    "one_shot": ["--regime=one_shot"],
    "gathered": [],
    "iterative": ["--regime=iterative"],
    "one_shot_reset": ["--regime=one_shot", "--batchnorm_after_pruning=reset_removed"],
    "iterative_reset": ["--regime=iterative", "--batchnorm_after_pruning=reset_removed"],
    "gathered_more": [],
}


def train(experiment: str, *arguments: str) -> None:
    """Runs an experiment to its end, or goes on with it."""
    if round_of(experiment) is not None:
        return
    command = [
        *(sys.executable, "-m", "tfprune.bin.train", f"--experiment={experiment}"),
        *(f"--output_dir={OUTPUT_DIR.value}", f"--data_dir={DATA_DIR.value}", "--image_size=32"),
        *(
            "--autoaugment=none",
            f"--evaluate_every={EPOCHS.value}",
            "--learning_rate=1e-3",
            "--lr_schedule=cosine",
            "--batch_size=64",
        ),
        *arguments,
    ]
    subprocess.run(command, cwd=REPOSITORY, check=True)


def round_of(experiment: str) -> Any:
    """Returns the last round of a finished experiment; None of another."""
    from tfprune.errors import UserError
    from tfprune.runs.folder import find_round

    try:
        return find_round(OUTPUT_DIR.value, experiment, "experiment")[1]
    except UserError:
        return None


def train_variant(name: str) -> None:
    """Prunes and trains one of the variants, from the dense network."""
    if name in GATHERED:
        start = [f"--model={write_gathered(name)}", "--regime=dense"]
    else:
        network = [f"--width={WIDTH.value}", "--stem=cifar", "--weights=none"]
        start = [*network, f"--init_from={DENSE}", f"--target_sparsity={SPARSITY.value}", "--scope=global"]
    epochs, examples = EPOCHS.value, TRAIN_EXAMPLES.value
    if "--regime=iterative" in VARIANT_FLAGS[name]:
        start += ["--schedule=polynomial", "--rounds=6"]
        epochs, examples = 1, examples * epochs // 6  # As many steps in all.
    train(
        f"shrink_{name}", *start, *VARIANT_FLAGS[name], f"--epochs={epochs}", f"--train_examples={examples}"
    )


def load(experiment: str) -> tuple[Any, float]:
    """Returns the network of a finished run as it was saved, and its accuracy in percent."""
    from tfprune.experiments.networks import load_model

    found = round_of(experiment)
    return load_model(found), found.read_result().metric_at_end


def write_gathered(name: str) -> Path:
    """Prunes the dense network so that what stays gathers in few channels; returns its file, wrapped."""
    import keras

    from tfprune.sparsity import prune_low_magnitude, pruned_layers

    path = Path(OUTPUT_DIR.value, f"shrink_{name}.keras")
    if not path.exists():
        network, _ = load(DENSE)
        gather(network, SPARSITY.value, GATHERED[name])
        pruned = prune_low_magnitude(
            network, None, layers=keras.layers.Conv2D, scope="global", keep_zeros=False
        )
        for wrapper in pruned_layers(pruned):
            wrapper.masks[0].assign(wrapper.layer.kernel != 0)
        pruned.save(path)
    return path


def gather(model: Any, sparsity: float, strength: float) -> None:
    """Sets weights of all convolutions together to zero, so that those that stay gather in fewer channels.

    A channel's worth is the sum of the squares of the weights that make or take it, of those that would stay
    by magnitude alone. A weight's score is its magnitude times the factor of the channel that it makes and
    that of the one that it takes, `factor = min(1, worth / median worth) ** strength`, where the median is
    over the channels that keep a weight.

    Args:
        model: A functional model without wrappers.
        sparsity: The share of the weights that go.
        strength: 0 is magnitude alone.
    """
    import keras
    import numpy as np

    from tfprune.channels.groups import Traced
    from tfprune.channels.labels import FIXED

    traced = Traced(model)
    found = [layer.kernel for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    kernels = {id(kernel): kernel.numpy() for kernel in found}
    scores = {key: np.abs(kernel) for key, kernel in kernels.items()}
    axes = [one for one in traced.slices if id(one.variable) in kernels]

    def threshold() -> float:
        values = np.concatenate([score.ravel() for score in scores.values()])
        kept = round(len(values) * (1 - sparsity))
        return np.partition(values, -kept)[-kept]

    least = threshold()
    worth = np.zeros(traced.count)
    for one in axes:
        kernel = np.moveaxis(kernels[id(one.variable)], one.axis, 0)
        squares = np.where(np.abs(kernel) >= least, kernel**2, 0).reshape(len(kernel), -1).sum(1)
        np.add.at(worth, traced.sets[one.labels], squares)
    worth[FIXED] = np.inf
    median = np.median(worth[(worth > 0) & np.isfinite(worth)])
    factor = np.minimum(1, worth / median) ** strength
    for one in axes:
        shape = [-1 if axis == one.axis % 4 else 1 for axis in range(4)]
        scores[id(one.variable)] *= factor[traced.sets[one.labels]].reshape(shape)
    least = threshold()
    for kernel in found:
        kernel.assign(np.where(scores[id(kernel)] >= least, kernels[id(kernel)], 0))


def measure(names: list[str]) -> list[tuple[str, ...]]:
    """Shrinks the networks and times them before and after; returns the rows of the table."""
    import numpy as np
    from paired_files import time_files, write_files

    from tfprune import structured
    from tfprune.benchmark.timing import paired_speedup
    from tfprune.network.macs import kernel_uses
    from tfprune.quiet import native_stderr_captured
    from tfprune.sparsity import strip_pruning

    images = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
    paths, parts = {}, {}
    with tempfile.TemporaryDirectory() as folder, native_stderr_captured():
        for name in names:
            network, accuracy = load(f"shrink_{name}")
            before = strip_pruning(network)
            after = structured.shrink(before)
            macs = [sum(use.macs for use in kernel_uses(model)) for model in (before, after)]
            logits = [np.asarray(model(images, training=False)) for model in (before, after)]
            dead = structured.dead_channels(before)
            files = {}
            for model, when in ((before, "before"), (after, "after")):
                files[when] = write_files(model, Path(folder, name, when), ["TFLite float32"])
                paths[f"{name} {when}"] = files[when]
            sizes = [os.path.getsize(path) for each in files.values() for path in each.values()]
            parts[name] = (
                f"{accuracy:.1f} %",
                f"{sum(one.dead for one in dead.layers):,} of {sum(one.channels for one in dead.layers):,}",
                f"{sum(one.channels for one in dead.silent):,}",
                f"{before.count_params() / after.count_params():.1f}x",
                f"{macs[0] / macs[1]:.1f}x",
                f"{np.abs(logits[0] - logits[1]).max() / np.abs(logits[0]).max():.0e}",
                f"{sizes[0] / sizes[1]:.1f}x",
            )
        faster: dict[str, list[str]] = {name: [] for name in names}
        for threads in parse_threads(THREADS.value):
            timings = time_files(paths, images, threads, ROUNDS.value, CLOCK.value)["TFLite float32"]
            for name in names:
                ratio = paired_speedup(timings.seconds[f"{name} before"], timings.seconds[f"{name} after"])
                faster[name].append(f"{ratio.median:.2f}x ({ratio.lower:.2f} to {ratio.upper:.2f})")
    return [(name, *parts[name], *faster[name]) for name in names]


def main(_: list[str]) -> None:
    """Trains what is not trained, measures all and prints the table."""
    from tfprune.text import text_table

    names = VARIANTS.value or list(VARIANT_FLAGS)
    unknown = [name for name in names if name not in VARIANT_FLAGS]
    if unknown:
        sys.exit(f"error: --variants={','.join(unknown)}: must be some of {', '.join(VARIANT_FLAGS)}")
    network = [f"--width={WIDTH.value}", "--stem=cifar", "--weights=none"]
    train(DENSE, *network, "--regime=dense", f"--epochs={DENSE_EPOCHS.value}")
    for name in names:
        train_variant(name)
    threads = [f"faster, {threads} thread{'s' * (threads != '1')}" for threads in THREADS.value]
    header = ("run", "accuracy", "dead", "zero but kept", "parameters", "MACs", "differs", "file", *threads)
    print("\n".join(text_table(header, measure(names))))


if __name__ == "__main__":
    app.run(main)
