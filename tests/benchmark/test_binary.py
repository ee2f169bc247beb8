"""The benchmark binary, on a run that the tests share; what it cannot do is one line."""

import json
import os
import subprocess
import sys
import types

import keras
import numpy as np
import pytest

from tests.support import small_experiments
from tfprune.compiler.compile import compile_model
from tfprune.errors import UserError
from tfprune.experiments.deployment import strip_round
from tfprune.export.export import export_model
from tfprune.export.network import Deployable
from tfprune.lock import hold
from tfprune.runs.folder import RunFolder
from tfprune.runtime.format.file import write_file

pytestmark = pytest.mark.slow  # The run that is exported is trained first.


@pytest.fixture(autouse=True, scope="module")
def small_network():
    if keras.backend.backend() != "tensorflow":
        pytest.skip("export works on the TensorFlow backend only")
    with small_experiments.small_resnet18():
        yield


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return small_experiments.shared_runs(tmp_path_factory.getbasetemp() / "runs")


@pytest.fixture(scope="module")
def here(runs, tmp_path_factory):
    """A folder with the run `one_shot`, not exported."""
    here = type(runs)(tmp_path_factory.mktemp("benchmark"))
    here.copy(runs.one_shot, "one_shot")
    return here


@pytest.fixture(scope="module")
def exported(runs, here):
    """The export folder of the run `exported`: TFLite files and a `model.tfprune`."""
    copied = RunFolder(here.copy(runs.one_shot, "exported").folder)
    network = strip_round(copied.round(1))
    folder = copied.path / "export"
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8)
    quiet = {"inputs": images, "formats": ["tflite"], "progress": lambda line: None}
    export_model(network, str(folder), **quiet)
    write_file(compile_model(Deployable(network).model), folder / "model.tfprune")
    return folder


@pytest.fixture
def benchmark(here, monkeypatch, capsys):
    monkeypatch.setitem(os.environ, "KERAS_BACKEND", "tensorflow")  # The import sets it.
    from tfprune.bin import benchmark as binary

    def run(experiment, **changes):
        values = {
            "output_dir": str(here.output_dir),
            "data_dir": "",
            "rounds": 2,
            "batch_sizes": ["1", "2"],
            "threads": ["1"],
            "contenders": ["tfprune", "tflite_float32", "tflite_int8"],
            "headline": False,
            "layers": True,
            "zstd": False,
        }
        values = types.SimpleNamespace(experiment=experiment, **values | changes)
        monkeypatch.setattr(binary, "flags", types.SimpleNamespace(FLAGS=values))
        capsys.readouterr()
        binary.main()
        return capsys.readouterr().out

    return run


def test_an_exported_run_is_measured(benchmark, exported):
    output = benchmark("exported")
    record = json.loads((exported / "benchmark.json").read_text())
    assert record["experiment"] == "exported"
    assert [(setting["threads"], setting["batch_size"]) for setting in record["latency"]] == [(1, 1), (1, 2)]
    for setting in record["latency"]:
        assert setting["fastest_dense"] == "tflite_float32"
        assert [row["name"] for row in setting["rows"]] == ["tfprune", "tflite_float32", "tflite_int8"]
        for row in setting["rows"]:
            assert row["failure"] == "" and len(row["seconds"]) == 2 and min(row["seconds"]) > 0
    for row in record["contenders"]:
        assert row["reason"] == "" and row["largest_logit_difference_relative"] < 0.5
    sizes = {size["name"]: size for size in record["sizes"]["artifacts"]}
    assert sizes["model.tfprune"]["raw"] == (exported / "model.tfprune").stat().st_size
    assert "saved_model" not in sizes  # It was not exported.
    assert [row["failure"] for row in record["memory"]["rows"]] == [""] * 3
    convolutions = [row for row in record["layers"] if row["kernel"]]
    assert len(convolutions) > 6 and sum(row["share"] for row in record["layers"]) == pytest.approx(1)
    for part in ("tfprune sparse", "Layers of model.tfprune", "stem_conv", "benchmark.png"):
        assert part in output
    assert (exported / "benchmark.csv").exists() and (exported / "benchmark.png").exists()


