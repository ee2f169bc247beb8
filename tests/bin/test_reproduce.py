"""The reproduce binary: a small study from end to end, then what a rerun, a dry run and mistakes do."""

import pathlib
import types

import pytest

from tests.support import small_experiments
from tests.support.quick_tensorflow import without_graphs
from tfprune.bin import flagfiles, reproduce
from tfprune.errors import UserError
from tfprune.runs.folder import RunFolder

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).resolve().parents[2]

# With those that they start from: a baseline of each dataset, one-shot, the transfer, and two iterative runs,
# the second from the first one's third round.
CHOSEN = ["cifar100_transfer_95", "cifar100_iterative_95_from_77"]
ORDER = [
    "cifar10_baseline",
    "cifar10_one_shot_95",
    "cifar100_transfer_95",
    "cifar100_baseline",
    "cifar100_iterative_95",
    "cifar100_iterative_95_from_77",
]
# Over the profile `tiny`, whose network these tests make smaller still.
SMALLER = "--image_size=8\n--train_examples=64\n--test_examples=40\n--epochs=1\n"


@pytest.fixture(autouse=True)
def repository_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def run_main(**changes):
    values = {
        "profile": "tiny",
        "experiments": [],
        "seeds": ["0"],
        "extra_flagfile": "",
        "output_dir": "",
        "data_dir": "",
        "data_parallel": False,
        "training_engine": "keras",
        "wait": True,
        "dry_run": False,
        **changes,
    }
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(reproduce, "flags", types.SimpleNamespace(FLAGS=types.SimpleNamespace(**values)))
        reproduce.main()


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The flags of a study that has run to its end."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "smaller.flags").write_text(SMALLER)
    flags = {
        "experiments": CHOSEN,
        "extra_flagfile": str(folder / "smaller.flags"),
        "output_dir": str(folder / "runs"),
    }
    with pytest.MonkeyPatch.context() as monkeypatch, small_experiments.small_resnet18(), without_graphs():
        monkeypatch.chdir(ROOT)
        run_main(**flags)
    return flags


def result(study, experiment, number):
    return RunFolder(pathlib.Path(study["output_dir"]) / experiment).round(number).read_result()


def test_a_study_ends_with_every_round(study):
    output_dir = pathlib.Path(study["output_dir"])
    assert sorted(path.parent.name for path in output_dir.glob("*/flags.txt")) == sorted(ORDER)
    assert result(study, "cifar10_one_shot_95", 1).sparsity == pytest.approx(0.95, abs=2e-3)
    assert result(study, "cifar100_iterative_95_from_77", 4).sparsity == pytest.approx(0.95, abs=2e-3)
    # The third round's masks, and one-shot's in the transfer.
    third = result(study, "cifar100_iterative_95", 3).sparsity
    assert third < 0.94  # So that there is something left to prune.
    assert result(study, "cifar100_iterative_95_from_77", 0).sparsity == third
    one_shot = result(study, "cifar10_one_shot_95", 1).sparsity
    assert result(study, "cifar100_transfer_95", 0).sparsity == one_shot


def test_a_study_ends_with_its_page_and_tables(study):
    output_dir = pathlib.Path(study["output_dir"])
    page = (output_dir / "index.html").read_text(encoding="utf-8")
    for experiment in ORDER:
        assert experiment in page
    assert 'http-equiv="refresh"' not in page
    for name in ("comparison.md", "comparison.csv", "comparison.png"):
        assert (output_dir / name).stat().st_size > 100


def test_a_rerun_does_nothing_twice(study, capsys):
    output_dir = pathlib.Path(study["output_dir"])
    written = {path: path.stat().st_mtime_ns for path in output_dir.glob("*/**/*") if path.is_file()}
    capsys.readouterr()
    with small_experiments.no_training():
        run_main(**study)
    assert {path: path.stat().st_mtime_ns for path in written} == written
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("[")]
    assert [line.split(" (")[0] for line in lines] == [
        f"[{number} of 6] {name}" for number, name in enumerate(ORDER, 1)
    ]
    assert all(" (seed 0): finished already, accuracy " in line for line in lines)


def test_a_dry_run_shows_the_order_and_writes_nothing(study, tmp_path, capsys):
    run_main(**{**study, "output_dir": str(tmp_path), "seeds": ["0", "7"]}, dry_run=True)
    output = capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
    rows = [line.split() for line in output.splitlines() if line.split() and line.split()[0].isdigit()]
    assert [row[1] for row in rows][:6] == ORDER
    assert [row[1] for row in rows][6:12] == [f"{name}_seed7" for name in ORDER]
    assert rows[7][2:5] == ["7", "4.3.2", "cifar10_baseline_seed7"]
    assert all("missing" in row for row in rows[:12])
    assert "0 of 12 finished, time left: not measured yet" in output
    names = "cifar10_baseline, cifar10_one_shot_95, cifar100_baseline, cifar100_iterative_95"
    assert f"--experiments={','.join(CHOSEN)}: with {names}, from which they start" in output


def test_a_dry_run_measures_what_is_finished(study, capsys):
    run_main(**{**study, "seeds": ["0", "1"]}, dry_run=True)
    output = capsys.readouterr().out
    assert output.count("  finished  ") == 6
    assert "6 of 12 finished, time left: about " in output
    assert "not measured" not in output


@pytest.mark.parametrize("profile", flagfiles.profile_names())
def test_the_default_is_the_papers_twelve(tmp_path, capsys, profile):
    run_main(output_dir=str(tmp_path), profile=profile, dry_run=True)
    output = capsys.readouterr().out
    assert "0 of 12 finished" in output
    for section in ["baseline", *(f"4.3.{number}" for number in range(1, 9))]:
        assert f"  {section}  " in output
    for name in ("gradual", "rigl", "demo"):
        assert name not in output


