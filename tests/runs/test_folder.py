"""Run folders: which there are, and the rounds that they hold."""

import shutil
import subprocess
import sys

import pytest

from tests.support.run_folders import RunFolders
from tfprune.errors import FileError, UserError
from tfprune.runs.folder import RunFolder, find_round, read_runs
from tfprune.text import printable


@pytest.fixture
def folder(tmp_path):
    return RunFolders(tmp_path, dataset="digits")


def test_reads_rounds_in_order(folder):
    folder.dense("a", 90.5, versions={"keras": "3.15.1"})
    folder.iterative("b", "a", [(0.5, 40.0, 80.0), (0.75, 30.0, 70.0)])
    (folder.path / "not_a_run").mkdir()
    (folder.path / "README.md").write_text("")
    runs = read_runs(folder.path)
    assert [run.experiment for run in runs] == ["a", "b"]
    assert all(run.finished for run in runs)
    assert runs[0].rounds[0].metric_at_end == 90.5
    assert runs[0].rounds[0].versions == {"keras": "3.15.1"}
    assert [result.sparsity for result in runs[1].rounds] == [0.0, 0.5, 0.75]
    assert runs[1].rounds[2].config.init_from == "a"


def test_selects_experiments(folder):
    for name in "abc":
        folder.dense(name, 90.0)
    assert [run.experiment for run in read_runs(folder.path, ["c", "a"])] == ["c", "a"]


def test_unknown_experiment_lists_those_present(folder):
    folder.dense("a", 90.0)
    folder.dense("b", 90.0)
    with pytest.raises(UserError, match=r"--experiments=c: .* There are: a, b"):
        read_runs(folder.path, ["a", "c"])


def test_no_folder_and_no_run(tmp_path):
    with pytest.raises(UserError, match=r"--output_dir=.*absent: No such file"):
        read_runs(tmp_path / "absent")
    with pytest.raises(UserError, match="there is no run folder"):
        read_runs(tmp_path)


def test_unfinished_rounds(folder):
    folder.iterative("x", "a", [(0.5, 40.0, 80.0), (0.75, 30.0, 70.0), (0.9, 20.0, 60.0)])
    (folder.path / "x/round_02/result.json").unlink()
    (folder.path / "x/round_03/result.json").unlink()
    shutil.rmtree(folder.path / "x/round_03")
    (folder.path / "fresh").mkdir()
    (folder.path / "fresh/flags.txt").write_text("")
    fresh, run = read_runs(folder.path)
    assert not run.finished
    assert [result.round for result in run.rounds] == [0, 1]
    # Round 2 was started; round 3 is only to come.
    assert run.unfinished_rounds == (2, 3)
    assert (fresh.rounds, fresh.unfinished_rounds) == ((), (0,))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"--experiment=a\n\xff\n", "can't decode byte 0xff"),
        (b"--experiment=a\n--width=four\n", "--width=four: "),
        (b"--experiment=a\n--width=0\n", "`width` must be at least 1"),
        (b"--experiment=a\n--rounds=1000000000\n", "`rounds` must be at least 1 and at most 9999"),
        (
            b"--experiment=a\n--frequency=9223372036854775808\n",
            "`frequency` must be a whole number of 64 bits",
        ),
        (b"--experiment=a\n--frequency=" + b"9" * 5000, "--frequency=9999"),
        (b"--experiment=a\n--warmup_epochs=nan\n", "--warmup_epochs=nan: must be a number"),
        (b"--experiment=a\n--regime=magic\n", "`regime` must be one of dense, "),
        (b"--experiment=../a\n", "`experiment` must be a folder name"),
        (b"--width=4\n", "experiment"),
        (b"--experiment=a\x00\n", "`experiment` must be a folder name"),
        (b"\x00\x01", "not a flag of an experiment"),
    ],
)
def test_a_flags_txt_that_no_run_has(tmp_path, content, reason):
    path = tmp_path / "flags.txt"
    path.write_bytes(content)
    with pytest.raises(FileError) as caught:
        RunFolder(tmp_path).read_config()
    message = str(caught.value)
    assert message.startswith(f"{path}: not a readable flagfile of a run: ")
    assert reason in message and printable(message) == message and len(message) < 1000


def test_a_flags_txt_that_is_no_file(tmp_path):
    (tmp_path / "flags.txt").mkdir()
    with pytest.raises(FileError, match=r"flags\.txt: not a readable flagfile of a run: it is a folder"):
        RunFolder(tmp_path).read_config()


def test_reading_run_folders_loads_no_array_library(folder):
    """Of a folder as it is written, settings with names that the library owns included."""
    folder.one_shot("a", "", 0.5, (1.0, 2.0), dataset="cifar10", paper_section="4.3.2", score="taylor")
    code = (
        "import sys; from tfprune.runs.folder import read_runs; (run,) = read_runs(sys.argv[1]);"
        "assert run.rounds[1].config.score == 'taylor' and run.rounds[1].differences;"
        "print([name for name in ('keras', 'tensorflow', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder.path)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_a_misspelled_experiment_is_asked_about(tmp_path):
    for name in ("demo_dense", "demo_one_shot"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "flags.txt").write_text(f"--experiment={name}\n")
    with pytest.raises(UserError) as caught:
        find_round(str(tmp_path), "demo_oneshot/round_01", "init_from")
    assert str(caught.value).endswith("it has: demo_dense, demo_one_shot; did you mean demo_one_shot?")
    with pytest.raises(UserError, match="; did you mean demo_dense[?]$"):
        read_runs(tmp_path, ["demo_dens"])
