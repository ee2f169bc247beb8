"""The library beside a `model.tfprune`, for `Model`: its code takes the place of what would be compiled."""

import ctypes
import os
import warnings
from pathlib import Path

import numpy as np

from tfprune import __version__
from tfprune.runtime import machine
from tfprune.runtime.ahead.description import BESIDE, Built, built_here, read_description
from tfprune.runtime.ahead.front import chooser_name
from tfprune.runtime.ahead.loaded import load_object
from tfprune.runtime.ahead.module import ROWS, STEPS
from tfprune.runtime.kernels.planes import WAIT
from tfprune.runtime.kernels.program import GIVE_WAY, RUN_TYPE, STEP_WORDS

_POINTER, _INT64 = ctypes.c_void_p, ctypes.c_int64
_NAME = "model"


class LibraryBinding:
    """A library's code in this process, which `Model` calls as it calls a bound plan.

    Attributes:
        frame: The facts that a caller needs.
        run: The compiled loop over steps, `program.RUN`.
    """

    def __init__(self, folder: Path, built: Built) -> None:
        """Loads an object file.

        Args:
            folder: Where the library is.
            built: The library of this machine's target.

        Raises:
            OSError: The file cannot be read.
            ValueError: It is another file than the description's.
        """
        self._code = load_object(folder, built, _NAME)
        index = 0
        if len(built.processors) > 1:
            index = ctypes.CFUNCTYPE(_INT64)(self._code.address(chooser_name(_NAME)))() - 1
        self.frame = built.frames[index]
        self.run = RUN_TYPE(self._code.address(f"{_NAME}_{index}_{STEPS.name}"))
        self._rows = ctypes.CFUNCTYPE(_POINTER, _INT64)(self._code.address(f"{_NAME}_{index}_{ROWS.name}"))
        self._give_way = machine.c_function(GIVE_WAY)

    def prepare(self, arena: np.ndarray) -> None:
        """Writes into an arena of zeros what waiting threads call."""
        arena[: 2 * (WAIT + 1)].view(np.int64)[WAIT] = self._give_way

    def steps(self, threads: int) -> "LibrarySteps":
        """Returns the steps cut for a number of threads, or for more or fewer where there are none such.

        Args:
            threads: At least 1.
        """
        return LibrarySteps(len(self.frame.owners), self._rows(threads))


class LibrarySteps:
    """Steps as the compiled loop reads them.

    Attributes:
        count: The number of steps.
    """

    def __init__(self, count: int, address: int) -> None:
        """Keeps where they are."""
        self.count, self._address = count, address

    def address(self, index: int) -> int:
        """Returns the address of a step."""
        return self._address + index * STEP_WORDS * ctypes.sizeof(_INT64)


def library_beside(path: str | os.PathLike[str], sha256: str) -> LibraryBinding | None:
    """Returns the library that lies beside a file, where it fits.

    Args:
        path: The `model.tfprune`.
        sha256: The SHA-256 of its bytes.

    Returns:
        The library; None where there is none, or, with a warning that says why, where it does not fit.
    """
    folder = Path(f"{os.fspath(path)}{BESIDE}")
    description = folder / f"{_NAME}.json"
    if not description.is_file():
        return None
    try:
        described = read_description(folder, _NAME)
        if described["version"] != __version__:
            return _warn(folder, f"tfprune {described['version']} made it, and this is {__version__}")
        if described["source"] != sha256:
            return _warn(folder, "it was made of another file")
        built = built_here(described)
        if built.weights != "float32" or not _known(built):
            return _warn(folder, f"it is for {', '.join(built.processors)}, with {built.weights} weights")
        return LibraryBinding(folder, built)
    except (KeyError, TypeError, ValueError, OSError, RuntimeError) as error:
        return _warn(folder, str(error))


def _known(built: Built) -> bool:
    """Returns whether this machine has one of the processors, as the library itself finds out."""
    return len(built.processors) > 1 or built.processors in (["generic"], [machine.host().cpu])


def _warn(folder: Path, reason: str) -> None:
    warnings.warn(f"{folder} is not used, and the network is compiled anew: {reason}", stacklevel=4)
