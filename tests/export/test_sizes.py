import subprocess

import pytest

from tfprune.export import sizes
from tfprune.export.sizes import FileSize, measure_sizes


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a.bin").write_bytes(bytes(10_000))
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "one").write_bytes(b"abc" * 1000)
    (tmp_path / "saved" / "two").write_bytes(bytes(5000))
    return tmp_path


def test_files_and_folders(folder):
    pytest.importorskip("zstandard")
    a, saved = measure_sizes(str(folder), ["a.bin", "absent.bin", "saved"], zstd=True)
    assert (a.name, a.raw, saved.name, saved.raw) == ("a.bin", 10_000, "saved", 8000)
    assert 0 < a.zstd < a.gzip < 100 and 0 < saved.zstd < saved.raw


def test_a_zstd_stream_holds_everything(folder):
    zstandard = pytest.importorskip("zstandard")
    content = b"abc" * 1000 + bytes(5000)
    whole = zstandard.ZstdCompressor(level=19).compress(content)
    assert sizes.zstd_bytes(str(folder / "saved")) == pytest.approx(len(whole), abs=16)


def test_gzip_is_gzips_own(folder):
    try:
        done = subprocess.run(["gzip", "-6nc", folder / "a.bin"], capture_output=True, check=True)
    except FileNotFoundError:
        pytest.skip("no gzip")
    (size,) = measure_sizes(str(folder), ["a.bin"], zstd=False)
    assert size == FileSize("a.bin", 10_000, len(done.stdout), None)


def test_without_zstandard(folder, monkeypatch):
    monkeypatch.setattr(sizes, "zstd_installed", lambda: False)
    (size,) = measure_sizes(str(folder), ["a.bin"], zstd=True)
    assert size.zstd is None
