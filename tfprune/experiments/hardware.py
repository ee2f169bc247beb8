"""What an experiment ran on, for its result."""

import os
from typing import Any

import keras

from tfprune.machine import available_cores, processor_name


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
