"""Export: a stripped network as `.keras`, SavedModel, TFLite and `model.tfprune`, with an audit of each.

The names are loaded when they are first used: `export_sparse` needs no TensorFlow, and the processes whose
memory the benchmark measures import `tfprune.export.formats` alone.
"""

import importlib
from typing import Any

_MODULES = {
    "AuditError": "audit",
    "export_model": "export",
    "export_sparse": "formats.sparse",
    "format_audit": "audit",
}
__all__ = ["AuditError", "export_model", "export_sparse", "format_audit"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    importlib.import_module("tfprune.backend")  # Before the modules that import Keras.
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
