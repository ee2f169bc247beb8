"""Files are there and whole, or not there: after a kill, on a full disk, without power."""

import errno
import json
import os
import pathlib
import re
import threading

import pytest

from tests.support.disk import watched
from tfprune import files
from tfprune.errors import UserError
from tfprune.files import (
    make_folder,
    put,
    remove,
    remove_temporaries,
    replacing,
    write_bytes,
    write_json,
    write_text,
    writing,
)

pytestmark = pytest.mark.one_backend

PACKAGE = pathlib.Path(files.__file__).parent


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_or_stays(tmp_path):
    path = tmp_path / "file.txt"
    write_text(path, "old")
    with pytest.raises(ZeroDivisionError), replacing(path) as temporary:
        assert temporary.parent == tmp_path and temporary.suffix == ".txt"
        temporary.write_text("new")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    with pytest.raises(TypeError):
        write_json(path, object())
    assert names(tmp_path) == ["file.txt"]
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert names(tmp_path) == ["file.txt"]


def test_json_ends_with_a_newline(tmp_path):
    write_json(tmp_path / "a.json", {"b": [1, None]})
    text = (tmp_path / "a.json").read_text()
    assert json.loads(text) == {"b": [1, None]}
    assert text.endswith("}\n")


def test_the_content_is_on_the_disk_before_the_name_and_the_name_before_the_next(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace

    def watched_fsync(descriptor):
        calls.append(("fsync", os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    def watched_replace(source, target):
        calls.append(("replace", str(target)))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "replace", watched_replace)
    write_text(tmp_path / "a.txt", "a")
    (content, temporary), name, folder = calls
    assert content == "fsync" and pathlib.Path(temporary).parent == tmp_path and temporary.endswith(".txt")
    assert name == ("replace", str(tmp_path / "a.txt"))
    assert folder == ("fsync", str(tmp_path))


def test_a_folder_is_put_with_all_in_it(tmp_path):
    source = tmp_path / ".new"
    (source / "variables").mkdir(parents=True)
    for name in ("saved_model.pb", "variables/data", "variables/index"):
        (source / name).write_text(name)
    with watched(tmp_path) as disk:
        put(source, tmp_path / "saved_model")
    disk.assert_whole()
    assert disk.named == ["saved_model"]
    assert (tmp_path / "saved_model/variables/index").read_text() == "variables/index"


def skip_sync(monkeypatch):
    monkeypatch.setattr(files, "_sync", lambda path: None)


def put_twice(folder):
    write_text(folder / "a", "")
    write_text(folder / "b", "")


def late_removal(folder):
    write_text(folder / "a.json", "")
    (folder / "a.json").unlink()
    write_text(folder / "b", "")


def late_folder(folder):
    (folder / "new").mkdir()
    write_text(folder / "new" / "a", "")


def test_the_watch_sees_a_writer_that_does_not_wait(tmp_path, monkeypatch):
    """Without a sync, with one of the file alone, and with a name, a removal or a folder that comes late."""
    with monkeypatch.context() as patch, watched(tmp_path) as disk:
        skip_sync(patch)
        with pytest.raises(AssertionError, match="is not on the disk"):
            write_text(tmp_path / "a", "a")
    sync = files._sync
    monkeypatch.setattr(files, "_sync", lambda path: None if path.is_dir() else sync(path))
    with watched(tmp_path), pytest.raises(AssertionError, match="name .*a'"):
        put_twice(tmp_path)
    monkeypatch.setattr(files, "_sync", sync)
    with watched(tmp_path), pytest.raises(AssertionError, match="remove .*a.json"):
        late_removal(tmp_path)
    with watched(tmp_path), pytest.raises(AssertionError, match="mkdir .*new"):
        late_folder(tmp_path)
    with watched(tmp_path) as disk:
        (tmp_path / "c").write_text("c")
        with pytest.raises(AssertionError, match="went round"):
            disk.assert_whole("a", "b", "new")


def test_folders_and_removals_are_on_the_disk_before_what_comes_later(tmp_path):
    with watched(tmp_path) as disk:
        make_folder(tmp_path / "runs" / "a" / "round_00")
        write_text(tmp_path / "runs" / "a" / "round_00" / "x.json", "")
        remove(tmp_path / "runs" / "a" / "round_00" / "x.json")
        remove(tmp_path / "runs" / "a" / "round_00" / "x.json")
        write_text(tmp_path / "runs" / "a" / "round_00" / "y.json", "")
        make_folder(tmp_path / "runs" / "a" / "round_00")
    disk.assert_whole()
    remove(tmp_path / "runs")
    assert names(tmp_path) == []


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_that_cannot_sync_folders_is_written_to(tmp_path, monkeypatch, number):
    fsync = os.fsync

    def files_only(descriptor):
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", files_only)
    write_text(tmp_path / "a", "a")
    assert (tmp_path / "a").read_text() == "a"


def test_a_disk_that_fails_to_sync_gives_no_name(tmp_path, monkeypatch):
    def fail(descriptor):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    write_text(tmp_path / "a", "old")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        write_text(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "old" and names(tmp_path) == ["a"]


def test_an_error_names_the_file_that_was_to_be_written(tmp_path):
    path = tmp_path / "absent" / "a.txt"
    with pytest.raises(FileNotFoundError) as caught:
        write_text(path, "a")
    assert caught.value.filename == str(path)


def test_a_name_as_long_as_a_name_may_be_is_written(tmp_path):
    path = tmp_path / ("n" * 251 + ".txt")
    write_text(path, "a")
    assert names(tmp_path) == [path.name]
    with pytest.raises(OSError, match=os.strerror(errno.ENAMETOOLONG)):
        write_text(tmp_path / ("n" * 252 + ".txt"), "a")
    assert names(tmp_path) == [path.name]


def test_threads_that_write_one_file_leave_a_whole_one(tmp_path):
    path = tmp_path / "a.bin"
    contents = [bytes([number]) * 100_000 for number in range(8)]
    failures = []

    def write(content):
        try:
            for _ in range(10):
                write_bytes(path, content)
        except OSError as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert path.read_bytes() in contents and names(tmp_path) == ["a.bin"]


def test_what_kills_in_mid_write_left_is_removed(tmp_path):
    inner = tmp_path / "export"
    inner.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pathlib.Path, "unlink", lambda path, missing_ok: None)
        for half in (tmp_path / "result.json", inner / "model.keras"):
            with pytest.raises(ZeroDivisionError), replacing(half) as temporary:
                temporary.write_bytes(b"half")
                raise ZeroDivisionError
    (other,) = names(inner)
    kept = [".lock", ".lock.json", ".4242", "result.json"]
    for name in kept:
        (tmp_path / name).write_bytes(b"whole")
    assert len(names(tmp_path)) == 6
    remove_temporaries(tmp_path)
    assert names(tmp_path) == sorted([*kept, "export"])
    assert names(inner) == [other]  # Of whoever writes there.


class LibraryError(Exception):
    """As TensorFlow has one, which is no `OSError`."""


FULL, LARGE = os.strerror(errno.ENOSPC), os.strerror(errno.EFBIG)
HDF5 = "Can't synchronously write data (file write failed: errno = {}, error message = '{}', buf = 0x1)"


@pytest.mark.parametrize(
    "error, path, reason",
    [
        (OSError(errno.ENOSPC, FULL, "x/model.keras"), "x/model.keras", FULL),
        (OSError(errno.ENOSPC, FULL), "x", FULL),
        (PermissionError(errno.EACCES, "Permission denied", "x/a"), "x/a", "Permission denied"),
        (OSError(errno.EROFS, os.strerror(errno.EROFS), "x/a"), "x/a", os.strerror(errno.EROFS)),
        (OSError(HDF5.format(errno.ENOSPC, FULL)), "x", FULL),
        (OSError(HDF5.format(errno.EFBIG, LARGE)), "x", LARGE),
        (LibraryError(f"{{{{function_node __wrapped__Save}}}} x/a.pb; {FULL} [Op:SaveV2]\nmore"), "x", FULL),
    ],
)
def test_a_disk_that_cannot_be_written_is_one_line(error, path, reason):
    with pytest.raises(UserError) as caught, writing(pathlib.Path("x"), "make room", LibraryError):
        raise error
    assert str(caught.value) == f"{path}: cannot be written: {reason}; make room"
    assert caught.value.__cause__ is error


@pytest.mark.parametrize(
    "error",
    [FileNotFoundError(errno.ENOENT, "none", "x"), OSError("odd"), KeyError(FULL), LibraryError(FULL)],
)
def test_other_errors_keep_their_traceback(error):
    with pytest.raises(type(error)) as caught, writing(pathlib.Path("x"), "make room"):
        raise error
    assert caught.value is error


def test_no_other_module_gives_a_file_its_name():
    calls = re.compile(r"\bos\.(replace|renames?|link)\(|shutil\.move\(|\.rename\(")
    found = [str(path) for path in sorted(PACKAGE.rglob("*.py")) if calls.search(path.read_text("utf-8"))]
    assert found == [files.__file__]
