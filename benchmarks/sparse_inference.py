r"""Measures the speed and size of pruned networks: `model.tfprune` beside the dense runtimes.

    python benchmarks/sparse_inference.py --sparsities=0.95,0.98,0.995 --split=uniform,erk --batch_sizes=1
    python benchmarks/sparse_inference.py --model=resnet18 --width=16 --image_size=32 --stem=cifar

Networks with random weights, every convolution pruned by magnitude at once (the head stays dense), and
BatchNorm statistics measured after it. Each is exported by `tfprune.export` and measured as
`python -m tfprune.bin.benchmark` does it: all contenders by turns in one run. The last table has the speed as
the median over the rounds of the ratio within a round, its quartiles in parentheses.
"""

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "tensorflow"
REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from absl import app, flags  # noqa: E402

from tfprune.bin.benchmark import parse_batch_sizes, parse_threads  # noqa: E402

MODEL = flags.DEFINE_string("model", "resnet34", "Architecture of tfprune.models.resnet.")
WIDTH = flags.DEFINE_integer("width", 64, "Filters of the first stage.", lower_bound=1)
IMAGE_SIZE = flags.DEFINE_integer("image_size", 224, "Side of the images, in pixels.", lower_bound=8)
CLASSES = flags.DEFINE_integer("classes", 10, "Classes of the head.", lower_bound=2)
STEM = flags.DEFINE_enum("stem", "imagenet", ["imagenet", "cifar"], "First layers.")
SPARSITIES = flags.DEFINE_list("sparsities", ["0.95", "0.98", "0.995"], "Of all convolutions together.")
SPLIT = flags.DEFINE_list(
    "split", ["uniform", "erk"], "uniform: the same sparsity in every layer; erk: small layers less."
)
THREADS = flags.DEFINE_list("threads", ["1", "all"], "Numbers of threads; all: the cores of this process.")
BATCH_SIZES = flags.DEFINE_list("batch_sizes", ["1"], "Images a call.")
ROUNDS = flags.DEFINE_integer("rounds", 15, "How often each is timed in each setting.", lower_bound=1)
CONTENDERS = flags.DEFINE_list("contenders", ["all"], "Names of tfprune.benchmark.contenders, or all.")
WEIGHTS = flags.DEFINE_enum(
    "weights", "float16", ["float16", "float32", "int8"], "How model.tfprune stores its weights."
)
LAYERS = flags.DEFINE_boolean("layers", False, "Print where the time of model.tfprune goes.")
ZSTD = flags.DEFINE_boolean("zstd", False, "Measure sizes with zstd -19, too.")
OUTPUT_DIR = flags.DEFINE_string(
    "output_dir", "", "Where each network's JSON, CSV and picture go, a folder each. Empty: nowhere."
)

_SCOPES = {"uniform": "layer", "erk": "erk"}
_SEED = 0


def random_images(count: int) -> Any:
    """Returns uint8 images of the network's size."""
    import numpy as np

    rng = np.random.default_rng(_SEED)
    return rng.integers(0, 256, (count, IMAGE_SIZE.value, IMAGE_SIZE.value, 3), dtype=np.uint8)


def pruned_network(sparsity: float, split: str) -> tuple[Any, dict[str, Any]]:
    """Returns a pruned network without wrappers, and its masks."""
    import keras
    import numpy as np
    from keras import ops

    from tfprune import sparsity as pruning
    from tfprune.models.resnet import build_resnet

    keras.utils.set_random_seed(_SEED)
    model = build_resnet(
        MODEL.value,
        classes=CLASSES.value,
        image_size=IMAGE_SIZE.value,
        width=WIDTH.value,
        stem=STEM.value,
        mean=(124.0, 116.0, 104.0),
        std=(58.0, 57.0, 57.0),
        seed=_SEED,
    )
    wrapped = pruning.prune_low_magnitude(model, None, layers=keras.layers.Conv2D)
    pruning.prune_to(wrapped, sparsity, scope=_SCOPES[split])
    masks = {
        wrapper.layer.name: np.asarray(ops.convert_to_numpy(wrapper.masks[0]))
        for wrapper in pruning.pruned_layers(wrapped)
    }
    stripped = pruning.strip_pruning(wrapped)
    randomize_normalizations(stripped)
    avoid_ties(stripped)
    return stripped, masks


