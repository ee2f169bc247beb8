"""The masks of time steps that Keras keeps beside tensors, while it calls the layers of a model.

Keras hands a mask on in two ways, and both are followed here. A layer with an argument `mask` that is called
on a single tensor has the symbolic mask among its arguments in the model's graph. All others look in the call
for what was attached to the tensors themselves; such a mask goes with the Python object, which a layer that
does nothing at inference returns as it is.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from tfprune.network.kinds import builtin_layer

# Layers that change nothing at inference, and return the tensor itself.
RETURN_THEIR_INPUT = (
    "ActivityRegularization",
    "AlphaDropout",
    "Dropout",
    "GaussianDropout",
    "GaussianNoise",
    "Identity",
    "SpatialDropout1D",
    "SpatialDropout2D",
)
_LOOK_AT_INPUTS = ("Maximum", "Minimum", "Multiply")
# Since these versions attention of several heads takes the masks off the tensors that it is called with, and
# what a `Softmax` makes is zero where its mask is.
_TAKES_MASKS_OFF = (3, 8)
_ZERO_BEHIND_SOFTMAX = (3, 10)


class Later:
    """A mask that is made when it is needed.

    Args:
        make: Makes it.
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._made: Any = None

    def value(self) -> Any:
        """Returns the mask, the same each time."""
        if self._made is None:
            self._made = self._make()
        return self._made


@dataclass(frozen=True)
class Given:
    """The arguments of a call of a layer, its masks apart.

    Attributes:
        arguments: The positional arguments without masks.
        named: The named arguments without masks and `training`.
        masks: Name of each argument that is a mask -> the mask, or a structure like that of the tensors, with
            None where there is none; those that were named in the call, and those that Keras finds. Of
            layers that look at their inputs' masks without such an argument, `"mask"` has these.
        previous: The mask of the first argument, likewise, which a layer makes that of its outputs from.
    """

    arguments: tuple[Any, ...]
    named: dict[str, Any]
    masks: dict[str, Any]
    previous: Any

    @property
    def any_mask(self) -> bool:
        """Returns whether there is a mask."""
        return any(mask is not None for mask in keras.tree.flatten(self.masks))


class Masks:
    """The masks that are attached to values, which stand for tensors.

    Args:
        is_tensor: Returns whether an argument stands for a tensor.
    """

    def __init__(self, is_tensor: Callable[[Any], bool]) -> None:
        self._is_tensor = is_tensor
        # id of a value -> the value, so that no other gets its id, and its mask.
        self._masks: dict[int, tuple[Any, Any]] = {}

    def of(self, value: Any) -> Any:
        """Returns the mask of a value; None where there is none."""
        return self._masks.get(id(value), (None, None))[1]

    def attach(self, value: Any, mask: Any) -> None:
        """Attaches a mask to a value; None takes it off."""
        self._masks[id(value)] = (value, mask)

    def given(self, layer: keras.layers.Layer, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Given:
        """Returns the arguments of a call, with the masks that Keras's `Layer.__call__` finds.

        Args:
            layer: The layer.
            args: The positional arguments of the call, with values in place of tensors.
            kwargs: The named ones.
        """
        signature = inspect.signature(layer.call)
        # Whoever runs a model may say `training` to each layer.
        known = {name: one for name, one in kwargs.items() if name != "training"}
        named = signature.bind(*args, **known).arguments
        tensors = {name: argument for name, argument in named.items() if self._has_tensors(argument)}
        first = next(iter(named.values()), None)
        masks = {name: None for name in signature.parameters if _is_mask(name)}
        masks |= {name: argument for name, argument in named.items() if name in masks}
        wanted = {"mask": next(iter(tensors.values()))} if len(tensors) == 1 else {}
        if len(tensors) > 1:
            wanted = {f"{name}_mask": argument for name, argument in tensors.items()}
        for name, argument in wanted.items():
            if name in masks and masks[name] is None:
                masks[name] = keras.tree.map_structure(self.of, argument)
        previous = masks.get("mask")
        if previous is None:
            previous = keras.tree.map_structure(self.of, first)
        if _takes_masks_off(layer):
            masks["query_mask"] = self.of(named["query"])
            for name in ("query", "value", "key"):
                if self._is_tensor(named.get(name)):
                    self.attach(named[name], None)
        if builtin_layer(layer) in _LOOK_AT_INPUTS:
            masks["mask"] = previous
        positional = list(signature.parameters)[: len(args)]
        return Given(
            tuple(argument for argument, name in zip(args, positional, strict=False) if name not in masks),
            {name: argument for name, argument in known.items() if name not in masks},
            masks,
            previous,
        )

    def hand_on(self, layer: keras.layers.Layer, outputs: Sequence[Any], compute: Callable[[], Any]) -> None:
        """Attaches the masks of a layer's outputs, as Keras does behind the call.

        Args:
            layer: The layer.
            outputs: Its outputs.
            compute: Returns what `compute_mask` of the layer would, a mask or a structure of some.
        """
        if not layer.supports_masking or all(self.of(output) is not None for output in outputs):
            return
        # Perhaps fewer masks than outputs, whose others have none.
        for output, mask in zip(outputs, keras.tree.flatten(compute()), strict=False):
            if mask is not None and self.of(output) is None:
                self.attach(output, mask)

    def _has_tensors(self, argument: Any) -> bool:
        leaves = keras.tree.flatten(argument)
        return any(map(self._is_tensor, leaves)) and all(
            leaf is None or self._is_tensor(leaf) for leaf in leaves
        )


def returns_its_input(layer: Any) -> bool:
    """Returns whether a layer, called at inference, returns the tensor itself that it is called with."""
    name = builtin_layer(layer)
    linear = name == "Activation" and layer.activation is keras.activations.linear
    return name in RETURN_THEIR_INPUT or linear


def layer_of_mask(layer: keras.layers.Layer) -> keras.layers.Layer:
    """Returns the layer that makes the mask of a layer's output: itself, or one inside that makes it all."""
    return layer.layer if builtin_layer(layer) == "SpectralNormalization" else layer


def has_default_mask(layer: keras.layers.Layer) -> bool:
    """Returns whether the mask of a layer's output, if it has one, is that of its input."""
    return type(layer).compute_mask is keras.layers.Layer.compute_mask


def shown_when_masked(layer: keras.layers.RNN) -> str:
    """Names the output of a recurrent layer in a step that is masked.

    Returns:
        `"zeros"`; `"before"`: what it showed a step before, which is zeros before the first; or `"state"`:
        the same, but the first state before the first.
    """
    on_jax = keras.backend.backend() == "jax"
    # The unrolled loop of JAX does not ask for zeros.
    if layer.zero_output_for_mask and not (on_jax and layer.unroll):
        return "zeros"
    return "state" if on_jax and not layer.unroll else "before"


def is_zero_behind_softmax() -> bool:
    """Returns whether Keras's `Softmax` gives zeros where all numbers are masked, and not the same to all."""
    return _version() >= _ZERO_BEHIND_SOFTMAX


def attaches_mask(layer: keras.layers.Layer) -> bool:
    """Returns whether a layer makes a mask, without one of its input."""
    return builtin_layer(layer) == "Masking" or getattr(layer, "mask_zero", False) is True


def _is_mask(name: str) -> bool:
    return (name == "mask" or name.endswith("_mask")) and name != "use_causal_mask"


def _takes_masks_off(layer: keras.layers.Layer) -> bool:
    return builtin_layer(layer) == "MultiHeadAttention" and _version() >= _TAKES_MASKS_OFF


def _version() -> tuple[int, ...]:
    return tuple(int(part) for part in keras.__version__.split(".")[:2])
