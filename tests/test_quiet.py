import os

import pytest

from tfprune.errors import UserError
from tfprune.quiet import native_stderr_captured


def test_native_output_is_dropped_when_all_goes_well(capfd):
    with native_stderr_captured():
        os.write(2, b"noise\n")
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "after\n"


def test_native_output_is_shown_when_something_fails(capfd):
    with pytest.raises(RuntimeError), native_stderr_captured():
        os.write(2, b"the reason\n")
        raise RuntimeError
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "the reason\nafter\n"


def test_native_output_is_dropped_where_one_line_says_all(capfd):
    with pytest.raises(UserError), native_stderr_captured():
        os.write(2, b"noise\n")
        raise UserError("x: cannot be written: No space left on device")
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "after\n"
