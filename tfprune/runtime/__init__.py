"""Runs pruned networks fast: a small runtime for `model.tfprune` files, without TensorFlow or Keras."""

from tfprune.extras import extra

with extra("runtime"):  # Of all modules of the package, which Python imports after this one.
    import llvmlite as _llvmlite  # noqa: F401

from tfprune.runtime.ahead.library import compile_library
from tfprune.runtime.errors import FileFormatError, GraphError
from tfprune.runtime.format.file import read_file, write_file
from tfprune.runtime.graph import Graph
from tfprune.runtime.model import Model, load

__all__ = [
    "FileFormatError",
    "Graph",
    "GraphError",
    "Model",
    "compile_library",
    "load",
    "read_file",
    "write_file",
]
