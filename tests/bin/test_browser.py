"""The browser binary on a run that the tests share."""

import shutil
import types

import pytest

from tfprune.bin import browser

pytestmark = pytest.mark.slow


@pytest.mark.skipif(shutil.which("wasm-ld") is None, reason="wasm-ld is not installed")
def test_a_run_becomes_a_page(runs, monkeypatch, capsys, tmp_path):
    assert runs.one_shot.round(1).finished
    values = {
        "output_dir": str(runs.output_dir),
        "data_dir": "",
        "images": 5,
        "page": str(tmp_path / "p.html"),
    }
    values = types.SimpleNamespace(experiment="one_shot", **values)
    monkeypatch.setattr(browser, "flags", types.SimpleNamespace(FLAGS=values))
    browser.main()
    assert f"bytes of WebAssembly, in {tmp_path / 'p.html'}" in capsys.readouterr().out
    page = (tmp_path / "p.html").read_text()
    assert "Round 1 of one_shot, on 5 test images." in page
    assert page.count("one_shot") == 1
