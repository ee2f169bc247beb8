"""A study on run folders that a stand-in for `run_experiment` writes; tests/bin trains for real."""

import pytest

from tests.support.study_runs import HARDWARE, configs, finish, result_of
from tfprune.errors import UserError
from tfprune.experiments.study import run as study_module
from tfprune.experiments.study.plan import plan_runs
from tfprune.experiments.study.run import Study
from tfprune.lock import this_process


@pytest.fixture
def by_name(tmp_path):
    return configs(tmp_path)


@pytest.fixture(autouse=True)
def hardware(monkeypatch):
    """The machine that the canned results were measured on."""
    monkeypatch.setattr(study_module, "hardware", lambda: HARDWARE)
    # Nothing is trained here: there is no network to forget, and looking for garbage takes a second.
    monkeypatch.setattr(study_module.keras.utils, "clear_session", lambda: None)


@pytest.fixture
def trained(monkeypatch):
    """What was trained: (experiment, round). Experiments named in `trained.failing` fail in round 1 or 0."""

    class Trained(list):
        failing = {}

    trained = Trained()

    def run_experiment(config, log, on_round=lambda result: None, devices=None):
        for number in range(config.last_round + 1):
            if (config.folder / f"round_{number:02d}" / "result.json").exists():
                continue
            if config.experiment in trained.failing and number == min(1, config.last_round):
                raise trained.failing[config.experiment]
            trained.append((config.experiment, number))
            finish(config, number)
            on_round(result_of(config, number))

    monkeypatch.setattr(study_module, "run_experiment", run_experiment)
    return trained


def study_of(runs):
    lines, changes = [], []
    study = Study(list(runs), lines.append, lambda rows, ended: changes.append((rows, ended)))
    return study, lines, changes


def test_it_runs_in_order_and_says_where_it_is(by_name, trained):
    study, lines, changes = study_of(by_name.values())
    assert study.run() == {}
    assert list(dict.fromkeys(name for name, _ in trained)) == list(by_name)
    assert [line for line in lines if line.startswith("[")] == [
        f"[1 of 5] base (seed 0), baseline, by {this_process()}",
        f"[2 of 5] one_shot (seed 0), from base, by {this_process()}",
        f"[3 of 5] iterative (seed 0), from one_shot, by {this_process()}",
        f"[4 of 5] transfer (seed 0), from iterative/round_02, by {this_process()}",
        f"[5 of 5] other (seed 0), by {this_process()}",
    ]
    # 100 images take 2 s: 8 + 15 + 2 + 3 epochs are left after the first run.
    left = [line for line in lines if line.startswith("study: ")]
    assert left[0] == (
        f"study: 5 runs in {study.runs[0].output_dir}, 0 of 5 finished, time left: not measured yet; "
        f"{this_process()}"
    )
    assert left[1] == "study: 1 of 5 finished, time left: about 56 s"
    assert left[-1] == "study: 5 of 5 finished"
    rows, ended = changes[-1]
    assert ended and not any(ended for _, ended in changes[:-1])
    assert rows[2] == ("iterative", "finished", "accuracy 53.00 %")


def test_the_status_says_what_runs(by_name, trained):
    study, _, changes = study_of(by_name.values())
    study.run()
    names = list(by_name)
    assert [row[1] for row in changes[0][0]] == ["running", *["waiting"] * 4]
    assert [row[2] for row in changes[0][0]][1:] == ["missing; not measured yet"] * 4
    rows = [rows for rows, _ in changes if rows[2][2].startswith("1 of 3 rounds")][0]
    assert [row[0] for row in rows] == names
    name, state, text = rows[2]
    assert (name, state) == ("iterative", "running")
    assert text.startswith(f"1 of 3 rounds; about 22 s left; {this_process()} since ")
    assert [row[1] for row in rows] == ["finished", "finished", "running", "waiting", "waiting"]


