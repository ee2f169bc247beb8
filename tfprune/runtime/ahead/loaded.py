"""Runs a library that was compiled ahead of time in this process, so that its own machine code is audited."""

import ctypes
import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np

from tfprune.runtime import machine
from tfprune.runtime.ahead.description import Built, built_here, read_description
from tfprune.runtime.batch import as_batch, as_results
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
        # The same for each of the processors, but for places in the arena.
        self._inputs, self._outputs = self.built.frames[0].inputs, self.built.frames[0].outputs
        self._code = load_object(folder, self.built, name)
        run = ctypes.CFUNCTYPE(None, *[_POINTER] * (1 + len(self._inputs) + len(self._outputs)))
        self._run = {
            np.dtype(kind): run(self._code.address(f"{name}_run{suffix}"))
            for kind, suffix in (("float32", ""), ("uint8", "_uint8"))
        }
        self._processor = ctypes.CFUNCTYPE(ctypes.c_int32, _POINTER)(self._code.address(f"{name}_processor"))
        self._arena = aligned_zeros(-(-self.built.arena_bytes // 4))

    def __call__(self, images: Any) -> Any:
        """Runs the network.

        Args:
            images: As of `Model`.

        Returns:
            The network's output, float32 `[n, classes]` or of its shape; several as a dictionary by name.

        Raises:
            ValueError: The images have another shape or type.
        """
        images = as_batch(images, self._inputs)
        outputs = [np.empty((images.count, port.size), np.float32) for port in self._outputs]
        for index in range(images.count):
            example = images.example(index)
            # C's functions take the inputs as one type.
            kind = np.result_type(*example)
            example = [array.astype(kind, copy=False) for array in example]
            places = [array.ctypes.data for array in (*example, *(output[index] for output in outputs))]
            self._run[kind](self._arena.ctypes.data, *places)
        if images.count:
            self.processor = self.built.processors[self._processor(self._arena.ctypes.data)]
        return as_results(outputs, self._outputs)


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
