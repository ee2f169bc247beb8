"""What a measurement was made on."""

import importlib.metadata
import platform
from typing import Any

from tfprune.machine import available_cores, processor_name

_PACKAGES = (
    "tfprune",
    "numpy",
    "llvmlite",
    "tensorflow",
    "ai-edge-litert",
    "onnx",
    "onnxruntime",
    "torch",
    "MNN",
)


def describe_machine() -> dict[str, Any]:
    """Returns `processor`, `architecture`, `system`, and the `cores` that this process may use."""
    return {
        "processor": processor_name(),
        "architecture": platform.machine(),
        "system": platform.system(),
        "cores": available_cores(),
    }


def installed_versions() -> dict[str, str]:
    """Returns the versions of the runtimes that are installed, and of Python."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
