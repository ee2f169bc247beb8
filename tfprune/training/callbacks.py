"""Callbacks that watch a fit: a loss that is no number, images a second, the wait for data.

None makes the host wait for the device after every step: a step's figures stay on the device until
somebody reads them, and reading them waits until the step is done.
"""

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
from keras import ops

_SECONDS_BETWEEN_LOOKS = 1.0


class NonFiniteLossError(ArithmeticError):
    """The training loss became NaN or infinite."""


class DeviceCallbackList(keras.callbacks.CallbackList):
    """Hands a batch's figures to the callbacks as the step returned them: tensors of the backend.

    Keras's own list turns them into numbers for every batch, so that each step waits for the one before
    to end. An epoch's figures are numbers, as usual.

    Args:
        callbacks: In their order.
        params: As for Keras's.
    """

    def __init__(self, callbacks: Sequence[keras.callbacks.Callback], **params: Any) -> None:
        super().__init__(list(callbacks), add_history=True, **params)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Calls every callback, in this thread."""
        for callback in self.callbacks:
            callback.on_train_batch_end(batch, logs)

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        """Calls every callback, in this thread."""
        for callback in self.callbacks:
            callback.on_test_batch_end(batch, logs)


class EpochTensorBoard(keras.callbacks.TensorBoard):
    """Keras's TensorBoard, which reads each batch's figures even where it writes one point an epoch.

    Args:
        folder: Receives the event files.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, write_graph=False)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Leaves the figures where they are."""
        super().on_train_batch_end(batch)


class StopOnNonFiniteLoss(keras.callbacks.Callback):
    """Ends the fit with an error that says where the loss became no finite number.

    The loss is read about once a second and at each epoch's end. Keras's loss is the mean since the epoch's
    start: once it is not finite it stays so, and nothing is missed. The figures since the last look tell the
    step. `keras.callbacks.TerminateOnNaN` ends the fit as if it had finished. Put this callback before the
    one that saves the model.

    Raises:
        NonFiniteLossError: With the epoch and the step in it, both counted from 1.
    """

    def __init__(self) -> None:
        super().__init__()
        self._epoch = self._step = 0
        self._unread: list[tuple[int, Any]] = []
        self._last_look = -math.inf

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Notes the epoch."""
        self._epoch = epoch
        self._unread.clear()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Keeps the loss; looks at it if the last look was some time ago."""
        self._step = batch + 1
        self._unread.append((self._step, (logs or {}).get("loss", 0.0)))
        if time.perf_counter() - self._last_look >= _SECONDS_BETWEEN_LOOKS:
            self._look()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Looks at the loss, and at what the last step's update made: the test loss, or else the weights."""
        self._look()
        after = f"after epoch {epoch + 1}, step {self._step} of the epoch"
        if "val_loss" in (logs or {}):
            loss = float(logs["val_loss"])
            if not math.isfinite(loss):
                raise NonFiniteLossError(f"the test loss is {loss} {after}")
        else:
            for variable in self.model.trainable_variables:
                if not bool(ops.all(ops.isfinite(variable))):
                    raise NonFiniteLossError(f"{variable.path} is not finite {after}")

    def _look(self) -> None:
        if self._unread and not math.isfinite(float(self._unread[-1][1])):
            losses = [(step, float(loss)) for step, loss in self._unread]
            step, loss = next((step, loss) for step, loss in losses if not math.isfinite(loss))
            raise NonFiniteLossError(
                f"the loss is {loss} in epoch {self._epoch + 1}, step {step} of the epoch"
            )
        self._unread.clear()
        self._last_look = time.perf_counter()


class Throughput(keras.callbacks.Callback):
    """Adds `train_seconds`, `images_per_second` and `data_wait_percent` to each epoch's logs.

    `train_seconds` is the time from the epoch's start to the end of its last training step on the device.
    The other two leave out each fit's first batch, in which graphs are traced and compiled and the pipeline
    starts, unless the epoch has no other. `data_wait_percent` is the share of the time in which the host
    waited for the next batch: never less than the device's wait, which may still have steps to do.

    Args:
        images: Examples an epoch.
        batch_size: Examples in all batches but the last.
        waited: Returns the seconds waited for data up to now, as
            `tfprune.data.waiting.WaitingTime.seconds`; None: `data_wait_percent` is left out.
    """

    def __init__(self, images: int, batch_size: int, waited: Callable[[], float] | None = None) -> None:
        super().__init__()
        self._images, self._first_batch = images, min(batch_size, images)
        self._steps = math.ceil(images / batch_size)
        self._waited = waited

    def on_train_begin(self, logs: Any = None) -> None:
        """Marks the first batch as yet to come."""
        self._warm = False

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Starts the clock."""
        self._begin = time.perf_counter()
        self._count_from(self._images, self._begin)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """After a fit's first step and an epoch's last: waits for the device, notes the time."""
        if self._warm and batch + 1 < self._steps:
            return
        float((logs or {}).get("loss", 0.0))  # There once the step is done.
        self._last, self._waited_last = time.perf_counter(), self._seconds_waited()
        if not self._warm and self._steps > 1:
            self._warm = True
            self._count_from(self._images - self._first_batch, self._last)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Adds the figures."""
        if logs is None:
            return
        seconds = self._last - self._counted_from
        logs["train_seconds"] = round(self._last - self._begin, 3)
        logs["images_per_second"] = round(self._counted_images / seconds, 1)
        if self._waited:
            logs["data_wait_percent"] = round(100 * (self._waited_last - self._waited_from) / seconds, 2)

    def _count_from(self, images: int, now: float) -> None:
        self._counted_images, self._counted_from = images, now
        self._waited_from = self._seconds_waited()

    def _seconds_waited(self) -> float:
        return self._waited() if self._waited else 0.0


def mean_data_wait_percent(history: Sequence[dict[str, float]]) -> float | None:
    """Returns the share of a round's training time that was waited for data, in percent.

    The epochs' shares, weighted by their `train_seconds`.

    Args:
        history: One row an epoch. Rows that lack the figure count for nothing.
    """
    rows = [row for row in history if row.get("data_wait_percent") is not None]
    seconds = sum(row["train_seconds"] for row in rows)
    if not seconds:
        return None
    return round(sum(row["data_wait_percent"] * row["train_seconds"] for row in rows) / seconds, 2)
