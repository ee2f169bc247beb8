"""The export binary on runs that the tests share."""

import dataclasses
import json
import os
import shutil
import types

import keras
import numpy as np
import pytest

from tests.support.small_experiments import kernels_of
from tfprune.errors import UserError
from tfprune.experiments.deployment import dense_ancestor, strip_round
from tfprune.experiments.networks import load_model
from tfprune.lock import LOCK
from tfprune.runs.folder import RunFolder
from tfprune.sparsity import pruned_layers

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True, scope="module")
def tensorflow_backend():
    if keras.backend.backend() != "tensorflow":
        pytest.skip("export works on the TensorFlow backend only")


class Values(types.SimpleNamespace):
    """The values of flags, none of them typed."""

    def __getitem__(self, name):
        return types.SimpleNamespace(present=0)


@pytest.fixture
def run_export(runs, monkeypatch, capsys):
    monkeypatch.setitem(os.environ, "KERAS_BACKEND", "tensorflow")  # The import sets it.
    from tfprune.bin import export

    def run(experiment, **changes):
        values = {
            "model": "",
            "output_dir": str(runs.output_dir),
            "data_dir": "",
            "formats": ["keras", "saved_model", "tflite", "sparse"],
            "sparse_weights": "float16",
            "sparse_values": "float32",
            "calibration": "",
            "targets": ["x86_64-linux"],
            "cpu": "",
            "shrink": True,
            "audit_images": 20,
            **changes,
        }
        values = Values(experiment=experiment, **values)
        monkeypatch.setattr(export, "flags", types.SimpleNamespace(FLAGS=values))
        capsys.readouterr()
        export.main()
        return capsys.readouterr().out

    return run


def test_a_pruned_run_is_exported_and_audited(runs, run_export, tmp_path):
    here = type(runs)(tmp_path)
    here.copy(runs.dense, "dense")
    folder = here.copy(runs.one_shot, "one_shot").folder / "export"
    run_export("dense", output_dir=str(tmp_path), formats=["keras"])
    output = run_export("one_shot", output_dir=str(tmp_path))
    audit = json.loads((folder / "export.json").read_text())
    assert audit["passed"] is True
    assert audit["images"] == 20
    assert audit["sparsity"] == pytest.approx(runs.one_shot.round(1).read_result().sparsity, abs=1e-12)
    names = {
        "model.keras",
        "saved_model",
        "model_float32.tflite",
        "model_float16.tflite",
        "model_float16_sparse.tflite",
        "model_int8.tflite",
        "model.tfprune",
    }
    assert audit["artifacts"].keys() == names
    assert {path.name for path in folder.iterdir()} == names | {"export.json", LOCK}
    for name in names:
        assert name in output
    assert f"one_shot: wrote {folder}" in output

    # The dense run that it came from was exported too: as many bytes, unless gzipped.
    entry = audit["artifacts"]["model.keras"]
    assert entry["bytes_to_dense_artifact"] == pytest.approx(1.0, abs=0.2)
    assert entry["gzip_to_dense_artifact"] < entry["bytes_to_dense_artifact"]

    exported = keras.models.load_model(folder / "model.keras")
    for layer, (kernel, mask) in kernels_of(runs.one_shot.round(1)).items():
        assert np.array_equal(exported.get_layer(layer).kernel, kernel)
        assert np.all(np.array(exported.get_layer(layer).kernel)[mask == 0] == 0)


def test_values_of_8_bits_by_a_runs_training_examples(runs, run_export, tmp_path):
    folder = type(runs)(tmp_path).copy(runs.one_shot, "one_shot").folder / "export"
    options = {"formats": ["sparse"], "sparse_weights": "int8", "sparse_values": "int8"}
    run_export("one_shot", output_dir=str(tmp_path), **options)
    entry = json.loads((folder / "export.json").read_text())["artifacts"]["model.tfprune"]
    assert entry["passed"] and 0 <= entry["int8_convolutions"] < entry["convolutions"]
    with pytest.raises(UserError, match="--calibration must be given with --sparse_values=int8 and --model"):
        run_export("", model="model.keras", **options)


@pytest.mark.parametrize(
    "experiment, changes, parts",
    [
        ("nobody", {}, ["--experiment=nobody: there is no experiment of that name"]),
        ("one_shot", {"data_dir": "/nowhere"}, ["--data_dir=/nowhere"]),
    ],
)
def test_what_cannot_be_exported_is_named(runs, run_export, experiment, changes, parts, tmp_path):
    type(runs)(tmp_path).copy(runs.one_shot, "one_shot")
    with pytest.raises(UserError) as caught:
        run_export(experiment, output_dir=str(tmp_path), **changes)
    for part in parts:
        assert part in str(caught.value)
    assert not (tmp_path / "one_shot" / "export").exists()


def test_an_unfinished_run_is_not_exported(runs, run_export, tmp_path):
    config = type(runs)(tmp_path).copy(runs.one_shot, "unfinished")
    (config.folder / "round_01" / "result.json").unlink()
    with pytest.raises(UserError, match="--experiment=unfinished: .* is unfinished"):
        run_export("unfinished", output_dir=str(tmp_path))


def test_no_audit_images_is_one_line(binary, tmp_path):
    done = binary("export", "--experiment=e", f"--output_dir={tmp_path}", "--audit_images=0")
    assert done.returncode == 2
    assert done.stderr == "error: --audit_images=0: must be at least 1\n"


def test_stripping_keeps_the_function_and_the_masks(runs):
    found = runs.one_shot.round(1)
    network = strip_round(found)
    assert not pruned_layers(network)
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8)
    wrapped = load_model(found)(images, training=False)
    assert np.array_equal(network(images, training=False), wrapped)


def test_the_dense_ancestor(runs, tmp_path):
    assert dense_ancestor(runs.dense) is None
    assert dense_ancestor(runs.one_shot) == runs.dense.path
    grandchild = RunFolder(runs.copy(runs.one_shot, "grandchild").folder)
    config = dataclasses.replace(grandchild.read_config(), init_from="one_shot/round_01")
    (grandchild.path / "flags.txt").write_text(config.to_flags())
    assert dense_ancestor(grandchild) == runs.dense.path


def test_the_dense_ancestor_is_looked_for_beside_the_run(runs, tmp_path):
    """Whatever `--output_dir` was when it was trained."""
    moved = shutil.copytree(runs.one_shot.path, tmp_path / "one_shot")
    assert dense_ancestor(RunFolder(moved)) is None
    shutil.copytree(runs.dense.path, tmp_path / "dense")
    assert dense_ancestor(RunFolder(moved)) == tmp_path / "dense"


def test_only_the_last_rounds_export_is_the_runs(runs):
    assert runs.one_shot.export_folder(1) == runs.one_shot.path / "export"
    assert runs.one_shot.export_folder(0) == runs.one_shot.path / "export_round_00"


def test_a_damaged_audit_of_the_dense_network(runs, run_export, tmp_path):
    here = type(runs)(tmp_path)
    here.copy(runs.one_shot, "one_shot")
    audit = here.copy(runs.dense, "dense").folder / "export" / "export.json"
    audit.parent.mkdir()
    audit.write_text("{")
    with pytest.raises(
        UserError, match=f"{audit}: not a readable audit of an export: .*; export that experiment anew"
    ):
        run_export("one_shot", output_dir=str(tmp_path))
