"""The machine and the backend: what is set before Keras builds anything, and what a result says of them."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from tfprune.machine import available_cores, processor_name
from tfprune.quiet import native_stderr_captured
from tfprune.runs.config import ExperimentConfig

_POLICIES = {"none": "float32", "float16": "mixed_float16", "bfloat16": "mixed_bfloat16"}


def keep_data_off_accelerator() -> None:
    """Hides the accelerator that another backend uses from tf.data; call this before any data is read."""
    if keras.backend.backend() != "tensorflow":
        tf.config.set_visible_devices([], "GPU")


def prepare_backend(config: ExperimentConfig) -> None:
    """Sets the seed and the precision; keeps tf.data off the accelerator that another backend uses."""
    keep_data_off_accelerator()
    keras.utils.set_random_seed(config.seed)
    keras.config.set_dtype_policy(_POLICIES[config.mixed_precision])


@contextlib.contextmanager
def legacy_keras_kept_apart() -> Iterator[None]:
    """Lets tf-keras (Keras 2) and tfmot be imported without a trace in the rest of the process.

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


def hardware() -> dict[str, Any]:
    """Returns what this process runs on.

    Returns:
        `processor`; `cores`, those that this process may use; `memory_gib`, the machine's, None where the
        system does not tell; `devices`, a name for each device that the backend sees: its GPUs or TPUs, or
        else `"cpu"` once, or once for each device that the processor is divided into.
    """
    return {
        "processor": processor_name(),
        "cores": available_cores(),
        "memory_gib": _memory_gib(),
        "devices": _device_names(),
    }


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError, OSError):
        return None


def _device_names() -> list[str]:
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        return [d.device_kind if d.platform != "cpu" else "cpu" for d in jax.devices()]
    if backend == "torch":
        import torch

        if torch.cuda.is_available():
            return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return ["mps"] if torch.backends.mps.is_available() else ["cpu"]
    import tensorflow as tf

    names = [
        tf.config.experimental.get_device_details(device).get("device_name", device.name)
        for device in tf.config.list_physical_devices("GPU")
    ]
    return names or ["cpu"] * len(tf.config.list_logical_devices("CPU"))
