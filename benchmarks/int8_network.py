r"""Measures what values of 8 bits gain in whole networks: `model.tfprune` with and without, beside TFLite.

    python benchmarks/int8_network.py --model=resnet34 --width=16 --image_size=32 --stem=cifar --clock=cpu

The networks of sparse_inference.py, every convolution pruned to the same sparsity, one image, one thread. By
turns in one process: our float32, our values of 8 bits where they pay, TFLite's dense float32 file, its
file with weights of 8 bits (`model_int8.tflite`, which rounds values image by image), and one with all of 8
bits, calibrated. Ratios are medians over the rounds of the ratio within a round, quartiles in parentheses.
"""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from absl import app, flags  # noqa: E402
from sparse_inference import pruned_network, random_images  # noqa: E402

flags.FLAGS.remove_flag_values(
    ["batch_sizes", "contenders", "layers", "output_dir", "rounds", "sparsities", "split", "threads"]
)
flags.FLAGS.remove_flag_values(["weights", "zstd"])
SPARSITIES = flags.DEFINE_list("sparsities", ["0.95"], "Of every convolution.")
ROUNDS = flags.DEFINE_integer("rounds", 41, "How often each is timed.", lower_bound=1)
CLOCK = flags.DEFINE_enum("clock", "wall", ["wall", "cpu"], "cpu: where other programs compute, too.")

FLOAT32, INT8 = "tfprune float32", "tfprune int8 values"
DENSE, BY_IMAGE, CALIBRATED = "TFLite float32", "TFLite int8, by image", "TFLite int8, calibrated"
CALIBRATION_IMAGES = 64


def calibrated(model: Any) -> Callable[[], object]:
    """Returns a call of a TFLite file in whose convolutions all is of 8 bits, with its input set."""
    import tensorflow as tf
    from ai_edge_litert.interpreter import Interpreter

    images = random_images(CALIBRATION_IMAGES)
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([image[None]] for image in images)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    interpreter = Interpreter(model_content=converter.convert(), num_threads=1)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], images[:1])
    return interpreter.invoke


def contenders(model: Any, folder: Path) -> dict[str, Callable[[], object]]:
    """Returns the calls that are timed; prints how many convolutions are of 8 bits."""
    from tfprune import runtime
    from tfprune.export import export_sparse
    from tfprune.export.formats.tflite import CONVERSIONS, TFLite
    from tfprune.export.network import Network
    from tfprune.runtime.graph import Conv

    image = random_images(1)
    options = {FLOAT32: {}, INT8: {"values": "int8", "calibration": random_images(CALIBRATION_IMAGES)}}
    calls = {}
    for name, values in options.items():
        path = folder / f"{len(calls)}.tfprune"
        export_sparse(model, path, weights="int8", **values)
        loaded = runtime.load(path, threads=1)
        paths = [node.path for node in loaded.graph.nodes if isinstance(node, Conv)]
        print(f"{name}: {paths.count('int8')} of {len(paths)} convolutions of 8 bits", flush=True)
        calls[name] = lambda loaded=loaded: loaded(image)
    for name, weights in ((DENSE, "float32"), (BY_IMAGE, "int8")):
        file = TFLite(next(each for each in CONVERSIONS if each.weights == weights))
        with tempfile.TemporaryDirectory() as work:
            file.write(Network(model, {}, work), str(folder / file.name))
        run = file.load_batch(str(folder / file.name), 1, 1)
        calls[name] = lambda run=run: run(image)
    return calls | {CALIBRATED: calibrated(model)}


def main(_: list[str]) -> None:
    """Prints a table for each sparsity."""
    import numpy as np
    from paired_files import CLOCKS

    from tfprune.quiet import native_stderr_captured
    from tfprune.text import text_table
    from tfprune.timing import time_rounds

    for sparsity in map(float, SPARSITIES.value):
        with tempfile.TemporaryDirectory() as folder, native_stderr_captured():
            model, _ = pruned_network(sparsity, "uniform")
            calls = contenders(model, Path(folder))
            found = time_rounds(calls, ROUNDS.value, clock=CLOCKS[CLOCK.value])
        for name, failure in found.failures.items():
            print(f"{name}: {failure}")
        seconds = {name: np.array(each) for name, each in found.seconds.items()}
        rows = []
        for name, own in seconds.items():
            ratios = []
            for other in (FLOAT32, DENSE, BY_IMAGE, CALIBRATED):
                low, middle, high = np.quantile(seconds[other] / own, (0.25, 0.5, 0.75))
                ratios.append(f"{middle:.2f}x ({low:.2f} to {high:.2f})")
            rows.append((name, f"{1e3 * np.median(own):.3f}", *ratios))
        header = (f"{model.name} {sparsity:g}", "ms", "to ours in float32", "to TFLite", "to by image")
        print("\n".join(text_table((*header, "to calibrated"), rows)), flush=True)


if __name__ == "__main__":
    app.run(main)
