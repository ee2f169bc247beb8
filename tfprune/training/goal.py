"""The loss and metrics of a network, as `compile` takes them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras


@dataclass(frozen=True)
class Goal:
    """The loss and metrics of a network, made anew for each `compile`: metrics hold what they count.

    Attributes:
        loss: Returns the loss, or one for each output in the outputs' structure.
        metrics: Returns the metrics, likewise.
        options: Further arguments of `compile`.
    """

    loss: Callable[[], Any]
    metrics: Callable[[], Any]
    options: dict[str, Any] = field(default_factory=dict)


CLASSIFY = Goal(
    lambda: keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    lambda: [keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
)
"""The goal of a classifier of logits, whose labels are whole numbers."""
