"""`--regime=genetic`: masks evolve in a population of copies, each trained by itself; the best trains on."""

from typing import ClassVar

import keras

from tfprune.experiments.genetic import evolve_masks
from tfprune.experiments.methods.method import Begun, Method, Round
from tfprune.experiments.pruning import masks_sparsity
from tfprune.files import make_folder
from tfprune.runs.folder import POPULATION, RunFolder
from tfprune.training.fit import compile_for_training

# Of a fifth of the examples no copy is trained on: these judge.
_PARTS = 5


class Genetic(Method):
    """Pruning by a genetic algorithm (Whitley and others, 1990), which finds the sparsity as well.

    It is kept in the round's folder, `population.npz`, from one copy to the next.
    """

    shares_devices: ClassVar[bool] = False

    def check(self) -> None:
        """Checks that no schedule is given: there is no target.

        Raises:
            UserError: With the flag, the value and the rule.
        """
        self._check_schedule()

    def check_target(self, start: float) -> None:
        """Does nothing: there is no target, and what a start has removed stays so."""

    def check_start(self, model: keras.Model, first: Round) -> None:
        """Checks that there are examples to train copies on, and others to judge them by.

        Raises:
            UserError: If there are too few.
        """
        if len(first.batches.dataset.train) < _PARTS:
            self.config.refuse(
                "train_examples", f"must be at least {_PARTS} for {self.config.flag('regime')}"
            )

    def level(self, start: float, number: int) -> float:
        """Returns the sparsity of the starting masks; how much more goes is found."""
        return start

    def begin(self, model: keras.Model, current: Round) -> Begun:
        """Evolves the masks; the network becomes the best copy."""
        config = self.config
        compile_for_training(model, current.settings, current.task.goal)
        folder = RunFolder(config.folder).round(current.number).path
        make_folder(folder)
        train, validation = current.batches.parted(current.number, _PARTS)
        evolve_masks(
            model,
            train,
            validation,
            children=config.children,
            population=config.population,
            steps=config.copy_steps,
            price=config.weight_price,
            batch_size=config.batch_size,
            seed=config.seed,
            path=folder / POPULATION,
            log=current.log,
        )
        return Begun(model, masks_sparsity(model))
