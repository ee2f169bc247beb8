import errno
import json
import os
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from tfprune import runtime
from tfprune.errors import UserError
from tfprune.export import AuditError, export_model, format_audit
from tfprune.export.formats.keras_file import KerasFile
from tfprune.lock import LOCK
from tfprune.runtime.graph import Conv

pytestmark = pytest.mark.slow

ALL = [
    "model.keras",
    "saved_model",
    "model_float32.tflite",
    "model_float16.tflite",
    "model_float16_sparse.tflite",
    "model_int8.tflite",
    "model.tfprune",
]


def quietly(line):
    pass


def shown(folder):
    """The names in a folder that are not hidden: an export leaves its lock, which nobody holds."""
    names = sorted(os.listdir(folder))
    hidden = [name for name in names if name.startswith(".")]
    assert hidden == [LOCK]
    return [name for name in names if name not in hidden]


def test_writes_all_artifacts_and_the_audit_and_nothing_else(exported):
    folder, audit = exported
    assert shown(folder) == sorted([*ALL, "export.json"])
    assert json.loads((folder / "export.json").read_text()) == audit
    assert audit["passed"] and list(audit["artifacts"]) == ALL
    assert all(entry["passed"] and not entry["failures"] for entry in audit["artifacts"].values())


def test_all_files_are_on_the_disk_before_the_audit_that_tells_of_them(exported_twice):
    """And the audit of an earlier export is off it before the first of its files is replaced."""
    _, _, disk = exported_twice
    disk.assert_whole(LOCK)
    inside = [name for name in disk.named if not name.startswith(".")]
    assert inside == [*ALL, "export.json"]


def test_every_masked_weight_of_every_layer_is_zero_in_every_artifact(exported, network):
    _, audit = exported
    _, masks = network
    assert set(masks) == {"stem_conv", "conv1", "conv2", "shortcut_conv"}
    for entry in audit["artifacts"].values():
        assert set(entry["layers"]) == set(masks)
        for name, mask in masks.items():
            counts = entry["layers"][name]
            assert counts["tensors"] == 1
            assert counts["weights"] == mask.size
            assert counts["masked"] == counts["masked_zero"] == (mask == 0).sum()
        assert entry["zeros"]["masked"] == sum((mask == 0).sum() for mask in masks.values())


def test_logits_and_sizes(exported):
    _, audit = exported
    entries = audit["artifacts"]
    for name in ("model.keras", "saved_model", "model_float32.tflite"):
        assert entries[name]["largest_logit_difference_relative"] <= 1e-4
    for name in ("model_float16.tflite", "model_int8.tflite", "model.tfprune"):
        # Rounding must show, or something else than float16 and int8 was measured.
        assert entries[name]["largest_logit_difference_relative"] > 1e-5
        assert entries[name]["equal_predictions_percent"] >= 99
    size = {name: entry["bytes"] for name, entry in entries.items()}
    assert size["model_float16_sparse.tflite"] < 0.4 * size["model_float16.tflite"]
    assert size["model_float16.tflite"] < 0.6 * size["model_float32.tflite"]
    assert size["model_int8.tflite"] < 0.4 * size["model_float32.tflite"]
    assert size["model.tfprune"] < size["model_float16_sparse.tflite"]
    assert all(entry["gzip_bytes"] < entry["bytes"] for entry in entries.values())


def test_parameters_sparsity_and_ratios(exported, network):
    _, audit = exported
    model, masks = network
    removed = sum((mask == 0).sum() for mask in masks.values())
    assert audit["parameters"] == model.count_params()
    assert audit["dense_weights_bytes"] == audit["weights_bytes"] == 4 * model.count_params()
    assert audit["sparsity"] == pytest.approx(removed / sum(mask.size for mask in masks.values()))
    assert audit["sparsity_all_weights"] == pytest.approx(removed / model.count_params())
    entry = audit["artifacts"]["model_float16.tflite"]
    assert entry["bytes_to_dense_weights"] == entry["bytes"] / audit["dense_weights_bytes"]
    assert entry["bytes_to_dense_artifact"] is None


def test_saved_model_holds_each_weight_once_and_serves_any_batch(exported, network, images):
    folder, audit = exported
    model, _ = network
    variables = folder / "saved_model" / "variables"
    stored = sum(path.stat().st_size for path in variables.iterdir())
    assert stored <= 1.05 * audit["weights_bytes"]
    assert audit["artifacts"]["saved_model"]["variables_bytes"] == stored
    assert audit["artifacts"]["saved_model"]["stored_to_weights_bytes"] == 1

    signature = tf.saved_model.load(str(folder / "saved_model")).signatures["serving_default"]
    ((_, spec),) = signature.structured_input_signature[1].items()
    assert (spec.name, spec.dtype, spec.shape[0]) == ("image", tf.uint8, None)
    for batch in (1, 5):
        logits = signature(image=tf.constant(images[:batch]))["logits"]
        np.testing.assert_allclose(logits, model(images[:batch]), atol=1e-4)


