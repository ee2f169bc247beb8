"""The one loop of every experiment: `for round in rounds: prune; fit; evaluate`."""

import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import keras
import numpy as np

from tfprune import sparsity
from tfprune.data import datasets
from tfprune.data.pipeline import test_batches, train_batches
from tfprune.errors import UserError, blame_flag
from tfprune.experiments.config import ExperimentConfig
from tfprune.experiments.environment import check_engine, prepare_backend
from tfprune.experiments.levels import (
    check_target,
    round_sparsity,
    sparsity_levels,
    step_schedules,
    tfmot_schedule,
)
from tfprune.experiments.pruning_options import schedule_wrapped
from tfprune.experiments.results import make_result
from tfprune.experiments.run_folder import RoundFolder, RunFolder, blame_file, find_round
from tfprune.experiments.start import build_start, masks_sparsity
from tfprune.training.callbacks import NonFiniteLossError
from tfprune.training.checkpoint import read_checkpoint, remove_checkpoint
from tfprune.training.fit import accuracy_percent, compile_for_training, fit, percent


def run_experiment(config: ExperimentConfig, log: Callable[[str], None] = print) -> list[dict[str, Any]]:
    """Runs an experiment to its end, or goes on with one that was interrupted.

    Everything that can be wrong with the request is found before the run folder is made. Finished rounds
    are skipped; an unfinished one continues from its last finished epoch and ends where an uninterrupted
    run would.

    Args:
        config: The experiment.
        log: Receives a line for each thing done.

    Returns:
        The rounds' results, as in their `result.json`.

    Raises:
        UserError: On a request that cannot be met, or a loss that is no finite number.
    """
    config.check()
    run = RunFolder(config.folder)
    found = find_round(config.output_dir, config.init_from, "init_from") if config.init_from else None
    start_result = found[1].read_result() if found else None
    run.check_claim(config)
    rounds = [run.round(number) for number in range(config.last_round + 1)]
    for folder in rounds:
        if folder.finished:
            remove_checkpoint(folder.path)  # A kill may have come between the result and this.
    if all(folder.finished for folder in rounds):
        log(f"{config.experiment}: finished already, in {run.path}")
        return [folder.read_result() for folder in rounds]
    check_engine(config)
    prepare_backend(config)
    engine = _load_tfmot_engine() if config.pruning_engine == "tfmot" else None
    dataset = load_dataset(config)
    log(
        f"{config.experiment}: {len(dataset.train):,} training and {len(dataset.test):,} test images of "
        f"{config.dataset}, backend {keras.backend.backend()}"
    )
    experiment = _Experiment(config, run, dataset, found, start_result, engine, log)
    for folder in rounds:
        if folder.finished:
            log(f"{config.experiment} round {folder.number}: finished already")
        else:
            experiment.do_round(folder.number)
    return [folder.read_result() for folder in rounds]


def load_dataset(config: ExperimentConfig) -> datasets.Dataset:
    """Loads the experiment's data.

    Raises:
        UserError: On data that is not there, with the flag.
    """
    try:
        return datasets.load(
            config.dataset,
            config.data_dir or None,
            train_examples=config.train_examples,
            test_examples=config.test_examples,
            image_size=config.image_size,
        )
    except (ValueError, OSError) as error:
        named = [
            name for name in ("train_examples", "test_examples", "data_dir") if f"`{name}`" in str(error)
        ]
        name = named[0] if named else "dataset"
        raise UserError(f"--{name}={getattr(config, name)}: {error}") from error


def _load_tfmot_engine() -> ModuleType:
    """Imports tfmot and tf-keras, which nothing else needs."""
    with blame_flag("pruning_engine", "tfmot"):
        from tfprune.experiments import tfmot_engine
    return tfmot_engine


