"""Contenders in processes of their own.

    python -m tfprune.benchmark.process CONTENDER PATH THREADS BATCH_SIZE

answers inputs on its standard input with outputs on its standard output. TensorFlow has one number of threads
for a whole process, so that each setting's network lives in another process; sending arrays through pipes
takes about as long as copying them.
"""

import json
import os
import subprocess
import sys
import weakref
from pathlib import Path
from typing import BinaryIO

import numpy as np

from tfprune.export.arrays import Arrays, by_name
from tfprune.export.formats.format import Run

_LENGTH_BYTES = 8
_ALONE = ""  # Stands for the name of an array that has none.


def command(module: str, *arguments: str) -> list[str]:
    """Returns the command that runs a module of this project.

    Args:
        module: Its full name.
        arguments: Its command line.
    """
    return [sys.executable, "-m", module, *arguments]


def environment() -> dict[str, str]:
    """Returns this process's environment, in which the command finds this project, installed or not."""
    root = str(Path(__file__).resolve().parents[2])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def start(contender: str, path: str, threads: int, batch_size: int) -> Run:
    """Loads a file in another process, which ends with the function that is returned.

    Args:
        contender: A name of `tfprune.benchmark.contenders`.
        path: The file.
        threads: How many threads the runtime may use.
        batch_size: The only number of examples that the function will be called with.

    Returns:
        A function from inputs to outputs, each an array or arrays by name.
    """
    process = subprocess.Popen(
        command("tfprune.benchmark.process", contender, path, str(threads), str(batch_size)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment(),
    )

    def run(inputs: Arrays) -> Arrays:
        send(process.stdin, inputs)
        return receive(process.stdout)

    weakref.finalize(run, _end, process)
    return run


def send(stream: BinaryIO, arrays: Arrays) -> None:
    """Writes an array, or arrays by name: the length of a JSON header, the header, the values."""
    named = {name: np.ascontiguousarray(array) for name, array in by_name(arrays, _ALONE).items()}
    header = json.dumps({name: [array.dtype.str, array.shape] for name, array in named.items()}).encode()
    stream.write(len(header).to_bytes(_LENGTH_BYTES, "little") + header)
    for array in named.values():
        stream.write(array.tobytes())
    stream.flush()


def receive(stream: BinaryIO) -> Arrays:
    """Reads what `send` wrote.

    Raises:
        EOFError: The other side has ended.
    """
    length = int.from_bytes(_read(stream, _LENGTH_BYTES), "little")
    header = json.loads(_read(stream, length))
    arrays = {}
    for name, (text, shape) in header.items():
        dtype = np.dtype(text)
        values = _read(stream, dtype.itemsize * int(np.prod(shape)))
        arrays[name] = np.frombuffer(values, dtype).reshape(shape)
    return arrays[_ALONE] if _ALONE in arrays else arrays


def _read(stream: BinaryIO, count: int) -> bytes:
    found = stream.read(count)
    if len(found) < count:
        raise EOFError("the contender's process has ended")
    return found


def _end(process: subprocess.Popen) -> None:
    process.stdin.close()
    process.stdout.close()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _serve(contender: str, path: str, threads: int, batch_size: int) -> None:
    """Answers inputs with outputs until the other side ends."""
    from tfprune.benchmark.contenders import contender_of

    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # Whatever is printed is no answer.
    run = contender_of(contender).load(path, threads, batch_size)
    while True:
        try:
            inputs = receive(sys.stdin.buffer)
        except EOFError:
            return
        send(answers, run(inputs))


if __name__ == "__main__":
    _serve(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
