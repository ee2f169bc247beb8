"""Several processes work on one study: here one of them, beside what others hold and leave."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest

from tests.support.study_runs import configs, finish, result_of
from tfprune.errors import UserError
from tfprune.experiments.study import run as study_module
from tfprune.experiments.study.run import Study
from tfprune.experiments.study.sharing import FOLDER, Sharing
from tfprune.files import write_json
from tfprune.lock import OWNER, hold, this_process
from tfprune.runs.folder import RunFolder

PROGRAM = pathlib.Path(__file__).parents[1] / "support" / "share_study.py"


@pytest.fixture
def by_name(tmp_path):
    return configs(tmp_path)


@pytest.fixture
def others(tmp_path):
    """What another process would have of the study; its locks are this one's, which is as good."""
    (tmp_path / FOLDER).mkdir()
    sharing = Sharing(tmp_path, "--output_dir=x")
    sharing.begin()
    return sharing


@pytest.fixture(autouse=True)
def trained(monkeypatch):
    """Names of the runs that were trained, by a stand-in that finishes them; some raise what is said."""

    class Trained(list):
        raising = {}

    trained = Trained()

    def run_experiment(config, log, on_round=lambda result: None, devices=None):
        if (config.folder / f"round_{config.last_round:02d}" / "result.json").exists():
            return
        trained.append(config.experiment)
        if config.experiment in trained.raising:
            raise trained.raising[config.experiment]
        for number in range(config.last_round + 1):
            finish(config, number)
            on_round(result_of(config, number))

    monkeypatch.setattr(study_module, "run_experiment", run_experiment)
    monkeypatch.setattr(study_module.keras.utils, "clear_session", lambda: None)
    return trained


class Told:
    """A study, and all that it tells."""

    def __init__(self, by_name, **arguments):
        self.lines, self.pages, self.reports = [], [], 0

        def reported():
            self.reports += 1

        self.study = Study(
            [*by_name.values()],
            self.lines.append,
            lambda rows, ended: self.pages.append((rows, ended)),
            reported,
            **arguments,
        )

    def run(self):
        return self.study.run()


def take(others, config):
    return others.taking(config.experiment, config.folder)


def test_what_another_process_has_is_left_to_it(by_name, others, trained):
    told = Told(by_name, wait=False)
    with take(others, by_name["base"]):
        assert told.run() == {}
        rows, ended = told.pages[-1]
        table = told.study.table()
    assert trained == ["other"]
    assert told.lines[-1].startswith(
        "study: 1 of 5 finished, time left: not measured yet; base (missing) by process "
    )
    assert told.lines[-1].endswith("; not waited for")
    assert told.reports == 0 and not ended
    assert rows[0][:2] == ("base", "running") and f"; {this_process()} since " in rows[0][2]
    assert [row[1] for row in rows[1:]] == ["waiting", "waiting", "waiting", "finished"]
    assert f"missing, {this_process()} since " in table
    told.run()
    assert trained == ["other", "base", "one_shot", "iterative", "transfer"]
    assert told.reports == 1 and told.pages[-1][1]


def test_a_run_begins_when_the_round_that_it_needs_is_finished(by_name, others, trained):
    for name, number in (("base", 0), ("one_shot", 0), ("one_shot", 1), ("iterative", 0), ("iterative", 1)):
        finish(by_name[name], number)
    with take(others, by_name["iterative"]):
        Told(by_name, wait=False).run()
        assert trained == ["other"]
        finish(by_name["iterative"], 2)
        Told(by_name, wait=False).run()
    assert trained == ["other", "transfer"]


def test_it_waits_for_what_starts_from_anothers_run(by_name, others, trained, monkeypatch):
    told, taken = Told(by_name), take(others, by_name["base"])
    taken.__enter__()
    pauses = []

    def sleep(seconds):
        pauses.append(seconds)
        if len(pauses) == 20:
            finish(by_name["base"], 0)
            taken.__exit__(None, None, None)

    monkeypatch.setattr(study_module.time, "sleep", sleep)
    assert told.run() == {}
    assert trained == ["other", "one_shot", "iterative", "transfer"]
    assert pauses == sorted(pauses) and len(pauses) == 20 and pauses[-1] == 10
    waiting = [line for line in told.lines if line.endswith(f"; {this_process()} waits")]
    assert len(waiting) == 1 and "; base (missing) by process " in waiting[0]
    assert "[1 of 5] base (seed 0): finished already, accuracy 50.00 %" in told.lines


def test_it_takes_the_place_of_a_process_that_was_killed(by_name, others, trained, tmp_path):
    owner = {"pid": 77, "host": "node8", "since": "2026-01-01 00:00:00"}
    write_json(tmp_path / FOLDER / ".base.lock.json", owner)
    told = Told(by_name)
    told.run()
    assert (
        f"[1 of 5] base (seed 0), baseline, by {this_process()}, in place of process 77 on node8 since "
        "2026-01-01 00:00:00" in told.lines
    )
    assert not (tmp_path / FOLDER / ".base.lock.json").exists()


@pytest.mark.parametrize("kills, first", [(1, "base"), (2, "other"), (3, "other")])
def test_what_kills_process_after_process_comes_last(by_name, others, trained, tmp_path, kills, first):
    note = tmp_path / FOLDER / ".base.lock.json"
    for number in range(kills):
        with hold(tmp_path / FOLDER, part="base"):
            left = note.read_text()
        note.write_text(left)  # as after a kill
        assert others.killed("base") == number + 1
    Told(by_name).run()
    assert trained[0] == first and sorted(trained) == sorted(by_name)
    assert others.killed("base") == 0