class _Experiment:
    """The rounds of one experiment, its data and the network as it goes from round to round."""

    def __init__(
        self,
        config: ExperimentConfig,
        run: RunFolder,
        dataset: datasets.Dataset,
        found: tuple[RunFolder, RoundFolder] | None,
        start_result: dict[str, Any] | None,
        tfmot_engine: ModuleType | None,
        log: Callable[[str], None],
    ) -> None:
        self.config, self.run, self.dataset = config, run, dataset
        self._found, self._start_result = found, start_result
        self._tfmot = tfmot_engine
        self._log = lambda text: log(f"{config.experiment} {text}")
        self._network: keras.Model | None = None
        self._test = test_batches(dataset.test, image_size=config.image_size, batch_size=config.batch_size)

    def do_round(self, number: int) -> None:
        """Brings a round to its end: prunes, trains, evaluates, writes; or goes on where it stopped."""
        folder = self.run.round(number)
        with blame_file(folder.path, "its checkpoint is damaged; remove the folder to begin the round anew"):
            checkpoint = read_checkpoint(folder.path)
            model = checkpoint.load_model() if checkpoint else None
        if checkpoint:
            self._log(f"round {number}: goes on after epoch {checkpoint.epochs_done}")
            history, notes = checkpoint.history, checkpoint.notes
        else:
            model, notes = self._begin_start() if number == 0 else self._begin_pruning(number)
            history = []
        folder.path.mkdir(parents=True, exist_ok=True)
        if number > 0 or self.config.regime == "dense":
            self._fit(model, number, history, notes)
        self._network = model
        if not history:
            accuracy = notes["accuracy_before_percent"]
        elif self._tfmot:  # Not the twin's own figure, but that of what came back from it.
            accuracy = accuracy_percent(model, self._test)
        else:
            accuracy = percent(history[-1]["val_accuracy"])
        result = make_result(
            self.config, self.dataset, self._start_result, number, model, notes, history, accuracy
        )
        folder.save_model(model)
        folder.write_result(result)
        remove_checkpoint(folder.path)
        self._log(
            f"round {number} of {self.config.last_round}: accuracy {accuracy:.2f} %, "
            f"sparsity {result['sparsity']:.4f}"
        )

    def _begin_start(self) -> tuple[keras.Model, dict[str, Any]]:
        """Builds the starting network, checks it against the request, and only then makes the run folder."""
        model = build_start(self.config, self.dataset, self._found)
        start = masks_sparsity(model)
        check_target(self.config, start)
        if self.config.regime in ("gradual", "sparse"):
            step_schedules(self.config, start, self._steps(1))  # What it cannot be is an error now.
        if self._tfmot:
            self._tfmot.check_start(model, tfmot_schedule(self.config, start, 1, self._steps(1)))
        self.run.claim(self.config)
        compile_for_training(model, self.config.settings(0))
        accuracy = accuracy_percent(model, self._test)
        self._log(f"starts at accuracy {accuracy:.2f} %, sparsity {start:.4f}")
        return model, {
            "target_sparsity": start,
            "accuracy_before_percent": accuracy,
            "accuracy_after_pruning_percent": None,
        }

    def _begin_pruning(self, number: int) -> tuple[keras.Model, dict[str, Any]]:
        """Takes the round before's network, with a fresh optimizer, and prunes it."""
        config, before = self.config, self.run.round(number - 1)
        model = self._network or before.load_model()
        start = self.run.round(0).read_result()["sparsity"]
        notes = {"accuracy_before_percent": before.read_result()["accuracy_percent"]}
        if config.regime in ("gradual", "sparse"):
            steps = self._steps(number)
            schedule = step_schedules(config, start, steps)
            if not self._tfmot:
                model = schedule_wrapped(config, model, schedule)
            compile_for_training(model, config.settings(number))
            notes |= {"target_sparsity": config.target_sparsity, "accuracy_after_pruning_percent": None}
            self._log(f"round {number}: prunes by {schedule} in {steps} steps")
            return model, notes
        level = sparsity_levels(config, start)[number - 1]
        compile_for_training(model, config.settings(number))
        if self._tfmot:
            self._tfmot.prune(model, tfmot_schedule(config, start, number, self._steps(number)))
        else:
            wanted = round_sparsity(config, start, number)
            batches = self._gradient_batches(number)
            sparsity.prune_to(model, wanted, gradient_data=batches, gradient_batches=config.gradient_batches)
        after = accuracy_percent(model, self._test)
        self._log(
            f"round {number} of {config.last_round}: pruned to {masks_sparsity(model):.4f}, accuracy "
            f"{notes['accuracy_before_percent']:.2f} % -> {after:.2f} %"
        )
        return model, {**notes, "target_sparsity": level, "accuracy_after_pruning_percent": after}

    def _fit(
        self, model: keras.Model, number: int, history: list[dict[str, float]], notes: dict[str, Any]
    ) -> None:
        config, folder = self.config, self.run.round(number).path
        arguments = {
            "folder": folder,
            "train_images": len(self.dataset.train),
            "train_batches": lambda first, last: self._train_batches((number,), first, last),
            "test_batches": self._test,
            "history": history,
            "notes": notes,
        }
        try:
            if self._tfmot:
                start = self.run.round(0).read_result()["sparsity"]
                schedule = tfmot_schedule(config, start, number, self._steps(number))
                self._tfmot.fit(model, config.settings(number), schedule=schedule, **arguments)
            else:
                pruning = sparsity.UpdatePruningStep(
                    gradient_data=self._gradient_batches(number), gradient_batches=config.gradient_batches
                )
                callbacks = [pruning] if sparsity.pruned_layers(model) else []
                fit(model, config.settings(number), callbacks=callbacks, **arguments)
        except NonFiniteLossError as error:
            checkpoint = read_checkpoint(folder)
            kept = checkpoint.model_path if checkpoint else "none, it was the first epoch"
            raise UserError(
                f"{config.experiment} round {number}: {error}. Last good checkpoint: {kept}. "
                f"A lower --learning_rate (now {config.learning_rate}) may help"
            ) from error

    def _train_batches(self, stream: tuple[int, ...], first_epoch: int, epochs: int) -> Any:
        """Batches of whole epochs; each stream, a round's or an update's, has its own order."""
        config = self.config
        return train_batches(
            self.dataset.train,
            image_size=config.image_size,
            batch_size=config.batch_size,
            autoaugment=config.autoaugment,
            seed=int(np.random.SeedSequence([config.seed, *stream]).generate_state(1)[0]),
            first_epoch=first_epoch,
            epochs=epochs,
        )

    def _gradient_batches(self, number: int) -> Callable[[int], Any]:
        """Training batches, others at each step, to measure gradients on."""
        # Not 0: a stream (number, 0) would be the round's own.
        return lambda step: self._train_batches((number, step + 1), 0, 1)

    def _steps(self, number: int) -> int:
        """Training steps of a round."""
        settings = self.config.settings(number)
        return settings.epochs * math.ceil(len(self.dataset.train) / settings.batch_size)