@pytest.fixture
def own_flags(tmp_path, monkeypatch):
    """A folder of flagfiles in which `a` cannot be trained, `b` starts from it, and `c` is sound."""
    lines = [f"--{name}={value}" for name, value in small_experiments.FLAGS.items()]
    shared = "\n".join([*lines, "--train_examples=64", "--epochs=1", ""])
    files = {
        "flags/base.flags": shared,
        "flags/a.flags": "--flagfile=base.flags\n--experiment=a\n--learning_rate=1e30\n",
        "flags/b.flags": "--flagfile=base.flags\n--experiment=b\n--init_from=a\n",
        "flags/c.flags": "--flagfile=base.flags\n--experiment=c\n",
        "flags/profiles/plain.flags": "# Nothing.\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(flagfiles, "FLAGS_FOLDER", tmp_path / "flags")
    return {"profile": "plain", "experiments": ["b", "c"], "output_dir": str(tmp_path / "runs")}


def test_what_does_not_start_from_a_failure_is_run(own_flags, capsys):
    with pytest.raises(
        UserError, match="^2 of 3 runs are not finished: a: a round 0: the .*loss is .*; b: st"
    ):
        run_main(**own_flags)
    output = capsys.readouterr().out
    assert "[1 of 3] a (seed 0): failed: a round 0: " in output
    assert "[2 of 3] b (seed 0): not run, because it starts from a" in output
    assert result(own_flags, "c", 0).epochs == 1
    output_dir = pathlib.Path(own_flags["output_dir"])
    assert not (output_dir / "b").exists()
    assert (output_dir / "comparison.md").exists()
    assert "starts from a" in (output_dir / "index.html").read_text(encoding="utf-8")


def test_a_page_that_fails_does_not_end_the_study(own_flags, capsys, monkeypatch):
    monkeypatch.setattr(reproduce, "write_tables", lambda output_dir, names: None)
    monkeypatch.setitem(__import__("sys").modules, "tfprune.compare.page", None)
    run_main(**{**own_flags, "experiments": ["c"]})
    assert result(own_flags, "c", 0).epochs == 1
    assert "warning: the page could not be written: " in capsys.readouterr().err


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"profile": "huge"}, "--profile=huge: must be one of cpu, full, pretrained, scratch, small, tiny"),
        ({"experiments": ["nobody"]}, "--experiments=nobody: must be some of cifar10"),
        ({"seeds": ["0", "x"]}, "--seeds=0,x: must be different whole numbers of at least 0"),
        ({"seeds": ["-1"]}, "--seeds=-1: must be"),
        ({"seeds": ["1", "1"]}, "--seeds=1,1: must be"),
        ({"seeds": []}, "--seeds=: must be"),
        ({"seeds": [str(2**32)]}, f"cifar10_baseline_seed{2**32}: --seed={2**32}: must be"),
        ({"extra_flagfile": "no.flags"}, "--extra_flagfile=no.flags: must be a file that is there"),
        ({"data_dir": "/nowhere"}, "cifar10_baseline: --data_dir=/nowhere: must be an existing folder"),
    ],
)
@pytest.mark.parametrize("dry_run", [True, False])
def test_a_mistake_is_named_before_anything_is_made(tmp_path, changes, message, dry_run):
    output_dir = tmp_path / "runs"
    with pytest.raises(UserError) as caught:
        run_main(**{"output_dir": str(output_dir), "dry_run": dry_run, **changes})
    assert str(caught.value).startswith(message)
    assert not output_dir.exists()


@pytest.mark.parametrize("dry_run", [True, False])
def test_a_study_folder_that_cannot_be_one(tmp_path, dry_run):
    file = tmp_path / "file"
    file.write_text("kept")
    for path in (file, file / "below"):
        with pytest.raises(UserError) as caught:
            run_main(output_dir=str(path), dry_run=dry_run)
        assert str(caught.value) == f"--output_dir={path}: must be a folder; {file} is none"
    assert file.read_text() == "kept"


@pytest.mark.parametrize(
    "line, end",
    [
        ("--seed=3", "--seed=3: must be given on the command line, as --seeds"),
        ("--output_dir=x", "--output_dir=x: must be given on the command line, as --output_dir"),
        ("--data_dir=.", "--data_dir=.: must be given on the command line, as --data_dir"),
        ("--experiment=x", "--experiment=x: must be cifar100_baseline"),
    ],
)
def test_an_extra_flagfile_cannot_set_what_has_a_flag_here(tmp_path, line, end):
    (tmp_path / "extra.flags").write_text(line)
    with pytest.raises(UserError) as caught:
        run_main(
            extra_flagfile=str(tmp_path / "extra.flags"),
            experiments=["cifar100_baseline"],
            output_dir=str(tmp_path / "runs"),
            profile="full",
        )
    assert str(caught.value).endswith(end)


def test_another_study_needs_another_folder(study, tmp_path):
    (tmp_path / "extra.flags").write_text(SMALLER + "--batch_size=16\n")
    with pytest.raises(UserError, match=r"--experiment=cifar10_baseline: .* other flags: --batch_size=16"):
        run_main(**{**study, "extra_flagfile": str(tmp_path / "extra.flags")})


def test_a_mistake_is_one_line_and_status_2(binary, tmp_path):
    done = binary("reproduce", "--profile=huge", f"--output_dir={tmp_path}")
    assert done.returncode == 2
    assert (
        done.stderr == "error: --profile=huge: must be one of cpu, full, pretrained, scratch, small, tiny\n"
    )
