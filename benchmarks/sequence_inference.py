"""Measures pruned networks of sequences: `model.tfprune` beside dense TFLite, one example, one thread.

    python benchmarks/sequence_inference.py --sparsities=0.9,0.95 --rounds=31

- `keyword LSTM`: a second of speech as 49 frames of 40 numbers, two LSTMs of 256 units, 12 words (the sizes
  of Hello Edge, arXiv:1711.07128, and beyond).
- `ViT`: images of 64x64 in patches of 8x8, six blocks of attention of width 192, 3 heads, with fixed
  positions (Simple ViT, arXiv:2205.01580).

Weights are random, and pruned by magnitude, each kernel to the same sparsity; the head stays dense. What
the runtime predicts for the example is compared with Keras: the largest difference, as a share of the
largest output, is a column; its file holds weights of float16, as by default. TFLite's file holds the dense
network of float32. The contenders take turns, and a ratio is the median over the rounds of TFLite's time /
the runtime's within a round, its quartiles in parentheses.
"""

import os
import sys
from pathlib import Path

os.environ["KERAS_BACKEND"] = "tensorflow"
REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

import keras  # noqa: E402
import numpy as np  # noqa: E402
from absl import app, flags  # noqa: E402
from keras import layers  # noqa: E402

from tfprune import sparsity  # noqa: E402
from tfprune.benchmark.latency import loaded  # noqa: E402
from tfprune.text import text_table  # noqa: E402
from tfprune.timing import paired_speedup, summarize, time_rounds  # noqa: E402

SPARSITIES = flags.DEFINE_list("sparsities", ["0.9", "0.95"], "Of every kernel but the head's.")
ROUNDS = flags.DEFINE_integer("rounds", 31, "How often each is timed.", lower_bound=1)

PATCH, WIDTH, HEADS, BLOCKS = 8, 192, 3, 6


def keyword_lstm() -> keras.Model:
    """Returns the network that tells 12 words apart."""
    signal = keras.Input((49, 40), batch_size=1, name="frames")
    x = layers.LSTM(256)(layers.LSTM(256, return_sequences=True)(signal))
    return keras.Model(signal, layers.Dense(12, name="head")(x))


def vit() -> keras.Model:
    """Returns the vision transformer."""
    image = keras.Input((64, 64, 3), batch_size=1, name="image")
    x = layers.Conv2D(WIDTH, PATCH, strides=PATCH)(image)
    x = layers.Reshape((-1, WIDTH))(x)
    x = x + positions(x.shape[1])
    for _ in range(BLOCKS):
        y = layers.LayerNormalization()(x)
        x = x + layers.MultiHeadAttention(HEADS, WIDTH // HEADS)(y, y)
        y = layers.Dense(4 * WIDTH, activation="gelu")(layers.LayerNormalization()(x))
        x = x + layers.Dense(WIDTH)(y)
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    return keras.Model(image, layers.Dense(10, name="head")(x))


def positions(count: int) -> np.ndarray:
    """Returns sines and cosines of the number of a patch, float32 `[1, count, WIDTH]`."""
    angles = np.arange(count)[:, None] / 10_000 ** (np.arange(WIDTH // 2) / (WIDTH // 2))
    return np.concatenate([np.sin(angles), np.cos(angles)], 1, dtype=np.float32)[None]


def pruned(model: keras.Model, share: float) -> keras.Model:
    """Returns the network with every kernel but the head's pruned."""
    wrapped = sparsity.prune_low_magnitude(model, None, spare="head")
    sparsity.prune_to(wrapped, share)
    return sparsity.strip_pruning(wrapped)


def main(_: list[str]) -> None:
    """Prints a table, a row for each network and sparsity."""
    rows = [["network", "weights", "sparsity", "TFLite", "runtime", "times as fast", "difference"]]
    for name, build in {"keyword LSTM": keyword_lstm, "ViT": vit}.items():
        for share in map(float, SPARSITIES.value):
            keras.utils.set_random_seed(0)
            dense = build()
            weights = dense.count_params()
            example = np.random.default_rng(0).normal(size=dense.inputs[0].shape).astype(np.float32)
            calls = {"TFLite": loaded(dense, "tflite", example)}
            model = pruned(dense, share)
            calls["runtime"] = loaded(model, "sparse", example)
            wanted = np.asarray(model(example))
            found = keras.tree.flatten(calls["runtime"]())[0]
            difference = np.abs(found - wanted).max() / np.abs(wanted).max()
            seconds = time_rounds(calls, ROUNDS.value).seconds
            faster = paired_speedup(seconds["TFLite"], seconds["runtime"])
            rows.append(
                [
                    name,
                    f"{weights / 1e6:.2f} M",
                    f"{share:g}",
                    *(f"{1e3 * summarize(seconds[one]).median:.2f} ms" for one in calls),
                    f"{faster.median:.1f}x ({faster.lower:.1f} to {faster.upper:.1f})",
                    f"{difference:.1e}",
                ]
            )
    print(*text_table(rows[0], rows[1:]), sep="\n")


if __name__ == "__main__":
    app.run(main)