def test_the_sparse_runtime_gives_the_networks_logits(exported, make_network, images, tmp_path):
    folder, audit = exported
    graph = runtime.read_file(folder / "model.tfprune").nodes
    convolutions = [node for node in graph if isinstance(node, Conv)]
    assert [node.name for node in convolutions] == ["stem_conv", "conv1", "conv2", "shortcut_conv", "head"]
    assert all(set(node.costs) == {"dense", "sparse"} for node in convolutions)
    assert all(node.costs[node.path] == min(node.costs.values()) for node in convolutions)

    model, masks = make_network()
    arguments = {"formats": ("sparse",), "sparse_weights": "float32", "progress": quietly}
    exact = export_model(model, str(tmp_path), masks=masks, inputs=images, **arguments)["artifacts"][
        "model.tfprune"
    ]
    assert exact["weights"] == "float32"
    assert exact["largest_logit_difference_relative"] <= 1e-5
    assert exact["bytes"] > audit["artifacts"]["model.tfprune"]["bytes"]
    logits = runtime.load(tmp_path / "model.tfprune", threads=1)(images)
    np.testing.assert_allclose(logits, model.predict(images, verbose=0), atol=1e-4)


def test_what_the_sparse_runtime_cannot_run_is_left_out_or_refused_before_anything_is_written(
    images, tmp_path
):
    image = keras.Input((16, 16, 3), dtype="uint8")
    x = keras.layers.Rescaling(1 / 255)(image)
    x = keras.layers.Reshape((16, 16, 3, 1), name="odd")(x)  # Five axes.
    model = keras.Model(image, keras.layers.Dense(10)(keras.layers.GlobalAveragePooling3D()(x)))
    with pytest.raises(UserError, match=r"layer 'odd' \(Reshape\).*Leave 'sparse' out of the formats"):
        export_model(model, str(tmp_path), inputs=images, formats=("keras", "sparse"), progress=quietly)
    assert not os.listdir(tmp_path)
    lines = []
    audit = export_model(model, str(tmp_path), inputs=images, progress=lines.append)
    assert audit["passed"] and set(audit["left_out"]) == {"model.tfprune"}
    assert "layer 'odd' (Reshape)" in audit["left_out"]["model.tfprune"]
    assert any(line.startswith("model.tfprune: left out: ") for line in lines)
    assert "model.tfprune" in format_audit(audit) and not (tmp_path / "model.tfprune").exists()


def test_tflite_takes_one_image_or_many_by_signature(exported, images):
    folder, _ = exported
    runner = Interpreter(str(folder / "model_int8.tflite")).get_signature_runner("serving_default")
    many = runner(image=images[:7])["logits"].copy()
    single = [runner(image=images[i : i + 1])["logits"].copy() for i in range(7)]
    np.testing.assert_allclose(many, np.concatenate(single), rtol=1e-4, atol=1e-4)


def test_dense_network_and_ratio_to_it(make_network, images, tmp_path):
    tflite = {"inputs": images, "formats": ("tflite",), "progress": quietly}
    dense_model, _ = make_network(sparsity=0)
    dense = export_model(dense_model, str(tmp_path / "dense"), masks={}, **tflite)
    assert dense["sparsity"] == 0
    assert all(entry["zeros"]["masked"] == 0 for entry in dense["artifacts"].values())

    model, masks = make_network()
    folder = str(tmp_path / "pruned")
    audit = export_model(model, folder, masks=masks, dense_audit=dense, **tflite)
    for name, entry in audit["artifacts"].items():
        other = dense["artifacts"][name]
        assert entry["bytes_to_dense_artifact"] == entry["bytes"] / other["bytes"]
        assert entry["gzip_to_dense_artifact"] == entry["gzip_bytes"] / other["gzip_bytes"]
    assert audit["artifacts"]["model_float16.tflite"]["bytes_to_dense_artifact"] == 1
    assert audit["artifacts"]["model_float16_sparse.tflite"]["bytes_to_dense_artifact"] < 0.4
    assert "to dense file" in format_audit(audit)

    assert audit["dense_comparison"] == "the dense network's artifacts of the same names"


