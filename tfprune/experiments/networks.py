"""Networks of run folders: loading and saving a round's Keras model."""

import zipfile

import keras

from tfprune.errors import UserError
from tfprune.files import discarding, replacing
from tfprune.runs.folder import RoundFolder, blame_file


def load_model(folder: RoundFolder) -> keras.Model:
    """Returns a round's network, pruning wrappers included, not compiled.

    Raises:
        UserError: If the file is missing, cut short or not a Keras model.
    """
    path = folder.model_path
    if not path.exists():
        raise UserError(f"{path}: no such file, though the round has a result")
    with blame_file(path, "not a whole Keras model file"):
        if not zipfile.is_zipfile(path):  # Keras would say that there is no such file.
            raise ValueError("the end of the file is missing")
        return keras.models.load_model(path, compile=False)


def save_model(folder: RoundFolder, model: keras.Model, keep: bool = True) -> None:
    """Writes a round's network without its optimizer: the next round starts a fresh one.

    Args:
        folder: The round.
        model: The network.
        keep: False in a process that only takes part: no file is left.
    """
    bare = keras.Model(model.inputs, model.outputs, name=model.name)
    with (replacing if keep else discarding)(folder.model_path) as temporary:
        bare.save(temporary)
