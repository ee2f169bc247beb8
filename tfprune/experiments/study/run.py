"""Runs a study: one experiment after the other, resumable, with what is left said after each round."""

import functools
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

import keras

from tfprune.errors import UserError
from tfprune.experiments.batches import load_dataset
from tfprune.experiments.devices import ONE_DEVICE, Devices
from tfprune.experiments.engines import TrainingEngines
from tfprune.experiments.environment import hardware, keep_data_off_accelerator
from tfprune.experiments.memory import check_memory
from tfprune.experiments.run import run_experiment
from tfprune.experiments.study.estimate import Place, Speeds, read_speeds, total_text, what_computes
from tfprune.experiments.study.plan import check_plan, label, parents, study_folder
from tfprune.experiments.study.state import RunState, read_state
from tfprune.files import make_folder
from tfprune.lock import hold
from tfprune.runs.config import ExperimentConfig
from tfprune.runs.result import RoundResult
from tfprune.text import duration, printable

# (run folder, state, words); the state is finished, running, waiting or failed.
StatusRow = tuple[str, str, str]


@dataclass
class Study:
    """A study: runs and the state of each.

    Args:
        runs: As `plan_runs` ordered them, in one folder.
        log: Receives a line for each thing done.
        on_change: Receives the runs' status when a run begins, after each round, and at the end; the second
            argument says whether it is the end.
        devices: Those that share each batch; of one process.
    """

    runs: Sequence[ExperimentConfig]
    log: Callable[[str], None] = print
    on_change: Callable[[list[StatusRow], bool], None] = lambda rows, ended: None
    devices: Devices = ONE_DEVICE
    _failures: dict[str, str] = field(default_factory=dict, init=False)
    _running: str = field(default="", init=False)

    def table(self) -> str:
        """Checks the study and returns its table: order, state, and what is left; writes nothing.

        Raises:
            UserError: As `check_plan`.
        """
        self._check()
        return format_table(*self._read(), self._place)

    def run(self) -> dict[str, str]:
        """Runs what is unfinished, in order; a failed run ends those that start from it, not the others.

        Returns:
            Run folder -> reason, of the runs that could not be finished.

        Raises:
            UserError: Before any training, as `check_plan`, or if data is not there or another process
                works on the study.
        """
        self._check()
        keep_data_off_accelerator()
        folder = study_folder(self.runs)
        flag = self.runs[0].flag("output_dir")
        try:
            make_folder(folder)
        except OSError as error:
            raise UserError(f"{flag}: cannot be made: {error.strerror}") from error
        states, speeds = self._read()
        # A finished study may be on a disk that is read alone.
        held = nullcontext() if all(state.finished for state in states) else hold(folder, flag)
        with held:
            self._check_data(states)
            self.log(f"study: {len(states)} runs in {folder}, {_left_text(states, speeds, self._place)}")
            try:
                for index, config in enumerate(self.runs, 1):
                    self._run_one(config, f"[{index} of {len(self.runs)}] {label(config)}")
            finally:  # Interrupted, too: nothing runs any more.
                self._running = ""
                self.on_change(self._status(*self._read()), True)
        return self._failures

    def _run_one(self, config: ExperimentConfig, title: str) -> None:
        state = read_state(config)
        if state.finished:
            run_experiment(config, lambda line: None)  # Tidies up what a kill left.
            self.log(f"{title}: finished already, accuracy {state.accuracy_percent:.2f} %")
            return
        blocked = [name for name in parents(config) if name in self._failures]
        if blocked:
            self._failures[config.experiment] = f"starts from {blocked[0]}"
            self.log(f"{title}: not run, because it starts from {blocked[0]}")
            return
        section = f", {config.paper_section}" if config.paper_section else ""
        start = f", from {config.init_from}" if config.init_from else ""
        self.log(f"{title}{section}{start}")
        keras.utils.clear_session()  # The last run's network and graphs; collects garbage, too.
        self._running = config.experiment
        self._changed()
        try:
            run_experiment(config, self.log, self._round_finished, self.devices)
        except UserError as error:
            self._failures[config.experiment] = str(error)
            self.log(f"{title}: failed: {printable(str(error))}")

    def _round_finished(self, result: RoundResult) -> None:
        self.log(f"study: {_left_text(*self._read(), self._place)}")
        self._changed()

    def _changed(self) -> None:
        self.on_change(self._status(*self._read()), False)

    def _read(self) -> tuple[list[RunState], Speeds]:
        return [read_state(config) for config in self.runs], read_speeds(study_folder(self.runs))

    def _status(self, states: list[RunState], speeds: Speeds) -> list[StatusRow]:
        rows = []
        for state in states:
            name = state.config.experiment
            if name in self._failures:
                rows.append((name, "failed", self._failures[name]))
            elif state.finished:
                rows.append((name, "finished", f"accuracy {state.accuracy_percent:.2f} %"))
            else:
                left = _seconds_text(speeds.seconds_left(state, self._place))
                text = f"{state.describe()}; {left}"
                rows.append((name, "running" if name == self._running else "waiting", text))
        return rows

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


def _left_text(states: list[RunState], speeds: Speeds, place: Place) -> str:
    unfinished = [state for state in states if not state.finished]
    done = f"{len(states) - len(unfinished)} of {len(states)} finished"
    if not unfinished:
        return done
    return f"{done}, time left: {total_text(_seconds_left(unfinished, speeds, place))}"


def _seconds_left(states: list[RunState], speeds: Speeds, place: Place) -> list[float | None]:
    return [speeds.seconds_left(state, place) for state in states]


def _seconds_text(seconds: float | None) -> str:
    return "not measured yet" if seconds is None else f"about {duration(seconds)} left"


def format_table(states: list[RunState], speeds: Speeds, place: Place) -> str:
    """Returns the table of a study: a line for each run, and the total."""
    rows = [("", "run", "seed", "section", "starts from", "state", "epochs left", "images left", "time left")]
    seconds = _seconds_left(states, speeds, place)
    for index, (state, left) in enumerate(zip(states, seconds, strict=True), 1):
        config, images = state.config, speeds.images_left(state)
        time_left = "-" if state.finished else "not measured yet" if left is None else duration(left)
        rows.append(
            (
                str(index),
                config.experiment,
                str(config.seed),
                config.paper_section or "-",
                config.init_from or "-",
                state.describe(),
                str(state.epochs_left),
                "unknown" if images is None else f"{images:,}",
                time_left,
            )
        )
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
    left = _left_text(states, speeds, place)
    return "\n".join([*lines, "", f"{left}, with KERAS_BACKEND={place.backend}{engine}"])