def test_a_rerun_trains_nothing_and_has_a_line_a_run(by_name, trained):
    study_of(by_name.values())[0].run()
    trained.clear()
    study, lines, _ = study_of(by_name.values())
    assert study.run() == {}
    assert trained == []
    assert lines[1:] == [
        f"[{number} of 5] {name} (seed 0): finished already, accuracy {accuracy}.00 %"
        for number, (name, accuracy) in enumerate(
            {"base": 50, "one_shot": 51, "iterative": 53, "transfer": 50, "other": 50}.items(), 1
        )
    ]


def test_a_rerun_does_what_is_missing(by_name, trained):
    trained.failing = {"iterative": KeyboardInterrupt()}
    study, _, changes = study_of(by_name.values())
    with pytest.raises(KeyboardInterrupt):
        study.run()
    assert changes[-1][1]
    assert [row[1] for row in changes[-1][0]] == ["finished", "finished", "waiting", "waiting", "waiting"]
    assert trained[-1] == ("iterative", 0)
    trained.clear()
    trained.failing = {}
    study_of(by_name.values())[0].run()
    assert trained == [("iterative", 1), ("iterative", 2), ("iterative", 3), ("transfer", 0), ("other", 0)]


def test_a_failure_ends_only_what_starts_from_it(by_name, trained):
    trained.failing = {"one_shot": UserError("the loss is nan")}
    study, lines, changes = study_of(by_name.values())
    assert study.run() == {
        "one_shot": "the loss is nan",
        "iterative": "starts from one_shot",
        "transfer": "starts from iterative",
    }
    assert ("other", 0) in trained
    assert "[2 of 5] one_shot (seed 0): failed: the loss is nan" in lines
    assert "[4 of 5] transfer (seed 0): not run, because it starts from iterative" in lines
    assert changes[-1][0][1] == ("one_shot", "failed", "the loss is nan")
    assert [row[1] for row in changes[-1][0]] == ["finished", "failed", "failed", "failed", "finished"]


def test_a_failure_with_one_seed_leaves_the_other(by_name, trained):
    trained.failing = {"base": UserError("no")}
    runs = plan_runs([by_name["base"], by_name["one_shot"]], [0, 1])
    assert study_of(runs)[0].run() == {"base": "no", "one_shot": "starts from base"}
    assert trained == [("base_seed1", 0), ("one_shot_seed1", 0), ("one_shot_seed1", 1)]


def test_any_other_error_ends_the_study(by_name, trained):
    trained.failing = {"one_shot": ValueError("a bug")}
    study, _, changes = study_of(by_name.values())
    with pytest.raises(ValueError, match="a bug"):
        study.run()
    assert changes[-1][1]


def test_data_that_is_not_there_is_found_before_the_first_training(by_name, trained):
    by_name["transfer"] = type(by_name["other"])(
        **{**vars(by_name["transfer"]), "train_examples": 1438, "epochs": (2,)}
    )
    with pytest.raises(UserError, match="--train_examples=1438"):
        study_of(by_name.values())[0].run()
    assert trained == []


def test_a_bad_run_is_found_before_anything_is_made(by_name, trained, tmp_path):
    by_name["other"] = type(by_name["other"])(**{**vars(by_name["other"]), "batch_size": 0})
    for method in ("run", "table"):
        with pytest.raises(UserError, match="^other: --batch_size=0"):
            getattr(study_of(by_name.values())[0], method)()
    assert trained == [] and list(tmp_path.iterdir()) == []


def test_the_table(by_name, tmp_path):
    finish(by_name["base"], 0)
    finish(by_name["one_shot"], 0)
    assert Study(list(by_name.values())).table().splitlines() == [
        "   run        seed  section   starts from         state         epochs left  images left  time left",
        "1  base          0  baseline  -                   finished                0            0  -",
        "2  one_shot      0  -         base                0 of 1 round            8          800  16 s",
        "3  iterative     0  -         one_shot            missing                15        1,500  30 s",
        "4  transfer      0  -         iterative/round_02  missing                 2          200  4 s",
        "5  other         0  -         -                   missing                 3          300  6 s",
        "",
        "1 of 5 finished, time left: about 56 s, with KERAS_BACKEND=tensorflow",
    ]
    assert not (tmp_path / ".study").exists()
