import os

import pytest

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
