"""Runs a library that was compiled ahead of time in this process, so that its own machine code is audited."""

import ctypes
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from tfprune.runtime import machine
from tfprune.runtime.ahead.library import Built
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
            ValueError: None of the targets is this machine, or the files do not belong together.
        """
        folder = Path(folder)
        described = json.loads((folder / f"{name}.json").read_text("utf-8"))
        self.built = built_here(described)
        self.processor: str | None = None
        self._shape, self._classes = tuple(described["input_shape"]), described["classes"]
        self._output_shape = tuple(described["output_shape"])
        self._code = machine.Loaded((folder / self.built.target / f"{name}.o").read_bytes())
        self._run = {
            np.dtype(kind): ctypes.CFUNCTYPE(None, *[_POINTER] * 3)(self._code.address(f"{name}_run{suffix}"))
            for kind, suffix in (("float32", ""), ("uint8", "_uint8"))
        }
        self._processor = ctypes.CFUNCTYPE(ctypes.c_int32, _POINTER)(self._code.address(f"{name}_processor"))
        checksum = ctypes.CFUNCTYPE(ctypes.c_uint32)(self._code.address(f"{name}_checksum"))()
        if checksum != described["checksum"]:
            raise ValueError(f"{folder}: {name}.o and {name}.json must be of one network")
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
