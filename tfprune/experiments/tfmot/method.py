"""`--pruning_engine=tfmot` as a method: the settings that tfmot knows, and the calls of the engine."""

from types import ModuleType
from typing import Any, ClassVar

import keras

from tfprune.errors import UserError, blame_flag
from tfprune.experiments.methods.by_steps import Gradual
from tfprune.experiments.methods.method import Begun, Method, Round, Taught
from tfprune.runs.config import RESNETS, ExperimentConfig
from tfprune.settings import to_text
from tfprune.sparsity import ConstantSparsity, PruningSchedule
from tfprune.training.fit import compile_for_training, evaluate

_REGIMES = ("one_shot", "iterative", "gradual")
# Settings of which tfmot knows the default only, in pruning and in training.
_BEYOND = (
    "method",
    "score",
    "granularity",
    "block_size",
    "sparsity_m_by_n",
    "layer_sparsity",
    "search",
    "batchnorm_after_pruning",
    "lr_schedule",
    "warmup_epochs",
    "distill_from",
    "loss",
    "metrics",
)


class Tfmot(Method):
    """Pruning and training by tfmot itself, on the same network in tf-keras.

    Args:
        asked: The method that tfmot stands in for.
    """

    shares_devices: ClassVar[bool] = False
    trains_by_engine: ClassVar[bool] = False
    packages: ClassVar[frozenset[str]] = frozenset({"tensorflow-model-optimization", "tf-keras"})

    def __init__(self, asked: Method) -> None:
        super().__init__(asked.config)
        self._asked = asked

    def check(self) -> None:
        """Checks that the settings go together, and that tfmot has them.

        Raises:
            UserError: With the flag, the value and the rule.
        """
        config, engine = self.config, "with --pruning_engine=tfmot"
        if config.regime not in _REGIMES:
            names = f"{', '.join(_REGIMES[:-1])} or {_REGIMES[-1]}"
            config.refuse("regime", f"must be {names} {engine}, which trains nothing else")
        self._asked.check()
        if config.model not in RESNETS:
            config.refuse(
                "model", f"must be {' or '.join(RESNETS)} {engine}, which has no other network's twin"
            )
        if config.scope != "layer":
            config.refuse("scope", f"must be layer {engine}, which has no other: pass --scope=layer")
        if config.regime == "gradual" and config.schedule != "polynomial":
            config.refuse("schedule", f"must be polynomial {engine} for --regime=gradual")
        defaults = ExperimentConfig(config.experiment)
        for name in _BEYOND:
            default = getattr(defaults, name)
            if getattr(config, name) != default:
                config.refuse(name, f"must be {to_text(default) or 'empty'} {engine}")
        if config.mixed_precision != "none":
            config.refuse("mixed_precision", f"must be none {engine}, which trains in float32 here")

    def prepare(self) -> None:
        """Imports tfmot and tf-keras, which nothing else needs."""
        backend = keras.backend.backend()
        if backend != "tensorflow":
            raise UserError(
                f"--pruning_engine=tfmot: must be tfprune with KERAS_BACKEND={backend}; tfmot needs "
                "KERAS_BACKEND=tensorflow"
            )
        with blame_flag("pruning_engine", "tfmot"):
            _engine()

    def check_start(self, model: keras.Model, first: Round) -> None:
        """Checks the target, and that tfmot's first update removes weights in every layer."""
        self.check_target(first.start)
        _engine().check_start(model, self._schedule(first))

    def level(self, start: float, number: int) -> float:
        """Returns the level of the method that tfmot stands in for."""
        return self._asked.level(start, number)

    def begin(self, model: keras.Model, current: Round) -> Begun:
        """Compiles the network; prunes, by tfmot, where the round prunes at once."""
        compile_for_training(model, current.settings, current.task.goal)
        schedule, level = self._schedule(current), self.level(current.start, current.number)
        if isinstance(self._asked, Gradual):
            return Begun(model, level, f"{schedule} in {current.steps} steps")
        _engine().prune(model, schedule)
        return Begun(model, level)

    def fit(
        self,
        model: keras.Model,
        current: Round,
        taught: Taught,
        *,
        writes: bool = True,
        engine: Any = None,
        **arguments: Any,
    ) -> keras.Model:
        """Trains the network's twin in tf-keras and brings the result back.

        Args:
            model: The network that `begin` returned, or a checkpoint's.
            current: The round.
            taught: Returns the network itself: tfmot has no teacher.
            writes: True: one process works on one device.
            engine: Not used: tf-keras trains.
            **arguments: As for `tfprune.training.fit.fit`.
        """
        _engine().fit(taught(model), current.settings, schedule=self._schedule(current), **arguments)
        return model

    def figures(
        self, model: keras.Model, history: list[dict[str, float]], current: Round
    ) -> dict[str, float]:
        """Returns the figures of what came back from the twin, whose own are in the history."""
        return evaluate(model, current.batches.test)

    def _schedule(self, current: Round) -> PruningSchedule:
        """Returns the schedule, in steps, by which tfmot prunes in a round: ours, equal to tfmot's own.

        tfmot prunes at whole multiples of `frequency` only: the ramp ends at the last one.
        """
        config = self.config
        if not isinstance(self._asked, Gradual):
            level = self.level(current.start, current.number)
            # Once, before the first step.
            return ConstantSparsity(level, begin_step=0, end_step=0, frequency=1)
        end = self._asked.ramp_steps(current.steps)
        if end < config.frequency:
            config.refuse(
                "frequency",
                f"must be at most {end}, the steps of the ramp, with --pruning_engine=tfmot, which prunes at "
                "whole multiples of it only",
            )
        return self._asked.ramp(current.start, config.target_sparsity, end - end % config.frequency)


def _engine() -> ModuleType:
    from tfprune.experiments.tfmot import engine

    return engine
