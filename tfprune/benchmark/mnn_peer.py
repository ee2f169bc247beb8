"""A network as MNN files, with and without MNN's own sparse convolutions.

MNN reads ONNX through its converter. The converter's command line, and already `import MNN.tools` behind it,
installs a logging package by itself and reports to a server; neither is used here. `_tools`, the converter's
compiled module, does the work alone: it is a top-level module, and run under a trace of system calls in a
network namespace of its own it opened no socket and started no process. Each conversion has a process of
its own: the module prints, and its copy of protobuf ends a process that has TensorFlow's or ONNX's.
"""

import contextlib
import ctypes
import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import numpy as np

_CONVERT = "import sys, _tools; _tools.mnnconvert(sys.argv)"
_CONVERSION_SECONDS = 600


def convert_to_mnn(onnx_path: str, path: str, *, sparse: bool) -> None:
    """Converts an ONNX file to an MNN file.

    Args:
        onnx_path: The ONNX file, its input float32: MNN's sessions take no other image well.
        path: The file to write.
        sparse: Whether layers with enough zeros are stored and computed by MNN's sparse convolutions
            (its option `detectSparseSpeedUp`).

    Raises:
        RuntimeError: MNN wrote no file; has what it printed.
    """
    arguments = ["-f", "ONNX", "--modelFile", onnx_path, "--MNNModel", path, "--bizCode", "tfprune"]
    if sparse:
        arguments.append("--detectSparseSpeedUp")
    with contextlib.suppress(FileNotFoundError):
        os.remove(path)  # The converter returns True in any case: the file is what tells.
    done = subprocess.run(
        [sys.executable, "-c", _CONVERT, *arguments],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=_CONVERSION_SECONDS,
    )
    if not os.path.exists(path):
        raise RuntimeError(f"MNN's converter wrote no file: {(done.stdout + done.stderr)[-500:]}")


def load_mnn(path: str, threads: int, batch_size: int) -> Callable[[np.ndarray], np.ndarray]:
    """Loads an MNN file made from `to_onnx(graph, "float32")`.

    Args:
        path: The file.
        threads: How many it uses.
        batch_size: The only batch size it takes.

    Returns:
        Images `[batch_size, height, width, channels]` to logits `[batch_size, classes]`.
    """
    with _stdout_captured():
        import MNN

        interpreter = MNN.Interpreter(path)
        session = interpreter.createSession({"numThread": threads, "backend": "CPU", "precision": "high"})
        source = interpreter.getSessionInput(session, "image")
        shape = (batch_size, *source.getShape()[1:])
        interpreter.resizeTensor(source, shape)
        interpreter.resizeSession(session)
    result = interpreter.getSessionOutput(session, "logits")
    logits_shape = result.getShape()
    layout, real = source.getDimensionType(), MNN.Halide_Type_Float

    def run(images: np.ndarray) -> np.ndarray:
        pixels = np.ascontiguousarray(images, np.float32)
        source.copyFrom(MNN.Tensor(shape, real, pixels, layout))
        interpreter.runSession(session)
        logits = MNN.Tensor(logits_shape, real, np.zeros(logits_shape, np.float32), layout)
        result.copyToHostTensor(logits)
        return np.array(logits.getNumpyData()).reshape(logits_shape)

    return run


@contextlib.contextmanager
def _stdout_captured() -> Iterator[None]:
    """Drops what MNN prints from C on import and on start."""
    c = ctypes.CDLL(None)
    sys.stdout.flush()
    c.fflush(None)
    saved, null = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    try:
        yield
    finally:
        c.fflush(None)
        os.dup2(saved, 1)
        os.close(saved)
        os.close(null)
