"""Flagfiles as files that anybody wrote: what absl reads is read, and anything else is one line."""

import os

import pytest
from absl import flags

from tfprune.bin.flagfiles import experiment_from_flagfiles, with_flagfiles
from tfprune.errors import FileError, UserError
from tfprune.text import printable

pytestmark = pytest.mark.one_backend


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(folder, **files):
    for name, text in files.items():
        (folder / f"{name}.flags").write_text(text)


@pytest.mark.parametrize(
    "arguments",
    [
        ["p", "--a=1", "--flagfile=outer.flags", "--b=2"],
        ["p", "--flagfile", "outer.flags", "-flagfile=inner.flags"],
        ["p", "-flagfile", "inner.flags"],
        ["p", "--", "--flagfile=nowhere.flags"],
        ["p", "positional", "--c"],
        ["p"],
    ],
)
def test_the_lines_are_those_that_absl_reads(folder, arguments):
    write(
        folder,
        outer="# note\n\n  \n--x=1\n--flagfile=inner.flags\n// other note\n-flagfile=inner.flags\n--y=2  \n",
        inner="--z=a b,c\r\n--nothing",
    )
    registry = flags.FlagValues()
    expected = [arguments[0], *registry.read_flags_from_files(arguments[1:], force_gnu=False)]
    assert with_flagfiles(arguments) == expected


def test_a_flagfile_beside_itself_is_no_circle(folder):
    write(folder, a="--flagfile=b.flags\n--flagfile=b.flags\n", b="--x=1\n")
    assert with_flagfiles(["p", "--flagfile=a.flags"]) == ["p", "--x=1", "--x=1"]


def test_a_name_is_a_flagfile_of_tfprune_wherever_it_stands(folder):
    dense = experiment_from_flagfiles(["demo_dense"])
    assert (dense.experiment, dense.dataset, dense.width) == ("demo_dense", "digits", 16)
    write(folder, mine="--flagfile=base_demo\n--experiment=mine\n--width=4\n")
    mine = experiment_from_flagfiles(["mine.flags"])
    assert (mine.experiment, mine.dataset, mine.width) == ("mine", "digits", 4)


def test_a_name_of_a_file_that_is_there_is_the_file(folder):
    (folder / "demo_dense").write_text("--x=1")
    assert with_flagfiles(["p", "--flagfile=demo_dense"]) == ["p", "--x=1"]
    (folder / "demo_dense").unlink()
    (folder / "demo_dense").mkdir()  # As a run of that name leaves it.
    assert "--experiment=demo_dense" in with_flagfiles(["p", "--flagfile=demo_dense"])


@pytest.mark.parametrize("name", ["demo_dense.flags", "./demo_dense", "flags/demo_dense.flags", "demo"])
def test_no_other_path_is_one_of_tfprunes(name):
    with pytest.raises(FileError, match=f"^{name}: not a readable flagfile: No such file or directory; "):
        with_flagfiles(["p", f"--flagfile={name}"])


@pytest.mark.parametrize("arguments", [["--flagfile"], ["--flagfile="], ["-flagfile", ""], ["-flagfile= "]])
def test_a_flagfile_without_a_name_is_an_error(arguments):
    with pytest.raises(UserError, match="^-+flagfile=? *: must have a file, as --flagfile=FILE$"):
        with_flagfiles(["p", *arguments])


def test_a_misspelt_name_of_tfprunes_is_asked_about():
    with pytest.raises(FileError, match=r"; did you mean demo_dense\?$"):
        with_flagfiles(["p", "--flagfile=demo_dens"])


