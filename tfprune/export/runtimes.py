"""Runs each artifact the way its users do: the reloaded file, in its own runtime."""

import os
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from tfprune import runtime
from tfprune.export.artifacts import Artifact

# Large enough to amortise a call, small enough for 224 x 224 activations.
BATCH_SIZE = 32


def keras_logits(model: keras.Model, images: np.ndarray) -> np.ndarray:
    """Returns the network's logits in inference mode.

    Args:
        model: The network.
        images: uint8 `[n, height, width, 3]`.

    Returns:
        float32 `[n, classes]`.
    """
    step = tf.function(lambda batch: model(batch, training=False), reduce_retracing=True)
    return _in_batches(lambda batch: step(tf.constant(batch)).numpy(), images)


def artifact_logits(artifact: Artifact, folder: str, images: np.ndarray) -> np.ndarray:
    """Loads an artifact with its own runtime and returns its logits.

    Args:
        artifact: Which: `.keras` files run in Keras, a SavedModel through its serving signature,
            TFLite files in LiteRT's interpreter with its default delegate, `model.tfprune` in
            `tfprune.runtime`.
        folder: Where it lies.
        images: uint8 `[n, height, width, 3]`.

    Returns:
        float32 `[n, classes]`.
    """
    path = os.path.join(folder, artifact.name)
    if artifact.format == "keras":
        return keras_logits(keras.saving.load_model(path, compile=False), images)
    if artifact.format == "saved_model":
        loaded = tf.saved_model.load(path)
        signature = loaded.signatures["serving_default"]
        return _in_batches(lambda batch: signature(image=tf.constant(batch))["logits"].numpy(), images)
    if artifact.format == "sparse":
        return _in_batches(runtime.load(path), images)
    interpreter = Interpreter(path, num_threads=os.cpu_count())
    runner = interpreter.get_signature_runner("serving_default")
    return _in_batches(lambda batch: runner(image=batch)["logits"].copy(), images)


def _in_batches(run: Callable[[np.ndarray], np.ndarray], images: np.ndarray) -> np.ndarray:
    starts = range(0, len(images), BATCH_SIZE)
    return np.concatenate([run(images[start : start + BATCH_SIZE]) for start in starts])
