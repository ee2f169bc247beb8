"""What a network is trained for: the loss and metrics of its outputs, and the one by which it is judged."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfprune.data.splits import Dataset, Split, arrays_of, map_arrays
from tfprune.errors import UserError
from tfprune.experiments.batches import Batches
from tfprune.experiments.first_call import outputs_for
from tfprune.models.catalog import File, source_of
from tfprune.network.ending import activations, output_names
from tfprune.network.graph import output_structure
from tfprune.runs.config import ExperimentConfig
from tfprune.runs.metric import Metric
from tfprune.training.by_name import (
    as_metric,
    higher_is_better,
    is_accuracy,
    loss_named,
    metric_named,
)
from tfprune.training.fit import percent
from tfprune.training.goal import Goal
from tfprune.training.output import Output, output_of

_LOSS = Metric("loss", in_percent=False, higher_is_better=False)
# Losses whose labels are numbers.
_OF_NUMBERS = ("mean_", "huber", "log_cosh", "poisson")
# So many numbers of the labels are looked at.
_NUMBERS = 1 << 24

Make = Callable[[], Any]


@dataclass(frozen=True)
class Task:
    """The goal of a network's training, and by what it is judged.

    Attributes:
        goal: The loss and metrics.
        headline: The first metric of the first output, by which the run is judged.
        outputs: Each output beside its labels.
        words: The loss and the metrics, and why, for the run's log.
    """

    goal: Goal
    headline: Metric
    outputs: tuple[Output, ...]
    words: str

    def value(self, figures: dict[str, float]) -> float:
        """Returns the headline's value among the figures of an evaluation, in percent where it is a share."""
        value = float(figures[self.headline.name])
        return percent(value) if self.headline.in_percent else value

    @property
    def classes(self) -> Output | None:
        """The only output, if it says one of several classes; else None."""
        return self.outputs[0] if len(self.outputs) == 1 and self.outputs[0].is_one_class else None


@dataclass(frozen=True)
class Compiled:
    """The loss and metrics that a file was compiled with, as Keras writes them in its configuration.

    Attributes:
        loss, metrics, loss_weights: As they were given to `compile`.
    """

    loss: Any
    metrics: Any
    loss_weights: Any


def task_of(
    config: ExperimentConfig, model: keras.Model, batches: Batches, compiled: Compiled | None
) -> Task:
    """Returns what a network is trained for.

    Args:
        config: The experiment.
        model: The network.
        batches: The data.
        compiled: What the file that it comes from was compiled with; None if it is from no such file.

    Raises:
        UserError: If the network does not fit the data, or a loss or metric cannot be had.
    """
    dataset = batches.dataset
    inputs, labels = _sample(batches)
    outputs = _outputs_of(config, model, inputs)
    if any(isinstance(part, (dict, list, tuple)) for part in _parts(outputs)):
        config.refuse("model", "its outputs must be one tensor, or a list, tuple or dict of tensors")
    flat = keras.tree.flatten(outputs)
    known = output_names(model, outputs)
    names = known or [f"output_{number}" for number in range(len(flat))]
    found = tuple(
        _output(config, "" if len(flat) == 1 else name, tuple(tensor.shape[1:]), activation, part, dataset)
        for name, tensor, activation, part in zip(
            names, flat, _activations(model, flat), _labels_of(config, names, labels), strict=True
        )
    )
    chosen = _Choice(config, found, compiled)
    return chosen.task(lambda parts: keras.tree.pack_sequence_as(outputs, parts), named=known is not None)


def _parts(outputs: Any) -> list[Any]:
    if isinstance(outputs, dict):
        return list(outputs.values())
    return list(outputs) if isinstance(outputs, list | tuple) else [outputs]


def _activations(model: keras.Model, outputs: list[Any]) -> list[str | None]:
    """Returns what makes each output; of a model without a graph also what the outputs themselves show."""
    found = activations(model)
    if len(found) != len(outputs):  # Such a model says at the most what its last layer does.
        found = [None] * len(outputs)
    return [
        "softmax" if _sum_to_1(output) else activation
        for output, activation in zip(outputs, found, strict=True)
    ]


def _sum_to_1(output: Any) -> bool:
    if isinstance(output, keras.KerasTensor) or output.shape[-1:] in ((), (1,)):
        return False
    values = keras.ops.convert_to_numpy(output).astype("float64")
    return bool(np.all(values >= 0) and np.allclose(values.sum(axis=-1), 1.0, atol=1e-3))


