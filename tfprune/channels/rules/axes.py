"""Axes of channels: those that a layer takes, and those that it makes."""

from typing import Any

import numpy as np

from tfprune.channels.labels import FIXED
from tfprune.channels.trace import Call

LAST = -1

# Activations that compute with all channels together.
TOGETHER = {"softmax", "log_softmax", "sparsemax", "glu"}


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
    """Returns whether a layer's activation computes with all channels together."""
    activation = getattr(layer, "activation", None)
    return getattr(activation, "__name__", "") in TOGETHER


def make(call: Call, count: int, setting: str) -> np.ndarray:
    """Returns the labels of the channels that a layer makes, as many as its setting says."""
    labels = call.new(count)
    if mixes(call.layer):
        call.fix(labels, f"{call.layer.activation.__name__} over its channels")
    call.config(setting, labels)
    return labels
