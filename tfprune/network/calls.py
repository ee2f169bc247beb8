"""The calls of the layers in a model, seen from outside."""

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
from keras.src.backend.common import global_state

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


def without_gradient(tensor: Any) -> Any:
    """Returns a tensor with its mask, but without what PyTorch keeps with it for a backward pass."""
    if keras.backend.backend() != "torch":
        return tensor
    detached, mask = keras.ops.stop_gradient(tensor), getattr(tensor, "_keras_mask", None)
    if mask is not None:
        detached._keras_mask = mask
    return detached


def asked_to_train() -> bool:
    """Returns whether whoever called the first layer of the call under way asked for `training=True`.

    Where nobody says, Keras takes the default of each layer's `call`, and hands a True on to the layers that
    come later: behind a `Resizing` they all are in training mode, in inference too.
    """
    context = global_state.get_global_attribute("current_call_ctx")
    if context is None:  # No call of a layer, such as a step of a compiled function.
        return True
    # Keras keeps what was asked for in the call itself alone.
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code.co_name == "__call__" and frame.f_locals.get("self") is context.entry_layer:
            spec = frame.f_locals.get("call_spec")
            if spec is not None:
                return bool(spec.user_arguments_dict.get("training"))
        frame = frame.f_back
    return True


def forget_losses(layer: keras.layers.Layer) -> None:
    """Empties the list of the losses that a layer and the layers inside it added in their last call."""
    layer._clear_losses()


def show_signature(wrapper: keras.layers.Layer, layer: keras.layers.Layer) -> None:
    """Makes Keras see in a wrapper's `call` the arguments of the `call` of the layer inside it.

    Keras reads from the signature which arguments are tensors, masks and `training`. Call this before the
    wrapper's `Layer.__init__`, which reads it.
    """
    signature = inspect.signature(layer.call)
    parameters = dict(signature.parameters)
    training = parameters.get("training")
    if training is None:
        training = inspect.Parameter("training", inspect.Parameter.KEYWORD_ONLY, default=None)
        others = [p for p in parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        named = [p for p in parameters.values() if p.kind is inspect.Parameter.VAR_KEYWORD]
        parameters = {p.name: p for p in [*others, training, *named]}
    elif training.default is not inspect.Parameter.empty:
        parameters["training"] = training.replace(default=None)  # Nobody asked for it yet.
    call = type(wrapper).call.__get__(wrapper)

    @functools.wraps(call)
    def call_like_the_layer(*args: Any, **kwargs: Any) -> Any:
        return call(*args, **kwargs)

    call_like_the_layer.__signature__ = signature.replace(parameters=list(parameters.values()))
    vars(wrapper)["call"] = call_like_the_layer
