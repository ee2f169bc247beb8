"""`model.tfprune`: a graph in one file. docs/file_format.md describes each byte.

Nothing in a file is trusted before it is checked, and nothing in it is executed.
"""

import contextlib
import dataclasses
import hashlib
import mmap
import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tfprune.files import write_bytes
from tfprune.runtime.errors import FileFormatError, GraphError
from tfprune.runtime.format.deflate import deflate, inflate
from tfprune.runtime.format.header import header_text, parse_header, version_of
from tfprune.runtime.format.sections import (
    DTYPES,
    SCALED,
    StoredArray,
    aligned,
    check_layout,
    decode_array,
    encode_array,
)
from tfprune.runtime.graph import INTEGER_PATH, Graph, Node
from tfprune.runtime.limits import allowed_bytes, require_memory

# The last version, of which this reads all. A file is of the first that can hold it.
FILE_VERSION = 4
MAGIC = b"TFPRUNE\0"
# Magic, version, the header's bytes, the file's bytes; behind them the checksum.
_PREFIX = struct.Struct("<8sIIQ")
_CHECKSUM_BYTES = hashlib.sha256().digest_size
_HEADER_START = _PREFIX.size + _CHECKSUM_BYTES
# Far more than any network needs, and little enough that its JSON fits any memory.
MAX_HEADER_BYTES = 2**22
# A header that begins so is plain: deflate streams of what begins so begin with other bits.
_PLAIN = b"{"
_LONGEST_REASON = 500


def write_file(graph: Graph, path: str | os.PathLike[str], weights: str = "float16") -> None:
    """Writes a graph as a `model.tfprune`, whole or not at all. Equal graphs give equal bytes.

    Args:
        graph: The graph.
        path: The file; replaced if it exists.
        weights: `"float16"`, `"float32"` or `"int8"`, the type that the convolutions' kernels are stored in.
            int8 is symmetric, with a scale for each output channel; those on the path `"int8"`, which
            computes with such weights, are stored so always. A kernel that float16 cannot hold stays
            float32: values above 65504, or a rounding error above 2**-10 of the largest absolute value.
            Everything else is float32 always.

    Raises:
        GraphError: The graph breaks one of its rules.
        ValueError: `weights` is neither, or the graph is beyond the format's limits.
    """
    if weights not in DTYPES:
        raise ValueError(f"`weights` must be one of {', '.join(DTYPES)}. Received: weights={weights!r}")
    graph.shapes()
    write_bytes(Path(path), file_bytes(graph, weights))


def read_file(path: str | os.PathLike[str], memory_limit: float | None = None) -> Graph:
    """Reads a `model.tfprune`, mapped into memory.

    The file must not be changed in place meanwhile; replacing it, as `write_file` does, is safe.

    Args:
        path: The file.
        memory_limit: The bytes that reading it may take; None for what this process may still have.

    Returns:
        The graph, checked. A kernel that is stored as its nonzeros is a `SparseArray`; `np.asarray` makes it
        dense.

    Raises:
        FileFormatError: The file is not sound, or asks for too much memory; the message says why.
        OSError: The file cannot be read; `FileNotFoundError` where there is none.
        ValueError: `memory_limit` is not a number above 0.
    """
    with refusing(path):
        allowed = allowed_bytes(memory_limit)
        return _read_graph(_map_file(path, allowed), allowed)


class UndecodedFile:
    """The bytes of a `model.tfprune` that is read when its graph is asked for.

    Attributes:
        sha256: The file's SHA-256, hexadecimal.
    """

    def __init__(self, path: str | os.PathLike[str], memory_limit: float | None = None) -> None:
        """Takes the bytes; they are checked by `graph`.

        Args:
            path: As of `read_file`.
            memory_limit: As of `read_file`.

        Raises:
            FileFormatError: It is no file, too short, or larger than the memory allows.
            OSError: The file cannot be read.
            ValueError: `memory_limit` is not a number above 0.
        """
        self._path, self._memory_limit = path, memory_limit
        with refusing(path):
            self._bytes = _map_file(path, allowed_bytes(memory_limit)).copy()
        self.sha256 = hashlib.sha256(self._bytes).hexdigest()

    def graph(self) -> Graph:
        """Returns the graph, checked, as `read_file` does.

        Raises:
            FileFormatError: The file is not sound, or asks for too much memory.
        """
        with refusing(self._path):
            return _read_graph(self._bytes, allowed_bytes(self._memory_limit))


