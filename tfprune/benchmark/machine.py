"""What a measurement was made on."""

import importlib.metadata
import platform
from pathlib import Path
from typing import Any

from tfprune.benchmark.loaders import available_threads

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
        "processor": _processor(),
        "architecture": platform.machine(),
        "system": platform.system(),
        "cores": available_threads(),
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


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