def test_a_failure_elsewhere_is_neither_tried_nor_waited_for(by_name, others, trained, monkeypatch):
    told, taken = Told(by_name), take(others, by_name["one_shot"])
    taken.__enter__()

    def sleep(seconds):
        others.note_failure("one_shot", "the loss is nan")
        taken.__exit__(None, None, None)

    monkeypatch.setattr(study_module.time, "sleep", sleep)
    failures = {
        "one_shot": "the loss is nan",
        "iterative": "starts from one_shot",
        "transfer": "starts from iterative",
    }
    assert told.run() == failures
    assert trained == ["base", "other"]
    assert f"[2 of 5] one_shot (seed 0): failed in {this_process()}: the loss is nan" in told.lines
    assert "[3 of 5] iterative (seed 0): not run, because it starts from one_shot" in told.lines
    assert told.reports == 1
    # Who begins later tries it again.
    again = Told(by_name)
    assert again.run() == {}
    assert trained == ["base", "other", "one_shot", "iterative", "transfer"]
    assert others.failure("one_shot") is None


def test_a_bug_ends_its_process_and_not_the_study(by_name, others, trained):
    trained.raising = {"one_shot": ZeroDivisionError("division by zero")}
    with pytest.raises(ZeroDivisionError):
        Told(by_name).run()
    assert others.failure("one_shot") == ("ZeroDivisionError: division by zero", this_process())


def test_an_interruption_is_no_failure(by_name, others, trained):
    trained.raising = {"one_shot": KeyboardInterrupt()}
    told = Told(by_name)
    with pytest.raises(KeyboardInterrupt):
        told.run()
    assert others.failure("one_shot") is None
    assert told.pages[-1][1]
    with take(others, by_name["one_shot"]) as before:
        assert before is None


def test_a_run_that_another_command_trains_is_left_to_it(by_name, trained):
    by_name["other"].folder.mkdir()
    told = Told(by_name, wait=False)
    with hold(by_name["other"].folder):
        told.run()
    assert trained == ["base", "one_shot", "iterative", "transfer"]
    assert "; other (missing) by process " in told.lines[-1]


def test_of_those_that_come_to_the_end_one_reports(by_name, others, trained):
    """The second began before the end, so that the first's report is its own, too."""
    first, second = Told(by_name), Told(by_name)
    with take(others, by_name["other"]):
        second.study.wait = False
        second.run()
    second.study.wait = True
    begin = second.study._sharing.begin

    def meanwhile():
        second.study._sharing.begin = begin
        first.run()

    second.study._sharing.begin = meanwhile
    second.run()
    assert (first.reports, second.reports) == (1, 0)
    assert second.lines[-1] == f"study: over; {this_process()} wrote the comparison"
    # Who finds all finished was asked for the report.
    third = Told(by_name)
    third.run()
    assert third.reports == 1


def test_a_file_that_is_replaced_while_it_is_read(by_name, others, monkeypatch):
    tries = []

    def read_state(config):
        tries.append(config.experiment)
        if len(tries) < 3:
            raise study_module.FileError("gone")
        return "state"

    monkeypatch.setattr(study_module, "read_state", read_state)
    monkeypatch.setattr(study_module.time, "sleep", lambda seconds: None)
    study = Told(by_name).study
    with take(others, by_name["base"]):
        assert study._state(by_name["base"]) == "state"
    tries.clear()
    with pytest.raises(study_module.FileError):  # Nobody writes there: it is damaged.
        study._state(by_name["base"])


@pytest.mark.parametrize("name", ["base.failed.json", "report.json"])
def test_a_damaged_note_is_named(by_name, others, tmp_path, name):
    (tmp_path / FOLDER / name).write_text("[]")
    with pytest.raises(UserError, match=f"{name}: not a readable note of "):
        Told(by_name).run()


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the program forks")
def test_three_processes_and_a_kill(tmp_path):
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    processes = [line.split() for line in done.stdout.splitlines() if len(line.split()) == 3]
    said = {pid: (tmp_path / f"{name}.txt").read_text() for name, pid, _ in processes}
    assert done.returncode == 0, (done.stdout, said)
    statuses = {pid: int(status) for _, pid, status in processes}
    killed = (tmp_path / "stopped").read_text()
    assert statuses.pop(killed) == -signal.SIGKILL
    assert [*statuses.values()] == [0, 0], said
    # Each run was taken once, and that of the killed process once more, where it was.
    everything = "".join(said.values())
    for index, name in enumerate(("dense", "pruned", "rounds", "onwards"), 1):
        taken = [line for line in everything.splitlines() if line.startswith(f"[{index} of 4] {name}")]
        assert sum(", by process " in line for line in taken) == 1 + (name == "pruned"), taken
        run = RunFolder(tmp_path / "runs" / name)
        for number in range(run.read_config().last_round + 1):
            run.round(number).check_network()
    assert f", in place of process {killed} on " in everything
    assert "pruned round 1: goes on after epoch 1" in everything
    # One wrote the end, and the other says so.
    writers = [pid for pid in statuses if "wrote " in said[pid] and "comparison.md" in said[pid]]
    (other,) = statuses.keys() - set(writers)
    assert f"study: over; process {writers[0]} on " in said[other]
    assert everything.count("page: True") == 1
    left = [*tmp_path.rglob(f"*{OWNER}"), *tmp_path.rglob("checkpoint*"), *tmp_path.rglob("*.failed.json")]
    assert not left
