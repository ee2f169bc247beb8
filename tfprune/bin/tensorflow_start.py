"""Loads Keras and TensorFlow without their start-up notes, which would hide what a binary prints."""

import os
import sys

from tfprune.extras import MissingExtraError, extra
from tfprune.quiet import native_stderr_captured

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

try:
    with native_stderr_captured(), extra("experiments"):
        import keras  # noqa: F401
        import tensorflow as tf

        tf.config.list_physical_devices()  # Looking for devices has notes of its own.
except MissingExtraError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)
except (ImportError, ValueError) as error:
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    print(
        f"error: KERAS_BACKEND={backend}: must be tensorflow, jax or torch, and installed: {error}",
        file=sys.stderr,
    )
    sys.exit(2)
