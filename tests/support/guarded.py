"""Memory between pages that nobody may touch: a read or a write beyond its ends ends the process.

Run by itself, with folders of `compile_library`, it runs each library of this machine so: image, output and
arena at the beginning and at the end of such memory.
"""

import ctypes
import math
import mmap
import sys
from pathlib import Path

import numpy as np

from tfprune.runtime.ahead.description import built_here, read_description
from tfprune.runtime.ahead.loaded import load_object

_PROT_NONE, _PAGE = 0, mmap.PAGESIZE
_libc = ctypes.CDLL(None, use_errno=True)
_mprotect = _libc.mprotect
_mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


class Guarded:
    """Bytes of zeros that begin, or end, at a page's edge."""

    def __init__(self, count: int, *, at_end: bool, alignment: int = 1) -> None:
        pages = -(-count // _PAGE) * _PAGE
        self._memory = mmap.mmap(-1, pages + 2 * _PAGE)
        whole = np.frombuffer(self._memory, np.uint8)
        for edge in (0, pages + _PAGE):
            if _mprotect(whole.ctypes.data + edge, _PAGE, _PROT_NONE):
                raise OSError(ctypes.get_errno(), "mprotect")
        first = _PAGE + (pages - -(-count // alignment) * alignment if at_end else 0)
        self.bytes = whole[first : first + count]

    @property
    def address(self) -> int:
        """The address of the first byte."""
        return self.bytes.ctypes.data


def run_guarded(folder: Path) -> None:
    """Runs a library on a float32 and a uint8 image, and compares what it gives at both edges."""
    described = read_description(folder, "model")
    built = built_here(described)
    code = load_object(folder, built, "model")
    for suffix, kind in (("", np.float32), ("_uint8", np.uint8)):
        run = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 3)(code.address(f"model_run{suffix}"))
        image = np.random.default_rng(0).integers(0, 256, described["inputs"]["image"]).astype(kind)
        outputs = []
        for at_end in (False, True):
            arena = Guarded(built.arena_bytes, at_end=at_end, alignment=64)
            pixels = Guarded(image.nbytes, at_end=at_end)
            output = Guarded(4 * math.prod(described["outputs"]["output"]), at_end=at_end)
            pixels.bytes[:] = image.reshape(-1).view(np.uint8)
            for _ in range(2):
                run(arena.address, pixels.address, output.address)
            outputs.append(output.bytes.tobytes())
        assert outputs[0] == outputs[1]
        assert np.isfinite(np.frombuffer(outputs[0], np.float32)).all()


if __name__ == "__main__":
    for name in sys.argv[1:]:
        run_guarded(Path(name))
        print(name, flush=True)
