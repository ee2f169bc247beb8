"""Loads a network from Keras's file, of which nothing is believed."""

import io
import json
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import keras
from keras import ops

from tfprune.extras import extra
from tfprune.memory import available_bytes, size_text
from tfprune.network.graph import all_layers
from tfprune.reading import RECORD_BYTES, reading

with extra("experiments"):
    import h5py

_CONFIG, _WEIGHTS = "config.json", "model.weights.h5"
_MEMBERS = sorted([_CONFIG, "metadata.json", _WEIGHTS])
# The file's bytes here, in Keras, and as the network's variables.
_COPIES = 3


def load_network(path: Path, advice: str, compile: bool = False) -> keras.Model:  # noqa: A002
    """Returns the model of a round, from a `.keras` file that `Model.save` wrote.

    Args:
        path: The file.
        advice: What can be done where it cannot be loaded, for the message.
        compile: Whether to compile it as it was, its optimizer's state included.

    Raises:
        FileError: If the file is missing, damaged, no model, asks for more memory than it fills, or has
            weights that no training leaves: not finite, or negative variances.
    """
    with reading(path, "Keras model", advice):
        with zipfile.ZipFile(path) as archive:
            _check_sizes(archive)
            with h5py.File(io.BytesIO(archive.read(_WEIGHTS)), "r") as weights:
                weights.visititems(_check_weight)
        with warnings.catch_warnings():
            # Of a part that the file has not, or not whole: it would begin anew.
            warnings.filterwarnings("error", "Skipping ")
            try:
                model = keras.models.load_model(path, compile=compile)
            except TypeError as error:  # With the whole configuration in its message.
                unknown = re.search(r"Could not locate (class|function) '([^']+)'", str(error))
                if unknown:
                    raise ValueError(f"its {unknown[1]} {unknown[2]!r} is not known") from error
                raise
        _check_model(model)
    return model


def save_network(model: keras.Model, path: Path) -> None:
    """Writes a model as a `.keras` file, whole, but as if it had never been compiled.

    Args:
        model: Of any class that Keras can save.
        path: The file.
    """
    attributes = vars(model)
    hidden = {name: attributes.pop(name) for name in ("optimizer",) if name in attributes}
    compiled, attributes["compiled"] = model.compiled, False
    try:
        model.save(path)
    finally:
        attributes.update(hidden, compiled=compiled)


def compiled_with(path: Path) -> dict[str, Any] | None:
    """Returns what a `.keras` file was compiled with, as Keras writes it; None if it was not compiled.

    Args:
        path: The file.

    Raises:
        FileError: If it is no such file.
    """
    with reading(path, "Keras model", "save it anew"):
        with zipfile.ZipFile(path) as archive:
            return json.loads(archive.read(_CONFIG)).get("compile_config") or None


def _check_sizes(archive: zipfile.ZipFile) -> None:
    """Checks before anything is unpacked that the archive is what Keras writes: three files, as they are."""
    members = archive.infolist()
    names = sorted(member.filename for member in members)
    if names != _MEMBERS:
        raise ValueError(
            f"it must hold {', '.join(_MEMBERS)} alone. Received: {', '.join(names) or 'nothing'}"
        )
    for member in members:
        if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
            raise ValueError(f"its {member.filename} is compressed, and Keras compresses none")
        if member.filename != _WEIGHTS and member.file_size > RECORD_BYTES:
            raise ValueError(f"its {member.filename} has over {RECORD_BYTES:,} bytes")
    needed, left = _COPIES * archive.getinfo(_WEIGHTS).file_size, available_bytes()
    if needed > left:
        raise MemoryError(f"it asks for {size_text(needed)} of memory, and there are {size_text(left)}")


def _check_weight(name: str, found: h5py.Group | h5py.Dataset) -> None:
    """Checks that an array fills its place in the file: another one could ask for any amount of memory."""
    if not isinstance(found, h5py.Dataset):
        return
    if found.dtype.kind not in "biuf":
        raise ValueError(f"its weight {name} has the type {found.dtype}")
    if found.is_virtual or found.external or found.nbytes != found.id.get_storage_size():
        raise ValueError(f"its weight {name} has {found.nbytes:,} bytes, which are not in the file")


def _check_model(model: keras.Model) -> None:
    if not isinstance(model, keras.Model):
        raise ValueError(f"it is a {type(model).__name__}, not a model")
    for variable in model.variables:
        if "float" in variable.dtype and not bool(ops.all(ops.isfinite(variable))):
            raise ValueError(f"its weight {variable.path} is not finite")
    for layer in all_layers(model):
        if isinstance(layer, keras.layers.BatchNormalization) and bool(ops.any(layer.moving_variance < 0)):
            raise ValueError(f"its weight {layer.moving_variance.path} is a variance below 0")
