r"""Measures what is left of a small transformer right after it is pruned without training, by each method.

    python benchmarks/without_training_transformer.py

A transformer of two blocks learns, from 4,096 sequences of 10 numbers, to add to each number the one at the
mirrored place, modulo 16. Its dense layers and its attention's projections are then pruned, each to the same
sparsity, by 512 of the sequences. Printed is the share of right numbers in 1,000 other sequences, with
`variance=False` and with `variance=True`.
"""

import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import keras  # noqa: E402
import numpy as np  # noqa: E402
from keras import layers  # noqa: E402

from tfprune import sparsity  # noqa: E402

LENGTH, NUMBERS, WIDTH = 10, 16, 48
MAX_EPOCHS, ENOUGH = 40, 0.985


class Positions(layers.Layer):
    """Adds a vector of its own to each position."""

    def build(self, shape: Any) -> None:
        """Makes the vectors."""
        self.table = self.add_weight(shape=shape[1:], initializer="glorot_uniform")

    def call(self, inputs: Any) -> Any:
        """Returns the sums."""
        return inputs + self.table


def sequences(random: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns sequences and what is to be learnt of them."""
    given = random.integers(0, NUMBERS, (count, LENGTH))
    return given, (given + given[:, ::-1]) % NUMBERS


def build() -> keras.Model:
    """Returns the transformer."""
    inputs = keras.Input((LENGTH,), dtype="int32")
    x = Positions()(layers.Embedding(NUMBERS, WIDTH)(inputs))
    for _ in range(2):
        normal = layers.LayerNormalization()(x)
        x = layers.Add()([x, layers.MultiHeadAttention(4, WIDTH // 4)(normal, normal)])
        normal = layers.LayerNormalization()(x)
        x = layers.Add()([x, layers.Dense(WIDTH)(layers.Dense(128, activation="gelu")(normal))])
    return keras.Model(inputs, layers.Dense(NUMBERS, name="head")(layers.LayerNormalization()(x)))


def main() -> None:
    """Prints the table."""
    keras.utils.set_random_seed(0)
    random = np.random.default_rng(0)
    (given, wanted), (test, answers) = sequences(random, 4096), sequences(random, 1000)
    model = build()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss, metrics=["accuracy"])
    for _ in range(MAX_EPOCHS):
        history = model.fit(given, wanted, batch_size=256, epochs=1, verbose=0).history
        if history["accuracy"][0] > ENOUGH:
            break
    dense = model.get_weights()

    def right() -> float:
        return 100 * float((model.predict(test, verbose=0).argmax(-1) == answers).mean())

    print(f"dense: {right():.1f} % right")
    print("pruned, method, without and with the variance brought back")
    for share, pattern in ((0.5, None), (0.7, None), (0.5, sparsity.MOfN(2, 4))):
        for method in ("magnitude", "wanda", "sparsegpt", "reconstruct"):
            figures = []
            for variance in (False, True):
                model.set_weights(dense)
                sparsity.prune_with_data(
                    model,
                    share,
                    given[:512],
                    method=method,
                    allocation="uniform",
                    variance=variance,
                    pattern=pattern,
                    layers=(layers.Dense, layers.MultiHeadAttention),
                    spare="head",
                    verbose=0,
                )
                figures.append(right())
            name = "2:4" if pattern else f"{share:g}"
            print(f"{name:4} {method:12} {figures[0]:5.1f} % {figures[1]:5.1f} %", flush=True)


if __name__ == "__main__":
    main()