def test_a_wrong_network_is_not_timed_and_an_absent_peer_is_named(benchmark, exported, runs, monkeypatch):
    from tfprune.benchmark import contenders

    other = keras.models.clone_model(strip_round(runs.one_shot.round(1)))
    right = (exported / "model.tfprune").read_bytes()
    monkeypatch.setattr(contenders, "_importable", lambda name: name != "onnxruntime")
    try:
        write_file(compile_model(Deployable(other).model), exported / "model.tfprune")
        output = benchmark(
            "exported", contenders=["tfprune", "tflite_float32", "onnxruntime"], batch_sizes=["1"]
        )
    finally:
        (exported / "model.tfprune").write_bytes(right)
    assert "tfprune sparse: not timed: its outputs differ by" in output
    assert "ONNX Runtime: not installed (pip install onnx onnxruntime)" in output
    (setting,) = json.loads((exported / "benchmark.json").read_text())["latency"]
    timed = {row["name"]: "seconds" in row for row in setting["rows"]}
    assert timed == {"tfprune": False, "tflite_float32": True}


def test_nothing_to_measure_is_one_error(benchmark, exported):
    hidden = exported / "hidden"
    (exported / "model.tfprune").rename(hidden)
    try:
        with pytest.raises(UserError, match=r"there is nothing to measure: .*tfprune: "):
            benchmark("exported", contenders=["tfprune", "onnxruntime"])
    finally:
        hidden.rename(exported / "model.tfprune")


@pytest.mark.parametrize(
    ("name", "damaged", "reason"),
    [
        ("model.tfprune", lambda right: right[: len(right) // 2], ""),
        ("export.json", lambda right: b"[]", "not a readable audit of an export: .*a JSON object"),
        ("export.json", lambda right: b"{}", ".*`dense_weights_bytes` is missing"),
    ],
)
def test_a_damaged_file_is_one_error(benchmark, exported, name, damaged, reason):
    right = (exported / name).read_bytes()
    try:
        (exported / name).write_bytes(damaged(right))
        with pytest.raises(UserError, match=f"{name}: {reason}"):
            benchmark("exported")
    finally:
        (exported / name).write_bytes(right)


@pytest.mark.parametrize(
    "experiment, changes, parts",
    [
        ("nobody", {}, ["--experiment=nobody: there is no experiment of that name"]),
        ("one_shot", {}, ["no exported files", "python -m tfprune.bin.export --experiment=one_shot first"]),
        (
            "exported",
            {"contenders": ["tfprune", "tensorrt"]},
            ["--contenders=tfprune,tensorrt", "mnn_sparse"],
        ),
        ("exported", {"contenders": []}, ["--contenders=", "mnn_sparse"]),
        ("exported", {"batch_sizes": ["1", "0"]}, ["--batch_sizes=1,0: must be whole numbers of at least 1"]),
        ("exported", {"batch_sizes": ["x"]}, ["--batch_sizes=x"]),
        ("exported", {"batch_sizes": []}, ["--batch_sizes="]),
        ("exported", {"batch_sizes": ["101"]}, ["--batch_sizes=101: the run has 100 test images"]),
        (
            "exported",
            {"threads": ["1", "half"]},
            ["--threads=1,half: must be all or whole numbers from 1 to"],
        ),
        ("exported", {"threads": ["0"]}, ["--threads=0"]),
        ("exported", {"threads": ["100000"]}, ["--threads=100000", "the cores"]),
        ("exported", {"threads": []}, ["--threads="]),
    ],
)
def test_what_cannot_be_measured_is_named(benchmark, exported, experiment, changes, parts):
    before = sorted(exported.iterdir())
    with pytest.raises(UserError) as caught:
        benchmark(experiment, **changes)
    for part in parts:
        assert part in str(caught.value)
    assert sorted(exported.iterdir()) == before


def test_numbers_of_threads(monkeypatch):
    monkeypatch.setitem(os.environ, "KERAS_BACKEND", "tensorflow")
    from tfprune.bin import benchmark
    from tfprune.bin.benchmark import parse_threads

    monkeypatch.setattr(benchmark, "available_cores", lambda: 4)
    assert parse_threads(["1", "all"]) == (1, 4)
    assert parse_threads(["2", "2", "all", "4"]) == (2, 4)
    monkeypatch.setattr(benchmark, "available_cores", lambda: 1)
    assert parse_threads(["1", "all"]) == (1,)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_all_threads_are_those_this_process_may_use():
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
        "from tfprune.machine import available_cores; print(available_cores())"
    )
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.stdout.strip() == "1", done.stderr


def test_a_measurement_while_another_process_writes_there(benchmark, exported):
    with hold(exported), pytest.raises(UserError) as caught:
        benchmark("exported")
    assert str(caught.value).startswith(
        f"--experiment=exported: {exported} is in use by process {os.getpid()} "
    )
