"""Shows the progress of a fit and the time that is left, in one line."""

import shutil
import sys
import time
from collections.abc import Callable
from typing import Any

import keras

from tfprune.text import duration

_SECONDS_BETWEEN_LINES = 0.5
# What a narrow terminal does without, the first first.
_DISPENSABLE = ("waited", "test", "metric", "loss", "speed", "all")


class Progress(keras.callbacks.Callback):
    """Shows the progress of a fit: a line an epoch, or on a terminal one line that is rewritten in place.

    ```
    cifar10_one_shot_95 round 1 of 1, epoch 3 of 40: loss 0.851, accuracy 68.1 %, test 66.3 %, 131 images/s,
    waited 2 % for data, 25 min left
    ```

    (One line. With another engine than Keras it is `131 images/s by sparse`.) The time left counts with the
    speed since the fit's first batch, evaluations and checkpoints included. Put it last: it reads
    `images_per_second` and `data_wait_percent` in the epoch's logs.

    Args:
        label: Name of the fit; the line's first words.
        batch_size: Examples a step.
        metric: The name of the metric that is shown.
        in_percent: Whether it is shown in percent.
        noun: The word for examples.
        later_epochs: Epochs of fits of the same kind that will follow, whose time is told too.
        log: Receives each line. Where it is `print`, or a partial of it, and standard output is a terminal,
            the one line is written there instead.
    """

    def __init__(
        self,
        label: str,
        *,
        batch_size: int,
        metric: str = "accuracy",
        in_percent: bool = True,
        noun: str = "images",
        later_epochs: int = 0,
        log: Callable[[str], None] = print,
    ) -> None:
        super().__init__()
        self._label, self._log = label, log
        self._batch_size, self._later_epochs = batch_size, later_epochs
        self._metric, self._in_percent, self._noun = metric, in_percent, noun
        self._rewrites = getattr(log, "func", log) is print and sys.stdout.isatty()
        self._shown = 0
        self._next_line = 0.0

    def on_train_begin(self, logs: Any = None) -> None:
        """Begins to count steps."""
        self._steps, self._epochs = self.params["steps"], self.params["epochs"]
        self._start: float | None = None
        self._done = 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Notes the epoch."""
        self._epoch, self._done_before = epoch, self._done

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Counts; on a terminal, rewrites the line now and then."""
        now = time.perf_counter()
        if self._start is None:
            # Graphs are traced and compiled in a fit's first batch: no measure for the others.
            self._start, self._done_before = now, -(batch + 1)
        self._done = self._done_before + batch + 1
        if self._rewrites and now >= self._next_line:
            self._next_line = now + _SECONDS_BETWEEN_LINES
            figures = {name: float(value) for name, value in (logs or {}).items()}
            if self._done:
                figures["images_per_second"] = self._done * self._batch_size / (now - self._start)
            place = f", {(batch + 1) / self._steps:.0%}"
            self._rewrite(self._parts(figures, place, self._steps - batch - 1))

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Writes the epoch's line."""
        parts = self._parts(logs or {}, "", 0)
        if self._rewrites:
            self._rewrite(parts)
        else:
            self._log(_line(parts))
            sys.stdout.flush()  # A log file is read while the fit runs.

    def close(self) -> None:
        """Ends the terminal's line, so that what comes next gets its own. To be called after every fit."""
        if self._shown:
            print(flush=True)
        self._shown = 0

    def _parts(self, figures: dict[str, float], place: str, left_in_epoch: int) -> dict[str, str]:
        """Returns the line's parts by name, in their order."""
        engine = self.params.get("engine", "keras")
        by = "" if engine == "keras" else f" by {engine}"
        parts = {"label": f"{self._label}, epoch {self._epoch + 1} of {self._epochs}{place}:"}
        for name, key, form in (
            ("loss", "loss", lambda value: f"loss {value:.3f}"),
            ("metric", self._metric, lambda value: f"{self._metric} {self._text(value)}"),
            ("test", f"val_{self._metric}", lambda value: f"test {self._text(value)}"),
            ("speed", "images_per_second", lambda value: f"{value:,.{value < 10:d}f} {self._noun}/s{by}"),
            ("waited", "data_wait_percent", lambda value: f"waited {value:.0f} % for data"),
        ):
            if key in figures and not (name == "metric" and key == "loss"):  # It stands there already.
                parts[name] = form(figures[key])
        if self._done > 0:
            seconds = (time.perf_counter() - self._start) / self._done
            steps = left_in_epoch + (self._epochs - self._epoch - 1) * self._steps
            parts["left"] = f"{duration(seconds * steps)} left"
            if self._later_epochs:
                steps += self._later_epochs * self._steps
                parts["all"] = f"{duration(seconds * steps)} with the rounds to come"
        return parts

    def _text(self, value: float) -> str:
        return f"{100 * value:.1f} %" if self._in_percent else f"{value:.4g}"

    def _rewrite(self, parts: dict[str, str]) -> None:
        """Writes over the line before, in a width that does not wrap."""
        width = max(shutil.get_terminal_size().columns - 1, 1)
        for name in _DISPENSABLE:
            if len(_line(parts)) <= width:
                break
            parts.pop(name, None)
        line = _line(parts)[:width]
        # Spaces over the rest of a longer one before: every terminal understands them.
        print(f"\r{line.ljust(min(self._shown, width))}", end="", flush=True)
        self._shown = len(line)


def _line(parts: dict[str, str]) -> str:
    return f"{parts['label']} " + ", ".join(text for name, text in parts.items() if name != "label")
