"""A format is one class and one line: what follows from the list of formats."""

import json
import os
import pathlib
import subprocess
import sys
import zlib

import numpy as np
import pytest

from tests.support import networks
from tfprune import runtime
from tfprune.benchmark import contenders
from tfprune.benchmark.measure import Plan, measure
from tfprune.bin import benchmark
from tfprune.compiler.compile import VALUES
from tfprune.export import export_model, formats, names
from tfprune.export.formats import FORMATS, all_files, chosen_files, default_names, format_names
from tfprune.export.formats.format import Timing
from tfprune.export.formats.sparse import Sparse
from tfprune.export.network import keras_logits
from tfprune.runtime.ahead.library import WEIGHTS
from tfprune.runtime.ahead.targets import TARGETS
from tfprune.runtime.format.sections import DTYPES

ROOT = pathlib.Path(__file__).resolve().parents[2]


class Packed(Sparse):
    """A `model.tfprune` that is deflated: a format that is not tfprune's."""

    group = "packed"
    name = "model.packed"
    timing = Timing("packed", "Packed", "sparse", ("zlib",), "python")

    def write(self, network, path):
        super().write(network, path)
        with open(path, "rb") as file:
            packed = zlib.compress(file.read())
        with open(path, "wb") as file:
            file.write(packed)

    def load(self, path, threads=None):
        return super().load(self._unpacked(path), threads)

    def difference_of(self, path):
        return super().difference_of(self._unpacked(path))

    def kernels(self, path, network):
        return super().kernels(self._unpacked(path), network)

    def findings(self, path, network):
        return {"packed_by": "zlib"}, []

    def _unpacked(self, path):
        with open(path, "rb") as file, open(f"{path}.unpacked", "wb") as copy:
            copy.write(zlib.decompress(file.read()))
        return copy.name


@pytest.mark.slow
def test_the_commands_know_the_names_before_they_load():
    assert names.FORMATS == format_names()
    assert names.DEFAULT_FORMATS == default_names()
    assert set(names.TARGETS) == set(TARGETS)
    assert {name for name, target in TARGETS.items() if target.weights == "int8"} == set(names.INT8_TARGETS)
    assert names.C_WEIGHTS == WEIGHTS
    assert names.SPARSE_VALUES == VALUES
    assert set(names.SPARSE_WEIGHTS) == set(DTYPES)
    assert benchmark.CONTENDERS == contenders.NAMES


@pytest.mark.slow
def test_a_new_format_is_exported_audited_and_timed(network, images, tmp_path, monkeypatch):
    model, masks = network
    monkeypatch.setattr(formats, "FORMATS", (*FORMATS, Packed))
    assert format_names() == ("keras", "saved_model", "tflite", "sparse", "c", "packed")
    arguments = {"inputs": images, "progress": lambda line: None}
    audit = export_model(model, str(tmp_path), masks=masks, formats=("sparse", "packed"), **arguments)
    entry = audit["artifacts"]["model.packed"]
    assert entry["passed"] and entry["packed_by"] == "zlib" and entry["format"] == "packed"
    assert entry["zeros"] == audit["artifacts"]["model.tfprune"]["zeros"]
    assert entry["bytes"] < audit["artifacts"]["model.tfprune"]["bytes"]

    found = tuple(contenders.listed_contenders())
    assert found[-1 - len(contenders.PEERS)].timing.name == "packed"
    monkeypatch.setattr(contenders, "CONTENDERS", found)
    monkeypatch.setattr(contenders, "NAMES", tuple(contender.timing.name for contender in found))
    record = measure(
        str(tmp_path),
        inputs=images[:1],
        outputs=keras_logits(model, images[:1]),
        dense_weights_bytes=4 * model.count_params(),
        plan=Plan(rounds=1, batch_sizes=(1,), threads=(1,), contenders=("packed",), zstd=False, memory=False),
        progress=lambda line: None,
    )
    assert [row["reason"] for row in record["contenders"]] == [""]
    assert record["latency"][0]["rows"][0]["milliseconds"]["median"] > 0
    assert {size["name"] for size in record["sizes"]["artifacts"]} == {"model.tfprune", "model.packed"}


@pytest.mark.slow
def test_a_format_left_out_of_a_later_export_is_removed(network, images, tmp_path, monkeypatch):
    model, masks = network
    monkeypatch.setattr(formats, "FORMATS", (*FORMATS, Packed))
    arguments = {"inputs": images[:4], "progress": lambda line: None}
    export_model(model, str(tmp_path), masks=masks, formats=("packed",), **arguments)
    export_model(model, str(tmp_path), masks=masks, formats=("keras",), **arguments)
    assert "model.packed" not in os.listdir(tmp_path)


def test_the_allowed_difference_is_that_of_the_files_weights(tmp_path):
    sparse = Sparse()
    graph = networks.random_network(np.random.default_rng(0))
    for weights, most in (("float16", 0.02), ("int8", 0.5)):
        runtime.write_file(graph, tmp_path / "model.tfprune", weights)
        assert sparse.difference_of(str(tmp_path / "model.tfprune")) == most


def test_every_file_has_a_name_of_its_own_and_every_timing_too():
    files = all_files()
    assert len({file.name for file in files}) == len(files) == 9
    timings = [file.timing.name for file in files if file.timing]
    assert len(set(timings)) == len(timings) == 6
    assert [file.weights for file in chosen_files(["sparse"], names.Options("float32"))] == ["float32"]


BLOCKED = """
import sys
for name in ("tensorflow", "ai_edge_litert", *sys.argv[1].split()):
    sys.modules[name] = None
"""


def run_without(modules, code, **environment):
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED + code, modules],
        capture_output=True,
        text=True,
        env={**os.environ, **environment, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_process_that_runs_a_file_imports_no_keras(tmp_path):
    rng = np.random.default_rng(0)
    graph = networks.random_network(rng)
    runtime.write_file(graph, tmp_path / "model.tfprune")
    shape = json.dumps([1, *graph.shapes()[0]])
    code = f"""
import numpy as np
from tfprune.export.formats.sparse import Sparse
print(Sparse().load({str(tmp_path / "model.tfprune")!r}, 1)(np.zeros({shape}, np.uint8)).shape)
"""
    assert run_without("keras torch onnx", code).startswith("(1, ")


@pytest.mark.slow
def test_export_sparse_needs_no_tensorflow(tmp_path):
    pytest.importorskip("jax")
    code = f"""
import keras, numpy as np
from tfprune.export import export_sparse
from tfprune.runtime import load
image = keras.Input((8, 8, 3))
x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(image))
model = keras.Model(image, keras.layers.Dense(5)(x))
export_sparse(model, {str(tmp_path / "model.tfprune")!r}, "float32")
images = np.random.default_rng(0).random((2, 8, 8, 3), np.float32)
ours = load({str(tmp_path / "model.tfprune")!r}, 1)(images)
print(float(np.abs(ours - np.asarray(model(images))).max()) < 1e-5)
"""
    assert run_without("", code, KERAS_BACKEND="jax").split() == ["True"]
