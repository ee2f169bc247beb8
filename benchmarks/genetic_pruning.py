r"""Compares masks that a genetic algorithm found with magnitude at the same sparsity, on digits.

    python benchmarks/genetic_pruning.py

A small network of two convolutions is trained on scikit-learn's digits. `evolve_masks` (Whitley, 1990)
evolves its masks: each individual is trained by itself, on four fifths of the training images, and judged by
the others. Beside the best one stand, at its sparsity, by the magnitude of all weights together: the network
trained on for as many steps as one individual, and for as many as all individuals together. No test image is
seen by any of them.
"""

import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from absl import app, flags  # noqa: E402

CHILDREN = flags.DEFINE_integer("children", 60, "Children after the first population.", lower_bound=0)
POPULATION = flags.DEFINE_integer("population", 8, "Individuals at a time.", lower_bound=2)
STEPS = flags.DEFINE_integer("steps", 60, "Steps of training of each.", lower_bound=1)
PRICE = flags.DEFINE_float("price", 1.0, "The loss that a network without weights is worth.", 0.0)
SEEDS = flags.DEFINE_integer("seeds", 3, "Networks.", lower_bound=1)

BATCH = 64


def network(seed: int) -> Any:
    """Returns an untrained network."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(16, 3, padding="same", activation="relu"),
            layers.Conv2D(32, 3, strides=2, padding="same", activation="relu"),
            layers.Flatten(),
            layers.Dense(10),
        ]
    )
    compile_(model)
    return model


def compile_(model: Any) -> None:
    """Compiles a network with a fresh optimizer."""
    import keras

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss, metrics=["accuracy"])


def main(argv: list[str]) -> None:
    """Prints a row for each seed."""
    import numpy as np

    from tfprune import sparsity
    from tfprune.data import datasets
    from tfprune.experiments.genetic import evolve_masks
    from tfprune.text import text_table

    loaded = datasets.load("digits")
    data = [(np.asarray(s.inputs)[..., :1] / np.float32(255), s.labels) for s in (loaded.train, loaded.test)]
    (inputs, labels), test = data
    cut = len(inputs) * 4 // 5
    rows = []
    for seed in range(SEEDS.value):
        model = network(seed)
        model.fit(inputs[:cut], labels[:cut], batch_size=BATCH, epochs=20, verbose=0)
        dense, weights = 100 * model.evaluate(*test, verbose=0)[1], model.get_weights()
        wrapped = sparsity.prune_low_magnitude(model, None, keep_zeros=False)
        compile_(wrapped)
        began = time.perf_counter()
        best, *_ = evolve_masks(
            wrapped,
            (inputs[:cut], labels[:cut]),
            (inputs[cut:], labels[cut:]),
            children=CHILDREN.value,
            population=POPULATION.value,
            steps=STEPS.value,
            price=PRICE.value,
            batch_size=BATCH,
            seed=seed,
        )
        seconds = time.perf_counter() - began
        genetic = 100 * wrapped.evaluate(*test, verbose=0)[1]
        by_magnitude = []
        for trainings in (1, POPULATION.value + CHILDREN.value):
            plain = network(seed)
            plain.set_weights(weights)
            other = sparsity.prune_low_magnitude(plain, None, scope="global", keep_zeros=False)
            compile_(other)
            sparsity.prune_to(other, best.sparsity)
            rng = np.random.default_rng(seed)
            for _ in range(round(STEPS.value * (1 + best.sparsity)) * trainings):
                chosen = rng.integers(0, cut, BATCH)
                other.train_on_batch(inputs[chosen], labels[chosen])
            by_magnitude.append(100 * other.evaluate(*test, verbose=0)[1])
        accuracies = [f"{value:.2f}" for value in (dense, genetic, *by_magnitude)]
        rows.append([str(seed), f"{best.sparsity:.4f}", *accuracies, f"{seconds:.0f}"])
        print(f"seed {seed} done", file=sys.stderr)
    header = ["seed", "sparsity", "dense %", "genetic %", "magnitude %", "as many steps %", "seconds"]
    print("\n".join(text_table(header, rows)))


if __name__ == "__main__":
    app.run(main)
