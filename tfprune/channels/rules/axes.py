"""Axes of channels: those that a layer makes, and those that its settings name."""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
from keras import ops

from tfprune.channels.trace import Call

LAST = -1


def channel_axis(layer: Any) -> int:
    """Returns the axis of the channels, without the batch's, that a layer's data format says."""
    return 0 if getattr(layer, "data_format", "channels_last") == "channels_first" else LAST


def named_axes(axes: int | Iterable[int], rank: int) -> tuple[int, ...]:
    """Returns axes of a tensor without the batch's, given those of one with it; -1 for the batch's.

    Args:
        axes: One or several, negative ones counted from the end.
        rank: The number of axes without the batch's.
    """
    return tuple(axis % (rank + 1) - 1 for axis in ([axes] if isinstance(axes, int) else axes))


def mixing(activation: Callable[[Any], Any] | None) -> str:
    """Returns why an activation is not of each channel by itself, such as softmax; empty for one that is."""
    if activation is None or _acts_on_each(activation):
        return ""
    return f"{getattr(activation, '__name__', None) or type(activation).__name__} over its channels"


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


def make(call: Call, count: int, setting: str) -> np.ndarray:
    """Returns the labels of the channels that a layer makes, as many as its setting says."""
    labels = call.new(count)
    call.config(setting, labels)
    activate(call, labels)
    return labels


def activate(call: Call, labels: np.ndarray) -> None:
    """Fixes the channels of a layer whose activation may compute with several together."""
    reason = mixing(call.layer.activation)
    if reason:
        call.fix(labels, reason)
