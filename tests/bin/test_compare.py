"""The compare binary on runs that the tests share."""

import os
import pathlib
import subprocess
import sys
import types

import pytest

from tfprune.bin import compare
from tfprune.errors import UserError

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).resolve().parents[2]

# Runs the binary and prints which heavy packages it loaded.
PROBE = """
import sys
from tfprune.bin import compare
sys.argv = ["compare", *sys.argv[1:]]
try:
    compare.run()
except SystemExit as end:
    print("exit status", end.code)
print("loaded", [name for name in ("tensorflow", "keras", "jax", "torch") if name in sys.modules])
"""


@pytest.fixture
def finished(runs):
    assert runs.one_shot.round(1).finished and runs.iterative.round(3).finished
    return runs


@pytest.fixture
def run_compare(finished, monkeypatch, capsys):
    def run(output_dir, *experiments, html=False):
        values = types.SimpleNamespace(output_dir=str(output_dir), experiments=list(experiments), html=html)
        monkeypatch.setattr(compare, "flags", types.SimpleNamespace(FLAGS=values))
        capsys.readouterr()
        compare.main()
        return capsys.readouterr().out

    return run


def test_it_prints_every_round_and_names_its_files(finished, run_compare):
    output = run_compare(finished.output_dir, "dense", "one_shot", "iterative")
    for run in (finished.dense, finished.one_shot, finished.iterative):
        assert run.path.name in output
        last = run.read_config().last_round
        for number in range(min(1, last), last + 1):
            assert f" {run.round(number).read_result().metric_at_end:.1f} " in output
    for suffix in ("md", "csv", "png"):
        path = finished.output_dir / f"comparison.{suffix}"
        assert path.stat().st_size > 100
        assert f"wrote {path}" in output


def test_html_adds_a_page(finished, run_compare):
    page = finished.output_dir / "index.html"
    page.unlink(missing_ok=True)
    assert "index.html" not in run_compare(finished.output_dir, "dense")
    assert not page.exists()
    output = run_compare(finished.output_dir, "dense", "one_shot", "iterative", html=True)
    assert output.splitlines()[-1] == f"wrote {page}"
    text = page.read_text()
    for run in (finished.dense, finished.one_shot, finished.iterative):
        last = run.round(run.read_config().last_round).read_result()
        assert f'<span class="whole">{last.metric_at_end:.1f}</span>' in text


def test_an_unknown_experiment_is_named(finished, run_compare):
    with pytest.raises(UserError, match="--experiments=nobody: there is no such run folder"):
        run_compare(finished.output_dir, "dense", "nobody")


def test_a_folder_without_runs_is_named(run_compare, tmp_path):
    with pytest.raises(UserError, match=f"--output_dir={tmp_path}: there is no run folder"):
        run_compare(tmp_path)


def test_it_needs_neither_tensorflow_nor_keras(finished):
    arguments = [f"--output_dir={finished.output_dir}", "--experiments=dense,one_shot", "--html"]
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "one_shot" in done.stdout
    assert "index.html" in done.stdout
    assert done.stdout.splitlines()[-2:] == ["exit status 0", "loaded []"]
    assert done.stderr == ""
