"""Loads TensorFlow without its start-up notes, which would hide what a binary prints."""

import os

from tfprune.quiet import native_stderr_captured

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

with native_stderr_captured():
    import keras  # noqa: F401
    import tensorflow as tf

    # Looking for devices has notes of its own; the training log says what was found.
    DEVICES = [device.name for device in tf.config.list_physical_devices()]