def test_a_network_that_lost_channels_is_compared_with_the_wider_one(
    exported, images, make_network, tmp_path
):
    _, audit = exported
    model, _ = make_network(sparsity=0, width=8)
    other = audit | {"sparsity": 0}
    arguments = {"inputs": images, "formats": ("keras",), "progress": quietly}
    small = export_model(model, str(tmp_path), masks={}, dense_audit=other, **arguments)
    assert small["parameters"] < audit["parameters"]
    assert small["dense_weights_bytes"] == audit["dense_weights_bytes"]
    entry = small["artifacts"]["model.keras"]
    assert entry["bytes_to_dense_weights"] == entry["bytes"] / audit["dense_weights_bytes"]
    assert entry["bytes_to_dense_artifact"] < 0.5


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"parameters": 7}, "none: 7 parameters in the dense network"),
        ({"parameters": 99_999, "outputs": {}}, "none: 99999 parameters in the dense network"),
        ({"sparsity": 0.5}, "none: the other network is not dense, its sparsity is 0.5"),
    ],
)
def test_networks_that_are_not_the_dense_ancestor_are_not_compared(
    exported, network, images, change, reason, tmp_path
):
    _, audit = exported
    model, masks = network
    other = audit | {"sparsity": 0} | change
    arguments = {"inputs": images, "formats": ("keras",), "progress": quietly}
    pruned = export_model(model, str(tmp_path), masks=masks, dense_audit=other, **arguments)
    assert pruned["dense_comparison"].startswith(reason)
    assert pruned["artifacts"]["model.keras"]["bytes_to_dense_artifact"] is None


def test_a_mask_that_claims_too_much_fails_and_a_good_rerun_recovers(make_network, images, tmp_path):
    model, masks = make_network()
    arguments = {"inputs": images, "formats": ("keras",), "progress": quietly}
    export_model(model, str(tmp_path), masks=masks, **arguments)
    before = (tmp_path / "model.keras").read_bytes()

    kept = tuple(np.argwhere(masks["conv2"] == 1)[0])
    wrong = masks | {"conv2": masks["conv2"].copy()}
    wrong["conv2"][kept] = 0
    with pytest.raises(AuditError) as raised:
        export_model(model, str(tmp_path), masks=wrong, **arguments)
    message = str(raised.value)
    assert isinstance(raised.value, UserError)
    assert "model.keras: layer 'conv2': 1 masked weights are not zero, the rule is 0" in message
    assert shown(tmp_path) == ["export_failed.json", "model.keras"]
    assert (tmp_path / "model.keras").read_bytes() == before
    failed = json.loads((tmp_path / "export_failed.json").read_text())
    assert failed["passed"] is False
    assert "FAILED" in format_audit(failed)

    export_model(model, str(tmp_path), masks=masks, **arguments)
    assert shown(tmp_path) == ["export.json", "model.keras"]


def test_an_interrupted_export_leaves_no_audit_and_a_rerun_cleans_up(
    make_network, images, tmp_path, monkeypatch
):
    model, masks = make_network()
    arguments = {"inputs": images, "progress": quietly}
    export_model(model, str(tmp_path), masks=masks, formats=("keras", "saved_model"), **arguments)

    # What a killed process leaves, for nothing runs after it.
    (tmp_path / ".unfinished").mkdir()
    (tmp_path / "benchmark.json").write_text("{}")
    (tmp_path / ".unfinished" / "model.keras").write_bytes(b"half")

    def fail(*_):
        raise OSError("disk full")

    with monkeypatch.context() as patched:
        patched.setattr(KerasFile, "write", fail)
        with pytest.raises(OSError, match="disk full"):
            export_model(model, str(tmp_path), masks=masks, formats=("keras",), **arguments)
    assert shown(tmp_path) == ["model.keras", "saved_model"]

    export_model(model, str(tmp_path), masks=masks, formats=("keras",), **arguments)
    assert shown(tmp_path) == ["export.json", "model.keras"]


@pytest.mark.parametrize("kind", ["TensorFlow's", "the system's"])
def test_a_full_disk_is_one_line_and_leaves_no_audit(
    make_network, images, tmp_path, capfd, monkeypatch, kind
):
    """As `tf.saved_model.save` and Python raise it on a tiny file system."""
    model, masks = make_network()
    full = os.strerror(errno.ENOSPC)

    def fail(file, network, path):
        os.write(2, b"noise\n")
        if kind == "TensorFlow's":
            raise tf.errors.ResourceExhaustedError(None, None, f"{path}.tmp; {full} [Op:SaveV2]")
        raise OSError(errno.ENOSPC, full)

    monkeypatch.setattr(KerasFile, "write", fail)
    with pytest.raises(UserError) as caught:
        export_model(model, str(tmp_path), masks=masks, inputs=images, formats=("keras",), progress=quietly)
    assert str(caught.value) == f"{tmp_path}: cannot be written: {full}; export the round again once it can"
    assert "noise" not in capfd.readouterr().err
    assert shown(tmp_path) == []


