"""A finished run is found finished, needs nothing written, and is believed only with its own networks."""

import errno
import os
import shutil

import pytest

from tests.runs.test_finished import DAMAGES, damage
from tests.support.read_only import read_only
from tests.support.run_folders import RunFolders
from tests.support.small_experiments import no_training
from tfprune.errors import FileError, UserError
from tfprune.experiments.deployment import strip_round
from tfprune.experiments.evaluate import evaluate_round
from tfprune.experiments.run import run_experiment
from tfprune.experiments.start import find_start
from tfprune.experiments.study.run import Study
from tfprune.experiments.teacher import load_teacher
from tfprune.runs.folder import RunFolder

pytestmark = pytest.mark.one_backend


@pytest.fixture
def folders(tmp_path):
    return RunFolders(tmp_path, dataset="digits", image_size=8, weights="none", width=4, stem="cifar")


@pytest.fixture
def run(folders):
    """A finished run of two rounds."""
    return RunFolder(folders.one_shot("a", "", 0.5, (1.0, 2.0)).parents[1])


def start(config):
    """Takes the start of another run, as a run does."""
    from tfprune.experiments.networks import load_model

    load_model(find_start(config).folder)


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("content", [content for content, _ in DAMAGES.values()], ids=DAMAGES)
def test_nobody_takes_a_round_with_another_network_for_finished(folders, run, number, content):
    path = run.round(number).model_path
    damage(path, content)
    reference = f"a/round_{number:02d}"
    takers = {
        "resume": lambda: run_experiment(run.read_config(), log=lambda line: None),
        "start": lambda: start(folders.config("b", init_from=reference)),
        "teacher": lambda: load_teacher(folders.config("b", distill_from=reference)),
        "evaluate": lambda: evaluate_round(run, run.round(number), ""),
        "export": lambda: strip_round(run.round(number)),
    }
    for name, take in takers.items():
        with no_training(), pytest.raises((FileError, UserError)) as caught:
            take()
        message = str(caught.value)
        assert f"{path}: not a readable network of the result beside it: " in message, name
        assert "\n" not in message
    assert sorted(os.listdir(run.path)) == ["flags.txt", "round_00", "round_01"]


def test_an_unfinished_run_does_not_go_on_from_another_network(run):
    shutil.rmtree(run.round(1).path)
    damage(run.round(0).model_path, b"")
    with no_training(), pytest.raises(FileError, match="it has 0 bytes"):
        run_experiment(run.read_config(), log=lambda line: None)
    assert sorted(os.listdir(run.path)) == ["flags.txt", "round_00"]


def test_the_read_only_folder_is_one(tmp_path):
    (tmp_path / "a").write_text("a")
    writes = [
        lambda: (tmp_path / "a").write_text("b"),
        lambda: (tmp_path / "b").mkdir(),
        lambda: os.open(tmp_path / "c", os.O_RDWR | os.O_CREAT),
        (tmp_path / "a").unlink,
    ]
    with read_only(tmp_path):
        for write in writes:
            with pytest.raises(OSError, match=os.strerror(errno.EROFS)):
                write()
        assert (tmp_path / "a").read_text() == "a"
    (tmp_path / "a").unlink()


@pytest.mark.parametrize("left", [False, True], ids=["tidy", "with a checkpoint left by a kill"])
def test_a_finished_run_on_a_disk_that_is_read_alone_is_finished(run, left):
    if left:
        (run.round(1).path / "checkpoint.json").write_text("{}")
        (run.round(1).path / "checkpoint_0001.keras").write_text("")
    lines = []
    with no_training(), read_only(run.path.parent):
        results = run_experiment(run.read_config(), log=lines.append)
    assert lines == [f"a: finished already, in {run.path}"]
    assert [result.round for result in results] == [0, 1]


def test_a_finished_study_on_a_disk_that_is_read_alone_is_finished(run):
    lines = []
    with no_training(), read_only(run.path.parent):
        assert Study([run.read_config()], lines.append).run() == {}
    assert lines[-1] == "[1 of 1] a (seed 0): finished already, accuracy 2.00 %"


def test_an_unfinished_run_on_a_disk_that_is_read_alone_is_one_clear_line(run):
    shutil.rmtree(run.round(1).path)
    with no_training(), read_only(run.path.parent), pytest.raises(UserError) as caught:
        run_experiment(run.read_config(), log=lambda line: None)
    assert str(caught.value) == (f"--experiment=a: {run.path} cannot be locked: {os.strerror(errno.EROFS)}")
