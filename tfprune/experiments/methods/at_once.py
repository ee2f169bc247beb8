"""`--regime=iterative` and `one_shot`: every round prunes at once, then trains what is left."""

import itertools
import re
from typing import ClassVar

import keras

from tfprune import sparsity
from tfprune.experiments.methods.method import Begun, Method, Round
from tfprune.experiments.pruning import check_method, rising
from tfprune.files import make_folder
from tfprune.network.graph import functional
from tfprune.runs.config import ExperimentConfig
from tfprune.runs.folder import SEARCH, SEARCH_PICTURE, RunFolder
from tfprune.settings import to_text
from tfprune.sparsity.with_data import METHODS
from tfprune.training.fit import compile_for_training


class Iterative(Method):
    """Pruning before each of several rounds of training.

    Round k of n ends at the schedule's value at step k, where the schedule runs from the starting sparsity at
    step 0 to the target at step n.
    """

    schedules: ClassVar[tuple[str, ...]] = ("polynomial", "geometric")

    @property
    def shares_devices(self) -> bool:
        """Returns whether several devices can share the batches: a search runs on one."""
        return self.config.search == "none"

    def level(self, start: float, number: int) -> float:
        """Returns the schedule's value at a round."""
        return self._level(start, self.config.target_sparsity, number)

    def levels_by_layer(self, start: float, number: int) -> dict[str, float]:
        """Returns {regular expression of layer names: sparsity} of a round, for `--layer_sparsity`."""
        targets = self.config.layer_targets()
        return {
            pattern: self._level(min(start, target), target, number) for pattern, target in targets.items()
        }

    def check(self) -> None:
        """Checks that the settings go together.

        Raises:
            UserError: With the flag, the value and the rule.
        """
        super().check()
        config = self.config
        if config.search != "none":
            # Single weights are searched, by their magnitude or by `method`.
            defaults = ExperimentConfig(config.experiment)
            for name in _NOT_SEARCHED:
                if getattr(config, name) != (default := getattr(defaults, name)):
                    config.refuse(name, f"must be {to_text(default) or 'empty'} with {config.flag('search')}")
        check_method(config, "score", *METHODS)
        if config.method == "score":
            return
        given = f"with {config.flag('method')}"
        if config.score != "magnitude":
            config.refuse("score", f"must be magnitude {given}, which ranks weights itself")
        if config.layer_sparsity and config.scope != "layer":
            config.refuse("scope", f"must be layer {given} and --layer_sparsity: each layer reaches its own")

    def check_start(self, model: keras.Model, first: Round) -> None:
        """Checks that what is to be done with BatchNorm can be done in the network."""
        super().check_start(model, first)
        if self.config.batchnorm_after_pruning == "reset_removed" and functional(model) is None:
            self.config.refuse(
                "batchnorm_after_pruning",
                f"needs a functional or Sequential model, whose layers' connections are known; "
                f"{type(model).__name__} is subclassed",
            )

    def begin(self, model: keras.Model, current: Round) -> Begun:
        """Prunes the network to the round's level and brings its BatchNorm up to date."""
        config = self.config
        compile_for_training(model, current.settings, current.task.goal)
        level = self.level(current.start, current.number)
        target = self._levels(model, level, current)
        if config.method == "score":
            sparsity.prune_to(
                model,
                target,
                # What is searched is each layer's own, of equal sparsities too.
                scope=None if config.search == "none" else "layer",
                gradient_data=current.batches.for_gradients(current.number),
                gradient_batches=config.gradient_batches,
            )
        else:
            images = current.batches.plain_inputs(current.number, config.method_images)
            sparsity.prune_with_data(model, target, images, method=config.method, verbose=0)
        update_batch_norm(config, model, current)
        return Begun(model, level)

    def _levels(self, model: keras.Model, level: float, current: Round) -> float | dict[str, float]:
        """Returns the sparsity of a round, or {regular expression of layer names: sparsity}."""
        if self.config.search != "none":
            return search(self.config, model, level, current)
        if self.config.layer_sparsity:
            return self.levels_by_layer(current.start, current.number)
        return level

    def _level(self, start: float, target: float, number: int) -> float:
        return rising(self.config, start, target, end_step=self.config.last_round)(number)[1]


# Settings of which a search knows the default only.
_NOT_SEARCHED = ("layer_sparsity", "granularity", "block_size", "sparsity_m_by_n", "score")


class OneShot(Iterative):
    """Iterative pruning of one round, at the target."""

    schedules: ClassVar[tuple[str, ...]] = ("constant",)


def search(config: ExperimentConfig, model: keras.Model, level: float, current: Round) -> dict[str, float]:
    """Searches the sparsities of a round's layers, from where an interrupted search was.

    The search is kept in the round's folder, `search.json`, and drawn beside it, `search.png`.

    Args:
        config: The experiment.
        model: The network, wrapped and compiled.
        level: The sparsity of all weights together.
        current: The round.

    Returns:
        Regular expressions of the layers' names -> sparsities.
    """
    folder = RunFolder(config.folder).round(current.number).path
    make_folder(folder)
    found = sparsity.search_sparsities(
        model,
        level,
        current.batches.plain_inputs(current.number, config.search_images),
        method="magnitude" if config.method == "score" else config.method,
        generations=config.search_generations,
        seed=config.seed,
        path=folder / SEARCH,
    )
    found.plot(folder / SEARCH_PICTURE)
    return {re.escape(name): share for name, share in found.sparsities.items()}


def update_batch_norm(config: ExperimentConfig, model: keras.Model, current: Round) -> None:
    """Does with BatchNorm what is to be done after a network was pruned at once."""
    if config.batchnorm_after_pruning == "reset_removed":
        sparsity.reset_removed(model)
    elif config.batchnorm_after_pruning == "recalibrate":
        # An epoch has at least one batch.
        batches = current.batches.for_statistics(current.number, config.batchnorm_batches)
        sparsity.recalibrate(model, itertools.islice(batches, config.batchnorm_batches))