def test_a_folder_whose_name_is_no_text_is_one_line(make_network, images, tmp_path):
    model, masks = make_network()
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/\xff")
    with pytest.raises(UserError, match=r"/\udcff: must be a path in UTF-8"):
        export_model(model, folder, masks=masks, inputs=images, formats=("keras",), progress=quietly)
    assert not os.listdir(tmp_path)


def sizes_said(folder):
    audit = json.loads((folder / "export.json").read_text())
    return {name: entry["bytes"] for name, entry in audit["artifacts"].items()}


def test_a_kill_at_any_write_leaves_no_audit_of_other_files(make_network, images, tmp_path, monkeypatch):
    """The folder before and after each call that gives or takes a name is what a kill there leaves."""
    model, masks = make_network()
    arguments = {"inputs": images, "formats": ("keras", "sparse"), "progress": quietly}
    export_model(model, str(tmp_path / "export"), masks=masks, sparse_weights="float32", **arguments)
    (tmp_path / "export" / "benchmark.json").write_text("{}")
    before = os.path.getsize(tmp_path / "export" / "model.tfprune")
    moments = []

    def keep():
        moments.append(tmp_path / f"killed_{len(moments):02d}")
        shutil.copytree(tmp_path / "export", moments[-1])

    for name in ("replace", "unlink", "remove", "rmdir"):
        call = getattr(os, name)

        def watched(*paths, call=call, **options):
            keep()
            call(*paths, **options)
            keep()

        monkeypatch.setattr(os, name, watched)
    export_model(model, str(tmp_path / "export"), masks=masks, sparse_weights="float16", **arguments)
    monkeypatch.undo()
    with_audit = [folder for folder in moments if (folder / "export.json").exists()]
    without = [folder for folder in moments if folder not in with_audit]
    assert len(without) >= 10 and len({str(sizes_said(folder)) for folder in with_audit}) == 2
    for folder in with_audit:
        said = sizes_said(folder)
        assert {name: os.path.getsize(folder / name) for name in said} == said, folder
    measured = [folder for folder in moments if (folder / "benchmark.json").exists()]
    assert measured and {os.path.getsize(folder / "model.tfprune") for folder in measured} == {before}
    for folder in (moments[0], without[0], without[len(without) // 2], without[-1]):
        audit = export_model(model, str(folder), masks=masks, **arguments)
        assert audit["passed"] and shown(folder) == ["export.json", "model.keras", "model.tfprune"]


def test_a_second_export_into_a_folder_is_told_who_writes_there(make_network, images, tmp_path, monkeypatch):
    model, masks = make_network()
    write = KerasFile.write
    refused = []

    def at_once(file, network, path):
        with pytest.raises(UserError) as caught:
            export_model(model, str(tmp_path), masks=masks, **arguments)
        refused.append(str(caught.value))
        write(file, network, path)

    arguments = {"inputs": images, "formats": ("keras",), "progress": quietly}
    monkeypatch.setattr(KerasFile, "write", at_once)
    audit = export_model(model, str(tmp_path), masks=masks, **arguments)
    assert len(refused) == 1 and refused[0].startswith(f"{tmp_path} is in use by process {os.getpid()} on ")
    assert audit["passed"] and shown(tmp_path) == ["export.json", "model.keras"]
    assert json.loads((tmp_path / "export.json").read_text()) == audit


def test_mixed_precision_and_compiled_models_are_exported_as_plain_float32(images, tmp_path):
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        image = keras.Input((16, 16, 3), dtype="uint8")
        x = keras.layers.Rescaling(1 / 255, dtype="float32")(image)
        x = keras.layers.Conv2D(8, 3, name="conv")(x)
        x = keras.layers.GlobalAveragePooling2D()(x)
        model = keras.Model(image, keras.layers.Dense(10, dtype="float32")(x), name="mixed")
    finally:
        keras.config.set_dtype_policy(policy)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(images, np.arange(len(images)) % 10, verbose=0)
    export_model(
        model, str(tmp_path), masks={}, inputs=images, formats=("keras", "saved_model"), progress=quietly
    )
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert model.compiled and not loaded.compiled
    assert {layer.compute_dtype for layer in loaded.layers[1:]} == {"float32"}
    for stored, weight in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(stored, weight)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": np.full((4, 16, 16, 3), 0.5)}, "`inputs` must be uint8"),
        ({"inputs": np.zeros((0, 16, 16, 3), "uint8")}, "at least one"),
        (
            {"inputs": np.zeros((4, 8, 16, 3), "uint8")},
            r"uint8 \[n, 16, 16, 3\], at least one, for .*Received: uint8 \[4, 8, 16, 3\]",
        ),
        ({"formats": ("tflite", "onnx")}, "`formats` must name some of .*onnx"),
        ({"formats": ()}, "`formats` must name some of"),
        ({"sparse_weights": "int4"}, "`sparse_weights` must be one of .*'int4'"),
        ({"sparse_values": "int4"}, "`sparse_values` must be one of .*'int4'"),
        ({"sparse_values": "int8", "sparse_weights": "int8"}, "must be with `calibration` images.*=None"),
        ({"calibration": np.ones((1, 16, 16, 3))}, "images only so. Received: sparse_values='float32'"),
        (
            {"calibration": np.ones((1, 16, 16, 3)), "sparse_values": "int8"},
            "with `sparse_weights=\"int8\"`.*sparse_weights='float16'",
        ),
        ({"masks": {"conv9": np.ones((3, 3, 32, 64))}}, "Received: 'conv9'"),
        ({"masks": {"conv1": np.ones((3, 3))}}, r"mask of 'conv1' must have the shape"),
        ({"masks": {"conv1": np.full((3, 3, 32, 64), 0.5)}}, "only 0 and 1.*'conv1'"),
    ],
)
def test_bad_arguments(network, images, tmp_path, change, message):
    model, masks = network
    arguments = {"masks": masks, "inputs": images, "formats": ("keras",)} | change
    with pytest.raises(ValueError, match=message):
        export_model(model, out_dir=str(tmp_path), **arguments)
    assert not os.listdir(tmp_path)


