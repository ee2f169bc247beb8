"""Bytes of the exported files: as they lie there, gzipped, and with zstd."""

import dataclasses
import importlib.util
import os
from collections.abc import Sequence

from tfprune.benchmark.loaders import available_threads
from tfprune.export.sizes import artifact_bytes, gzip_bytes

ZSTD_LEVEL = 19
_CHUNK_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True)
class FileSize:
    """One artifact's sizes in bytes.

    Attributes:
        name: Of the artifact.
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
        folder: Where they lie.
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
    import zstandard

    compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL, threads=available_threads()).compressobj()
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
