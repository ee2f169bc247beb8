"""Compiles each network of `keras.applications` for the sparse runtime, and compares it with Keras.

Prints a table: for each network its weights, the number of the graph's nodes, the seconds of compilation,
the largest difference of the outputs for a few random images, as a share of the largest output, and, to
compare it with, that of Keras's own outputs for the next larger float32 of each pixel. Weights are random,
with statistics of BatchNorm of their own, and images small: nothing is downloaded.

    python benchmarks/keras_applications.py --image_size=96
"""

import inspect
import multiprocessing
import time

import keras
import numpy as np
from absl import app, flags

from tfprune import runtime
from tfprune.compiler.compile import compile_model
from tfprune.text import text_table

IMAGE_SIZE = flags.DEFINE_integer("image_size", 96, "Height and width of the images.", lower_bound=75)
IMAGES = flags.DEFINE_integer("images", 2, "Images to compare on.", lower_bound=1)
# Of the memory that a network takes some is free only when its process ends.
_NETWORKS_OF_A_PROCESS = 6
ONLY = flags.DEFINE_list("only", "", "Names of networks, separated by commas; empty: all.")


def networks() -> list[str]:
    """Returns the names of the functions that build a network."""
    return sorted(
        name
        for name, build in vars(keras.applications).items()
        if inspect.isfunction(build) and "classifier_activation" in inspect.signature(build).parameters
    )


def with_statistics(model: keras.Model, images: np.ndarray) -> keras.Model:
    """Gives each BatchNorm a scale and a shift of its own, and the statistics of the images.

    With statistics of no images values grow from layer to layer, and with them what rounding makes of them.
    """
    rng = np.random.default_rng(0)
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
            if layer.scale:
                layer.gamma.assign(rng.uniform(0.1, 0.3, layer.gamma.shape))
            if layer.center:
                spread = 0.2 if layer.scale else 1.0
                layer.beta.assign(rng.normal(0, spread, layer.beta.shape))
    model(images, training=True)
    return model


def largest_difference(found: np.ndarray, expected: np.ndarray) -> str:
    """Returns the largest difference as a share of the largest number."""
    return f"{np.abs(found - expected).max() / np.abs(expected).max():.1e}"


def compare(name: str, size: int, count: int) -> tuple[str, ...]:
    """Compiles a network and runs it in Keras and in the runtime; returns a row of the table.

    Args:
        name: The function of `keras.applications`.
        size: Height and width of the images.
        count: How many images.
    """
    keras.backend.clear_session()
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(1)
    shape = (size, size, 3)
    build = getattr(keras.applications, name)
    model = build(weights=None, input_shape=shape, classes=10, classifier_activation=None)
    model = with_statistics(model, rng.uniform(0, 255, (4, *shape)).astype(np.float32))
    images = rng.uniform(0, 255, (count, *shape)).astype(np.float32)
    expected, rounded = (
        keras.ops.convert_to_numpy(model(pixels, training=False))
        for pixels in (images, np.nextafter(images, np.float32(np.inf)))
    )
    weights = model.count_params()
    before = time.perf_counter()
    graph = compile_model(model)
    seconds = time.perf_counter() - before
    del model
    found = runtime.Model(graph)(images)
    return (
        name,
        f"{weights / 1e6:.1f} M",
        str(len(graph.nodes)),
        f"{seconds:.1f}",
        largest_difference(found, expected),
        largest_difference(rounded, expected),
    )


def main(_: list[str]) -> None:
    """Prints the table, line by line as it is measured."""
    rows = []
    pool = multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=_NETWORKS_OF_A_PROCESS)
    for name in [name for name in networks() if name in ONLY.value or not ONLY.value]:
        rows.append(pool.apply(compare, (name, IMAGE_SIZE.value, IMAGES.value)))
        print(*rows[-1], flush=True)
    pool.terminate()
    print(
        "\n".join(
            text_table(("network", "weights", "nodes", "seconds", "difference", "of rounded pixels"), rows)
        )
    )


if __name__ == "__main__":
    app.run(main)
