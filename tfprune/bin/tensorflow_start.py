"""Loads Keras and TensorFlow without their start-up notes, which would hide what a binary prints."""

import os

from tfprune.extras import extra
from tfprune.quiet import native_stderr_captured


def start_tensorflow() -> None:
    """Loads Keras and TensorFlow, before anything else does: it takes seconds.

    Raises:
        UserError: One of them, or the backend of Keras, cannot be had.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with native_stderr_captured(), extra("experiments"):
        import tfprune.backend  # noqa: F401, I001  (says more than TensorFlow, which loads Keras, too)
        import tensorflow as tf

        tf.config.list_physical_devices()  # Looking for devices has notes of its own.
