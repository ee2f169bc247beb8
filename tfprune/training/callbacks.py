"""What watches a fit: a loss that is no number, and the images a second."""

import math
import time
from typing import Any

import keras


class NonFiniteLossError(ArithmeticError):
    """The training loss became NaN or infinite."""


class StopOnNonFiniteLoss(keras.callbacks.Callback):
    """Ends the fit with an error that says where, as soon as the loss is no finite number.

    `keras.callbacks.TerminateOnNaN` ends it as if it had finished. Put this one before what saves the model.

    Raises:
        NonFiniteLossError: With the epoch and the step in it, both counted from 1.
    """

    def __init__(self) -> None:
        super().__init__()
        self._epoch = self._step = 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Notes the epoch."""
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Looks at the loss."""
        loss = float((logs or {}).get("loss", 0.0))
        if not math.isfinite(loss):
            raise NonFiniteLossError(
                f"the loss is {loss} in epoch {self._epoch + 1}, step {batch + 1} of the epoch"
            )
        self._step = batch + 1

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Looks at the test loss: the last step's update is in no training loss of the epoch."""
        loss = float((logs or {}).get("val_loss", 0.0))
        if not math.isfinite(loss):
            raise NonFiniteLossError(
                f"the test loss is {loss} after epoch {epoch + 1}, step {self._step} of the epoch"
            )


class Throughput(keras.callbacks.Callback):
    """Adds `train_seconds` and `images_per_second` to each epoch's logs.

    `train_seconds` is the time from the epoch's start to the end of its last training batch.
    `images_per_second` leaves out each fit's first batch, in which graphs are traced and compiled, unless
    the epoch has no other.

    Args:
        images: Examples an epoch.
        batch_size: Examples in the first batch.
    """

    def __init__(self, images: int, batch_size: int) -> None:
        super().__init__()
        self._images, self._first_batch = images, min(batch_size, images)

    def on_train_begin(self, logs: Any = None) -> None:
        """Marks the first batch as yet to come."""
        self._warm = False

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Starts the clock."""
        self._begin = self._counted_from = time.perf_counter()
        self._counted_images = self._images

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Notes the time."""
        self._last = time.perf_counter()
        if not self._warm and self._images > self._first_batch:
            self._warm = True
            self._counted_from = self._last
            self._counted_images = self._images - self._first_batch

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Adds the figures."""
        seconds = self._last - self._counted_from
        if logs is not None:
            logs["train_seconds"] = round(self._last - self._begin, 3)
            logs["images_per_second"] = round(self._counted_images / seconds, 1)
