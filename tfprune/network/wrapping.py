"""Layers around another layer, whose place in a model they take: those of pruning."""

from typing import Any

import keras

from tfprune.network.graph import walk


class Wrapping(keras.layers.Wrapper):
    """The base class of layers that do what the layer inside does, and more.

    Whoever takes a model apart asks for no more than this of them.
    """

    @property
    def in_fit(self) -> bool:
        """Whether a `fit` is under way, in which the model's variables may lag behind."""
        return False

    @property
    def learns(self) -> bool:
        """Whether what the layer adds is still learned, by variables of its own."""
        return False

    @property
    def learned_variables(self) -> list[keras.Variable]:
        """Returns the variables by which that is learned; they are in no layer that `around` returns."""
        return []

    def around(self, layer: keras.layers.Layer) -> "Wrapping":
        """Returns a layer with the same arguments around another one; what it learned is not in it."""
        raise NotImplementedError


def unwrapped(layer: Any) -> Any:
    """Returns the layer inside a wrapper; anything else as it is."""
    return layer.layer if isinstance(layer, Wrapping) else layer


def wrapping_layers(model: keras.layers.Layer) -> list[Wrapping]:
    """Returns the layers of a model, nested ones too, that wrap others, each once, in order."""
    layers = walk(model, lambda layer: not isinstance(layer, Wrapping))
    return [layer for layer in layers if isinstance(layer, Wrapping)]


def check_fixed(model: keras.layers.Layer) -> None:
    """Checks that nothing of what wrapping layers add is still learned.

    Raises:
        ValueError: If it is; the message names the layer.
    """
    for wrapper in wrapping_layers(model):
        if wrapper.learns:
            raise ValueError(
                "`model` must have no masks that are still learned: train it to the last step of its "
                f"schedule, or `strip_pruning` it. Received: those of layer {wrapper.layer.name!r}"
            )
