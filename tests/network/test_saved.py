"""Keras's file of a network: what it holds is loaded, and anything else is one line that names the file."""

import io
import json
import os
import shutil
import zipfile

import h5py
import keras
import numpy as np
import pytest

from tfprune.errors import FileError
from tfprune.network import saved
from tfprune.network.saved import load_network
from tfprune.text import printable

ADVICE = "train it anew"

pytestmark = pytest.mark.one_backend


def make_model(units=3):
    model = keras.Sequential(
        [
            keras.Input((2,)),
            keras.layers.Dense(units, name="dense"),
            keras.layers.BatchNormalization(name="bn"),
        ]
    )
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    return model


@pytest.fixture
def path(tmp_path):
    make_model().save(tmp_path / "model.keras")
    return tmp_path / "model.keras"


def parts_of(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def put(path, parts, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)


def change_config(path, change):
    parts = parts_of(path)
    config = json.loads(parts["config.json"])
    parts["config.json"] = json.dumps(change(config) or config)
    put(path, parts)


def change_weights(path, change):
    """Calls `change` with the arrays of a file, open for writing."""
    parts = parts_of(path)
    content = io.BytesIO(parts["model.weights.h5"])
    with h5py.File(content, "r+") as weights:
        change(weights)
    put(path, parts | {"model.weights.h5": content.getvalue()})


def error_of(path):
    with pytest.raises(FileError) as caught:
        load_network(path, ADVICE)
    message = str(caught.value)
    start, end = (
        f"{path}: not a readable Keras model: ",
        f"; {ADVICE}",
    )
    assert message.startswith(start) and message.endswith(end) and printable(message) == message
    return message.removeprefix(start).removesuffix(end)


def test_a_whole_file(path):
    assert not load_network(path, ADVICE).compiled
    assert load_network(path, ADVICE, compile=True).optimizer is not None


@pytest.mark.parametrize("size", [0, 1, 100, 0.3, 0.5, 0.9, 0.999])
def test_a_file_that_is_cut(path, size):
    content = path.read_bytes()
    path.write_bytes(content[: size if isinstance(size, int) else int(size * len(content))])
    assert "zip file" in error_of(path)


def test_other_bytes(path):
    content = path.read_bytes()
    generator = np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(content)
        for position in generator.integers(0, len(content), 8):
            damaged[position] ^= int(generator.integers(1, 256))
        path.write_bytes(damaged)
        try:
            load_network(path, ADVICE)  # Not every byte has a meaning.
        except FileError as error:
            assert str(error).startswith(f"{path}: not a readable Keras model: ")


def test_no_file(path, tmp_path):
    path.unlink()
    assert error_of(path) == "No such file or directory"
    path.mkdir()
    assert error_of(path) == "it is a folder, not a file"
    path.rmdir()
    os.mkfifo(path)
    assert error_of(path) == "it is a pipe, not a file"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda parts: {**parts, "assets/x": b""}, "it must hold config.json"),
        (lambda parts: {**parts, "../../x": b""}, "it must hold config.json"),
        (lambda parts: {}, "Received: nothing"),
        (lambda parts: {"config.json": parts["config.json"]}, "Received: config.json"),
        (lambda parts: {**parts, "config.json": b"{"}, ""),
        (lambda parts: {**parts, "config.json": b"[]"}, ""),
        (lambda parts: {**parts, "config.json": b"null"}, ""),
        (lambda parts: {**parts, "config.json": b"\xff"}, "can't decode"),
        (lambda parts: {**parts, "config.json": b"[" * 10**5}, "nested too deeply"),
        (lambda parts: {**parts, "config.json": b" " * (2**26 + 1)}, "over 67,108,864 bytes"),
        (lambda parts: {**parts, "model.weights.h5": b""}, ""),
        (lambda parts: {**parts, "model.weights.h5": b"\x89HDF\r\n\x1a\n" + bytes(100)}, ""),
        (lambda parts: {**parts, "model.weights.h5": parts["model.weights.h5"][:3000]}, ""),
    ],
)
def test_an_archive_of_other_files(path, change, reason):
    put(path, change(parts_of(path)))
    assert reason in error_of(path)


def test_what_would_unpack_to_more_than_the_file(path):
    put(path, parts_of(path), zipfile.ZIP_DEFLATED)
    assert "is compressed, and Keras compresses none" in error_of(path)
    put(path, parts_of(path))
    content = path.read_bytes()
    size = len(parts_of(path)["model.weights.h5"])
    path.write_bytes(content.replace(size.to_bytes(4, "little") * 2, (2**32 - 2).to_bytes(4, "little") * 2))
    error_of(path)


