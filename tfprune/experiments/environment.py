"""What has to be set before Keras builds anything: seeds, precision, who owns the accelerator."""

import contextlib
import os
from collections.abc import Iterator

import keras
import tensorflow as tf

from tfprune.errors import UserError
from tfprune.quiet import native_stderr_captured
from tfprune.runs.config import ExperimentConfig

_POLICIES = {"none": "float32", "float16": "mixed_float16", "bfloat16": "mixed_bfloat16"}


def check_engine(config: ExperimentConfig) -> None:
    """Checks that the pruning engine works on the backend; what it made does on each.

    Raises:
        UserError: If it does not.
    """
    backend = keras.backend.backend()
    if config.pruning_engine == "tfmot" and backend != "tensorflow":
        raise UserError(
            f"--pruning_engine=tfmot: must be tfprune with KERAS_BACKEND={backend}; tfmot needs "
            "KERAS_BACKEND=tensorflow"
        )


def keep_data_off_accelerator() -> None:
    """Hides the accelerator that another backend uses from tf.data; to be called before any data is read."""
    if keras.backend.backend() != "tensorflow":
        tf.config.set_visible_devices([], "GPU")


def prepare_backend(config: ExperimentConfig) -> None:
    """Sets the seed and the precision; keeps tf.data off the accelerator that another backend uses."""
    keep_data_off_accelerator()
    keras.utils.set_random_seed(config.seed)
    keras.config.set_dtype_policy(_POLICIES[config.mixed_precision])


@contextlib.contextmanager
def legacy_keras_kept_apart() -> Iterator[None]:
    """For the imports of tf-keras (Keras 2) and of tfmot, lest the rest of the process notice them.

    tfmot sets `TF_USE_LEGACY_KERAS=1` when it is imported, with which `tf.keras` would be Keras 2 from then
    on, here and in every process started from here. TensorFlow's start-up notes are dropped too.
    """
    name = "TF_USE_LEGACY_KERAS"
    before = os.environ.get(name)
    tf.keras.version()  # TensorFlow decides once, at the first use, which Keras this is.
    try:
        with native_stderr_captured():
            yield
    finally:
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before
