"""The lock of a folder, in one process."""

import errno
import json
import os
import pathlib
import threading
import time

import pytest

from tfprune.errors import UserError
from tfprune.files import look_anew
from tfprune.lock import LOCK, OWNER, InUseError, hold, holder, killed, this_process


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
def test_a_lock_that_cannot_be_described_is_a_clear_error(number, tmp_path, monkeypatch):
    def fail(path, text, encoding):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(pathlib.Path, "write_text", fail)
    with pytest.raises(UserError) as caught, hold(tmp_path, "--output_dir=x"):
        pass
    assert str(caught.value) == f"--output_dir=x: {tmp_path} cannot be written: {os.strerror(number)}"
    monkeypatch.undo()
    with hold(tmp_path, "--output_dir=x"):
        pass


def test_a_lock_is_free_after_an_error(tmp_path):
    with pytest.raises(KeyError), hold(tmp_path, "--experiment=x"):
        assert (tmp_path / OWNER).exists()
        raise KeyError
    with hold(tmp_path, "--experiment=x"):
        pass
    assert [path.name for path in tmp_path.iterdir()] in ([LOCK], [])


def test_the_parts_of_a_folder_have_locks_of_their_own(tmp_path):
    with hold(tmp_path, "--output_dir=x"), hold(tmp_path, part="comparison"):
        assert (tmp_path / ".comparison.lock.json").exists()
        for flag, part in (("--output_dir=x: ", ""), ("", "comparison")):
            with pytest.raises(UserError) as caught, hold(tmp_path, flag.removesuffix(": "), part):
                pass
            assert str(caught.value).startswith(f"{flag}{tmp_path} is in use by process {os.getpid()} on ")


@pytest.mark.parametrize("content", [b"", b"\xff", b"[]", b'{"pid": 1}', b"[" * 10**5, None])
def test_a_damaged_note_of_the_owner_names_nobody(tmp_path, content):
    with hold(tmp_path):
        (tmp_path / ".lock.json").unlink()
        if content is None:
            os.mkfifo(tmp_path / ".lock.json")
        else:
            (tmp_path / ".lock.json").write_bytes(content)
        with pytest.raises(UserError, match="is in use by another process"), hold(tmp_path):
            pass


def test_whoever_waits_gets_it_when_it_is_free(tmp_path):
    held, order = threading.Event(), []

    def first():
        with hold(tmp_path):
            held.set()
            while not order:
                time.sleep(0.01)
            order.append("first ends")

    thread = threading.Thread(target=first)
    thread.start()
    held.wait()
    with pytest.raises(InUseError) as caught, hold(tmp_path, wait_seconds=0.01):
        pass
    assert caught.value.owner.startswith(f"{this_process()} since ")
    order.append("second waits")
    with hold(tmp_path, wait_seconds=-1) as before:
        order.append("second has it")
    thread.join()
    assert order == ["second waits", "first ends", "second has it"] and before is None


def test_who_was_killed_is_named_once(tmp_path):
    note = {"pid": 77, "host": "node8", "since": "noon"}
    (tmp_path / OWNER).write_text(json.dumps(note))
    with hold(tmp_path) as before:
        assert before == "process 77 on node8 since noon"
    with hold(tmp_path) as before:
        assert before is None


def test_looking_who_holds_a_folder_writes_nothing(tmp_path):
    assert holder(tmp_path) is None and holder(tmp_path / "no", "run") is None
    assert list(tmp_path.iterdir()) == []
    with hold(tmp_path, part="run"):
        assert holder(tmp_path, "run").startswith(f"{this_process()} since ")
        assert holder(tmp_path) is None
    (tmp_path / ".run.lock.json").write_text("{}")  # As a kill leaves it.
    assert holder(tmp_path, "run") is None
    assert (tmp_path / ".run.lock.json").exists()


def test_counting_kills_takes_no_lock_where_nobody_was_killed(tmp_path, monkeypatch):
    with hold(tmp_path, part="run"):
        assert killed(tmp_path, "run") == 0  # It is alive.
    asked = []
    monkeypatch.setattr("tfprune.lock.holder", lambda *what: asked.append(what))
    assert killed(tmp_path, "run") == 0 and not asked
    (tmp_path / ".run.lock.json").write_text('{"killed_before": 1}')
    assert killed(tmp_path, "run") == 2 and asked


def test_looking_anew_leaves_nothing_but_a_change(tmp_path):
    before = tmp_path.stat().st_mtime_ns
    look_anew(tmp_path)
    look_anew(tmp_path / "no")
    assert list(tmp_path.iterdir()) == [] and tmp_path.stat().st_mtime_ns > before
