"""A pruned Keras model as a file for the sparse runtime."""

import os

import keras

from tfprune.compiler.compile import compile_model
from tfprune.compiler.paths import choose_paths
from tfprune.runtime import write_file


def export_sparse(model: keras.Model, path: str | os.PathLike[str], weights: str = "float16") -> None:
    """Writes a network as a `model.tfprune`, for `tfprune.runtime.load`.

    Each convolution is measured on this machine on its sparse and on its dense path, and the faster is
    written into the file, with both times.

    Example:

    ```python
    export_sparse(tfprune.sparsity.strip_pruning(model), "model.tfprune")
    ```

    Args:
        model: A built functional or Sequential model without pruning wrappers, with one input of images
            `[n, height, width, channels]` of a fixed size, and one output `[n, classes]`.
        path: The file; replaced if it exists.
        weights: `"float16"` or `"float32"`: how kernels are stored. Computed is in float32 either way.

    Raises:
        UserError: The runtime cannot run a layer; the message names it.
        ValueError: `weights` is neither.
    """
    write_file(choose_paths(compile_model(model)), path, weights)
