"""The calls of the layers in a model, seen from outside."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras

Call = Callable[..., Any]


@contextlib.contextmanager
def replaced_calls(
    layers: Iterable[keras.layers.Layer], replacement: Callable[[keras.layers.Layer, Call], Call | None]
) -> Iterator[None]:
    """Replaces the `call` of layers inside the block; afterwards they are as before.

    Args:
        layers: The layers, each once.
        replacement: Takes a layer and its `call`; returns a function in place of it, or None to leave the
            layer as it is.
    """
    # Straight in the dictionary of the instance, where Keras's tracking of attributes does not see it.
    replaced = []
    try:
        for layer in layers:
            call = replacement(layer, layer.call)
            if call is not None:
                replaced.append((vars(layer), vars(layer).get("call")))
                vars(layer)["call"] = call
        yield
    finally:
        for attributes, original in replaced:
            del attributes["call"]
            if original is not None:
                attributes["call"] = original


def tensors(values: Any) -> list[Any]:
    """Returns the tensors in a structure of arguments or outputs, in order."""
    return [value for value in keras.tree.flatten(values) if hasattr(value, "shape")]


def forget_losses(layer: keras.layers.Layer) -> None:
    """Empties the list of the losses that a layer and the layers inside it added in their last call."""
    layer._clear_losses()