def test_more_memory_than_there_is(path, monkeypatch):
    monkeypatch.setattr(saved, "available_bytes", lambda: 1000)
    assert error_of(path).startswith("it asks for ") and error_of(path).endswith(" there are 1.00 kB")


def replaced(weights, array, **how):
    """Puts an array in the place of the first layer's kernel."""
    name = "layers/dense/vars/0"
    del weights[name]
    weights.create_dataset(name, **(how or {"data": array}))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda weights: replaced(weights, np.ones((2, 4), "f4")), ""),
        (lambda weights: replaced(weights, np.ones((3, 2), "f4")), ""),
        (lambda weights: replaced(weights, np.float32(1)), ""),
        (lambda weights: replaced(weights, np.full((2, 3), np.nan, "f4")), "dense/kernel is not finite"),
        (lambda weights: replaced(weights, np.full((2, 3), -np.inf, "f4")), "dense/kernel is not finite"),
        (lambda weights: replaced(weights, np.full((2, 3), 1e300)), "dense/kernel is not finite"),
        (lambda weights: replaced(weights, np.ones((2, 3), "c8")), "has the type complex64"),
        (lambda weights: replaced(weights, np.full((2, 3), b"text")), "has the type"),
        (
            lambda weights: replaced(weights, None, shape=(10**6, 10**4), dtype="f4"),
            "which are not in the file",
        ),
        (
            lambda weights: replaced(weights, None, shape=(10**6, 10**4), dtype="f4", chunks=(100, 100)),
            "40,000,000,000 bytes, which are not in the file",
        ),
        (
            lambda weights: replaced(weights, None, shape=(2, 3), dtype="f4", external="/etc/passwd"),
            "which are not in the file",
        ),
        (lambda weights: weights.pop("layers/dense/vars/0"), ""),
        (lambda weights: weights.pop("layers"), ""),
        (
            lambda weights: weights["layers/batch_normalization/vars/3"].write_direct(
                np.full(3, -1e-3, "f4")
            ),
            "variance below 0",
        ),
        (
            lambda weights: weights["layers/batch_normalization/vars/2"].write_direct(
                np.full(3, np.nan, "f4")
            ),
            "not finite",
        ),
    ],
)
def test_arrays_that_no_training_leaves(path, change, reason):
    change_weights(path, change)
    assert reason in error_of(path)


def first(config):
    return config["config"]["layers"][1]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda config: config.update(class_name="Nothing"), ""),
        (lambda config: config.update(module="os", class_name="system"), ""),
        (lambda config: config.update(class_name=3), ""),
        (lambda config: config.pop("config"), ""),
        (lambda config: config.update(config=[]), ""),
        (lambda config: first(config)["config"].update(units=-1), ""),
        (lambda config: first(config)["config"].update(units="3"), ""),
        (lambda config: first(config)["config"].update(units=4), ""),
        (lambda config: first(config)["config"].update(units=None), ""),
        (lambda config: first(config)["config"].update(activation="nothing"), ""),
        (lambda config: first(config).update(class_name="Conv2D"), ""),
        (lambda config: config["config"].update(layers="dense"), ""),
    ],
)
def test_a_network_that_is_none(path, change, reason):
    change_config(path, change)
    assert reason in error_of(path)


def test_a_layer_that_is_no_model(path):
    def lift(weights):
        del weights["vars"]
        weights.move("layers/dense/vars", "vars")

    change_weights(path, lift)
    change_config(path, first)
    assert error_of(path) == "it is a Dense, not a model"


def test_an_optimizer_that_is_not_whole(path):
    """Keras would warn, and train on with a fresh one."""
    change_weights(path, lambda weights: weights.pop("optimizer/vars/3"))
    load_network(path, ADVICE)
    with pytest.raises(FileError, match="Skipping variable loading for optimizer 'adam"):
        load_network(path, ADVICE, compile=True)


def test_a_lambda_is_not_run(path, tmp_path):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Lambda(lambda x: x + 1)])
    model.save(path)
    assert "lambda" in error_of(path).lower()


def test_a_copy_elsewhere_is_the_same_network(path, tmp_path):
    shutil.copy(path, tmp_path / "copy.keras")
    kernels = [load_network(one, ADVICE).get_layer("dense").kernel for one in (path, tmp_path / "copy.keras")]
    assert np.array_equal(*map(keras.ops.convert_to_numpy, kernels))
