"""`Method`: the checks and steps of a way of pruning, and those that all ways share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import keras

from tfprune import sparsity
from tfprune.experiments.batches import Batches
from tfprune.experiments.channels import left_words, parameters_of
from tfprune.experiments.pruning import check_patterns, masks_sparsity, pruned_words
from tfprune.experiments.task import Task
from tfprune.runs.config import ExperimentConfig
from tfprune.runs.result import NetworkSize
from tfprune.training.fit import fit
from tfprune.training.settings import TrainingSettings

Taught = Callable[[keras.Model], keras.Model]


@dataclass(frozen=True)
class Round:
    """A round as a method sees it.

    Attributes:
        number: From 1; 0 for the only round of `dense`.
        start: Sparsity of the masks that the experiment started from.
        size: Of the network that the experiment started from.
        whole: Of that network before any channel was cut.
        batches: The experiment's.
        task: What the network is trained for.
        log: Receives a line for each thing done in the round.
    """

    number: int
    start: float
    size: NetworkSize
    whole: NetworkSize
    batches: Batches
    task: Task
    log: Callable[[str], None]

    @property
    def steps(self) -> int:
        """Number of training steps."""
        return self.batches.steps(self.number)

    @property
    def settings(self) -> TrainingSettings:
        """The settings of the fit."""
        return self.batches.config.settings(self.number)


@dataclass(frozen=True)
class Begun:
    """A round that is ready for its fit.

    Attributes:
        model: The network to train, compiled.
        target_sparsity: The level that the round asks for; None where no weights are to be zero.
        prunes_by: How the fit will prune, in words; empty where the pruning is done.
    """

    model: keras.Model
    target_sparsity: float | None
    prunes_by: str = ""


class Method:
    """A way of pruning: a class for one value of `--regime` or `--pruning_engine`.

    These are called in this order: `check`, before anything is read or written; `prepare`; `check_start`,
    with the starting network, before the run folder is made; then, in each round, `begin`, `fit` and
    `figures`. A round that continues from a checkpoint leaves `begin` out. A method keeps nothing
    from one round to the next: all state is in the network.

    Args:
        config: The experiment.

    Attributes:
        schedules: The values of `--schedule` that the method knows.
        shares_devices: Whether several devices can share its batches.
        trains_by_engine: Whether `--training_engine` says what trains.
        needs_all_weights: Why the sparse trainer cannot train for it; empty if it can.
        packages: Distributions that it needs, for the record.
    """

    schedules: ClassVar[tuple[str, ...]] = ("constant",)
    shares_devices: ClassVar[bool] = True
    trains_by_engine: ClassVar[bool] = True
    needs_all_weights: ClassVar[str] = ""
    packages: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, config: ExperimentConfig) -> None:
        self.config = config

    def check(self) -> None:
        """Checks that the settings go together.

        Raises:
            UserError: With the flag, the value and the rule.
        """
        config = self.config
        if not config.target_sparsity:
            config.refuse("target_sparsity", f"must be above 0 for {config.flag('regime')}")
        self._check_schedule()
        check_patterns(config)

    def _check_schedule(self) -> None:
        config = self.config
        if config.schedule not in self.schedules:
            config.refuse("schedule", f"must be {' or '.join(self.schedules)} for {config.flag('regime')}")

    def prepare(self) -> None:
        """Loads what the method needs besides this package.

        Raises:
            UserError: If it is not there, or the backend is another.
        """

    def check_target(self, start: float) -> None:
        """Checks that the target is not below the sparsity of the starting masks.

        Raises:
            UserError: If the target is below: removed weights never return, and `sparse` keeps their number.
        """
        if self.config.target_sparsity < start:
            self.config.refuse(
                "target_sparsity",
                f"must be at least the starting network's sparsity, {start:.4f}, because removed weights "
                "never return",
            )

    def check_start(self, model: keras.Model, first: Round) -> None:
        """Checks that the starting network can be pruned as asked.

        Args:
            model: The network of round 0, with masks.
            first: The first round that prunes.

        Raises:
            UserError: With the flag, the value and the rule.
        """
        self.check_target(first.start)

    def target_left(self, current: Round) -> float | None:
        """Returns the share of the whole network that a round asks for; None if it cuts no channels."""
        return None

    def reached(self, model: keras.Model, whole: NetworkSize) -> str:
        """Returns what a network was pruned to, in words: `sparsity 0.9500`.

        Args:
            model: The network.
            whole: Its size before any channel was cut.
        """
        text = f"sparsity {masks_sparsity(model):.4f}"
        is_whole = parameters_of(model) == whole.parameters
        return text if is_whole else f"{text}, {left_words(model, whole)}"

    def prunes(self, model: keras.Model) -> str:
        """Returns what of a network is pruned, in words."""
        return f"prunes {pruned_words(model)}"

    def level(self, start: float, number: int) -> float:
        """Returns the sparsity that a round ends at, of all prunable weights together.

        Args:
            start: Sparsity of the starting masks.
            number: The round, from 1.
        """
        return self.config.target_sparsity

    def begin(self, model: keras.Model, current: Round) -> Begun:
        """Does what comes before a round's fit.

        Args:
            model: The network as the round before left it.
            current: The round.
        """
        raise NotImplementedError

    def fit(self, model: keras.Model, current: Round, taught: Taught, **arguments: Any) -> keras.Model:
        """Trains the network to the round's end.

        Args:
            model: The network that `begin` returned, or a checkpoint's.
            current: The round.
            taught: A function from the network to the model to fit, which may have it under a teacher.
            **arguments: As for `tfprune.training.fit.fit`.

        Returns:
            The network: the same one, unless channels were cut from it.
        """
        student = taught(model)
        fit(student, current.settings, callbacks=self.callbacks(student, current), **arguments)
        return model

    def callbacks(self, model: keras.Model, current: Round) -> list[keras.callbacks.Callback]:
        """Returns the callbacks that keep removed weights at zero and update the masks."""
        if not sparsity.pruned_layers(model):
            return []
        return [
            sparsity.UpdatePruningStep(
                gradient_data=current.batches.for_gradients(current.number),
                gradient_batches=self.config.gradient_batches,
            )
        ]

    def figures(
        self, model: keras.Model, history: list[dict[str, float]], current: Round
    ) -> dict[str, float]:
        """Returns the loss and metrics of a round's network on the test split: those of its last epoch."""
        return {
            name.removeprefix("val_"): value for name, value in history[-1].items() if name.startswith("val_")
        }
