"""The lock of a folder, in one process."""

import errno
import os

import pytest

from tfprune import lock
from tfprune.errors import UserError
from tfprune.lock import LOCK, OWNER, hold


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
def test_a_lock_that_cannot_be_described_is_a_clear_error(number, tmp_path, monkeypatch):
    def fail(path, value):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(lock, "write_json", fail)
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
