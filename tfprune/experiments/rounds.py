"""The one loop of every experiment: for each round: begin, fit, evaluate, write."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras

from tfprune.data.waiting import WaitingTime
from tfprune.errors import UserError
from tfprune.experiments.batches import Batches
from tfprune.experiments.channels import size_of
from tfprune.experiments.devices import Devices
from tfprune.experiments.engines import TrainingEngines
from tfprune.experiments.environment import hardware
from tfprune.experiments.methods.method import Method, Round
from tfprune.experiments.networks import load_model, save_model
from tfprune.experiments.own import compiled_of, is_own, keep_compiled, know_own, try_out
from tfprune.experiments.pruning import masks_sparsity
from tfprune.experiments.results import make_result
from tfprune.experiments.start import Start, build_start, whole_size
from tfprune.experiments.task import Task, task_of
from tfprune.experiments.teacher import check_teacher, distilled, load_teacher
from tfprune.experiments.unfinished import read_unfinished
from tfprune.files import make_folder
from tfprune.runs.folder import RunFolder
from tfprune.runs.result import Channels, NetworkSize
from tfprune.training.callbacks import NonFiniteLossError
from tfprune.training.checkpoint import remove_checkpoint
from tfprune.training.fit import compile_for_training, evaluate
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
        know_own(self.config)
        self._engines = TrainingEngines(self.config, devices, self._log)
        self._teacher = load_teacher(self.config)
        self._compiled = compiled_of(self.config, self._run)
        self._task: Task | None = None
        self._network: keras.Model | None = None
        self._first: keras.Model | None = None
        self._sizes: tuple[NetworkSize, NetworkSize] | None = None

    def build_start(self) -> None:
        """Builds the network of round 0 and checks that it fits what the experiment asks for; writes nothing.

        Raises:
            UserError: If it does not fit.
        """
        config, batches = self.config, self._batches
        self._first = model = build_start(config, batches.dataset, self._start)
        task = self._task_of(model)
        check_teacher(config, self._teacher, task)
        sizes = self._sizes_of_start(0, model)
        first = Round(1, masks_sparsity(model), *sizes, batches, task, self._log)
        self._method.check_start(model, first)
        if is_own(config):
            try_out(config, model, task, batches)
        compile_for_training(model, config.settings(0), task.goal)
        self._engines.check_start(model)

    def keep(self) -> None:
        """Writes what a later process needs to know of the start besides the flags."""
        keep_compiled(self.config, self._run, self._compiled)

    def do_round(self, number: int) -> None:
        """Brings a round to its end, or goes on where the round was interrupted."""
        config, folder, writes = self.config, self._run.round(number), self._devices.writes
        self._seconds = dict.fromkeys(("prune", "train", "evaluate"), 0.0)
        checkpoint = read_unfinished(config, folder, self._task and self._task.headline)
        if checkpoint:
            model = checkpoint.load_model()
            read_unfinished(config, folder, self._task_of(model).headline)
            self._log(f"round {number}: goes on after epoch {checkpoint.epochs_done}")
            history, notes = checkpoint.history, checkpoint.notes
        else:
            model, notes = self._begin(number) if number else self._begin_start()
            history = []
        if writes:
            make_folder(folder.path)
        task, current = self._task_of(model), self._round(number, model)
        if number >= min(1, config.last_round):
            model = self._fit(model, current, history, notes)
        at_end = task.value(self._figures)
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
            task.headline,
            at_end,
            widths_before=self._widths_before(number),
            whole=current.whole,
            target_left=self._method.target_left(current),
            figures=self._figures,
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
            reached = self._method.reached(model, current.whole)
            self._log(f"round {number} of {config.last_round}: {self._text(at_end)}, {reached}")

    def _begin_start(self) -> tuple[keras.Model, dict[str, Any]]:
        """Compiles and measures the starting network."""
        if self._first is None:
            self.build_start()
        model, self._first = self._first, None
        task = self._task_of(model)
        compile_for_training(model, self.config.settings(0), task.goal)
        self._figures = self._evaluate(model)
        value, level = task.value(self._figures), masks_sparsity(model)
        self._log(f"{task.words}; {self._method.prunes(model)}")
        whole = self._sizes_of_start(0, model)[1]
        self._log(f"starts at {self._text(value)}, {self._method.reached(model, whole)}")
        return model, {
            "target_sparsity": level,
            "metric_before": value,
            "metric_after_pruning": None,
        }

    def _begin(self, number: int) -> tuple[keras.Model, dict[str, Any]]:
        """Takes the network of the round before, prunes it or makes it ready to be pruned in training."""
        folder = self._run.round(number - 1)
        before = folder.read_result().metric_at_end
        model = self._network or load_model(folder)
        headline = self._task_of(model).headline
        with self._timed("prune"):
            current = self._round(number, model)
            begun = self._method.begin(model, current)
        after = None
        if begun.prunes_by:
            self._log(f"round {number}: prunes by {begun.prunes_by}")
        else:
            after = self._task_of(model).value(self._evaluate(begun.model))
            self._log(
                f"round {number} of {self.config.last_round}: pruned to "
                f"{self._method.reached(begun.model, current.whole)}, "
                f"{headline.name} {headline.text(before)} -> {headline.text(after)}"
            )
        return begun.model, {
            "metric_before": before,
            "target_sparsity": begun.target_sparsity,
            "metric_after_pruning": after,
        }

    def _fit(
        self, model: keras.Model, current: Round, history: list[dict[str, float]], notes: dict[str, Any]
    ) -> keras.Model:
        """Trains up to the round's last epoch; returns the network, whose figures it keeps."""
        number, folder = current.number, self._run.round(current.number).path
        waiting = WaitingTime()
        try:
            with self._timed("train"):
                model = self._method.fit(
                    model,
                    current,
                    lambda student: distilled(self.config, student, self._teacher),
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
                    engine=self._engines.of_round(number, notes),
                )
        except NonFiniteLossError as error:
            checkpoint = read_unfinished(self.config, self._run.round(number), current.task.headline)
            kept = checkpoint.model_path if checkpoint else "none, it was the first epoch"
            raise UserError(
                f"{self.config.experiment} round {number}: {error}. Last good checkpoint: {kept}. "
                f"A lower --learning_rate (now {self.config.learning_rate}) may help"
            ) from error
        with self._timed("evaluate"):
            self._figures = self._method.figures(model, history, current)
        return model

    def _round(self, number: int, model: keras.Model) -> Round:
        """Describes a round, and its network, to the method; `dense` has no round before to be asked for."""
        sizes = self._sizes_of_start(number, model)
        start = self._run.round(0).read_result().sparsity if number else 0.0
        return Round(
            number,
            start,
            *sizes,
            self._batches,
            self._task_of(model),
            lambda text: self._log(f"round {number} of {self.config.last_round}: {text}"),
        )

    def _sizes_of_start(self, number: int, model: keras.Model) -> tuple[NetworkSize, NetworkSize]:
        """Returns the size of round 0's network, and what it was before any channel was cut.

        Args:
            number: The round that the network is of.
            model: The network. One whose round 0 was counted by no version was never cut.
        """
        if self._sizes is None:
            start = self._run.round(0).read_result() if number else None
            if start and start.size:
                self._sizes = start.size, start.whole
            else:
                size = size_of(model)
                self._sizes = size, whole_size(self.config, self._batches.dataset, self._start, size)
        return self._sizes

    def _widths_before(self, number: int) -> Sequence[Channels]:
        """Returns the widths of the network that a round began with; none where no channel goes or went."""
        if number:
            return self._run.round(number - 1).read_result().channels
        return self._start.result.channels if self._start else ()

    def _task_of(self, model: keras.Model) -> Task:
        """Returns what the experiment's networks are trained for, which the first one that comes says."""
        if self._task is None:
            self._task = task_of(self.config, model, self._batches, self._compiled)
        return self._task

    def _text(self, value: float) -> str:
        """Returns a value of the headline with its name."""
        return f"{self._task.headline.name} {self._task.headline.text(value)}"

    def _evaluate(self, model: keras.Model) -> dict[str, float]:
        with self._timed("evaluate"):
            return evaluate(model, self._batches.test)

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
            metric=self._task.headline.name,
            in_percent=self._task.headline.in_percent,
            noun=self._batches.dataset.noun,
            later_epochs=sum(config.settings(later).epochs for later in range(number + 1, last + 1)),
            log=self._print,
        )
