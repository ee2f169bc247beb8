"""Loads Keras, or says in one line what its backend lacks.

Each package whose modules import Keras imports this first.
"""

import importlib.util
import os

from tfprune.errors import UserError
from tfprune.text import did_you_mean

BACKENDS = ("tensorflow", "jax", "torch")


class BackendError(UserError, ModuleNotFoundError):
    """Keras cannot be imported with the backend that is chosen; the message says what to install or to set.

    It is a `ModuleNotFoundError` too, of the backend's name where the backend is not installed.
    """


def _advice(missing: str) -> str:
    """Returns what to do where a backend is not installed."""
    installed = [name for name in BACKENDS if importlib.util.find_spec(name)]
    if not installed:
        others = " or ".join(name for name in BACKENDS if name != missing)
        return f"pip install {missing}, or {others} and set KERAS_BACKEND to its name"
    return f"set KERAS_BACKEND={' or '.join(installed)}, which is installed, or pip install {missing}"


try:
    import keras  # noqa: F401
except ModuleNotFoundError as _error:
    if _error.name not in BACKENDS:
        raise
    raise BackendError(
        f"{_error.name}, the backend of Keras, is not installed: {_advice(_error.name)}", name=_error.name
    ) from None
except ValueError as _error:
    # As Keras has it: "Unable to import backend : NAME", from KERAS_BACKEND or from its own configuration.
    _name = str(_error).rpartition(" ")[2]
    _home = os.environ.get("KERAS_HOME", "~/.keras")
    _place = "KERAS_BACKEND=" if os.environ.get("KERAS_BACKEND") else f"backend in {_home}/keras.json: "
    raise BackendError(
        f"{_place}{_name}: must be tensorflow, jax or torch{did_you_mean(_name, BACKENDS)}"
    ) from _error
