"""Keeps the native libraries' chatter off the terminal while they work."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator

from tfprune.errors import UserError


@contextlib.contextmanager
def native_stderr_captured() -> Iterator[None]:
    """Sends file descriptor 2 to a temporary file; shows it only if the block raises.

    TensorFlow's start, its SavedModel loader, its TFLite converter and the XNNPACK delegate write
    dozens of lines from C++, straight to descriptor 2, whatever Python's loggers are set to. They
    matter only when something fails, and then they are printed in full before the exception goes on; not
    before a `UserError`, which says all in its line, or an interruption.

    The descriptor belongs to the process: other threads' standard error is captured too.
    """
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as captured:
        os.dup2(captured.fileno(), 2)
        try:
            yield
        except (UserError, KeyboardInterrupt):
            raise
        except BaseException:
            sys.stderr.flush()
            os.dup2(saved, 2)
            captured.seek(0)
            os.write(2, captured.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(saved, 2)
            os.close(saved)
