r"""Trains a network that is sparse from the start, and whose dense form does not fit in memory.

    python benchmarks/sparse_from_scratch.py
    python benchmarks/sparse_from_scratch.py --width=20000 --sparsity=0.99 --steps=50

Three dense layers: pixels to WIDTH, WIDTH to WIDTH, WIDTH to classes, with relus between and a random part of
the weights. The images are noise about one random prototype for each class. The network is given to the
engine of the sparse trainer as a graph: no Keras model of it could be made. Printed are the bytes that dense
weights, gradients and Adam's slots would take, the peak memory of this process, and seconds and loss of
steps.
"""

import resource
import sys
import time
from pathlib import Path

import numpy as np
from absl import app, flags

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

WIDTH = flags.DEFINE_integer("width", 50_000, "Numbers of a hidden layer.", lower_bound=1)
SPARSITY = flags.DEFINE_float("sparsity", 0.999, "Of the layer between the hidden ones.", 0, 1)
ENDS_SPARSITY = flags.DEFINE_float("ends_sparsity", 0.95, "Of the first and the last layer.", 0, 1)
PIXELS = flags.DEFINE_integer("pixels", 1_000, "Numbers of an image.", lower_bound=1)
CLASSES = flags.DEFINE_integer("classes", 10, "Classes.", lower_bound=2)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Images a step.", lower_bound=1)
STEPS = flags.DEFINE_integer("steps", 20, "Training steps.", lower_bound=1)
LEARNING_RATE = flags.DEFINE_float("learning_rate", 1e-3, "Of Adam.")
NOISE = flags.DEFINE_float("noise", 3.0, "Standard deviation about the prototypes, whose own is 1.")

FLOAT_BYTES = 4


def random_positions(rng: np.random.Generator, size: int, count: int) -> np.ndarray:
    """Returns different numbers below `size`, ascending, without a mask of that size."""
    found = np.zeros(0, np.int64)
    while len(found) < count:
        found = np.unique(np.concatenate([found, rng.integers(0, size, count - len(found) + 1000)]))
    return np.sort(rng.choice(found, count, replace=False))


def network(rng: np.random.Generator):  # noqa: ANN201 (tfprune is imported late, for the figure of memory)
    """Returns the graph, and how many weights and biases the dense network would have."""
    from tfprune.sparse_training.graph import Activation, Conv, Graph, Input, Kernel, Shape, Vector, Window

    pixels, width, classes = PIXELS.value, WIDTH.value, CLASSES.value
    ones, zeros = np.ones(pixels, np.float32), np.zeros(pixels, np.float32)
    nodes = [Input("images", (), Shape(1, 1, pixels), ones, zeros)]
    dense = 0
    layers = ((pixels, width, ENDS_SPARSITY), (width, width, SPARSITY), (width, classes, ENDS_SPARSITY))
    for inputs, outputs, sparsity in layers:
        if len(nodes) > 1:
            nodes.append(Activation(f"relu_{len(nodes)}", (len(nodes) - 1,), "relu"))
        count = max(1, round(inputs * outputs * (1 - sparsity.value)))
        values = rng.normal(size=count).astype(np.float32) * np.float32(np.sqrt(2 * outputs / count))
        kernel = Kernel(
            f"kernel_{len(nodes)}",
            (1, 1, inputs, outputs),
            values,
            random_positions(rng, inputs * outputs, count),
        )
        bias = Vector(f"bias_{len(nodes)}", np.zeros(outputs, np.float32))
        nodes.append(Conv(f"dense_{len(nodes)}", (len(nodes) - 1,), kernel, bias, Window((1, 1))))
        dense += inputs * outputs + outputs
    return Graph(tuple(nodes)), dense


def peak_bytes() -> int:
    """Returns the most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main(_: list[str]) -> None:
    """Trains, and prints a line for each step."""
    from tfprune.sparse_training import optimizers
    from tfprune.sparse_training.engine import Engine

    imported = peak_bytes()
    rng = np.random.default_rng(0)
    graph, dense = network(rng)
    start = time.perf_counter()
    engine = Engine(graph, BATCH_SIZE.value)
    update = optimizers.Update(engine, optimizers.Adam())
    weights = len(engine.values)
    print(f"{weights / 1e6:.2f} M weights of {dense / 1e6:.0f} M ({1 - weights / dense:.4f} sparse)")
    print(f"dense weights, gradients and slots of Adam: {4 * FLOAT_BYTES * dense / 1e9:.1f} GB")
    print(f"engine: {engine.memory_bytes / 1e9:.2f} GB, made in {time.perf_counter() - start:.1f} s")
    prototypes = rng.normal(size=(CLASSES.value, PIXELS.value))
    for step in range(1, STEPS.value + 1):
        labels = rng.integers(0, CLASSES.value, BATCH_SIZE.value)
        noise = rng.normal(size=(BATCH_SIZE.value, PIXELS.value)) * NOISE.value
        images = np.float32(prototypes[labels] + noise)
        start = time.perf_counter()
        logits = engine.forward(images, training=True)
        shares = np.exp(logits - logits.max(1, keepdims=True))
        shares /= shares.sum(1, keepdims=True)
        rows = np.arange(len(labels))
        loss = -np.log(shares[rows, labels]).mean()
        accuracy = (logits.argmax(1) == labels).mean()
        shares[rows, labels] -= 1
        engine.backward(shares / len(labels))
        update.apply(LEARNING_RATE.value, step)
        seconds = time.perf_counter() - start
        print(f"step {step:3}: loss {loss:.4f}, accuracy {accuracy:.2f}, {seconds:.2f} s", flush=True)
    print(f"peak memory: {peak_bytes() / 1e9:.2f} GB, of which {imported / 1e9:.2f} GB were imports")


if __name__ == "__main__":
    app.run(main)
