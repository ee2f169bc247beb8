"""The network as it is exported: float32, uncompiled, one uint8 image input, one logits output."""

import keras
import numpy as np

from tfprune.errors import UserError


def deployable_copy(model: keras.Model) -> keras.Model:
    """Copies `model` with its weights into a float32 network without an optimizer.

    A network trained in mixed precision computes in float16 or bfloat16; its weights are float32,
    and so is what is exported. An optimizer would triple the size of the `.keras` file.

    Args:
        model: A stripped functional or Sequential model: one uint8 input `[n, height, width, 3]`,
            one output `[n, classes]`, and no pruning wrappers.

    Returns:
        A functional model with the same layers, names and weights.

    Raises:
        UserError: The backend is not TensorFlow.
        ValueError: The model has another input or output.
    """
    if keras.backend.backend() != "tensorflow":
        raise UserError(
            "export works on the TensorFlow backend only: set KERAS_BACKEND=tensorflow."
            f" Received: KERAS_BACKEND={keras.backend.backend()}"
        )
    _check_signature(model)
    copy = keras.models.clone_model(model, clone_function=_clone_in_float32, recursive=True)
    copy.set_weights(model.get_weights())
    # `clone_model` compiles the copy as the original was; a model over its tensors is not compiled.
    return keras.Model(copy.inputs[0], copy.outputs[0], name=model.name)


def layers_by_path(model: keras.Model) -> dict[str, keras.Layer]:
    """Lists the layers below `model`, those of nested models as `"nested/layer"`.

    Args:
        model: A functional or Sequential model.

    Returns:
        The layers, keyed by their names joined with `/`; `model`'s own name is left out.
    """
    found = {}
    for layer in model.layers:
        found[layer.name] = layer
        if isinstance(layer, keras.Model):
            inner = layers_by_path(layer)
            found |= {f"{layer.name}/{path}": inner_layer for path, inner_layer in inner.items()}
    return found


def masked_kernels(model: keras.Model, masks: dict[str, np.ndarray]) -> dict[str, keras.Variable]:
    """Finds the weight that each mask belongs to.

    Args:
        model: The network.
        masks: Layer path (see `layers_by_path`) to the mask of its kernel: 0 for a removed weight,
            1 for a kept one, in the kernel's shape.

    Returns:
        Layer path to the weight.

    Raises:
        ValueError: A mask names no layer, fits no weight of it, or holds other values.
    """
    layers = layers_by_path(model)
    kernels = {}
    for path, mask in masks.items():
        if path not in layers:
            raise ValueError(
                f"`masks` must be keyed by the model's layers: {sorted(layers)}. Received: {path!r}"
            )
        if not np.isin(mask, (0, 1)).all():
            raise ValueError(f"a mask must hold only 0 and 1. Received: another value for {path!r}")
        kernels[path] = _weight_of_shape(layers[path], path, tuple(np.shape(mask)))
    return kernels


def weights_by_name(model: keras.Model) -> dict[str, keras.Variable]:
    """Names each weight of a network once, in the order of `model.weights`.

    The name is the weight's Keras path. A nested model's layer may have the same path as one
    outside it; the later one gets `_1`, `_2`, ... appended.

    Args:
        model: The network.

    Returns:
        Name to weight.
    """
    found: dict[str, keras.Variable] = {}
    for weight in model.weights:
        name, number = weight.path, 0
        while name in found:
            number += 1
            name = f"{weight.path}_{number}"
        found[name] = weight
    return found


def _weight_of_shape(layer: keras.Layer, path: str, shape: tuple[int, ...]) -> keras.Variable:
    kernel = getattr(layer, "kernel", None)
    if kernel is not None and tuple(kernel.shape) == shape:
        return kernel
    fitting = [weight for weight in layer.weights if tuple(weight.shape) == shape]
    if len(fitting) != 1:
        shapes = {weight.name: tuple(weight.shape) for weight in layer.weights}
        raise ValueError(
            f"the mask of {path!r} must have the shape of exactly one weight of the layer:"
            f" {shapes}. Received: {shape}"
        )
    return fitting[0]


def _clone_in_float32(layer: keras.Layer) -> keras.Layer:
    config = layer.get_config()
    if "dtype" in config:
        config["dtype"] = "float32"
    return layer.__class__.from_config(config)


def _check_signature(model: keras.Model) -> None:
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise ValueError(
            "an exported model must have one input and one output."
            f" Received: {len(model.inputs)} inputs, {len(model.outputs)} outputs"
        )
    image, logits = model.inputs[0], model.outputs[0]
    if image.dtype != "uint8" or len(image.shape) != 4 or image.shape[-1] != 3:
        raise ValueError(
            "an exported model must take uint8 images [n, height, width, 3]."
            f" Received: {image.dtype} {tuple(image.shape)}"
        )
    if len(logits.shape) != 2:
        raise ValueError(
            f"an exported model must return logits [n, classes]. Received: {tuple(logits.shape)}"
        )
