"""Estimates how long a study still takes from what its finished rounds took; nothing is assumed."""

import contextlib
import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from tfprune.errors import UserError
from tfprune.experiments.study.state import RunState
from tfprune.runs.config import ExperimentConfig
from tfprune.runs.result import RoundResult, read_result
from tfprune.text import duration

# The settings that decide how long an image takes.
_SPEED_FIELDS = ("model", "width", "stem", "image_size", "batch_size", "mixed_precision", "pruning_engine")


class Place(NamedTuple):
    """The place where runs compute, and what trains them there.

    Attributes:
        backend: Keras's.
        device_count: How many devices share each batch.
        computes: As `what_computes` has it.
        engine: What `--training_engine` asks for.
    """

    backend: str
    device_count: int
    computes: str
    engine: str = "keras"


# Training examples of the datasets that have a fixed number.
_TRAIN_EXAMPLES = {"cifar10": 50_000, "cifar100": 50_000, "digits": 1_437}


@dataclasses.dataclass
class _Measured:
    images: int = 0
    seconds: float = 0.0
    other_rounds: int = 0
    other_seconds: float = 0.0


class Speeds:
    """Measured speeds, by network, image size, batch, precision, teacher, engines, backend and devices.

    Args:
        results: Results of rounds, of any runs.
    """

    def __init__(self, results: Iterable[RoundResult]) -> None:
        self._measured: dict[tuple, _Measured] = {}
        self._train_examples: dict[str, int] = {}
        for result in results:
            self._add(result)

    def _add(self, result: RoundResult) -> None:
        self._train_examples[result.config.dataset] = result.train_examples_available
        where = result.backend, result.device_count, what_computes(result.hardware)
        engines = set(result.training_engines or ("keras",))
        # What `auto` will choose is open: all that was measured counts.
        for asked in {"auto", *(engines if len(engines) == 1 else ())}:
            key = _key(result.config, Place(*where, asked))
            self._add_to(self._measured.setdefault(key, _Measured()), result)

    def _add_to(self, measured: _Measured, result: RoundResult) -> None:
        seconds = result.seconds
        if result.epochs and result.train_seconds:
            measured.images += result.epochs * result.train_examples
            # The fit's own clock counts its evaluations and checkpoints too, but, after an interruption, only
            # the last part.
            measured.seconds += max(result.train_seconds, seconds.get("train", 0.0))
        if "evaluate" in seconds:
            measured.other_rounds += 1
            measured.other_seconds += seconds.get("prune", 0.0) + seconds["evaluate"]

    def images_per_second(self, config: ExperimentConfig, place: Place) -> float | None:
        """Returns the speed of such a run, its evaluations included where they were recorded."""
        measured = self._measured.get(_key(config, place))
        return measured.images / measured.seconds if measured and measured.seconds else None

    def train_examples(self, config: ExperimentConfig) -> int | None:
        """Returns how many images an epoch of a run has; None for a folder that no run has read yet."""
        if config.train_examples:
            return config.train_examples
        return _TRAIN_EXAMPLES.get(config.dataset) or self._train_examples.get(config.dataset)

    def images_left(self, state: RunState) -> int | None:
        """Returns how many images a run has still to train on, counted once an epoch."""
        examples = self.train_examples(state.config)
        return 0 if state.finished else None if examples is None else state.epochs_left * examples

    def seconds_left(self, state: RunState, place: Place) -> float | None:
        """Returns how long a run still takes; None where nothing like it was measured."""
        if state.finished:
            return 0.0
        speed, images = self.images_per_second(state.config, place), self.images_left(state)
        if speed is None or images is None:
            return None
        measured = self._measured[_key(state.config, place)]
        other = measured.other_seconds / measured.other_rounds if measured.other_rounds else 0.0
        return images / speed + state.rounds_left * other


def _key(config: ExperimentConfig, place: Place) -> tuple:
    # A teacher costs a forward pass a step. Keras multiplies by zeros, too; the other engine does not.
    skips = place.engine != "keras" and config.regime != "dense"
    return (*place, *(getattr(config, name) for name in _SPEED_FIELDS), bool(config.distill_from), skips)


def what_computes(hardware: dict[str, Any]) -> str:
    """Returns the names of the devices, or of the processor if it is they, in what `hardware()` returns."""
    names = {hardware.get("processor", "") if name == "cpu" else name for name in hardware.get("devices", [])}
    return ", ".join(sorted(names))


def read_speeds(output_dir: Path) -> Speeds:
    """Measures from the finished rounds of all run folders in a folder; unreadable ones tell nothing."""
    results = []
    for path in sorted(output_dir.glob("*/round_*/result.json")):
        number = path.parent.name.removeprefix("round_")
        with contextlib.suppress(UserError, ValueError):
            results.append(read_result(path, int(number)))
    return Speeds(results)


def total_text(seconds: Iterable[float | None]) -> str:
    """Returns the sum of estimates in words, and how many are missing from it."""
    seconds = list(seconds)
    known = [value for value in seconds if value is not None]
    unknown = len(seconds) - len(known)
    if unknown and not sum(known):
        return "not measured yet"
    missing = f", and {unknown} run{'s' if unknown > 1 else ''} not measured yet" if unknown else ""
    return f"about {duration(sum(known))}{missing}"
