"""How large an artifact is, as it lies there and gzipped."""

import os
import zlib
from typing import Any

GZIP_LEVEL = 6  # gzip's default
_CHUNK_BYTES = 1 << 20


def artifact_bytes(path: str) -> int:
    """Returns the size of a file, or of all files below a folder.

    Args:
        path: The file or folder.

    Returns:
        Bytes.
    """
    return sum(os.path.getsize(file) for file in _files(path))


def gzip_bytes(path: str) -> int:
    """Returns the gzipped size of a file, or of a folder's files one after the other.

    Args:
        path: The file or folder.

    Returns:
        Bytes of one gzip stream at gzip's default level.
    """
    return compressed_bytes(path, zlib.compressobj(GZIP_LEVEL, wbits=31))


def compressed_bytes(path: str, compressor: Any) -> int:
    """Returns the compressed size of a file, or of a folder's files one after the other.

    Args:
        path: The file or folder.
        compressor: With `compress(chunk)` and `flush()`, as zlib's and zstandard's.

    Returns:
        Bytes of one stream.
    """
    total = 0
    for name in _files(path):
        with open(name, "rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                total += len(compressor.compress(chunk))
    return total + len(compressor.flush())


def _files(path: str) -> list[str]:
    if os.path.isfile(path):
        return [path]
    return sorted(os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names)
