"""The bytes of exported files: as they lie there, gzipped, and with zstd."""

import dataclasses
import importlib.util
import os
import zlib
from collections.abc import Sequence
from typing import Any

from tfprune.extras import extra
from tfprune.machine import available_cores

GZIP_LEVEL = 6  # gzip's default
ZSTD_LEVEL = 19
_CHUNK_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True)
class FileSize:
    """One artifact's sizes in bytes.

    Attributes:
        name: The artifact's.
        raw: As it lies there.
        gzip: As one gzip stream at gzip's default level, 6.
        zstd: As one zstd stream at level 19; None where it was not measured.
    """

    name: str
    raw: int
    gzip: int
    zstd: int | None


def measure_sizes(folder: str, names: Sequence[str], *, zstd: bool) -> list[FileSize]:
    """Measures those artifacts that are there.

    Args:
        folder: The folder where they lie.
        names: Files and folders in it.
        zstd: Whether to compress with zstd, too, which takes half a second a megabyte; it needs the
            optional package zstandard.
    """
    zstd = zstd and zstd_installed()
    sizes = []
    for name in names:
        path = os.path.join(folder, name)
        if os.path.exists(path):
            compressed = zstd_bytes(path) if zstd else None
            sizes.append(FileSize(name, artifact_bytes(path), gzip_bytes(path), compressed))
    return sizes


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


def zstd_installed() -> bool:
    """Returns whether the package zstandard is there."""
    return importlib.util.find_spec("zstandard") is not None


def zstd_bytes(path: str) -> int:
    """Returns the size of a file, or of a folder's files one after the other, as one zstd stream.

    Args:
        path: The file or folder.

    Returns:
        Bytes at level 19, as `zstd -19 -T0` writes them: the number of threads does not matter.
    """
    with extra("export"):
        import zstandard

    compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL, threads=available_cores()).compressobj()
    return compressed_bytes(path, compressor)


def compressed_bytes(path: str, compressor: Any) -> int:
    """Returns the compressed size of a file, or of a folder's files one after the other.

    Args:
        path: The file or folder.
        compressor: An object with `compress(chunk)` and `flush()`, as zlib's and zstandard's.

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
