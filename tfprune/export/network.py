"""The network as it is exported: float32, uncompiled, one uint8 image input, one logits output."""

import os
from collections.abc import Callable

import keras
import numpy as np

from tfprune.compiler.compile import compile_model
from tfprune.errors import UserError
from tfprune.extras import extra
from tfprune.network.graph import calls
from tfprune.runtime.graph import Graph

# Large enough to amortise a call, small enough for 224 x 224 activations.
BATCH_SIZE = 32


class Network:
    """A network with its masks, and the two forms of it that files are made from, each made once.

    Args:
        model: The network, as `deployable_copy` returns it.
        masks: Path of a layer (see `layers_by_path`) to the mask of its kernel: 0 for a removed weight, 1 for
            a kept one, in the kernel's shape.
        work: A folder for the network's SavedModel.

    Attributes:
        kernels: Path of a layer to the weight that its mask belongs to.
        weights_bytes: The bytes of all weights, trainable or not, as they are in memory.

    Raises:
        ValueError: A mask names no layer, fits no weight of the layer, or holds other values.
    """

    def __init__(self, model: keras.Model, masks: dict[str, np.ndarray], work: str) -> None:
        """Finds the masked weights."""
        self.model = model
        self.masks = masks
        self.kernels = masked_kernels(model, masks)
        self.weights_bytes = sum(int(np.asarray(weight).nbytes) for weight in model.weights)
        self._saved_model = os.path.join(work, "network")
        self._graph: Graph | None = None

    def compiled(self) -> Graph:
        """Returns the network as a graph of the sparse runtime.

        Raises:
            UserError: The sparse runtime cannot run a layer.
        """
        if self._graph is None:
            self._graph = compile_model(self.model)
        return self._graph

    def saved_model(self) -> str:
        """Returns the folder of the network's SavedModel."""
        if not os.path.exists(self._saved_model):
            write_saved_model(self.model, self._saved_model)
        return self._saved_model

    def allowed_copies(self) -> dict[str, int]:
        """Returns how many stored tensors may match each masked kernel: 1 in an ordinary network.

        A layer that is called several times may be stored once a call in a TFLite file, with the
        BatchNorm behind each call folded in; layers with equal kernels match each other's tensors.

        Returns:
            Path of a layer to the number of calls of all layers with that kernel.
        """
        layers = layers_by_path(self.model)
        with_kernel = [layer for layer in layers.values() if getattr(layer, "kernel", None) is not None]
        allowed = {}
        for path, kernel in self.kernels.items():
            alike = [
                layer
                for layer in with_kernel
                if layer.kernel is not kernel
                and layer.kernel.shape == kernel.shape
                and np.array_equal(layer.kernel, kernel)
            ]
            allowed[path] = sum(max(1, calls(layer)) for layer in [layers[path], *alike])
        return allowed


def deployable_copy(model: keras.Model) -> keras.Model:
    """Copies a model with its weights into a float32 network without an optimizer.

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
    """Returns the layers of a model, those of nested models as `"nested/layer"`.

    Args:
        model: A functional or Sequential model.

    Returns:
        The layers, keyed by their names joined with `/`; the model's own name is left out.
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


def write_saved_model(model: keras.Model, folder: str) -> None:
    """Writes a SavedModel that holds each weight once.

    Its signature `serving_default` takes `image`, uint8 `[n, height, width, 3]` with any n, and
    returns `{"logits": float32 [n, classes]}`. `tf.saved_model.load(folder).weights` maps
    each weight's name (see `weights_by_name`) to its variable.

    `model.export` tracks the variables along two paths of objects and stores each under both; a
    module with one dictionary of the TensorFlow variables does not. It has to be these and not
    Keras's own variables, which the TFLite converter does not recognise as constants.

    Args:
        model: The network.
        folder: The folder to write.
    """
    with extra("export"):
        import tensorflow as tf

    image_shape = (None, *model.inputs[0].shape[1:])

    @tf.function(input_signature=[tf.TensorSpec(image_shape, tf.uint8, name="image")])
    def serve(image: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"logits": model(image, training=False)}

    module = tf.Module()
    module.weights = {name: weight.value for name, weight in weights_by_name(model).items()}
    module.serve = serve
    tf.saved_model.save(module, folder, signatures={"serving_default": serve})


def keras_run(model: keras.Model) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a network in inference mode as a function of arrays.

    Args:
        model: The network.

    Returns:
        A function from uint8 images `[n, height, width, 3]` to float32 logits `[n, classes]`.
    """
    with extra("export"):
        import tensorflow as tf

    step = tf.function(lambda batch: model(batch, training=False), reduce_retracing=True)
    return lambda images: step(tf.constant(images)).numpy()


def in_batches(run: Callable[[np.ndarray], np.ndarray], images: np.ndarray) -> np.ndarray:
    """Returns the logits of many images, `BATCH_SIZE` images a call.

    Args:
        run: A function from images to logits.
        images: uint8 `[n, height, width, 3]`.

    Returns:
        float32 `[n, classes]`.
    """
    starts = range(0, len(images), BATCH_SIZE)
    return np.concatenate([run(images[start : start + BATCH_SIZE]) for start in starts])


def keras_logits(model: keras.Model, images: np.ndarray) -> np.ndarray:
    """Returns the network's logits in inference mode.

    Args:
        model: The network.
        images: uint8 `[n, height, width, 3]`.

    Returns:
        float32 `[n, classes]`.
    """
    return in_batches(keras_run(model), images)


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
