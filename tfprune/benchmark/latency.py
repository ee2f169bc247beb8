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


class Stopwatch:
    """Times models against one of them, by turns, for one example and on one thread.

    Args:
        model: The model that the others are compared with; it is not changed.
        runtime: "tflite" for LiteRT and a dense float32 file, "sparse" for `tfprune.runtime`.
        input_shape: The shape of one example with the batch's axis, for a model with open sizes.

    Raises:
        UserError: The backend is not TensorFlow, or the runtime cannot run a layer of the model.
    """

    def __init__(self, model: Any, runtime: str, input_shape: Any = None) -> None:
        """Converts the model."""
        self._format = next(
            file for file in all_files() if file.timing and file.timing.name == _FILES[runtime]
        )
        self._inputs = None
        if input_shape is not None:
            self._inputs = np.zeros((1, *input_shape[1:]), model.inputs[0].dtype)
        self._whole = self._loaded(model)

    def seconds(self, model: Any) -> tuple[float, float]:
        """Returns the seconds of a call of the first model and of another one, timed in the same rounds.

        Both are those of the fastest turn: what else the machine does makes a turn slower, never faster.

        Raises:
            UserError: The runtime cannot run a layer of the model.
        """
        calls = {"whole": self._whole, "other": self._loaded(model)}
        timed = time_rounds(calls, ROUNDS, least_turn_seconds=SHORT_TURN_SECONDS).seconds
        return min(timed["whole"]), min(timed["other"])

    def _loaded(self, model: Any) -> Callable[[], Any]:
        deployable = Deployable(model, self._inputs)
        signature = Signature(deployable.model, self._inputs)
        size = signature.batch_size or 1
        example = part_of(signature.arrays(), slice(0, size))
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, self._format.name)
            self._format.write(Network(deployable.model, {}, folder, signature), path)
            run = self._format.load_batch(path, 1, size)
            run(example)  # What is read at the first call only is still there.
        return lambda: run(example)
