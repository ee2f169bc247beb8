"""Pruning policies: the choice of layers for a purpose, and the models that are fit for it."""

import abc
from collections.abc import Callable, Iterable
from typing import Any

import keras
from keras import layers

from tfprune.network.graph import Graph, functional
from tfprune.network.wrapping import unwrapped


class PruningPolicy(abc.ABC):
    """Decides for `prune_low_magnitude` which layers of a model are wrapped.

    ```python
    class OnlyConvolutions(PruningPolicy):
        def allow_pruning(self, layer):
            return isinstance(layer, keras.layers.Conv2D)

        def ensure_model_supports_pruning(self, model):
            pass

    model = prune_low_magnitude(model, schedule, pruning_policy=OnlyConvolutions())
    ```

    The methods are those of `tfmot.sparsity.keras.PruningPolicy`.
    """

    @abc.abstractmethod
    def allow_pruning(self, layer: keras.layers.Layer) -> bool:
        """Returns whether `layer` may be pruned."""

    @abc.abstractmethod
    def ensure_model_supports_pruning(self, model: keras.Model) -> None:
        """Checks that the whole model is fit for the policy's purpose.

        Raises:
            ValueError: If it is not; the message says why.
        """


_ADVICE = (
    "No network of `keras.applications` follows the rules of `PruneForLatencyOnXNNPack` as it is: build one "
    "by the rules in its docstring; or leave the policy out and select the layers by "
    "`layers=PruneForLatencyOnXNNPack().allow_pruning`, which makes the network smaller, not faster."
)


class PruneForLatencyOnXNNPack(PruningPolicy):
    """Prunes the 1x1 convolutions of image models that XNNPACK can run sparse (arXiv:1911.09723).

    XNNPACK, the CPU delegate of TensorFlow Lite, has sparse kernels for 1x1 convolutions. It uses them in a
    part of the model that begins with a 3x3 convolution, ends with global average pooling, and holds only
    layers in between that can work in the sparse kernels' layout. The model must have:

    - on every path from its inputs, a `Conv2D` of kernel 3x3, stride 2, 3 input channels and padding
      "valid" behind a `ZeroPadding2D` by 1 on each side;
    - on every path to its outputs, a `GlobalAveragePooling2D`;
    - between them only: `Conv2D` 1x1 (stride 1, no groups, no dilation); `DepthwiseConv2D` 3x3 or 5x5
      (depth multiplier 1, no dilation) with padding "same" and stride 1, or with padding "valid" and stride 1
      or 2 behind a `ZeroPadding2D` by 1 (3x3) or 2 (5x5) on each side; `BatchNormalization` of the last axis;
      `Add`, `Multiply`, `x + y`, `x - y`, `x * y`; `ReLU`, `LeakyReLU`, `ELU` or an `Activation` "relu",
      "relu6", "leaky_relu", "elu" or "sigmoid"; `ZeroPadding2D`, `Dropout`, `Identity`; `UpSampling2D`
      "bilinear"; `GlobalAveragePooling2D` with `keepdims=True`.

    The rules are those of `tfmot.sparsity.keras.PruneForLatencyOnXNNPack`. In nested functional and
    Sequential models they hold for the layers inside.

    No network of `keras.applications` follows them as it is: their first convolution pads otherwise, and some
    have activations that XNNPACK cannot run sparse. Build one with the layers above. To make any network
    smaller, if not faster there, prune its 1x1 convolutions without the policy, by
    `layers=PruneForLatencyOnXNNPack().allow_pruning`.
    """

    def allow_pruning(self, layer: keras.layers.Layer) -> bool:
        """Returns whether `layer` is a `Conv2D` of kernel 1x1."""
        return isinstance(layer, layers.Conv2D) and layer.kernel_size == (1, 1)

    def ensure_model_supports_pruning(self, model: keras.Model) -> None:
        """Checks that the model follows the rules above.

        Raises:
            ValueError: If the model breaks one, is not built, or is neither functional nor Sequential. The
                message names the layer and the rule.
        """
        if not model.built:
            raise ValueError(f"The model must be built before it can be checked. Received: model={model!r}")
        graph_model = functional(model)
        if graph_model is None:
            raise ValueError(
                "`PruneForLatencyOnXNNPack` needs a functional or Sequential model, whose layers' "
                f"connections are known. Received: model={model!r}"
            )
        graph = Graph(graph_model, unwrapped)

        def is_start(layer: Any) -> bool:
            return _is_start(layer, graph.producers(layer))

        starts, lost = _search(graph.inputs, is_start, graph.consumers)
        if lost is not None:
            raise ValueError(
                "On every path from the inputs there must be a `Conv2D` of kernel 3x3, stride 2, 3 input "
                "channels and padding 'valid' behind a `ZeroPadding2D` by 1 on each side. "
                f"There is none on a path to {_describe(lost)}. {_ADVICE}"
            )
        ends, lost = _search(graph.outputs, _is_end, graph.producers)
        if lost is not None:
            raise ValueError(
                "On every path to the outputs there must be a `GlobalAveragePooling2D`. "
                f"There is none on a path from {_describe(lost)}. {_ADVICE}"
            )

        def is_last(layer: Any) -> bool:
            if layer in ends:
                return True
            broken = _broken_rule(layer, graph.producers(layer))
            if broken:
                raise ValueError(
                    f"XNNPACK cannot run {_describe(layer)} in its sparse part: {broken}. {_ADVICE}"
                )
            return False

        _search([after for start in starts for after in graph.consumers(start)], is_last, graph.consumers)


