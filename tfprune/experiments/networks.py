"""Networks of run folders: loading and saving a round's Keras model."""

import keras

from tfprune.experiments.own import know_own
from tfprune.files import Digest, digest, discarding, replacing
from tfprune.network.saved import load_network, save_network
from tfprune.runs.folder import RoundFolder


def load_model(folder: RoundFolder) -> keras.Model:
    """Returns a finished round's network, pruning wrappers included, not compiled.

    Raises:
        FileError: If it is not the network that the round's result is of, or as `load_network`.
        UserError: If it needs a module of the user's own that is gone.
    """
    know_own(folder.check_network().config)
    return load_network(folder.model_path, "install the Keras that `versions` of its result.json names")


def save_model(folder: RoundFolder, model: keras.Model, keep: bool = True) -> Digest:
    """Writes a round's network without its optimizer: the next round starts a fresh one.

    Args:
        folder: The round.
        model: The network.
        keep: False in a process that only takes part: no file is left.

    Returns:
        What the round's result knows the file by.
    """
    with (replacing if keep else discarding)(folder.model_path) as temporary:
        save_network(model, temporary)
        return digest(temporary)