def test_values_of_8_bits(network, images, tmp_path):
    """Their steps are those of the calibration images; those that do not fit are refused before any file."""
    model, masks = network
    arguments = {
        "masks": masks,
        "inputs": images,
        "formats": ("sparse",),
        "sparse_weights": "int8",
        "sparse_values": "int8",
    }
    with pytest.raises(UserError, match="`calibration` does not fit the network"):
        export_model(model, str(tmp_path), calibration=images[:, :8], **arguments)
    assert not os.listdir(tmp_path)
    audit = export_model(model, str(tmp_path), calibration=images[:32], **arguments, progress=quietly)
    entry = audit["artifacts"]["model.tfprune"]
    read = runtime.read_file(tmp_path / "model.tfprune")
    paths = [node.path for node in read.nodes if isinstance(node, Conv)]
    assert (entry["int8_convolutions"], entry["convolutions"]) == (paths.count("int8"), len(paths))
    assert entry["passed"] and entry["weights"] == "int8"
    told = f"model.tfprune: {paths.count('int8')} of {len(paths)} convolutions read values of 8 bits;"
    assert told in format_audit(audit)


def test_other_backends_are_refused(network, images, tmp_path, monkeypatch):
    model, masks = network
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(UserError, match="KERAS_BACKEND=tensorflow.*KERAS_BACKEND=jax"):
        export_model(model, str(tmp_path), masks=masks, inputs=images)


def test_logits_that_are_not_finite_are_refused(make_network, images, tmp_path):
    model, masks = make_network()
    bias = model.get_layer("head").bias
    bias.assign(np.full(bias.shape, np.nan))
    with pytest.raises(AuditError, match="not all finite"):
        export_model(model, str(tmp_path), masks=masks, inputs=images)


def test_format_audit(exported):
    _, audit = exported
    lines = format_audit(audit).splitlines()
    assert len(lines) == 3 + len(ALL)  # A title, a header, a rule.
    assert f"{audit['parameters']:,} parameters" in lines[0] and "64 test images" in lines[0]
    sparse = audit["artifacts"]["model_float16_sparse.tflite"]
    (row,) = [line for line in lines if line.startswith("model_float16_sparse.tflite")]
    assert f"{sparse['bytes']:,}" in row and f"{sparse['gzip_bytes']:,}" in row
    assert f"{sparse['zeros']['masked']:,} of {sparse['zeros']['masked']:,}" in row
    assert row.endswith("ok")
