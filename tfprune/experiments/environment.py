"""What has to be set before Keras builds anything: seeds, precision, who owns the accelerator."""

import keras
import tensorflow as tf

from tfprune.experiments.config import ExperimentConfig

_POLICIES = {"none": "float32", "float16": "mixed_float16", "bfloat16": "mixed_bfloat16"}


def prepare_backend(config: ExperimentConfig) -> None:
    """Sets the seed and the precision; keeps tf.data off the accelerator that another backend uses."""
    if keras.backend.backend() != "tensorflow":
        tf.config.set_visible_devices([], "GPU")
    keras.utils.set_random_seed(config.seed)
    keras.config.set_dtype_policy(_POLICIES[config.mixed_precision])
