"""Bytes of the exported files: as they lie there, gzipped, and with zstd."""

import dataclasses
import importlib.util
import os
from collections.abc import Sequence

from tfprune.export.sizes import artifact_bytes, compressed_bytes, gzip_bytes
from tfprune.machine import available_cores

ZSTD_LEVEL = 19


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

    compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL, threads=available_cores()).compressobj()
    return compressed_bytes(path, compressor)
