"""`--training_engine`: what trains the rounds of a run, and how `auto` chooses.

`auto` runs a few steps of a round by each engine, on the round's own first batches, and takes the faster one.
The network is then brought back to where it was, so that the round is the one that the engine given by its
name trains, to the bit.
"""

import contextlib
import random
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import keras
import numpy as np

from tfprune.errors import UserError, blame_flag
from tfprune.experiments.devices import Devices
from tfprune.experiments.methods.registry import method_of
from tfprune.network.calibration import kept
from tfprune.runs.config import ExperimentConfig
from tfprune.sparsity.apply import pruned_layers
from tfprune.sparsity.targets import prune_to_targets
from tfprune.sparsity.wrapper import measured
from tfprune.training.callbacks import DeviceCallbackList
from tfprune.training.engine import KERAS, Engine

# What `auto` may cost: this share of a fit's steps, and about so long.
_SHARE, _SECONDS = 0.02, 30.0
# Each turn of an engine: a step that is not counted, in which it is made ready, and these.
_COUNTED_STEPS, _TURNS = 2, 3


class Sparse(Engine):
    """Trains by kernels that skip removed weights, on the processor."""

    name = "sparse"

    def check(self, model: keras.Model) -> None:
        """Checks the layers, the optimizer and that the compiler is installed; compiles nothing."""
        from tfprune.sparse_training.trainer import check

        check(model)

    def trainer(self, model: keras.Model) -> Any:
        """Returns a `SparseTrainer` of the model."""
        from tfprune.sparse_training.trainer import SparseTrainer

        return SparseTrainer(model)

    def fit(self, model: keras.Model, batches: Any, **arguments: Any) -> None:
        """Trains the model's weights that stay, and gives them back to it."""
        with blame_flag("training_engine", self.name):
            trainer = self.trainer(model)
        trainer.fit(batches, **arguments)
        trainer.update(model)


ENGINES: dict[str, Engine] = {engine.name: engine for engine in (KERAS, Sparse())}


class TrainingEngines:
    """The training engines of an experiment: what was asked for, checked.

    Args:
        config: The experiment.
        devices: What it computes on; names the engine that was asked for.
        log: Receives a line for each choice.
    """

    def __init__(
        self, config: ExperimentConfig, devices: Devices, log: Callable[[str], None] = print
    ) -> None:
        self._config, self._devices, self._log = config, devices, log
        self._asked = devices.training_engine
        self._obstacle = obstacle(config, devices)
        self._told = ""

    def check(self) -> None:
        """Checks that the engine, where one is given by its name, can train as the experiment asks.

        Raises:
            UserError: If it cannot; the message names the flag and why.
        """
        if self._asked == "sparse" and self._obstacle:
            self._devices.refuse("training_engine", f"must be keras or auto: {self._obstacle}")

    def check_start(self, model: keras.Model) -> None:
        """Checks that the engine, where one is given by its name, can train a compiled network.

        Raises:
            UserError: If it cannot; the message names the flag and what of the network it cannot train.
        """
        if self._asked == "auto":
            return
        with blame_flag("training_engine", self._asked):
            ENGINES[self._asked].check(model)

    def of_round(self, number: int, notes: dict[str, Any]) -> Engine:
        """Returns the engine of a round.

        Args:
            number: The round.
            notes: Those of its checkpoint, which receive `ENGINE_NOTES`.
        """
        return _Noted(self._asked, notes, lambda model, batches: self._choose(number, model, batches, notes))

    def _choose(self, number: int, model: keras.Model, batches: Any, notes: dict[str, Any]) -> str:
        """Returns the name of the faster engine, noted with how much faster, or why that was not measured."""
        reason, notes["engine_speedup"] = self._obstacle, None
        if not reason:
            try:
                notes["engine_speedup"] = measured_speedup(model, batches)
            except _NotMeasuredError as error:
                reason = str(error)
        notes["engine_reason"] = reason
        speedup = notes["engine_speedup"] or 0.0
        faster = "sparse" if speedup > 1.0 else "keras"
        if not reason:
            self._log(
                f"round {number}: trains by {faster}; as measured, sparse is {speedup:.2f} times as fast as "
                "keras"
            )
        elif reason != self._told:
            self._log(f"round {number}: trains by {faster}: {reason}")
        self._told = reason
        return faster


