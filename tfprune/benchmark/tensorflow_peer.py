"""A SavedModel in TensorFlow, in a process of its own.

TensorFlow has one number of threads for a whole process, fixed by its first operation. So each setting's
network lives in another process; images and logits go through pipes, which costs about as long as copying
them.
"""

import json
import os
import subprocess
import sys
import weakref
from collections.abc import Callable
from typing import BinaryIO

import numpy as np

from tfprune.benchmark import child

_LENGTH_BYTES = 8


def load_saved_model(path: str, threads: int, batch_size: int) -> Callable[[np.ndarray], np.ndarray]:
    """Loads a SavedModel in this process.

    Args:
        path: The folder.
        threads: How many TensorFlow may use within an operation.
        batch_size: Not used; the signature takes any.

    Returns:
        uint8 images to float32 logits.

    Raises:
        RuntimeError: TensorFlow has run in this process before.
    """
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    loaded = tf.saved_model.load(path)
    signature = loaded.signatures["serving_default"]

    def run(images: np.ndarray, keep: object = loaded) -> np.ndarray:
        return signature(image=tf.constant(images))["logits"].numpy()

    return run


def start_saved_model(path: str, threads: int, batch_size: int) -> Callable[[np.ndarray], np.ndarray]:
    """Loads a SavedModel in another process, which ends with what is returned.

    Args:
        path: The folder.
        threads: How many TensorFlow may use within an operation.
        batch_size: Images a call.

    Returns:
        uint8 images to float32 logits.
    """
    process = subprocess.Popen(
        child.command("tfprune.benchmark.tensorflow_peer", path, str(threads)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=child.environment(),
    )

    def run(images: np.ndarray) -> np.ndarray:
        send(process.stdin, np.asarray(images))
        return receive(process.stdout)

    weakref.finalize(run, _end, process)
    return run


def send(stream: BinaryIO, array: np.ndarray) -> None:
    """Writes an array: the length of a JSON header, the header, the values."""
    header = json.dumps({"dtype": array.dtype.str, "shape": array.shape}).encode()
    stream.write(len(header).to_bytes(_LENGTH_BYTES, "little") + header)
    stream.write(np.ascontiguousarray(array).tobytes())
    stream.flush()


def receive(stream: BinaryIO) -> np.ndarray:
    """Reads what `send` wrote.

    Raises:
        EOFError: The other side has ended.
    """
    length = int.from_bytes(_read(stream, _LENGTH_BYTES), "little")
    header = json.loads(_read(stream, length))
    dtype = np.dtype(header["dtype"])
    values = _read(stream, dtype.itemsize * int(np.prod(header["shape"])))
    return np.frombuffer(values, dtype).reshape(header["shape"])


def _read(stream: BinaryIO, count: int) -> bytes:
    found = stream.read(count)
    if len(found) < count:
        raise EOFError("TensorFlow's process has ended")
    return found


def _end(process: subprocess.Popen) -> None:
    process.stdin.close()
    process.stdout.close()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _serve(path: str, threads: int) -> None:
    """Answers images with logits until the other side ends."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # Whatever is printed is no answer.
    run = load_saved_model(path, threads, 0)
    while True:
        try:
            images = receive(sys.stdin.buffer)
        except EOFError:
            return
        send(answers, run(images))


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]))
