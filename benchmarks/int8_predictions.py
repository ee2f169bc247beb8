r"""Counts the predictions that 8 bits change: a network's `model.tfprune` beside the network in Keras.

    python benchmarks/int8_predictions.py --data_dir=DIR \
        --model=saved_models/cifar10_one_shot_95/round_01/model.keras

The first images of the test split, resized as in training; the file with weights of 32, 16 and 8 bits; with
values of 8 bits, too, calibrated by training images, wherever there can be such (whatever is faster); and
the file of the network that `quantize_aware` makes of it, without training: each weight on the nearest step,
beside the network itself, and beside what was made of it.
"""

import os
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

import numpy as np  # noqa: E402
from absl import app, flags  # noqa: E402

MODEL = flags.DEFINE_string("model", None, "The network, wrapped for pruning or not.", required=True)
DATASET = flags.DEFINE_string("dataset", "cifar10", "A dataset of tensorflow-datasets.")
DATA_DIR = flags.DEFINE_string("data_dir", None, "Where tensorflow-datasets has it.")
CALIBRATION = flags.DEFINE_integer("calibration", 512, "Training images for values.", lower_bound=1)
IMAGES = flags.DEFINE_integer("images", 1000, "Images of the test split.", lower_bound=1)


def main(_: list[str]) -> None:
    """Prints the table."""
    import keras
    import tensorflow_datasets as tfds

    from tfprune import runtime, sparsity
    from tfprune.compiler.compile import compile_model
    from tfprune.data.resize import resize
    from tfprune.text import text_table

    # Twice: a network and what `quantize_aware` makes of it have the same weights.
    model, other = (
        sparsity.strip_pruning(keras.saving.load_model(MODEL.value, compile=False)) for _ in range(2)
    )

    def loaded(split: str) -> tuple[np.ndarray, np.ndarray]:
        options = {"data_dir": DATA_DIR.value, "batch_size": -1, "as_supervised": True}
        images, labels = tfds.as_numpy(tfds.load(DATASET.value, split=split, **options))
        shape = model.input_shape[1:]
        return np.stack([resize(image, out=np.empty(shape, np.uint8)) for image in images]), labels

    images, labels = loaded(f"test[:{IMAGES.value}]")
    calibration, _ = loaded(f"train[:{CALIBRATION.value}]")

    def predicted(network: keras.Model) -> np.ndarray:
        return network.predict(images.astype("float32"), verbose=0).argmax(-1)

    exact = predicted(model)
    aware = sparsity.quantize_aware(other)
    rounded, nearest = predicted(aware), sparsity.strip_pruning(aware)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "model.tfprune"))
        for name, network, weights, expected in (
            ("float32", model, "float32", exact),
            ("float16", model, "float16", exact),
            ("int8", model, "int8", exact),
            ("int8, values too", model, "int8", exact),
            ("int8, each to the nearest", nearest, "int8", exact),
            ("int8, quantize_aware", nearest, "int8", rounded),
        ):
            values = {"values": "int8", "calibration": calibration} if "values" in name else {}
            runtime.write_file(compile_model(network, **values), path, weights)
            classes = runtime.load(path)(images).argmax(-1)
            equal, right = (classes == expected).mean(), (classes == labels).mean()
            size = f"{os.path.getsize(path):,}"
            rows.append((name, size, f"{100 * equal:.1f} %", f"{100 * right:.1f} %"))
    header = ("weights", "bytes", "predictions as Keras's", "accuracy")
    print("\n".join(text_table(header, rows)))


if __name__ == "__main__":
    app.run(main)
