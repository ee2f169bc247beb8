"""Runs a study: one experiment after the other, in one process or several, resumable; says what is left."""

import functools
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import dataclass, field

import keras

from tfprune.errors import FileError, UserError
from tfprune.experiments.batches import load_dataset
from tfprune.experiments.devices import ONE_DEVICE, Devices
from tfprune.experiments.engines import TrainingEngines
from tfprune.experiments.environment import hardware, keep_data_off_accelerator
from tfprune.experiments.memory import check_memory
from tfprune.experiments.run import run_experiment
from tfprune.experiments.study.estimate import Estimate, Place, read_speeds, total_text, what_computes
from tfprune.experiments.study.plan import check_plan, label, planned_sparsities, references, study_folder
from tfprune.experiments.study.sharing import Sharing
from tfprune.experiments.study.state import RunState, read_state
from tfprune.lock import InUseError, holder, this_process
from tfprune.runs.config import ExperimentConfig
from tfprune.runs.folder import RunFolder
from tfprune.runs.result import RoundResult
from tfprune.text import duration, printable

# (run folder, state, words); the state is finished, running, waiting or failed.
StatusRow = tuple[str, str, str]

# Between two looks of a process that waits for others; what it waits for is said again after so many.
_FIRST_PAUSE, _LAST_PAUSE = 0.2, 10.0
_SECONDS_BETWEEN_LINES = 600.0
# A process that writes replaces one file in less than so many first pauses.
_TRIES = 20

# A process may be killed by a time limit or by chance; a second one at the same run is told from that.
_KILLS = 2

_RAN = "ran"


