"""A SavedModel."""

import os
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np

from tfprune.export.arrays import by_name, one_or_all
from tfprune.export.formats.format import Format, Run, Timing
from tfprune.export.sizes import artifact_bytes
from tfprune.extras import extra

if TYPE_CHECKING:
    from tfprune.export.network import Network

MAX_STORED_TO_WEIGHTS_BYTES = 1.05


class SavedModel(Format):
    """A SavedModel, as `tfprune.export.network.write_saved_model` makes it."""

    group = "saved_model"
    name = "saved_model"
    # TensorFlow has one number of threads for a whole process, fixed by its first operation.
    timing = Timing("saved_model", "SavedModel", "dense", ("tensorflow",), "tensorflow", own_process=True)

    def write(self, network: "Network", path: str) -> None:
        """Copies the network's SavedModel, which TFLite files are made from, too."""
        shutil.copytree(network.saved_model(), path)

    def load(self, path: str, threads: int | None = None) -> Run:
        """Loads the folder in TensorFlow.

        Raises:
            RuntimeError: `threads` is given, and TensorFlow has run in this process before.
        """
        with extra("export"):
            import tensorflow as tf

        if threads is not None:
            tf.config.threading.set_intra_op_parallelism_threads(threads)
            tf.config.threading.set_inter_op_parallelism_threads(1)
        loaded = tf.saved_model.load(path)
        signature = loaded.signatures["serving_default"]
        (first, *_) = signature.structured_input_signature[1]

        def run(batch: Any, keep: object = loaded) -> Any:
            named = {name: tf.constant(array) for name, array in by_name(batch, first).items()}
            return one_or_all({name: value.numpy() for name, value in signature(**named).items()})

        return run

    def kernels(self, path: str, network: "Network") -> dict[str, list[np.ndarray]]:
        """Takes the kernels of the loaded object by their names."""
        with extra("export"):
            import tensorflow as tf

        from tfprune.export.network import weights_by_name

        stored = tf.saved_model.load(path).weights
        names = {id(weight): name for name, weight in weights_by_name(network.model).items()}
        return {
            name: [stored[names[id(kernel.variable)]].numpy()] for name, kernel in network.kernels.items()
        }

    def findings(self, path: str, network: "Network") -> tuple[dict[str, Any], list[str]]:
        """Checks that each weight is stored once."""
        stored, weights = tensor_bytes(path), network.weights_bytes
        entries = {
            "variables_bytes": artifact_bytes(os.path.join(path, "variables")),
            "stored_to_weights_bytes": stored / weights,
        }
        if stored <= MAX_STORED_TO_WEIGHTS_BYTES * weights:
            return entries, []
        return entries, [
            f"its variables hold {stored} bytes, the rule is at most"
            f" {MAX_STORED_TO_WEIGHTS_BYTES} x the weights' {weights}"
        ]


def tensor_bytes(folder: str) -> int:
    """Returns the bytes of all tensors in a SavedModel's checkpoint, without the checkpoint's own tables.

    Args:
        folder: The SavedModel.
    """
    with extra("export"):
        import tensorflow as tf

    reader = tf.train.load_checkpoint(os.path.join(folder, "variables", "variables"))
    types = reader.get_variable_to_dtype_map()
    return sum(
        int(np.prod(shape)) * types[key].size
        for key, shape in reader.get_variable_to_shape_map().items()
        if types[key] != tf.string
    )
