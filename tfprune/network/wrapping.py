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
