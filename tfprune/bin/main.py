"""Runs a binary's one call: flags in, errors as one line, an exit status."""

import shutil
import sys
from collections.abc import Callable
from typing import NoReturn

from absl import app, logging

from tfprune.bin.flagfiles import with_flagfiles
from tfprune.bin.flags import names_in, parse_flags, setting_flags
from tfprune.bin.help import help_text
from tfprune.bin.interrupts import Interrupted, Interrupts, command_line
from tfprune.errors import UserError
from tfprune.text import printable

USER_ERROR_STATUS = 2
_HELP = {"--help", "-help", "-h", "--helpshort", "-helpshort", "--helpfull", "-helpfull", "-?"}


def run_main(
    main: Callable[[], None],
    documentation: str,
    define: Callable[[], None] = lambda: None,
    ending: str = "nothing is left half-written",
    again: str = "to start again",
) -> NoReturn:
    """Defines the flags, parses the command line, runs `main` and ends the process.

    A `UserError`, a flag that is none or breaks its rule, or what the system refuses (`OSError`) becomes one
    line on standard error and exit status 2; anything else keeps its traceback. Ctrl-C and SIGTERM are
    answered at once, and end the process with 130 and 143.

    Args:
        main: Reads `flags.FLAGS` and makes the binary's one call.
        documentation: The text that `--help` shows above the flags.
        define: Defines the flags. What takes long to load is loaded there, where Ctrl-C is heard already.
        ending: What happens after a Ctrl-C until the process ends, in words.
        again: What the same command does then, in words that stand before it.
    """
    interrupts = Interrupts(f"{ending}; {again}: {printable(command_line())}")

    def parse(arguments: list[str]) -> list[str]:
        define()
        if _HELP & {word.partition("=")[0] for word in arguments}:
            print(help_text(documentation, setting_flags(), shutil.get_terminal_size((100, 24)).columns))
            sys.exit(0)
        parse_flags(with_flagfiles(arguments), typed=names_in(arguments))
        return arguments

    def call(arguments: list[str]) -> int:
        logging.set_verbosity(logging.ERROR)
        sys.stdout.reconfigure(errors="backslashreplace")  # Of names that the terminal cannot show.
        main()
        return 0

    try:
        app.run(call, flags_parser=parse)
    except UserError as error:
        sys.exit(_fail(str(error)))
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        sys.exit(_fail(f"{place}{error.strerror or error}"))
    except Interrupted as interrupt:
        interrupts.caught = True
        interrupts.said.wait(1)
        _fail("interrupted")
        sys.exit(interrupt.status)


def _fail(message: str) -> int:
    print(f"error: {printable(' '.join(message.split()))}", file=sys.stderr)
    return USER_ERROR_STATUS