def _sample(batches: Batches) -> tuple[Any, Any]:
    """Returns the inputs of one example, as the network sees them, and the labels of many."""
    inputs, labels, *_ = next(iter(batches.test.take(1)))
    inputs = map_arrays(lambda part: np.asarray(part)[:1], inputs)
    train = batches.dataset.train
    if not isinstance(train, Split):
        return inputs, map_arrays(np.asarray, labels)
    return inputs, map_arrays(
        lambda part: np.asarray(part[: _NUMBERS // max(1, math.prod(part.shape[1:]))]), train.labels
    )


def _outputs_of(config: ExperimentConfig, model: keras.Model, inputs: Any) -> Any:
    """Returns the outputs for an example; symbolic ones where they say their shape, which costs nothing."""
    outputs = output_structure(model)
    if outputs is not None and not any(None in tensor.shape[1:] for tensor in keras.tree.flatten(outputs)):
        return outputs
    return outputs_for(config, model, inputs)


def _labels_of(config: ExperimentConfig, names: list[str], labels: Any) -> list[np.ndarray]:
    """Returns the labels of each output."""
    if isinstance(labels, dict) and labels.keys() == set(names):
        return [labels[name] for name in names]
    parts = list(arrays_of(labels))
    if isinstance(labels, dict) and len(names) > 1:
        what = f"labels {', '.join(labels)}"
    elif len(parts) != len(names):
        what = f"{len(parts)} label{'' if len(parts) == 1 else 's'} an example"
    else:
        return parts
    config.refuse("model", f"its outputs are {', '.join(names)}, and {config.flag('dataset')} has {what}")


def _output(
    config: ExperimentConfig,
    name: str,
    shape: tuple[int, ...],
    activation: str | None,
    labels: np.ndarray,
    dataset: Dataset,
) -> Output:
    classes = len(dataset.class_names) if dataset.class_names and not name else None
    try:
        return output_of(name, shape, activation, labels, classes)
    except ValueError as error:
        advice = ""
        if isinstance(source_of(config.model), File):
            advice = "; --new_head gives it a fresh last layer"
        raise UserError(
            f"{config.flag('model')}: does not fit {config.flag('dataset')}: {error}{advice}"
        ) from error


class _Choice:
    """The losses and metrics of each output, and where they come from.

    Args:
        config: The experiment.
        outputs: Those of the network.
        compiled: What its file was compiled with, or None.
    """

    def __init__(
        self, config: ExperimentConfig, outputs: tuple[Output, ...], compiled: Compiled | None
    ) -> None:
        self._config, self._outputs, self._compiled = config, outputs, compiled
        self._names = [output.name for output in outputs]
        self._given = {name: self._by_output(name) for name in ("loss", "metrics")}

    def task(self, structure: Callable[[list], Any], named: bool) -> Task:
        """Returns the task.

        Args:
            structure: Packs a list with an item for each output as the outputs are.
            named: Whether Keras puts the outputs' names before those of their metrics.
        """
        losses = [self._loss(number) for number in range(len(self._outputs))]
        metrics = [self._metrics(number) for number in range(len(self._outputs))]
        if not named and len(self._outputs) > 1:
            metrics = [
                [_renamed(make, output.name) for make in makes]
                for output, makes in zip(self._outputs, metrics, strict=True)
            ]
        first = self._first(metrics)
        headline = self._headline(first, metrics[first], named) if metrics[first] else _LOSS
        options = {}
        if self._compiled and not self._config.loss and self._compiled.loss_weights is not None:
            options["loss_weights"] = self._compiled.loss_weights
        goal = Goal(
            lambda: structure([make() for make in losses]),
            lambda: structure([[make() for make in makes] for makes in metrics]),
            options,
        )
        return Task(goal, headline, self._outputs, self._words(losses, metrics))

    def _by_output(self, name: str) -> dict[str, list[str]]:
        """Returns what `--loss` or `--metrics` gives to each output, by its name."""
        found: dict[str, list[str]] = {}
        for entry in getattr(self._config, name):
            output, colon, rest = entry.partition(":")
            if len(self._outputs) == 1:
                output, rest = self._names[0], entry
            elif not colon or output not in self._names:
                self._config.refuse(
                    name, f"must be OUTPUT:NAME,... with the outputs {', '.join(self._names)}"
                )
            found.setdefault(output, []).append(rest)
        for output, entries in found.items():
            if name == "loss" and len(entries) > 1:
                self._config.refuse(name, f"must be one loss for {output or 'the only output'}")
        return found

    def _loss(self, number: int) -> Make:
        output = self._outputs[number]
        if output.name in self._given["loss"]:
            (entry,) = self._given["loss"][output.name]
            return self._blamed("loss", lambda: loss_named(entry, output))
        if self._compiled:
            loss = _of_output(self._compiled.loss, number, self._names)
            return lambda: _restored(loss)
        try:
            output.default_loss()
        except ValueError as error:
            raise UserError(f"{self._config.flag('model')}: {error}; give --loss and --metrics") from error
        return output.default_loss

    def _metrics(self, number: int) -> list[Make]:
        output, given = self._outputs[number], self._given["metrics"]
        if given:
            return [
                self._blamed("metrics", lambda entry=entry: metric_named(entry, output))
                for entry in given.get(output.name, ())
            ]
        if self._compiled and not self._config.loss:
            metrics = _of_output(self._compiled.metrics, number, self._names)
            return [lambda metric=metric: _restored(metric) for metric in _as_list(metrics)]
        if output.name in self._given["loss"] and _is_of_numbers(self._loss(number)()):
            return [keras.metrics.MeanAbsoluteError]
        return [] if output.misfit else [output.default_metric]

    def _first(self, metrics: list[list[Make]]) -> int:
        """Returns the number of the output whose first metric judges the run."""
        if self._given["metrics"]:
            return self._names.index(next(iter(self._given["metrics"])))
        return next((number for number, makes in enumerate(metrics) if makes), 0)

    def _headline(self, number: int, makes: list[Make], named: bool) -> Metric:
        output, made = self._outputs[number], makes[0]()
        metric = _resolved(made, output)
        name = made if isinstance(made, str) else metric.name
        if named and output.name:
            name = f"{output.name}_{name}"
        try:
            higher = higher_is_better(metric)
        except ValueError as error:
            raise UserError(f"{self._config.flag('metrics')}: {error}") from error
        return Metric(name, in_percent=is_accuracy(metric), higher_is_better=higher)

    def _blamed(self, name: str, make: Callable[[], Make]) -> Make:
        try:
            return make()
        except ValueError as error:
            raise UserError(f"{self._config.flag(name)}: {error}") from error

    def _words(self, losses: list[Make], metrics: list[list[Make]]) -> str:
        config = self._config
        parts = []
        for output, loss, makes in zip(self._outputs, losses, metrics, strict=True):
            names = " and ".join(_name_of(make()) for make in makes) or "no metric"
            parts.append(f"{f'{output.name}: ' if output.name else ''}loss {_name_of(loss())}, {names}")
        if config.loss and config.metrics:
            why = "as given"
        elif config.loss or config.metrics:
            why = "as given, the others as they follow"
        elif self._compiled:
            why = f"with which {config.model} was compiled"
        else:
            why = f"as for {'; '.join(map(str, self._outputs))}"
        return f"{'; '.join(parts)} ({why})"


def _of_output(given: Any, number: int, names: list[str]) -> Any:
    """Returns what an argument of `compile`, as Keras writes it, has for an output."""
    if isinstance(given, dict) and "class_name" not in given:
        return given.get(names[number])
    if isinstance(given, list) and len(names) > 1 and len(given) == len(names):
        return given[number]
    return given


def _as_list(given: Any) -> list[Any]:
    return keras.tree.flatten(given) if isinstance(given, list) else [] if given is None else [given]


def _restored(given: Any) -> Any:
    """Returns a loss or a metric that Keras wrote; a name as it is, because Keras knows what it means."""
    return keras.saving.deserialize_keras_object(given) if isinstance(given, dict) else given


def _resolved(made: Any, output: Output) -> keras.metrics.Metric:
    if made in ("accuracy", "acc"):
        return output.accuracy()
    return as_metric(keras.metrics.get(made))


def _renamed(make: Make, output: str) -> Make:
    def renamed() -> keras.metrics.Metric:
        metric = make()
        metric.name = f"{output}_{metric.name}"
        return metric

    return renamed


def _name_of(made: Any) -> str:
    return (
        made if isinstance(made, str) else getattr(made, "name", None) or getattr(made, "__name__", str(made))
    )


def _is_of_numbers(loss: Any) -> bool:
    return _name_of(loss).startswith(_OF_NUMBERS)
