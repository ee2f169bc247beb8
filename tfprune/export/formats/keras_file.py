"""A `.keras` file."""

from typing import TYPE_CHECKING

import numpy as np

from tfprune.export.formats.format import Format, Run

if TYPE_CHECKING:
    from tfprune.export.network import Network


class KerasFile(Format):
    """A `.keras` file without an optimizer.

    The benchmark does not time it: its network is the SavedModel's.
    """

    group = "keras"
    name = "model.keras"

    def write(self, network: "Network", path: str) -> None:
        """Saves the network."""
        network.model.save(path)

    def load(self, path: str, threads: int | None = None) -> Run:
        """Loads the file in Keras, whose threads are TensorFlow's."""
        import keras

        from tfprune.export.network import keras_run

        return keras_run(keras.saving.load_model(path, compile=False))

    def kernels(self, path: str, network: "Network") -> dict[str, list[np.ndarray]]:
        """Takes the kernels of the loaded network."""
        import keras

        from tfprune.export.network import masked_kernels

        loaded = keras.saving.load_model(path, compile=False)
        found = masked_kernels(loaded, network.masks)
        return {layer: [np.asarray(kernel)] for layer, kernel in found.items()}
