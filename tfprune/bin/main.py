"""Runs a binary's one call: flags in, errors as one line, an exit status."""

import signal
import sys
from collections.abc import Callable
from typing import Any

from absl import app, flags, logging

from tfprune.bin.flagfiles import with_flagfiles
from tfprune.errors import UserError
from tfprune.text import printable

USER_ERROR_STATUS = 2
INTERRUPTED_STATUS, TERMINATED_STATUS = 130, 143
_HELP = {"--help", "-help", "-h", "--helpshort"}


class _Terminated(KeyboardInterrupt):
    """SIGTERM: it ends a run as Ctrl-C does, locks freed and the study's page right."""


def run_main(main: Callable[[], None], documentation: str) -> None:
    """Parses the command line, runs `main` and ends the process.

    A `UserError`, an unknown flag, a value of the wrong type, or what the system refuses (`OSError`) becomes
    one line on standard error and exit status 2; anything else keeps its traceback.

    Args:
        main: Reads `flags.FLAGS` and makes the binary's one call.
        documentation: The text that `--help` shows above the flags.
    """

    def guarded(arguments: list[str]) -> int:
        logging.set_verbosity(logging.ERROR)
        sys.stdout.reconfigure(errors="backslashreplace")  # Of names that the terminal cannot show.
        if len(arguments) > 1:
            return _fail(f"not a flag: {' '.join(arguments[1:])}")
        signal.signal(signal.SIGTERM, _terminate)
        try:
            main()
        except UserError as error:
            return _fail(str(error))
        except OSError as error:
            place = f"{error.filename}: " if error.filename else ""
            return _fail(f"{place}{error.strerror or error}")
        except KeyboardInterrupt as interrupt:
            _fail("interrupted; the same command goes on where it stopped")
            return TERMINATED_STATUS if isinstance(interrupt, _Terminated) else INTERRUPTED_STATUS
        return 0

    def parse(arguments: list[str]) -> list[str]:
        if _HELP & set(arguments):
            print(f"{documentation}\n{_flags_help()}\n--helpfull shows absl's own flags too.")
            sys.exit(0)
        try:
            return flags.FLAGS(with_flagfiles(arguments))
        except (flags.Error, UserError) as error:
            sys.exit(_fail(str(error)))

    app.run(guarded, flags_parser=parse)


def _terminate(signal_number: int, frame: Any) -> None:
    raise _Terminated


def _fail(message: str) -> int:
    print(f"error: {printable(' '.join(message.split()))}", file=sys.stderr)
    return USER_ERROR_STATUS


def _flags_help() -> str:
    """Describes the project's flags, wherever they are defined, but not absl's."""
    ours = [
        name
        for name in flags.FLAGS.flags_by_module_dict()
        if name.startswith("tfprune") or name.endswith(" flags") or name == sys.argv[0]
    ]
    return "\n".join(flags.FLAGS.module_help(name) for name in ours)
