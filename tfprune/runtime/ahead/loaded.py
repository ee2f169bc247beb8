"""Runs a library that was compiled ahead of time in this process, so that its own machine code is audited."""

import ctypes
import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from tfprune import __version__
from tfprune.runtime import machine
from tfprune.runtime.ahead.library import Built, Library
from tfprune.runtime.ahead.targets import this_machines_target
from tfprune.runtime.batch import as_input
from tfprune.runtime.plan.arena import aligned_zeros

_POINTER = ctypes.c_void_p


class LoadedLibrary:
    """A library's network, which is called with images as `Model` is; on one thread.

    Attributes:
        built: The library that was loaded.
        processor: The processor whose code runs, by LLVM's name; known after the first call.
    """

    def __init__(self, folder: str | os.PathLike[str], name: str = "model") -> None:
        """Loads the object file of this machine's target.

        Args:
            folder: What `compile_library` wrote.
            name: As of `compile_library`.

        Raises:
            OSError: A file cannot be read.
            ValueError: None of the targets is this machine, or the files do not belong together, or the
                description is no description of this version.
        """
        folder = Path(folder)
        described = read_description(folder, name)
        self.built = built_here(described)
        self.processor: str | None = None
        self._shape, self._classes = tuple(described["input_shape"]), described["classes"]
        self._output_shape = tuple(described["output_shape"])
        self._code = load_object(folder, self.built, name)
        self._run = {
            np.dtype(kind): ctypes.CFUNCTYPE(None, *[_POINTER] * 3)(self._code.address(f"{name}_run{suffix}"))
            for kind, suffix in (("float32", ""), ("uint8", "_uint8"))
        }
        self._processor = ctypes.CFUNCTYPE(ctypes.c_int32, _POINTER)(self._code.address(f"{name}_processor"))
        self._arena = aligned_zeros(-(-self.built.arena_bytes // 4))

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Classifies images.

        Args:
            images: As of `Model`.

        Returns:
            The network's output, float32 `[n, classes]` or of its shape.

        Raises:
            ValueError: The images have another shape or type.
        """
        images = as_input(images, self._shape)
        outputs = np.empty((len(images), self._classes), np.float32)
        for image, output in zip(images, outputs, strict=True):
            self._run[images.dtype](self._arena.ctypes.data, image.ctypes.data, output.ctypes.data)
        if len(images):
            self.processor = self.built.processors[self._processor(self._arena.ctypes.data)]
        return outputs.reshape(-1, *self._output_shape)


def read_description(folder: Path, name: str) -> dict[str, Any]:
    """Reads what `compile_library` wrote about a folder.

    Args:
        folder: The folder.
        name: As of `compile_library`.

    Returns:
        The fields of `Library`, those of each target under `"built"`.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is no such description, or another version's with other fields.
    """
    described = json.loads((folder / f"{name}.json").read_text("utf-8"))
    if not isinstance(described, dict):
        raise ValueError(f"{name}.json must have an object. Received: {type(described).__name__}")
    built = described.get("built")
    entries = built if isinstance(built, list) else []
    for kind, found in ((Library, described), *((Built, entry) for entry in entries)):
        names = {field.name for field in dataclasses.fields(kind)}
        if not isinstance(found, dict) or found.keys() != names:
            other = sorted(names.symmetric_difference(found if isinstance(found, dict) else ()))
            raise ValueError(
                f"{name}.json must be made anew, by tfprune {__version__}: that of"
                f" {described.get('version')} differs in {', '.join(other)}"
            )
    return described


def load_object(folder: Path, built: Built, name: str) -> machine.Loaded:
    """Loads a target's object file, if it is the one that the description is of.

    What LLVM does with another, or a part of one, it does not say: it may end the process.

    Args:
        folder: Where the library is.
        built: The library of this machine's target.
        name: As of `compile_library`.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is another file.
    """
    path = folder / built.target / f"{name}.o"
    code = path.read_bytes()
    if hashlib.sha256(code).hexdigest() != built.object_sha256:
        raise ValueError(f"{path} must be the file that {name}.json describes: it is damaged or another's")
    return machine.Loaded(code)


def built_here(described: dict[str, Any]) -> Built:
    """Returns the library of this machine's target.

    Args:
        described: The description of the folder.

    Raises:
        ValueError: None of the targets is this machine.
    """
    for entry in described["built"]:
        if entry["target"] == this_machines_target():
            return Built(**entry)
    names = ", ".join(entry["target"] for entry in described["built"])
    raise ValueError(f"a target must be this machine, {machine.host().triple}. Received: {names}")
