"""Reads the masked kernels back from each artifact, in Keras's layout."""

import os
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from tfprune import runtime
from tfprune.export.artifacts import Artifact
from tfprune.export.deployable import layers_by_path, masked_kernels, weights_by_name
from tfprune.export.tflite_matching import matching_weights
from tfprune.export.tflite_weights import read_weights
from tfprune.network.graph import calls
from tfprune.runtime.graph import Conv, Node


def stored_kernels(
    artifact: Artifact, folder: str, model: keras.Model, masks: dict[str, np.ndarray]
) -> dict[str, list[np.ndarray]]:
    """Decodes what an artifact stores for each masked kernel.

    Args:
        artifact: Which.
        folder: Where it lies.
        model: The network it was made from.
        masks: As in `masked_kernels`.

    Returns:
        Layer path to the stored copies of its kernel (see `allowed_copies`).
    """
    path = os.path.join(folder, artifact.name)
    if artifact.format == "keras":
        loaded = keras.saving.load_model(path, compile=False)
        return {layer: [np.asarray(kernel)] for layer, kernel in masked_kernels(loaded, masks).items()}
    kernels = masked_kernels(model, masks)
    if artifact.format == "saved_model":
        weights = tf.saved_model.load(path).weights
        names = {id(weight): name for name, weight in weights_by_name(model).items()}
        return {layer: [weights[names[id(kernel)]].numpy()] for layer, kernel in kernels.items()}
    if artifact.format == "sparse":
        nodes = runtime.read_file(path).nodes
        return {layer: _kernels_of(layer, kernel.shape, nodes) for layer, kernel in kernels.items()}
    with open(path, "rb") as file:
        candidates = read_weights(file.read())
    return {layer: matching_weights(np.asarray(kernel), candidates) for layer, kernel in kernels.items()}


def _kernels_of(layer: str, shape: tuple[int, ...], nodes: Sequence[Node]) -> list[np.ndarray]:
    """The kernels of a layer's convolutions; a dense layer's and a depthwise one's have other axes."""
    size = int(np.prod(shape))
    # A separable convolution is two, `layer/depthwise` and `layer/pointwise`.
    own = [
        node.kernel
        for node in nodes
        if isinstance(node, Conv) and (node.name == layer or node.name.startswith(f"{layer}/"))
    ]
    return [np.asarray(kernel).reshape(shape) for kernel in own if kernel.size == size]


def allowed_copies(model: keras.Model, masks: dict[str, np.ndarray]) -> dict[str, int]:
    """Returns how many stored tensors may match each masked kernel: 1 in an ordinary network.

    A layer that is called several times may be stored once a call in a TFLite file, with the
    BatchNorm behind each call folded in; layers with equal kernels match each other's tensors.

    Args:
        model: The network.
        masks: As in `masked_kernels`.

    Returns:
        Layer path to the number of calls of all layers with that kernel.
    """
    layers = layers_by_path(model).values()
    with_kernel = [layer for layer in layers if getattr(layer, "kernel", None) is not None]
    allowed = {}
    for path, kernel in masked_kernels(model, masks).items():
        alike = [
            layer
            for layer in with_kernel
            if layer.kernel is not kernel
            and layer.kernel.shape == kernel.shape
            and np.array_equal(layer.kernel, kernel)
        ]
        own = layers_by_path(model)[path]
        allowed[path] = sum(max(1, calls(layer)) for layer in [own, *alike])
    return allowed


def saved_model_tensor_bytes(folder: str) -> int:
    """Returns the bytes of all tensors in a SavedModel's checkpoint.

    Args:
        folder: The SavedModel.

    Returns:
        The sum over every stored tensor of its size, without the checkpoint's own tables.
    """
    reader = tf.train.load_checkpoint(os.path.join(folder, "variables", "variables"))
    types = reader.get_variable_to_dtype_map()
    return sum(
        int(np.prod(shape)) * types[key].size
        for key, shape in reader.get_variable_to_shape_map().items()
        if types[key] != tf.string
    )
