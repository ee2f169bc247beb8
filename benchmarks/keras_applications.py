"""Compiles each network of `keras.applications` for the sparse runtime, and compares it with Keras.

Prints a table: for each network the number of the graph's nodes, the seconds of compilation and the largest
difference of the outputs for a few random images, as a share of the largest output. Weights are random, with
statistics of BatchNorm of their own, and images small: nothing is downloaded.

    python benchmarks/keras_applications.py --image_size=96
"""

import inspect
import time

import keras
import numpy as np
from absl import app, flags

from tfprune import runtime
from tfprune.compiler.compile import compile_model
from tfprune.text import text_table

IMAGE_SIZE = flags.DEFINE_integer("image_size", 96, "Height and width of the images.", lower_bound=75)
IMAGES = flags.DEFINE_integer("images", 2, "Images to compare on.", lower_bound=1)
ONLY = flags.DEFINE_string("only", "", "Networks whose names hold this text; empty: all.")


def networks() -> dict:
    """Returns the functions that build a network, by name."""
    found = {
        name: build
        for name, build in vars(keras.applications).items()
        if inspect.isfunction(build) and "classifier_activation" in inspect.signature(build).parameters
    }
    return {name: build for name, build in sorted(found.items()) if ONLY.value.lower() in name.lower()}


def with_statistics(model: keras.Model) -> keras.Model:
    """Gives each BatchNorm statistics and a scale of its own, so that none can be left out unseen."""
    rng = np.random.default_rng(0)
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            shape = layer.moving_mean.shape
            layer.moving_mean.assign(rng.normal(0, 0.1, shape))
            layer.moving_variance.assign(rng.uniform(0.5, 1.5, shape))
    return model


def compare(build) -> tuple[str, ...]:  # noqa: ANN001
    """Compiles a network and runs it in Keras and in the runtime; returns a row of the table."""
    size = IMAGE_SIZE.value
    keras.utils.set_random_seed(0)
    keras.backend.clear_session()
    model = with_statistics(
        build(weights=None, input_shape=(size, size, 3), classes=10, classifier_activation=None)
    )
    images = np.random.default_rng(1).uniform(0, 255, (IMAGES.value, size, size, 3)).astype(np.float32)
    expected = keras.ops.convert_to_numpy(model(images, training=False))
    before = time.perf_counter()
    graph = compile_model(model)
    seconds = time.perf_counter() - before
    found = runtime.Model(graph)(images)
    difference = np.abs(found - expected).max() / np.abs(expected).max()
    return str(len(graph.nodes)), f"{seconds:.1f}", f"{difference:.1e}"


def main(_: list[str]) -> None:
    """Prints the table, line by line as it is measured."""
    rows = []
    for name, build in networks().items():
        rows.append((name, *compare(build)))
        print(*rows[-1], flush=True)
    print("\n".join(text_table(("network", "nodes", "seconds", "difference"), rows)))


if __name__ == "__main__":
    app.run(main)
