"""The time of a call of a model, beside another one, in a runtime that its file is made for."""

import os
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np

from tfprune.benchmark.contenders import DENSE_TFLITE, OURS_NAME
from tfprune.export.arrays import part_of
from tfprune.export.formats import all_files
from tfprune.export.network import Deployable, Network
from tfprune.export.signature import Signature
from tfprune.timing import SHORT_TURN_SECONDS, time_rounds

_FILES = {"tflite": DENSE_TFLITE, "sparse": OURS_NAME}
ROUNDS = 31


def loaded(model: Any, runtime: str, inputs: Any = None) -> Callable[[], Any]:
    """Writes a model in the file of a runtime and loads that, for one example and one thread.

    Args:
        model: The model; it is not changed.
        runtime: "tflite" for LiteRT and a dense float32 file, "sparse" for `tfprune.runtime`.
        inputs: The example, as for `Model.predict`. Default: a random one, for a model without open sizes.

    Returns:
        A function that runs the file on the example, and returns its outputs.

    Raises:
        UserError: The backend is not TensorFlow, or the runtime cannot run a layer of the model.
    """
    file = next(file for file in all_files() if file.timing and file.timing.name == _FILES[runtime])
    deployable = Deployable(model, inputs)
    signature = Signature(deployable.model, inputs)
    size = signature.batch_size or 1
    example = part_of(signature.arrays(), slice(0, size))
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, file.name)
        file.write(Network(deployable.model, {}, folder, signature), path)
        run = file.load_batch(path, 1, size)
        run(example)  # What is read at the first call only is still there.
    return lambda: run(example)


class Stopwatch:
    """Times models against one of them, by turns, for one example and on one thread.

    Args:
        model: The model that the others are compared with; it is not changed.
        runtime: As of `loaded`.
        input_shape: The shape of one example with the batch's axis, for a model with open sizes.

    Raises:
        UserError: The backend is not TensorFlow, or the runtime cannot run a layer of the model.
    """

    def __init__(self, model: Any, runtime: str, input_shape: Any = None) -> None:
        """Converts the model."""
        self._runtime, self._inputs = runtime, None
        if input_shape is not None:
            self._inputs = np.zeros((1, *input_shape[1:]), model.inputs[0].dtype)
        self._whole = loaded(model, runtime, self._inputs)

    def seconds(self, model: Any) -> tuple[float, float]:
        """Returns the seconds of a call of the first model and of another one, timed in the same rounds.

        Both are those of the fastest turn: what else the machine does makes a turn slower, never faster.

        Raises:
            UserError: The runtime cannot run a layer of the model.
        """
        calls = {"whole": self._whole, "other": loaded(model, self._runtime, self._inputs)}
        timed = time_rounds(calls, ROUNDS, least_turn_seconds=SHORT_TURN_SECONDS).seconds
        return min(timed["whole"]), min(timed["other"])
