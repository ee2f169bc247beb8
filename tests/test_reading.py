"""The door for files that others may have touched: whatever is wrong becomes one line."""

import json
import os
import socket
import zipfile

import pytest

from tfprune.errors import FileError, UserError
from tfprune.reading import RECORD_BYTES, reading, text_of
from tfprune.text import printable

pytestmark = pytest.mark.one_backend


def message_of(path, block):
    with pytest.raises(FileError) as caught, reading(path, "record", "write it anew"):
        block()
    message = str(caught.value)
    start, end = f"{printable(str(path))}: not a readable record: ", "; write it anew"
    assert message.startswith(start) and message.endswith(end) and printable(message) == message
    return message.removeprefix(start).removesuffix(end)


def raises(error):
    def block():
        raise error

    return block


@pytest.fixture
def path(tmp_path):
    (tmp_path / "record").write_text("{}")
    return tmp_path / "record"


def test_what_is_read_is_returned(path):
    with reading(path, "record", "write it anew"):
        assert text_of(path) == "{}"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("`a` must be 1. Received: a=2."), "`a` must be 1. Received: a=2"),
        (UserError("--a=2: must be 1"), "--a=2: must be 1"),
        (KeyError("weights"), "'weights' is missing"),
        (KeyError("Unable to open object"), "'Unable to open object'"),
        (PermissionError(13, "Permission denied", "/elsewhere"), "Permission denied"),
        (OSError("Truncated file"), "Truncated file"),
        (MemoryError(), "it asks for more memory than there is"),
        (RecursionError("maximum recursion depth exceeded"), "it is nested too deeply"),
        (zipfile.BadZipFile("Bad CRC-32"), "Bad CRC-32"),
        (AssertionError(), "AssertionError"),
        (RuntimeError("\n\n  first\n  second"), "first second"),
        (TypeError("\x1b]0;title\x07\u202e"), r"\x1b]0;title\x07\u202e"),
        (ValueError("a" * 10_000), "a" * 300 + "..."),
    ],
)
def test_any_exception_becomes_one_line(path, error, reason):
    assert message_of(path, raises(error)) == reason


def test_a_message_that_is_clear_already_passes(path):
    with pytest.raises(FileError, match=r"^as it is$"), reading(path, "record", "write it anew"):
        raise FileError("as it is")


def test_an_interrupt_is_no_damage(path):
    with pytest.raises(KeyboardInterrupt), reading(path, "record", "write it anew"):
        raise KeyboardInterrupt


def test_what_is_no_file_is_not_opened(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(tmp_path)  # A socket's path has at most 108 bytes.
        server.bind("socket")
        reasons = {
            tmp_path / "\x1b[2J\udcff": "No such file or directory",
            tmp_path / "absent": "No such file or directory",
            tmp_path / "circle": "Too many levels of symbolic links",
            tmp_path / ("n" * 300): "File name too long",
            tmp_path: "it is a folder, not a file",
            tmp_path / "pipe": "it is a pipe, not a file",
            tmp_path / "link": "it is a pipe, not a file",
            tmp_path / "socket": "it is a socket, not a file",
            "/dev/zero": "it is a device, not a file",
            "a\0b": "embedded null byte",
        }
        for path, reason in reasons.items():
            assert message_of(path, raises(AssertionError("opened"))) == reason


def test_damaged_text(path):
    path.write_bytes(b"\xff{}")
    assert "can't decode byte 0xff" in message_of(path, lambda: text_of(path))
    path.write_text("[" * 100_000)
    assert message_of(path, lambda: json.loads(text_of(path))) == "it is nested too deeply"
    with path.open("wb") as file:
        file.truncate(RECORD_BYTES * 1000)  # A hole: it takes no disk, but would take memory.
    assert message_of(path, lambda: text_of(path)) == "it has over 67,108,864 bytes, more than any such file"