def randomize_normalizations(model: Any) -> None:
    """Sets random scales and shifts, and the statistics of the network's own activations.

    Without them the values of a pruned network with random weights would fade away layer by layer.
    """
    import keras
    import numpy as np

    rng = np.random.default_rng(_SEED)
    found = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    momenta = [layer.momentum for layer in found]
    for layer in found:
        channels = layer.gamma.shape[0]
        layer.gamma.assign(rng.uniform(0.5, 1.5, channels))
        layer.beta.assign(rng.normal(0, 0.2, channels))
        layer.momentum = 0.0  # The statistics become those of the next batch.
    model(random_images(4), training=True)
    for layer, momentum in zip(found, momenta, strict=True):
        layer.momentum = momentum


def avoid_ties(model: Any) -> None:
    """Raises the bias of the class predicted on noise: the export's audit asks for equal predictions."""
    import numpy as np

    logits = np.asarray(model(random_images(8), training=False))
    bias = model.get_layer("head").bias
    raised = np.array(bias)
    raised[logits.mean(0).argmax()] += 0.2 * np.abs(logits).max()
    bias.assign(raised)


def measure_network(sparsity: float, split: str) -> dict[str, Any]:
    """Exports and measures one network; prints its tables."""
    from tfprune.benchmark.files import write_benchmark
    from tfprune.benchmark.measure import Plan, measure
    from tfprune.benchmark.report import format_benchmark
    from tfprune.export.export import export_model
    from tfprune.export.network import keras_logits
    from tfprune.quiet import native_stderr_captured

    plan = Plan(
        rounds=ROUNDS.value,
        batch_sizes=parse_batch_sizes(BATCH_SIZES.value),
        threads=parse_threads(THREADS.value),
        contenders=tuple(CONTENDERS.value),
        zstd=ZSTD.value,
    )
    model, masks = pruned_network(sparsity, split)
    images = random_images(max(plan.batch_sizes))
    title = f"{model.name} {split} {sparsity:g}"
    with tempfile.TemporaryDirectory() as folder, native_stderr_captured():
        export_model(
            model,
            folder,
            inputs=images,
            masks=masks,
            formats=("tflite", "sparse"),
            sparse_weights=WEIGHTS.value,
            progress=lambda line: None,
        )
        record = measure(
            folder,
            inputs=images,
            outputs=keras_logits(model, images),
            dense_weights_bytes=4 * model.count_params(),
            plan=plan,
        )
    if OUTPUT_DIR.value:
        out = Path(OUTPUT_DIR.value, title.replace(" ", "_"))
        out.mkdir(parents=True, exist_ok=True)
        write_benchmark({"network": title} | record, out, title)
    print(f"\n=== {title}\n\n{format_benchmark(record, layers=LAYERS.value)}\n", flush=True)
    return record


def summary_rows(sparsity: float, split: str, record: dict[str, Any]) -> list[tuple[str, ...]]:
    """Returns the rows of the last table for one network, one for each setting."""
    from tfprune.benchmark.contenders import OURS, OURS_NAME

    titles = {row["name"]: row["title"] for row in record["contenders"]}
    raw = {size["name"]: size["raw"] for size in record["sizes"]["artifacts"]}
    times_smaller = f"{record['sizes']['dense_weights_bytes'] / raw[OURS]:.1f}x" if OURS in raw else "-"
    rows = []
    for setting in record["latency"]:
        ours = {row["name"]: row for row in setting["rows"]}.get(OURS_NAME)
        start = (split, f"{sparsity:g}", str(setting["threads"]), str(setting["batch_size"]))
        if ours is None or ours["failure"]:
            rows.append((*start, "-", "-", "-", "-", times_smaller))
            continue
        rows.append(
            (
                *start,
                f"{ours['milliseconds']['median']:.2f}",
                speed(ours["to_tflite_dense"]),
                speed(ours["to_fastest_dense"]),
                titles.get(setting["fastest_dense"], "-"),
                times_smaller,
            )
        )
    return rows


def speed(summary: dict[str, float] | None) -> str:
    """Returns a speed with its quartiles."""
    if summary is None:
        return "-"
    return f"{summary['median']:.2f}x ({summary['lower']:.2f} to {summary['upper']:.2f})"


def main(_: list[str]) -> None:
    """Measures each network and prints the summary."""
    from tfprune.text import text_table

    unknown = sorted(set(SPLIT.value) - _SCOPES.keys())
    if unknown:
        sys.exit(f"error: --split={','.join(SPLIT.value)}: must be some of {', '.join(_SCOPES)}")
    rows = []
    for split in SPLIT.value:
        for sparsity in map(float, SPARSITIES.value):
            rows += summary_rows(sparsity, split, measure_network(sparsity, split))
    header = (
        "split",
        "sparsity",
        "threads",
        "batch",
        "tfprune ms",
        "to dense TFLite",
        "to fastest dense",
        "which is",
        "file to dense float32",
    )
    print("\n".join(text_table(header, rows)))


if __name__ == "__main__":
    app.run(main)