class _Noted(Engine):
    """The engine given by its name, or a choice, which is noted when it trains.

    Args:
        asked: A name, or `auto`.
        notes: What to keep with the fit's checkpoints. A fit that goes on keeps to its last engine, if it is
            `auto`'s to say.
        choose: A function from the model and the batches to a name.
    """

    def __init__(self, asked: str, notes: dict[str, Any], choose: Callable[[keras.Model, Any], str]) -> None:
        self._asked, self._notes, self._choose = asked, notes, choose

    def chosen(self, model: keras.Model, batches: Any, goes_on: bool) -> Engine:
        """Returns the engine that trains."""
        names = self._notes.setdefault("training_engines", [])
        name = self._asked
        if name == "auto":
            # Checkpoints of versions that had one engine name none.
            name = (names or ["keras"])[-1] if goes_on else self._choose(model, batches)
        if names[-1:] != [name]:
            names.append(name)
        return ENGINES[name]


def obstacle(config: ExperimentConfig, devices: Devices) -> str:
    """Returns why an experiment can be trained by Keras alone; empty if nothing but its network may say so.

    Args:
        config: The experiment.
        devices: What it computes on.
    """
    if devices.shared:
        return "several devices share each batch, and sparse trains on one processor"
    method = method_of(config)
    if not method.trains_by_engine:
        return f"{config.flag('pruning_engine')} trains its own network"
    if method.needs_all_weights:
        return f"{config.flag('method')} {method.needs_all_weights}"
    if config.mixed_precision != "none":
        return f"sparse trains in float32, and {config.flag('mixed_precision')}"
    return ""


class _NotMeasuredError(Exception):
    """The engines cannot be, or are not worth being, measured; the message says why."""


def measured_speedup(model: keras.Model, batches: Any) -> float:
    """Returns how many times as fast as Keras `sparse` trains a model, over a few steps on its first batches.

    The engines take turns, and the ratio is the median over the turns. A model that is to be pruned in the
    fit is measured at the sparsity that it will end at. Afterwards it is as it was.

    Args:
        model: The model, compiled.
        batches: Those of the fit: a `tf.data.Dataset` of known length.

    Raises:
        _NotMeasuredError: If the fit is too short to measure first, or `sparse` cannot train the model.
    """
    steps = int(batches.cardinality())
    turn_steps = 1 + _COUNTED_STEPS
    turns = min(_TURNS, int(_SHARE * steps / (2 * turn_steps)))
    if not turns:
        raise _NotMeasuredError(f"{steps:,} steps are too few to measure first which is faster")
    first = batches.take(turn_steps).cache()
    ratios = []
    with _as_it_was(model):
        prune_to_targets(pruned_layers(model))
        with _unable_told():
            trainer = ENGINES["sparse"].trainer(model)
        until = time.perf_counter() + _SECONDS
        for _ in range(turns):
            by_keras = _step_seconds(model, model, first, turn_steps)
            with _unable_told():
                ratios.append(by_keras / _step_seconds(trainer, model, first, turn_steps))
            if time.perf_counter() > until:
                break
    return round(statistics.median(ratios), 3)


@contextlib.contextmanager
def _unable_told() -> Iterator[None]:
    """Takes an error of `sparse` inside for the reason why Keras trains."""
    try:
        yield
    except (ValueError, ImportError, UserError, MemoryError) as error:
        raise _NotMeasuredError(f"sparse cannot train it: {error}") from error


@contextlib.contextmanager
def _as_it_was(model: keras.Model) -> Iterator[None]:
    """Lets a model be trained in the block without a `Pruner`, and brings all back at its end."""
    model.optimizer.build(model.trainable_variables)
    state = random.getstate(), np.random.get_state()
    variables = {id(variable): variable for variable in (*model.variables, *model.optimizer.variables)}
    try:
        with measured(pruned_layers(model)), kept(variables.values()):
            yield
    finally:
        random.setstate(state[0])
        np.random.set_state(state[1])


class _Clock(keras.callbacks.Callback):
    """Notes when each step was done on the device."""

    times: ClassVar[list[float]]

    def on_train_begin(self, logs: Any = None) -> None:
        self.times = []

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        float((logs or {}).get("loss", 0.0))  # There once the step is done.
        self.times.append(time.perf_counter())


def _step_seconds(trainer: Any, model: keras.Model, batches: Any, steps: int) -> float:
    """Returns the mean seconds of a fit's steps but for the first."""
    clock = _Clock()
    params = {"epochs": 1, "steps": steps, "verbose": 0}
    trainer.fit(
        batches,
        epochs=1,
        steps_per_epoch=steps,
        shuffle=False,
        verbose=0,
        callbacks=DeviceCallbackList([clock], model=model, **params),
    )
    return (clock.times[-1] - clock.times[0]) / (steps - 1)
