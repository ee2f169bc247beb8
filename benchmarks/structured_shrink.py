r"""Measures how much smaller and faster a network is whose dead channels are cut, after unstructured pruning.

    python benchmarks/structured_shrink.py --data_dir=DIR
    python benchmarks/structured_shrink.py --data_dir=DIR --train_examples=8000 --variants=one_shot

A ResNet-34 is trained on CIFAR-10 (32x32, small stem) and pruned by magnitude over all convolutions together,
at once and in six rounds, with BatchNorm as it was and with `reset_removed`; then trained again, masks fixed.
Each run is one of `tfprune.bin.train`, a folder in --output_dir; one that is finished there is not trained
anew. `shrink` then cuts what changes no output, with convolutions narrowed and without, and the dense TFLite
float32 files before and after are timed by turns. A ratio is the median over the rounds of the ratio within a
round, with its quartiles.

The runs with `--score=gathered` say how much the choice of the masks adds: as many weights stay, and the
training is the same, but weak channels lose all their weights.
"""

import itertools
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
DENSE_EPOCHS = flags.DEFINE_integer("dense_epochs", 3, "Epochs of the dense network.", lower_bound=1)
DENSE_EXAMPLES = flags.DEFINE_integer("dense_examples", 0, "Examples of these epochs; 0: all.", lower_bound=0)
EPOCHS = flags.DEFINE_integer("epochs", 3, "Epochs after pruning, of six rounds together.", lower_bound=1)
TRAIN_EXAMPLES = flags.DEFINE_integer("train_examples", 50000, "Examples of those epochs.", lower_bound=2)
TEST_EXAMPLES = flags.DEFINE_integer("test_examples", 0, "Test examples; 0: all.", lower_bound=0)
VARIANTS = flags.DEFINE_list("variants", [], "Which; empty: all.")
THREADS = flags.DEFINE_list("threads", ["1"], "Numbers of threads; all: the cores of this process.")
CLOCK = flags.DEFINE_enum(
    "clock", "wall", ["wall", "cpu"], "cpu: what one thread computes, where other programs run beside it."
)
ROUNDS = flags.DEFINE_integer("rounds", 41, "How often each file is timed.", lower_bound=1)

DENSE = "shrink_dense"
_ITERATIVE = ["--regime=iterative", "--schedule=polynomial", "--rounds=6"]
_WAYS = {"": [], "_reset": ["--batchnorm_after_pruning=reset_removed"], "_gathered": ["--score=gathered"]}
VARIANT_FLAGS = {
    name + way: [*regime, *options]
    for name, regime in (("one_shot", ["--regime=one_shot"]), ("iterative", _ITERATIVE))
    for way, options in _WAYS.items()
}


def train(experiment: str, *arguments: str) -> None:
    """Runs an experiment to its end, or goes on with it."""
    if round_of(experiment) is not None:
        return
    command = [
        *(sys.executable, "-m", "tfprune.bin.train", f"--experiment={experiment}"),
        *(f"--output_dir={OUTPUT_DIR.value}", f"--data_dir={DATA_DIR.value}", "--image_size=32"),
        *(f"--width={WIDTH.value}", "--stem=cifar", "--weights=none", "--autoaugment=none"),
        *("--learning_rate=1e-3", "--lr_schedule=cosine", "--batch_size=64", "--training_engine=sparse"),
        *(f"--test_examples={TEST_EXAMPLES.value}", f"--evaluate_every={EPOCHS.value}"),
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
    epochs, examples = EPOCHS.value, TRAIN_EXAMPLES.value
    if name.startswith("iterative"):
        epochs, examples = 1, examples * epochs // 6  # As many steps in all.
    train(
        f"shrink_{name}",
        *VARIANT_FLAGS[name],
        f"--init_from={DENSE}",
        f"--target_sparsity={SPARSITY.value}",
        f"--epochs={epochs}",
        f"--train_examples={examples}",
    )


def load(experiment: str) -> tuple[Any, float]:
    """Returns the network of a finished run as it was saved, and its accuracy in percent."""
    from tfprune.experiments.networks import load_model

    found = round_of(experiment)
    return load_model(found), found.read_result().metric_at_end


def measure(names: list[str]) -> list[tuple[str, ...]]:
    """Shrinks the networks and times them before and after; returns the rows of the table."""
    import numpy as np
    from paired_files import time_files, write_files

    from tfprune import structured
    from tfprune.network.macs import kernel_uses
    from tfprune.quiet import native_stderr_captured
    from tfprune.sparsity import strip_pruning
    from tfprune.timing import paired_speedup

    images = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
    paths, parts = {}, {}
    with tempfile.TemporaryDirectory() as folder, native_stderr_captured():
        for name in names:
            network, accuracy = load(f"shrink_{name}")
            before = strip_pruning(network)
            after = structured.shrink(before)
            wide = structured.shrink(before, narrow=False)
            macs = [sum(use.macs for use in kernel_uses(model)) for model in (before, after)]
            logits = [np.asarray(model(images, training=False)) for model in (before, after)]
            dead = structured.dead_channels(before)
            files = {}
            for model, when in ((before, "before"), (after, "after"), (wide, "wide")):
                files[when] = write_files(model, Path(folder, name, when), ["TFLite float32"])
                paths[f"{name} {when}"] = files[when]
            sizes = [os.path.getsize(path) for each in files.values() for path in each.values()]
            parts[name] = (
                f"{accuracy:.1f} %",
                f"{len(dead.gone)}",
                f"{sum(one.dead for one in dead.layers):,} of {sum(one.channels for one in dead.layers):,}",
                f"{sum(one.channels for one in dead.silent):,}",
                f"{len(dead.narrowed)}",
                f"{before.count_params() / after.count_params():.1f}x",
                f"{macs[0] / macs[1]:.1f}x",
                f"{np.abs(logits[0] - logits[1]).max() / np.abs(logits[0]).max():.0e}",
                f"{sizes[0] / sizes[1]:.1f}x",
            )
        faster: dict[str, list[str]] = {name: [] for name in names}
        for threads in parse_threads(THREADS.value):
            timings = time_files(paths, images, threads, ROUNDS.value, CLOCK.value)["TFLite float32"]
            for name, when in itertools.product(names, ("after", "wide")):
                ratio = paired_speedup(timings.seconds[f"{name} before"], timings.seconds[f"{name} {when}"])
                faster[name].append(f"{ratio.median:.2f}x ({ratio.lower:.2f} to {ratio.upper:.2f})")
    return [(name, *parts[name], *faster[name]) for name in names]


def main(_: list[str]) -> None:
    """Trains what is not trained, measures all and prints the table."""
    from tfprune.text import text_table

    names = VARIANTS.value or list(VARIANT_FLAGS)
    unknown = [name for name in names if name not in VARIANT_FLAGS]
    if unknown:
        sys.exit(f"error: --variants={','.join(unknown)}: must be some of {', '.join(VARIANT_FLAGS)}")
    dense = f"--epochs={DENSE_EPOCHS.value}", f"--train_examples={DENSE_EXAMPLES.value}"
    train(DENSE, "--regime=dense", *dense)
    for name in names:
        train_variant(name)
    threads = [f"{threads} thread{'s' * (threads != '1')}" for threads in THREADS.value]
    header = ("run", "accuracy", "layers gone", "dead", "zero but kept", "narrowed", "parameters", "MACs")
    header += ("differs", "file")
    header += tuple(f"faster{how}, {each}" for each in threads for how in ("", " with narrow=False"))
    print("\n".join(text_table(header, measure(names))))


if __name__ == "__main__":
    app.run(main)