def _search(
    start: Iterable[Any], found: Callable[[Any], bool], following: Callable[[Any], list[Any]]
) -> tuple[list[Any], Any]:
    """Follows every path from `start` to the first item on it that `found` accepts.

    Returns:
        The items found; and the last item of a path without one, None if there is no such path.
    """
    ends: list[Any] = []
    lost = None
    waiting = list(dict.fromkeys(start))
    seen = set(waiting)
    while waiting:
        layer = waiting.pop()
        if found(layer):
            ends.append(layer)
            continue
        after = following(layer)
        if not after:
            lost = layer
        for item in after:
            if item not in seen:
                seen.add(item)
                waiting.append(item)
    return ends, lost


def _is_start(layer: Any, producers: list[Any]) -> bool:
    return (
        isinstance(layer, layers.Conv2D)
        and tuple(layer.kernel.shape[:3]) == (3, 3, 3)
        and layer.strides == (2, 2)
        and layer.padding == "valid"
        and _padding_before(producers) == 1
    )


def _is_end(layer: Any) -> bool:
    return isinstance(layer, layers.GlobalAveragePooling2D)


_SUPPORTED = (
    layers.Add,
    layers.Multiply,
    layers.ZeroPadding2D,
    layers.ReLU,
    layers.LeakyReLU,
    layers.ELU,
    layers.Dropout,
    layers.Identity,
)
_CONDITIONAL = (
    layers.Conv2D,
    layers.DepthwiseConv2D,
    layers.BatchNormalization,
    layers.Activation,
    layers.UpSampling2D,
    layers.GlobalAveragePooling2D,
)
# `x + y` and its like, and `keras.ops.add`: operations that are no layers.
_SUPPORTED_OPERATIONS = ("Add", "Subtract", "Multiply")
_SUPPORTED_ACTIVATIONS = ("relu", "relu6", "leaky_relu", "elu", "sigmoid")


def _broken_rule(layer: Any, producers: list[Any]) -> str | None:
    """Returns the rule that a layer between start and end breaks, None if it is supported."""
    if isinstance(layer, layers.DepthwiseConv2D):
        holds = _is_supported_depthwise(layer, producers)
        rule = (
            "a `DepthwiseConv2D` must have depth multiplier 1, no dilation, a kernel of 3x3 or 5x5, and "
            "either padding 'same' with stride 1, or padding 'valid' with stride 1 or 2 behind a "
            "`ZeroPadding2D` by 1 (3x3) or 2 (5x5) on each side"
        )
    elif isinstance(layer, layers.Conv2D):
        plain = ((1, 1), (1, 1), (1, 1), 1)
        holds = (layer.kernel_size, layer.strides, layer.dilation_rate, layer.groups) == plain
        rule = "a `Conv2D` must have a kernel of 1x1, stride 1, no dilation and no groups"
    elif isinstance(layer, layers.GlobalAveragePooling2D):
        holds, rule = layer.keepdims, "a `GlobalAveragePooling2D` before the last must have `keepdims=True`"
    elif isinstance(layer, layers.BatchNormalization):
        holds, rule = layer.axis in (3, -1), "a `BatchNormalization` must be of the last axis"
    elif isinstance(layer, layers.UpSampling2D):
        holds, rule = layer.interpolation == "bilinear", "an `UpSampling2D` must be 'bilinear'"
    elif isinstance(layer, layers.Activation):
        holds = layer.activation in [getattr(keras.activations, name) for name in _SUPPORTED_ACTIVATIONS]
        rule = f"an `Activation` must be one of {', '.join(_SUPPORTED_ACTIVATIONS)}"
    elif isinstance(layer, layers.Layer):
        holds = isinstance(layer, _SUPPORTED)
        rule = f"this class is none of {', '.join(cls.__name__ for cls in (*_CONDITIONAL, *_SUPPORTED))}"
    else:
        holds = type(layer).__name__ in _SUPPORTED_OPERATIONS
        rule = f"of the operations that are no layers it can {', '.join(_SUPPORTED_OPERATIONS)} alone"
    return None if holds else rule


def _is_supported_depthwise(layer: layers.DepthwiseConv2D, producers: list[Any]) -> bool:
    margin = {(3, 3): 1, (5, 5): 2}.get(layer.kernel_size)
    if margin is None or layer.depth_multiplier != 1 or layer.dilation_rate != (1, 1):
        return False
    if layer.padding == "same":
        return layer.strides == (1, 1)
    return layer.strides in ((1, 1), (2, 2)) and _padding_before(producers) == margin


def _padding_before(producers: list[Any]) -> int | None:
    """Returns the number of zeros that the one producer adds on each side, None where it adds none."""
    if len(producers) != 1 or not isinstance(producers[0], layers.ZeroPadding2D):
        return None
    (top, bottom), (left, right) = producers[0].padding
    return top if top == bottom == left == right else None


def _describe(layer: Any) -> str:
    return f"layer {layer.name!r} ({type(layer).__name__})"
