"""The train binary's errors as a user sees them: one line, exit status 2, no traceback, no folder."""

import pytest

pytestmark = pytest.mark.slow

DIGITS = ["--dataset=digits", "--image_size=8", "--autoaugment=none", "--weights=none", "--experiment=e"]


def assert_one_line(done, *parts):
    assert done.returncode == 2, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stdout
    for part in ("error: ", *parts):
        assert part in lines[0]


@pytest.mark.parametrize(
    "arguments, parts",
    [
        (["--width=0"], ["--width=0", "at least 1"]),
        (["--epochs=ten"], ["--epochs=ten: must be whole numbers"]),
        (["--distill_weight=0.5"], ["--distill_weight=0.5: has no effect without --distill_from"]),
        (["--experiment=a/b"], ["--experiment=a/b", "a folder name"]),
        (["dense"], ["not a flag: dense"]),
        (["--flagfile=nowhere"], ["nowhere: not a readable flagfile: No such file"]),
        (["--dataset=mnist"], ["--dataset=mnist", "cifar10, cifar100, digits, image_folder"]),
    ],
)
def test_a_bad_value(binary, tmp_path, arguments, parts):
    done = binary("train", *DIGITS, f"--output_dir={tmp_path}", *arguments)
    assert_one_line(done, *parts)
    assert not list(tmp_path.iterdir())


def test_a_backend_that_is_none(binary, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "theano")
    done = binary("train", *DIGITS, f"--output_dir={tmp_path}")
    assert_one_line(done, "KERAS_BACKEND=theano", "tensorflow, jax or torch")
    assert not list(tmp_path.iterdir())


def test_a_start_that_is_not_there_is_named_with_the_command_that_makes_it(binary, tmp_path):
    done = binary("train", "--flagfile=demo_one_shot", f"--output_dir={tmp_path}")
    assert_one_line(done, "--init_from=demo_dense: there is no experiment of that name")
    assert done.stderr.endswith("; first: python -m tfprune.bin.train --flagfile=demo_dense\n")
    done = binary("train", "--flagfile=demo_one_shot", f"--output_dir={tmp_path}", "--init_from=mine")
    assert_one_line(done, "--init_from=mine: there is no experiment of that name")
    assert "first: " not in done.stderr


def test_a_truncated_start(binary, runs, tmp_path):
    here = type(runs)(tmp_path)
    path = here.copy(runs.dense, "cut").folder / "round_00" / "model.keras"
    path.write_bytes(path.read_bytes()[:5000])
    done = binary("train", *DIGITS, f"--output_dir={tmp_path}", "--init_from=cut", "--width=4")
    assert_one_line(done, f"--init_from=cut: {path}: not a readable network of the result beside it: ")
    assert [folder.name for folder in tmp_path.iterdir()] == ["cut"]


def test_a_finished_run_is_said_to_be_finished(binary, runs):
    """Its flags.txt is a flagfile: what has no effect with the rest is not in it."""
    done = binary("train", f"--flagfile={runs.one_shot.path / 'flags.txt'}")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"one_shot: finished already, in {runs.one_shot.path}\n"
