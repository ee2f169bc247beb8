"""The ResNet and its optimizer in tf-keras (Keras 2), made from the Keras 3 ones and equal to them."""

import math
import re
from collections.abc import Callable
from typing import Any

import keras

from tfprune import sparsity
from tfprune.experiments.environment import legacy_keras_kept_apart
from tfprune.extras import extra
from tfprune.network.graph import producer
from tfprune.training.optimizer import TorchAdam

with extra("tfmot"):
    import tensorflow as tf

with legacy_keras_kept_apart():
    with extra("tfmot"):
        import tf_keras

# The layers of `tfprune.models.resnet`, and the arguments in which they differ from one another.
_ARGUMENTS: dict[str, tuple[str, ...]] = {
    "Normalization": ("mean", "variance"),
    "Conv2D": ("filters", "kernel_size", "strides", "padding", "use_bias"),
    "BatchNormalization": ("momentum", "epsilon"),
    "ReLU": (),
    "ZeroPadding2D": ("padding",),
    "MaxPooling2D": ("pool_size", "strides", "padding"),
    "Add": (),
    "GlobalAveragePooling2D": (),
    "Dense": ("units",),
}
# tf-keras's fused kernel keeps the unbiased variance; Keras 3 the biased one, as does this.
_EXTRA = {"BatchNormalization": {"fused": False}}


def build_twin(model: keras.Model, wrap: Callable[[tf_keras.layers.Layer], Any]) -> tf_keras.Model:
    """Rebuilds a functional Keras 3 ResNet in tf-keras, with the same layer names and new weights.

    Args:
        model: A `tfprune.models.build_resnet`, with or without pruning wrappers.
        wrap: Called with the twin of each layer that a `PruneLowMagnitude` wraps; returns what to put in
            its place.

    Raises:
        ValueError: On a layer of a class that the ResNets do not have.
    """
    tensors: dict[str, Any] = {}
    inputs = None
    for description in model.get_config()["layers"]:
        layer = model.get_layer(description["name"])
        if isinstance(layer, keras.layers.InputLayer):
            inputs = tf_keras.Input(layer.batch_shape[1:], dtype=layer.dtype, name=layer.name)
            tensors[layer.name] = inputs
            continue
        (node,) = description["inbound_nodes"]
        sources = [tensors[name] for name in _source_names(node["args"])]
        pruned = isinstance(layer, sparsity.PruneLowMagnitude)
        twin = wrap(_twin_layer(layer.layer)) if pruned else _twin_layer(layer)
        tensors[layer.name] = twin(sources if len(sources) > 1 else sources[0])
    (output,) = model.outputs
    return tf_keras.Model(inputs, tensors[producer(output).name], name=model.name)


def _source_names(arguments: Any) -> list[str]:
    """Returns the names of the layers whose outputs a node takes, from a node of a model's config."""
    if isinstance(arguments, dict):
        return [arguments["config"]["keras_history"][0]]
    return [name for part in arguments for name in _source_names(part)]


def _twin_layer(layer: keras.layers.Layer) -> tf_keras.layers.Layer:
    kind = type(layer).__name__
    if kind not in _ARGUMENTS:
        raise ValueError(
            f"`model` must have layers of the classes {', '.join(_ARGUMENTS)} alone. "
            f"Received: layer {layer.name!r} of class {kind}"
        )
    config = layer.get_config()
    arguments = {name: config[name] for name in _ARGUMENTS[kind]}
    return getattr(tf_keras.layers, kind)(name=layer.name, **arguments, **_EXTRA.get(kind, {}))


class TwinTorchAdam(tf_keras.optimizers.Adam):
    """`tfprune.training.optimizer.TorchAdam`, whose docstring has the formula, for tf-keras.

    Args:
        optimizer: The Keras 3 optimizer, whose numbers are taken, but not the state.
    """

    def __init__(self, optimizer: TorchAdam) -> None:
        config = optimizer.get_config()
        super().__init__(
            config["learning_rate"],
            beta_1=config["beta_1"],
            beta_2=config["beta_2"],
            epsilon=config["epsilon"],
            name="torch_adam",
        )
        # The base class's `weight_decay` is the decoupled one: it stays unset.
        self._l2 = config["weight_decay"]
        self._multipliers = tuple(config["learning_rate_multipliers"].items())

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable) -> None:
        """Updates one variable."""
        index = self._index_dict[self._var_key(variable)]
        m, v = self._momentums[index], self._velocities[index]
        step = tf.cast(self.iterations + 1, tf.float32)
        step_size = self.learning_rate * self._multiplier(variable) / _bias_correction(self.beta_1, step)
        gradient = gradient + self._l2 * variable
        m.assign_add((gradient - m) * (1 - self.beta_1))
        v.assign_add((tf.square(gradient) - v) * (1 - self.beta_2))
        root = tf.sqrt(v) / tf.sqrt(_bias_correction(self.beta_2, step))
        variable.assign_sub(m * step_size / (root + self.epsilon))

    def _multiplier(self, variable: tf.Variable) -> float:
        path = variable.name.removesuffix(":0")
        return next((factor for rule, factor in self._multipliers if re.fullmatch(rule, path)), 1.0)


def _bias_correction(beta: float, step: tf.Tensor) -> tf.Tensor:
    """Returns `1 - beta**step` to float32's full precision."""
    return -tf.math.expm1(step * (math.log(beta) if beta else -math.inf))
