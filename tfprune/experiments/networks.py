"""Networks of run folders: loading and saving a round's Keras model."""

import keras

from tfprune.files import Digest, digest, discarding, replacing
from tfprune.reading import reading
from tfprune.runs.folder import RoundFolder


def load_model(folder: RoundFolder) -> keras.Model:
    """Returns a finished round's network, pruning wrappers included, not compiled.

    Raises:
        FileError: If it is not the network that the round's result is of, or this Keras cannot load it.
    """
    folder.check_network()
    with reading(
        folder.model_path, "Keras model", "install the Keras that `versions` of its result.json names"
    ):
        return keras.models.load_model(folder.model_path, compile=False)


def save_model(folder: RoundFolder, model: keras.Model, keep: bool = True) -> Digest:
    """Writes a round's network without its optimizer: the next round starts a fresh one.

    Args:
        folder: The round.
        model: The network.
        keep: False in a process that only takes part: no file is left.

    Returns:
        What the round's result knows the file by.
    """
    bare = keras.Model(model.inputs, model.outputs, name=model.name)
    with (replacing if keep else discarding)(folder.model_path) as temporary:
        bare.save(temporary)
        return digest(temporary)
