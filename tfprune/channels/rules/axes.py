"""Axes of channels: those that a layer takes, and those that it makes."""

import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from tfprune.channels.labels import FIXED
from tfprune.channels.trace import Call

LAST = -1


def channel_axis(layer: Any) -> int:
    """Returns the axis of the channels, without the batch's, that a layer's data format says."""
    return 0 if getattr(layer, "data_format", "channels_last") == "channels_first" else LAST


def take(call: Call, axis: int, which: int = 0) -> np.ndarray:
    """Returns the labels along the axis that a layer takes; fixed where others differ too."""
    channels = call.inputs[which]
    labels = channels.on(axis)
    if labels is None or len(labels) != channels.shape[axis]:
        call.fix(channels, "it takes channels and positions together")
        return np.full(channels.shape[axis], FIXED)
    return labels


def mixes(layer: Any) -> bool:
    """Returns whether a layer's activation computes with several channels together, as softmax does."""
    activation = getattr(layer, "activation", None)
    return activation is not None and not _acts_on_each(activation)


@functools.lru_cache
def _acts_on_each(activation: Callable[[Any], Any]) -> bool:
    """Returns whether a function maps each channel by itself, and all alike: it is tried on numbers.

    One that cannot be called on eight channels, or that has weights, is taken not to.
    """
    if isinstance(activation, keras.layers.Layer):
        return False
    given = np.random.default_rng(0).normal(size=(4, 8)).astype("float32")
    others = [given[:, ::-1].copy(), given.copy(), given.copy()]
    others[1][:, 0] += 3
    others[2][:, 0] -= 3
    try:
        made, *found = (ops.convert_to_numpy(activation(ops.convert_to_tensor(x))) for x in (given, *others))
    except Exception:  # Of functions of the user's.
        return False
    return (
        made.shape == given.shape
        and np.allclose(found[0], made[:, ::-1], rtol=1e-6)
        and all(np.allclose(each[:, 1:], made[:, 1:], rtol=1e-6) for each in found[1:])
    )


def name_of(activation: Any) -> str:
    """Returns the name of an activation for readers."""
    return getattr(activation, "__name__", None) or type(activation).__name__


def make(call: Call, count: int, setting: str) -> np.ndarray:
    """Returns the labels of the channels that a layer makes, as many as its setting says."""
    labels = call.new(count)
    if mixes(call.layer):
        call.fix(labels, f"{name_of(call.layer.activation)} over its channels")
    call.config(setting, labels)
    return labels
