"""The one loop of every experiment: for each round: begin, fit, evaluate, write."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import keras

from tfprune.data.waiting import WaitingTime
from tfprune.errors import UserError
from tfprune.experiments.batches import Batches
from tfprune.experiments.devices import Devices
from tfprune.experiments.environment import hardware
from tfprune.experiments.methods.method import Method, Round
from tfprune.experiments.networks import load_model, save_model
from tfprune.experiments.results import make_result
from tfprune.experiments.start import Start, build_start, masks_sparsity
from tfprune.experiments.teacher import distilled, load_teacher
from tfprune.experiments.unfinished import read_unfinished
from tfprune.files import make_folder
from tfprune.runs.folder import RunFolder
from tfprune.runs.metric import ACCURACY
from tfprune.training.callbacks import NonFiniteLossError
from tfprune.training.checkpoint import remove_checkpoint
from tfprune.training.fit import accuracy_percent, compile_for_training
from tfprune.training.progress import Progress


class Rounds:
    """The rounds of one experiment, and the network as it goes from one to the next.

    Args:
        method: The experiment, and how it prunes.
        start: The round that it starts from; None without `--init_from`.
        batches: Its data.
        devices: Those that share each batch.
        log: Receives a line for each thing done.
    """

    def __init__(
        self,
        method: Method,
        start: Start | None,
        batches: Batches,
        devices: Devices,
        log: Callable[[str], None],
    ) -> None:
        self.config, self._method = method.config, method
        self._start, self._batches, self._devices = start, batches, devices
        self._run = RunFolder(self.config.folder)
        self._print = log
        self._log = lambda text: log(f"{self.config.experiment} {text}")
        self._teacher = load_teacher(self.config, len(batches.dataset.class_names))
        self._network: keras.Model | None = None
        self._first: keras.Model | None = None

    def build_start(self) -> None:
        """Builds the network of round 0 and checks that it fits what the experiment asks for; writes nothing.

        Raises:
            UserError: If it does not fit.
        """
        self._first = build_start(self.config, self._batches.dataset, self._start)
        self._method.check_start(self._first, Round(1, masks_sparsity(self._first), self._batches))

    def do_round(self, number: int) -> None:
        """Brings a round to its end, or goes on where the round was interrupted."""
        config, folder, writes = self.config, self._run.round(number), self._devices.writes
        self._seconds = dict.fromkeys(("prune", "train", "evaluate"), 0.0)
        checkpoint = read_unfinished(config, folder, ACCURACY)
        if checkpoint:
            model = checkpoint.load_model()
            self._log(f"round {number}: goes on after epoch {checkpoint.epochs_done}")
            history, notes = checkpoint.history, checkpoint.notes
        else:
            model, notes = self._begin(number) if number else self._begin_start()
            history = []
        if writes:
            make_folder(folder.path)
        accuracy = notes["metric_before"]
        if number >= min(1, config.last_round):
            accuracy = self._fit(model, number, history, notes)
        self._network = model
        result = make_result(
            config,
            self._batches.dataset,
            self._start.result if self._start else None,
            self._teacher.result if self._teacher else None,
            number,
            model,
            notes,
            history,
            ACCURACY,
            accuracy,
            network=save_model(folder, model, keep=writes),
            device_count=self._devices.count,
            hardware=hardware(),
            seconds=self._seconds,
        )
        if writes:
            folder.write_result(result)
            remove_checkpoint(folder.path)
        self._devices.wait_for_all(f"{config.experiment} round {number}")  # The others read it now.
        if history:  # What a start is worth was said when it began.
            self._log(
                f"round {number} of {config.last_round}: accuracy {accuracy:.2f} %, "
                f"sparsity {result.sparsity:.4f}"
            )

    def _begin_start(self) -> tuple[keras.Model, dict[str, Any]]:
        """Compiles and measures the starting network."""
        if self._first is None:
            self.build_start()
        model, self._first = self._first, None
        compile_for_training(model, self.config.settings(0))
        accuracy, level = self._evaluate(model), masks_sparsity(model)
        self._log(f"starts at accuracy {accuracy:.2f} %, sparsity {level:.4f}")
        return model, {
            "target_sparsity": level,
            "metric_before": accuracy,
            "metric_after_pruning": None,
        }

    def _begin(self, number: int) -> tuple[keras.Model, dict[str, Any]]:
        """Takes the network of the round before, prunes it or makes it ready to be pruned in training."""
        folder = self._run.round(number - 1)
        before = folder.read_result().metric_at_end
        model = self._network or load_model(folder)
        with self._timed("prune"):
            begun = self._method.begin(model, self._round(number))
        after = None
        if begun.prunes_by:
            self._log(f"round {number}: prunes by {begun.prunes_by}")
        else:
            after = self._evaluate(begun.model)
            self._log(
                f"round {number} of {self.config.last_round}: pruned to {masks_sparsity(begun.model):.4f}, "
                f"accuracy {before:.2f} % -> {after:.2f} %"
            )
        return begun.model, {
            "metric_before": before,
            "target_sparsity": begun.target_sparsity,
            "metric_after_pruning": after,
        }

    def _fit(
        self, model: keras.Model, number: int, history: list[dict[str, float]], notes: dict[str, Any]
    ) -> float:
        """Trains up to the round's last epoch; returns the accuracy."""
        current, folder = self._round(number), self._run.round(number).path
        waiting = WaitingTime()
        try:
            with self._timed("train"):
                self._method.fit(
                    distilled(self.config, model, self._teacher),
                    current,
                    folder=folder,
                    train_images=len(self._batches.dataset.train),
                    train_batches=lambda first, last: waiting.measured(
                        self._batches.of_round(number, first, last)
                    ),
                    waited=waiting.seconds,
                    progress=self._progress(number),
                    test_batches=self._batches.test,
                    history=history,
                    notes=notes,
                    writes=self._devices.writes,
                )
        except NonFiniteLossError as error:
            checkpoint = read_unfinished(self.config, self._run.round(number), ACCURACY)
            kept = checkpoint.model_path if checkpoint else "none, it was the first epoch"
            raise UserError(
                f"{self.config.experiment} round {number}: {error}. Last good checkpoint: {kept}. "
                f"A lower --learning_rate (now {self.config.learning_rate}) may help"
            ) from error
        with self._timed("evaluate"):
            return self._method.accuracy_percent(model, history, current)

    def _round(self, number: int) -> Round:
        """Describes a round that trains to the method; `dense`, of round 0, has no start to be asked for."""
        start = self._run.round(0).read_result().sparsity if number else 0.0
        return Round(number, start, self._batches)

    def _evaluate(self, model: keras.Model) -> float:
        with self._timed("evaluate"):
            return accuracy_percent(model, self._batches.test)

    @contextlib.contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        """Adds the block's wall clock to a stage of the round."""
        began = time.perf_counter()
        yield
        self._seconds[stage] = round(self._seconds[stage] + time.perf_counter() - began, 3)

    def _progress(self, number: int) -> Progress:
        config, last = self.config, self.config.last_round
        return Progress(
            f"{config.experiment} round {number} of {last}" if last else config.experiment,
            batch_size=config.batch_size,
            later_epochs=sum(config.settings(later).epochs for later in range(number + 1, last + 1)),
            log=self._print,
        )