@dataclass
class Study:
    """A study: runs and the state of each. Several processes may work on one, each with this.

    Args:
        runs: As `plan_runs` ordered them, in one folder.
        log: Receives a line for each thing done.
        on_change: Receives the runs' status when a run begins, after each round, and at the end; the second
            argument says whether any process still works on the study.
        on_end: Called when no run is left that could be taken, by one process of all.
        devices: Those that share each batch; of one process.
        wait: Whether a process that finds nothing to take waits for the runs that others have: one of them
            may be killed, and others start from them.
    """

    runs: Sequence[ExperimentConfig]
    log: Callable[[str], None] = print
    on_change: Callable[[list[StatusRow], bool], None] = lambda rows, ended: None
    on_end: Callable[[], None] = lambda: None
    devices: Devices = ONE_DEVICE
    wait: bool = True
    _sharing: Sharing = field(init=False)
    _failures: dict[str, str] = field(default_factory=dict, init=False)
    _finished: set[str] = field(default_factory=set, init=False)

    def __post_init__(self) -> None:
        self._sharing = Sharing(study_folder(self.runs), self.runs[0].flag("output_dir"))

    def table(self) -> str:
        """Checks the study and returns its table: order, state, and what is left; writes nothing.

        Raises:
            UserError: As `check_plan`.
        """
        self._check()
        return format_table(*self._read(), self._sharing.holder)

    def run(self) -> dict[str, str]:
        """Runs what is unfinished, each run once its start is ready, in order, if no other process has it.

        A failed run ends those that need it, not the others, in all processes that work on the study; one
        that begins later tries it again.

        Returns:
            Run folder -> reason, of the runs that could not be finished.

        Raises:
            UserError: Before any training, as `check_plan`, or if data is not there, or the file system
                cannot lock.
        """
        self._check()
        keep_data_off_accelerator()
        states, estimate = self._read()
        complete = all(state.finished for state in states)
        # A finished study may be on a disk that is read alone.
        with suppress(UserError) if complete else nullcontext():
            self._sharing.begin()
        self._check_data(states)
        self.log(
            f"study: {len(states)} runs in {study_folder(self.runs)}, "
            f"{_left_text(states, estimate)}; {this_process()}"
        )
        try:
            held = self._work()
        except BaseException:  # Interrupted, too: this process runs nothing any more.
            with suppress(UserError):  # The error that ends it counts, not one that comes of it.
                self._changed(leaving=True)
            raise
        if held:
            self._changed(leaving=True)
            self.log(f"study: {self._held_text(held)}; not waited for")
        else:
            self._report(again=complete)
        return dict(self._failures)

    def _work(self) -> dict[str, str]:
        """Takes one run after the other until no run is left to take.

        Returns:
            Run folder -> which process has it, of the runs that were not waited for.
        """
        said, next_line, pause = set(), 0.0, 0.0
        while True:
            held = {}
            for index, config in self._in_order():
                turn = self._turn(config, f"[{index} of {len(self.runs)}] {label(config)}")
                if turn == _RAN:
                    break
                if turn:
                    held[config.experiment] = turn
            else:
                if not held or not self.wait:
                    return held
                if held.keys() != said or time.monotonic() > next_line:
                    self.log(f"study: {self._held_text(held)}; {this_process()} waits")
                    said, next_line = {*held}, time.monotonic() + _SECONDS_BETWEEN_LINES
                pause = min(max(1.5 * pause, _FIRST_PAUSE), _LAST_PAUSE)
                time.sleep(pause)
                continue
            pause = 0.0

    def _in_order(self) -> list[tuple[int, ExperimentConfig]]:
        """Returns the runs with their numbers, at the end those at which process after process was killed.

        What kills them, too much memory, say, would else end every process before it comes to the others.
        """
        kills = {config.experiment: self._sharing.killed(config.experiment) for config in self.runs}
        last = {name for name, count in kills.items() if count >= _KILLS}
        return sorted(enumerate(self.runs, 1), key=lambda run: run[1].experiment in last)

    def _turn(self, config: ExperimentConfig, title: str) -> str:
        """Runs a run if it is left to run and can be.

        Returns:
            `_RAN`, or the process that has it, in words, or nothing.
        """
        name = config.experiment
        if self._is_over(config, title) or self._missing(config):
            return ""
        try:
            with self._sharing.taking(name, config.folder) as before:
                if self._is_over(config, title):  # Since it was looked at.
                    return ""
                if owner := holder(config.folder):  # Another command, which knows nothing of the study.
                    return owner
                self._run_one(config, title, before)
                return _RAN
        except InUseError as error:
            return error.owner

    def _is_over(self, config: ExperimentConfig, title: str) -> bool:
        """Returns whether a run is finished, failed, or lacks one that failed; says so once."""
        name = config.experiment
        if name in self._finished:
            return True
        before = self._failures.pop(name, None)
        if _has_finished(config):
            self._finished.add(name)
            self._tidy_up(config)
            self.log(f"{title}: finished already, accuracy {read_state(config).accuracy_percent:.2f} %")
            return True
        if failure := self._sharing.failure(name):
            self._failures[name], process = failure
            what = f"failed in {process}: {printable(self._failures[name])}"
        elif blocked := [one for one in self._missing(config) if one in self._failures]:
            self._failures[name] = f"starts from {blocked[0]}"
            what = f"not run, because it starts from {blocked[0]}"
        else:
            return False
        if self._failures[name] != before:
            self.log(f"{title}: {what}")
        return True

    def _tidy_up(self, config: ExperimentConfig) -> None:
        """Removes what a kill left of a finished run, unless another process does."""
        with ExitStack() as held:
            try:
                held.enter_context(self._sharing.taking(config.experiment, config.folder))
            except InUseError:
                return
            except UserError:  # On a disk that is read alone nobody works.
                pass
            run_experiment(config, lambda line: None)

    def _missing(self, config: ExperimentConfig) -> list[str]:
        """Returns the runs that must come further before this one can begin."""
        by_name = {run.experiment: run for run in self.runs}
        return [
            name
            for name, round_name in references(config).values()
            if not _has_finished(by_name[name], round_name)
        ]

    def _run_one(self, config: ExperimentConfig, title: str, before: str | None) -> None:
        name = config.experiment
        section = f", {config.paper_section}" if config.paper_section else ""
        start = f", from {config.init_from}" if config.init_from else ""
        place = f", in place of {before}" if before else ""
        self.log(f"{title}{section}{start}, by {this_process()}{place}")
        self._sharing.forget_failure(name)
        keras.utils.clear_session()  # The last run's network and graphs; collects garbage, too.
        self._changed()
        try:
            run_experiment(config, self.log, self._round_finished, self.devices)
            self._finished.add(name)
        except InUseError:
            raise
        except UserError as error:
            self._failed(name, str(error))
            self.log(f"{title}: failed: {printable(str(error))}")
        except Exception as error:
            self._failed(name, f"{type(error).__name__}: {error}")
            raise

    def _failed(self, name: str, reason: str) -> None:
        self._failures[name] = reason
        self._sharing.note_failure(name, reason)

    def _round_finished(self, result: RoundResult) -> None:
        self.log(f"study: {_left_text(*self._read())}")
        self._changed()

    def _changed(self, leaving: bool = False) -> None:
        """Tells what changed, if no other process is about to; when this one leaves, whether one is left."""
        with suppress(InUseError), self._sharing.alone():
            rows = self._status(*self._read())
            self.on_change(rows, leaving and all(state != "running" for _, state, _ in rows))

    def _report(self, again: bool) -> None:
        """Tells the end, in the first of the processes that come to it."""

        def write() -> None:
            self.on_change(self._status(states, estimate), True)
            self.on_end()

        states, estimate = self._read()
        results = [
            [
                state.config.experiment,
                self._failures.get(state.config.experiment, ""),
                *(result.network.sha256 for result in state.results.values()),
            ]
            for state in states
        ]
        if writer := self._sharing.once(results, write, again=again):
            self.log(f"study: over; {writer} wrote the comparison")

    def _held_text(self, held: dict[str, str]) -> str:
        states, estimate = self._read()
        by_name = {state.config.experiment: state for state in states}
        runs = "; ".join(f"{name} ({by_name[name].describe()}) by {owner}" for name, owner in held.items())
        return f"{_left_text(states, estimate)}; {runs}"

    def _read(self) -> tuple[list[RunState], Estimate]:
        speeds = read_speeds(study_folder(self.runs))
        return [self._state(config) for config in self.runs], Estimate(speeds, self._place, self._levels)

    def _state(self, config: ExperimentConfig) -> RunState:
        for _ in range(_TRIES):
            try:
                return read_state(config)
            except FileError:
                if not self._sharing.holder(config.experiment):
                    break
                time.sleep(_FIRST_PAUSE)  # Its process replaced the file in the middle.
        return read_state(config)

    def _status(self, states: list[RunState], estimate: Estimate) -> list[StatusRow]:
        rows = []
        for state in states:
            name = state.config.experiment
            if name in self._failures:
                rows.append((name, "failed", self._failures[name]))
            elif state.finished:
                rows.append((name, "finished", f"accuracy {state.accuracy_percent:.2f} %"))
            else:
                owner = self._sharing.holder(name)
                left = _seconds_text(estimate.seconds_left(state))
                text = "; ".join([state.describe(), left, *([owner] if owner else [])])
                rows.append((name, "running" if owner else "waiting", text))
        return rows

    @functools.cached_property
    def _levels(self) -> dict[str, list[float]]:
        return planned_sparsities(self.runs)

    @functools.cached_property
    def _place(self) -> Place:
        return Place(
            keras.backend.backend(),
            self.devices.count,
            what_computes(hardware()),
            self.devices.training_engine,
        )

    def _check(self) -> None:
        """Checks all that can be checked before anything is loaded."""
        check_plan(self.runs)
        for config in self.runs:
            TrainingEngines(config, self.devices).check()

    def _check_data(self, states: list[RunState]) -> None:
        """Loads each dataset that is still needed once: missing data is an error now, not in hours."""
        needed: dict[tuple, list[ExperimentConfig]] = {}
        for config in (state.config for state in states if not state.finished):
            names = ("dataset", "data_dir", "train_examples", "test_examples", "image_size")
            key = tuple(getattr(config, name) for name in names)
            needed.setdefault(key, []).append(config)
        for configs in needed.values():
            dataset = load_dataset(configs[0])
            for config in configs:
                self.devices.check_experiment(config, dataset)
                check_memory(config, dataset, self.devices)