def test_a_path_in_a_flagfile_is_relative_to_it(folder, monkeypatch):
    (folder / "deep" / "er").mkdir(parents=True)
    write(folder, a="--flagfile=deep/b.flags\n--a=1")
    write(folder / "deep", b=f"--flagfile=er/c.flags\n--flagfile={folder}/d.flags\n--b=1", d="--wrong=1")
    write(folder / "deep" / "er", c="--flagfile=../../d.flags\n--c=1")
    write(folder, d="--d=1")
    expected = ["p", "--d=1", "--c=1", "--d=1", "--b=1", "--a=1"]
    assert with_flagfiles(["p", "--flagfile=a.flags"]) == expected
    monkeypatch.chdir("/")
    assert with_flagfiles(["p", f"--flagfile={folder}/a.flags"]) == expected
    monkeypatch.setenv("HOME", str(folder))
    assert with_flagfiles(["p", "--flagfile=~/deep/er/c.flags"]) == ["p", "--d=1", "--c=1"]


def many(folder):
    """Files that each include the next twice: 2**40 lines."""
    for number in range(40):
        line = f"--flagfile=many{number + 1}.flags\n"
        write(folder, **{f"many{number}": 2 * line})
    write(folder, many40="--x=1\n")
    return "many0.flags"


def deep(folder):
    for number in range(999):
        write(folder, **{f"deep{number}": f"--flagfile=deep{number + 1}.flags\n"})
    write(folder, deep999="\xff")
    return "deep0.flags"


@pytest.mark.parametrize(
    ("files", "path", "reason"),
    [
        ({}, "no.flags", "no.flags: not a readable flagfile: No such file or directory; "),
        ({"a": "--flagfile=b.flags"}, "a.flags", "b.flags: not a readable flagfile: No such file"),
        ({"a": "--flagfile=a.flags"}, "a.flags", "a.flags: not a readable flagfile: it includes itself"),
        (
            {"a": "--flagfile=b.flags", "b": "--flagfile=./a.flags"},
            "a.flags",
            "it includes itself, by way of /",
        ),
        ({"a": "--flagfile=b.flags", "b": "-flagfile=../link/a.flags"}, "a.flags", "it includes itself"),
        ({"a": "--flagfile"}, "a.flags", "--flagfile: must have a file, as --flagfile=FILE"),
        ({"a": "--flagfile= "}, "a.flags", "--flagfile=: must have a file, as --flagfile=FILE"),
        ({}, "pipe", "it is a pipe, not a file"),
        ({}, ".", "it is a folder, not a file"),
        ({}, "n" * 300, "File name too long"),
        ({}, "bytes", "can't decode byte 0xff"),
        ({}, "hole", "has over 67,108,864 bytes"),
        ({}, many, "include over 1000 flagfiles"),
        ({}, deep, ""),
        ({"a": "--x=\0"}, "a.flags", None),
        ({"a": "--widht=4"}, "a.flags", "widht"),
        ({"a": "--width=4\x1b[2J"}, "a.flags", "width"),
        ({"a": "--width=" + "9" * 5000}, "a.flags", "width"),
        ({"a": "--experiment=e\nwords"}, "a.flags", "a.flags: not a readable flagfile: not a flag: words; "),
        ({"a": "--seed 3"}, "a.flags", "a.flags: not a readable flagfile: not a flag: --seed 3; "),
        ({"a": "--experiment=e\n--epochs=1,x"}, "a.flags", "--epochs=1,x"),
    ],
)
def test_anything_else_is_one_line(folder, files, path, reason):
    (folder.parent / "link").unlink(missing_ok=True)
    (folder.parent / "link").symlink_to(folder)
    os.mkfifo(folder / "pipe")
    (folder / "bytes").write_bytes(b"--experiment=\xff")
    with (folder / "hole").open("wb") as hole:
        hole.truncate(2**32)
    write(folder, **files)
    path = path(folder) if callable(path) else path
    with pytest.raises(UserError) as caught:
        experiment_from_flagfiles([path])
    assert (reason or "") in str(caught.value)
    if "not a readable" in str(caught.value):
        assert isinstance(caught.value, FileError)
        assert printable(str(caught.value)) == str(caught.value)
        assert str(caught.value).endswith("; it must have a --name=value a line, in UTF-8")