@contextlib.contextmanager
def refusing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turns what is wrong with a file's network into one error that names the file.

    Raises:
        FileFormatError: Something is wrong.
    """
    try:
        yield
    except (FileFormatError, GraphError, MemoryError) as error:
        reason = "it needs more memory than there is" if isinstance(error, MemoryError) else str(error)
        if len(reason) > _LONGEST_REASON:  # Names and values in it are the file's.
            reason = f"{reason[:_LONGEST_REASON]}..."
        raise FileFormatError(f"{os.fspath(path)}: {reason}") from error


def file_bytes(graph: Graph, weights: str) -> bytes:
    """Returns what `write_file` writes.

    Args:
        graph: The graph, sound.
        weights: As of `write_file`.
    """
    sections = bytearray()
    arrays: list[StoredArray] = []

    def store(node: Node, array: np.ndarray) -> StoredArray:
        kind = SCALED if getattr(node, "path", None) == INTEGER_PATH else weights
        stored, section = encode_array(array, kind, aligned(len(sections)))
        sections.extend(bytes(stored.offset - len(sections)) + section)
        arrays.append(stored)
        return stored

    header = header_text(graph, store).encode()
    if len(header) > MAX_HEADER_BYTES:
        raise ValueError(f"a file's header may have {MAX_HEADER_BYTES} bytes. Received: {len(header)}")
    version = max(version_of(graph), 2 if any(array.dtype == SCALED for array in arrays) else 1)
    if version > 1:
        header = deflate(header, repeats=True)
    # The limit of the sparse arrays is the reader's.
    check_layout(arrays, np.frombuffer(sections, np.uint8))
    header_end = _HEADER_START + len(header)
    padding = bytes(aligned(header_end) - header_end)
    size = header_end + len(padding) + len(sections)
    prefix = _PREFIX.pack(MAGIC, version, len(header), size)
    checked = b"".join((header, padding, sections))
    return b"".join((prefix, _checksum(prefix, checked), checked))


def stored_types(path: str | os.PathLike[str]) -> set[str]:
    """Returns the types that a file's arrays are stored in, of `float32`, `float16` and `int8`.

    Args:
        path: The file.

    Raises:
        FileFormatError: The file is not sound.
        OSError: The file cannot be read.
    """
    with refusing(path):
        _, arrays, _ = _read_header(_map_file(path, allowed_bytes(None)))
    return {array.dtype for array in arrays}


def _map_file(path: str | os.PathLike[str], allowed: float) -> np.ndarray:
    # Opening a pipe would wait for its other end.
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise FileFormatError("not a model.tfprune: not even a file")
    with open(path, "rb") as file:
        # An empty file cannot be mapped.
        size = os.fstat(file.fileno()).st_size
        if size < _HEADER_START:
            raise FileFormatError("not a model.tfprune: too short")
        require_memory(size, allowed)
        return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)


def _read_header(file: np.ndarray) -> tuple[Graph, list[StoredArray], np.ndarray]:
    """Returns the graph with descriptions for arrays, these, and the sections; all but these is checked."""
    magic, version, header_bytes, size = _PREFIX.unpack(file[: _PREFIX.size])
    if magic != MAGIC:
        raise FileFormatError("not a model.tfprune: it begins with other bytes")
    if not 1 <= version <= FILE_VERSION:
        raise FileFormatError(
            f"its format is version {version}, and this runtime reads versions 1 to {FILE_VERSION}"
            + ("; a newer tfprune can read it" if version > FILE_VERSION else "")
        )
    if size != len(file):
        raise FileFormatError(f"it has {len(file)} bytes and should have {size}")
    header_end = _HEADER_START + header_bytes
    if header_bytes > MAX_HEADER_BYTES or aligned(header_end) > size:
        raise FileFormatError(f"a header of {header_bytes} bytes is too long")
    if _checksum(file[: _PREFIX.size], file[_HEADER_START:]) != file[_PREFIX.size : _HEADER_START].tobytes():
        raise FileFormatError("its checksum is wrong: it has been altered or damaged")
    header = file[_HEADER_START:header_end].tobytes()
    if version > 1 and not header.startswith(_PLAIN):
        header = inflate(header, MAX_HEADER_BYTES)
    try:
        text = header.decode()
    except UnicodeDecodeError as error:
        raise FileFormatError(f"the header is not UTF-8: {error}") from error
    graph, arrays = parse_header(text)
    if file[header_end : aligned(header_end)].any():
        raise FileFormatError("bytes behind the header must be zero")
    return graph, arrays, file[aligned(header_end) :]


def _read_graph(file: np.ndarray, allowed: float) -> Graph:
    graph, arrays, sections = _read_header(file)
    check_layout(arrays, sections)
    require_memory(sum(array.decoded_bytes for array in arrays), allowed)
    graph = Graph(tuple(_with_arrays(node, sections) for node in graph.nodes), graph.outputs)
    graph.shapes()
    return graph


def _with_arrays(node: Node, sections: np.ndarray) -> Node:
    """Returns a node whose arrays take the place of their descriptions in the header."""
    decoded = {}
    for field in dataclasses.fields(node):
        value = getattr(node, field.name)
        if isinstance(value, StoredArray):
            try:
                decoded[field.name] = decode_array(value, sections)
            except FileFormatError as error:
                raise node.refuse(f"`{field.name}`: {error}") from error
    return dataclasses.replace(node, **decoded)


def _checksum(prefix: bytes | np.ndarray, checked: bytes | np.ndarray) -> bytes:
    digest = hashlib.sha256(prefix)
    digest.update(checked)
    return digest.digest()