def _has_finished(config: ExperimentConfig, round_name: str = "") -> bool:
    """Returns whether a round of a run is finished; without a name, its last one."""
    number = int(round_name.removeprefix("round_")) if round_name else config.last_round
    return RunFolder(config.folder).round(number).finished


def _left_text(states: list[RunState], estimate: Estimate) -> str:
    unfinished = [state for state in states if not state.finished]
    done = f"{len(states) - len(unfinished)} of {len(states)} finished"
    if not unfinished:
        return done
    return f"{done}, time left: {total_text(map(estimate.seconds_left, unfinished))}"


def _seconds_text(seconds: float | None) -> str:
    return "not measured yet" if seconds is None else f"about {duration(seconds)} left"


def format_table(states: list[RunState], estimate: Estimate, holder_of: Callable[[str], str | None]) -> str:
    """Returns the table of a study: a line for each run, and the total.

    Args:
        states: The runs'.
        estimate: That of the time left.
        holder_of: Returns the process that works on a run, in words; None if none does.
    """
    rows = [("", "run", "seed", "section", "starts from", "state", "epochs left", "images left", "time left")]
    for index, state in enumerate(states, 1):
        config, images = state.config, estimate.speeds.images_left(state)
        left = estimate.seconds_left(state)
        time_left = "-" if state.finished else "not measured yet" if left is None else duration(left)
        owner = None if state.finished else holder_of(config.experiment)
        rows.append(
            (
                str(index),
                config.experiment,
                str(config.seed),
                config.paper_section or "-",
                config.init_from or "-",
                f"{state.describe()}, {owner}" if owner else state.describe(),
                str(state.epochs_left),
                "unknown" if images is None else f"{images:,}",
                time_left,
            )
        )
    place = estimate.place
    engine = "" if place.engine == "keras" else f" and --training_engine={place.engine}"
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    numbers = {0, 2, 6, 7}
    lines = [
        "  ".join(
            cell.rjust(width) if column in numbers else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    left = _left_text(states, estimate)
    return "\n".join([*lines, "", f"{left}, with KERAS_BACKEND={place.backend}{engine}"])
