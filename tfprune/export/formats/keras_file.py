"""A `.keras` file."""

from typing import TYPE_CHECKING

import numpy as np

from tfprune.errors import UserError
from tfprune.export.formats.format import Format, Run

if TYPE_CHECKING:
    import keras

    from tfprune.export.network import Network


class KerasFile(Format):
    """A `.keras` file without an optimizer.

    The benchmark does not time it: its network is the SavedModel's.
    """

    group = "keras"
    name = "model.keras"

    def check(self, network: "Network") -> None:
        """Refuses a model that its own configuration does not make again."""
        if network.not_copied:
            raise UserError(network.not_copied)

    def write(self, network: "Network", path: str) -> None:
        """Saves the network."""
        network.model.save(path)

    def load(self, path: str, threads: int | None = None) -> Run:
        """Loads the file in Keras, whose threads are TensorFlow's."""
        import keras

        from tfprune.export.network import keras_run

        return keras_run(keras.saving.load_model(path, compile=False))

    def load_for_audit(self, path: str, network: "Network") -> Run:
        """Loads the file with the classes at hand that its users import."""
        from tfprune.export.network import keras_run

        return keras_run(self._loaded(path, network), network.signature)

    def kernels(self, path: str, network: "Network") -> dict[str, list[np.ndarray]]:
        """Takes the kernels of the loaded network by their places: a class may name its layers anew."""
        from tfprune.export.network import named_kernels

        own, loaded = (
            list(named_kernels(model).values()) for model in (network.model, self._loaded(path, network))
        )
        if [tuple(k.variable.shape) for k in own] != [tuple(k.variable.shape) for k in loaded]:
            raise ValueError(f"it has {len(loaded)} kernels, not the network's {len(own)}, or others")
        places = {id(kernel.variable): place for place, kernel in enumerate(own)}
        return {
            name: [np.asarray(loaded[places[id(kernel.variable)]].variable)]
            for name, kernel in network.kernels.items()
        }

    def _loaded(self, path: str, network: "Network") -> "keras.Model":
        import keras

        # Code in the file is the code of the model that was just written.
        return keras.saving.load_model(path, network.classes, compile=False, safe_mode=False)
