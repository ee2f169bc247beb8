"""The one loop of every experiment: `for round in rounds: prune; fit; evaluate`."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import keras
import numpy as np

from tfprune import sparsity
from tfprune.data import datasets
from tfprune.data.pipeline import test_batches, train_batches
from tfprune.data.waiting import WaitingTime
from tfprune.errors import UserError
from tfprune.experiments.devices import Devices
from tfprune.experiments.hardware import hardware
from tfprune.experiments.levels import (
    check_target,
    round_sparsity,
    sparsity_levels,
    step_schedules,
    tfmot_schedule,
)
from tfprune.experiments.networks import load_model, save_model
from tfprune.experiments.pruning import adapt_batchnorm, schedule_wrapped
from tfprune.experiments.results import make_result
from tfprune.experiments.start import build_start, masks_sparsity
from tfprune.experiments.teacher import distilled, load_teacher
from tfprune.runs.config import ExperimentConfig
from tfprune.runs.folder import RoundFolder, RunFolder, blame_file
from tfprune.runs.result import RoundResult
from tfprune.training.callbacks import NonFiniteLossError
from tfprune.training.checkpoint import read_checkpoint, remove_checkpoint
from tfprune.training.fit import accuracy_percent, compile_for_training, fit, percent
from tfprune.training.progress import Progress


class Rounds:
    """The rounds of one experiment, its data and the network as it goes from round to round.

    Args:
        config: The experiment.
        run: Its folder.
        dataset: Its data.
        found: The run and the round that `--init_from` names; None without one.
        start_result: That round's result.
        tfmot_engine: The module of that name, where `--pruning_engine` asks for it.
        claim: Makes the run folder this experiment's, once the start has been found to fit.
        log: Receives a line for each thing done.
        devices: Those that share each batch.
    """

    def __init__(
        self,
        config: ExperimentConfig,
        run: RunFolder,
        dataset: datasets.Dataset,
        found: tuple[RunFolder, RoundFolder] | None,
        start_result: RoundResult | None,
        tfmot_engine: ModuleType | None,
        claim: Callable[[], None],
        log: Callable[[str], None],
        devices: Devices,
    ) -> None:
        self._devices = devices
        self.config, self.run, self.dataset = config, run, dataset
        self._found, self._start_result = found, start_result
        self._tfmot, self._claim = tfmot_engine, claim
        self._log_line = log
        self._log = lambda text: log(f"{config.experiment} {text}")
        self._network: keras.Model | None = None
        self._teacher, self._teacher_result = load_teacher(config, len(dataset.class_names))
        self._test = test_batches(
            dataset.test, image_size=config.image_size, batch_size=config.batch_size, shard=devices.shard
        )

    def do_round(self, number: int) -> None:
        """Brings a round to its end: prunes, trains, evaluates, writes; or goes on where it stopped."""
        folder = self.run.round(number)
        self._seconds = dict.fromkeys(("prune", "train", "evaluate"), 0.0)
        with blame_file(folder.path, "its checkpoint is damaged; remove the folder to begin the round anew"):
            checkpoint = read_checkpoint(folder.path)
            model = checkpoint.load_model() if checkpoint else None
        if checkpoint:
            self._log(f"round {number}: goes on after epoch {checkpoint.epochs_done}")
            history, notes = checkpoint.history, checkpoint.notes
        else:
            model, notes = self._begin_start() if number == 0 else self._begin_pruning(number)
            history = []
        if self._devices.writes:
            folder.path.mkdir(parents=True, exist_ok=True)
        if number > 0 or self.config.regime == "dense":
            with self._timed("train"):
                self._fit(model, number, history, notes)
        self._network = model
        if not history:
            accuracy = notes["accuracy_before_percent"]
        elif self._tfmot:  # Not the twin's own figure, but that of what came back from it.
            accuracy = self._evaluate(model)
        else:
            accuracy = percent(history[-1]["val_accuracy"])
        result = make_result(
            self.config,
            self.dataset,
            self._start_result,
            self._teacher_result,
            number,
            model,
            notes,
            history,
            accuracy,
            device_count=self._devices.count,
            hardware=hardware(),
            seconds=self._seconds,
        )
        save_model(folder, model, keep=self._devices.writes)
        if self._devices.writes:
            folder.write_result(result)
            remove_checkpoint(folder.path)
        self._devices.wait_for_all(f"{self.config.experiment} round {number}")  # The others read it now.
        self._log(
            f"round {number} of {self.config.last_round}: accuracy {accuracy:.2f} %, "
            f"sparsity {result.sparsity:.4f}"
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
        self._claim()
        compile_for_training(model, self.config.settings(0))
        accuracy = self._evaluate(model)
        self._log(f"starts at accuracy {accuracy:.2f} %, sparsity {start:.4f}")
        return model, {
            "target_sparsity": start,
            "accuracy_before_percent": accuracy,
            "accuracy_after_pruning_percent": None,
        }

    def _begin_pruning(self, number: int) -> tuple[keras.Model, dict[str, Any]]:
        """Takes the round before's network, with a fresh optimizer, and prunes it."""
        config, before = self.config, self.run.round(number - 1)
        model = self._network or load_model(before)
        start = self.run.round(0).read_result().sparsity
        notes = {"accuracy_before_percent": before.read_result().accuracy_percent}
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
        with self._timed("prune"):
            self._prune(model, number, start)
        after = self._evaluate(model)
        self._log(
            f"round {number} of {config.last_round}: pruned to {masks_sparsity(model):.4f}, accuracy "
            f"{notes['accuracy_before_percent']:.2f} % -> {after:.2f} %"
        )
        return model, {**notes, "target_sparsity": level, "accuracy_after_pruning_percent": after}

    def _prune(self, model: keras.Model, number: int, start: float) -> None:
        """Prunes at once to the round's level."""
        config = self.config
        if self._tfmot:
            self._tfmot.prune(model, tfmot_schedule(config, start, number, self._steps(number)))
            return
        wanted = round_sparsity(config, start, number)
        batches = self._gradient_batches(number)
        sparsity.prune_to(model, wanted, gradient_data=batches, gradient_batches=config.gradient_batches)
        # A stream that is neither the round's own nor an update's.
        adapt_batchnorm(config, model, lambda epochs: self._train_batches((number, 0, 1), 0, epochs))

    def _evaluate(self, model: keras.Model) -> float:
        with self._timed("evaluate"):
            return accuracy_percent(model, self._test)

    @contextlib.contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        """Adds the block's wall clock to a stage of the round."""
        began = time.perf_counter()
        yield
        self._seconds[stage] = round(self._seconds[stage] + time.perf_counter() - began, 3)

    def _fit(
        self, model: keras.Model, number: int, history: list[dict[str, float]], notes: dict[str, Any]
    ) -> None:
        config, folder = self.config, self.run.round(number).path
        waiting = WaitingTime()
        arguments = {
            "folder": folder,
            "train_images": len(self.dataset.train),
            "train_batches": lambda first, last: waiting.measured(
                self._train_batches((number,), first, last)
            ),
            "waited": waiting.seconds,
            "progress": self._progress(number),
            "test_batches": self._test,
            "history": history,
            "notes": notes,
        }
        try:
            if self._tfmot:
                start = self.run.round(0).read_result().sparsity
                schedule = tfmot_schedule(config, start, number, self._steps(number))
                self._tfmot.fit(model, config.settings(number), schedule=schedule, **arguments)
            else:
                pruning = sparsity.UpdatePruningStep(
                    gradient_data=self._gradient_batches(number), gradient_batches=config.gradient_batches
                )
                callbacks = [pruning] if sparsity.pruned_layers(model) else []
                writes = self._devices.writes
                taught = distilled(config, model, self._teacher)
                fit(taught, config.settings(number), callbacks=callbacks, writes=writes, **arguments)
        except NonFiniteLossError as error:
            checkpoint = read_checkpoint(folder)
            kept = checkpoint.model_path if checkpoint else "none, it was the first epoch"
            raise UserError(
                f"{config.experiment} round {number}: {error}. Last good checkpoint: {kept}. "
                f"A lower --learning_rate (now {config.learning_rate}) may help"
            ) from error

    def _progress(self, number: int) -> Progress:
        config, last = self.config, self.config.last_round
        return Progress(
            f"{config.experiment} round {number} of {last}" if last else config.experiment,
            batch_size=config.batch_size,
            later_epochs=sum(config.settings(later).epochs for later in range(number + 1, last + 1)),
            log=self._log_line,
        )

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
            shard=self._devices.shard,
        )

    def _gradient_batches(self, number: int) -> Callable[[int], Any]:
        """Training batches, others at each step, to measure gradients on."""
        # Not 0: a stream (number, 0) would be the round's own.
        return lambda step: self._train_batches((number, step + 1), 0, 1)

    def _steps(self, number: int) -> int:
        """Training steps of a round."""
        settings = self.config.settings(number)
        return settings.epochs * math.ceil(len(self.dataset.train) / settings.batch_size)
