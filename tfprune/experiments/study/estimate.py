"""Estimates how long a study still takes from what its finished rounds took; nothing is assumed."""

import contextlib
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

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


# A density outside the measured ones is taken for one of these that it differs from by less than this factor.
_NEAR = 2.0
_LEAST_DENSITY = 1e-6


@dataclasses.dataclass
class _Measured:
    images: int = 0
    seconds: float = 0.0
    other_rounds: int = 0
    other_seconds: float = 0.0


class Speeds:
    """Measured speeds, by network, image size, batch, precision, teacher, engines, backend and devices.

    Keras multiplies by zeros, too. Of the other engine speeds are measured by density, and between two
    measured densities the time of an image is on the line between theirs.

    Args:
        results: Results of rounds, of any runs.
    """

    def __init__(self, results: Iterable[RoundResult]) -> None:
        self._measured: dict[tuple, dict[float, _Measured]] = {}
        self._train_examples: dict[str, int] = {}
        for result in results:
            self._add(result)

    def _add(self, result: RoundResult) -> None:
        self._train_examples[result.config.dataset] = result.train_examples_available
        where = result.backend, result.device_count, what_computes(result.hardware)
        engines = set(result.training_engines or ("keras",))
        # What `auto` will choose is open: all that was measured counts.
        for asked in {"auto", *(engines if len(engines) == 1 else ())}:
            place = Place(*where, asked)
            by_density = self._measured.setdefault(_key(result.config, place), {})
            density = _density(result.sparsity, place)
            self._add_to(by_density.setdefault(density, _Measured()), result)

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

    def seconds_per_image(self, config: ExperimentConfig, place: Place, sparsity: float) -> float | None:
        """Returns the time of a training image in such a round, with evaluations where they were recorded.

        Args:
            config: The run.
            place: Where it computes.
            sparsity: The round's.
        """
        by_density = self._measured.get(_key(config, place), {})
        times = {
            density: measured.seconds / measured.images
            for density, measured in sorted(by_density.items())
            if measured.images and measured.seconds
        }
        density = _density(sparsity, place)
        is_between = times and min(times) <= density <= max(times)
        if not is_between and not any(max(density / one, one / density) < _NEAR for one in times):
            return None
        return float(np.interp(density, [*times], [*times.values()]))

    def train_examples(self, config: ExperimentConfig) -> int | None:
        """Returns how many images an epoch of a run has; None for a folder that no run has read yet."""
        if config.train_examples:
            return config.train_examples
        return _TRAIN_EXAMPLES.get(config.dataset) or self._train_examples.get(config.dataset)

    def images_left(self, state: RunState) -> int | None:
        """Returns how many images a run has still to train on, counted once an epoch."""
        examples = self.train_examples(state.config)
        return 0 if state.finished else None if examples is None else state.epochs_left * examples

    def seconds_left(self, state: RunState, place: Place, levels: Sequence[float] = ()) -> float | None:
        """Returns how long a run still takes; None where nothing like it was measured.

        Args:
            state: The run's.
            place: Where it computes.
            levels: The sparsity of each round; empty: that of all is the target.
        """
        if state.finished:
            return 0.0
        config, examples = state.config, self.train_examples(state.config)
        seconds = 0.0
        for number, epochs in state.epochs_left_by_round.items():
            time = self.seconds_per_image(config, place, levels[number] if levels else config.target_sparsity)
            if time is None or examples is None:
                return None
            seconds += epochs * examples * time
        measured = self._measured[_key(config, place)].values()
        others = sum(one.other_rounds for one in measured)
        other = sum(one.other_seconds for one in measured) / others if others else 0.0
        return seconds + state.rounds_left * other


@dataclasses.dataclass(frozen=True)
class Estimate:
    """The time that runs of a study still take at a place.

    Attributes:
        speeds: What was measured.
        place: Where they compute.
        levels: Run -> the sparsity of each of its rounds.
    """

    speeds: Speeds
    place: Place
    levels: Mapping[str, Sequence[float]]

    def seconds_left(self, state: RunState) -> float | None:
        """Returns how long a run still takes; None where nothing like it was measured."""
        return self.speeds.seconds_left(state, self.place, self.levels[state.config.experiment])


def _key(config: ExperimentConfig, place: Place) -> tuple:
    # A teacher costs a forward pass a step.
    return (*place, *(getattr(config, name) for name in _SPEED_FIELDS), bool(config.distill_from))


def _density(sparsity: float, place: Place) -> float:
    """Returns the share of the weights that are computed with."""
    return 1.0 if place.engine == "keras" else max(1.0 - sparsity, _LEAST_DENSITY)


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
