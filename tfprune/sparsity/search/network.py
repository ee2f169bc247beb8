"""A network whose kernels are exchanged, and whose outputs are compared with those that it had."""

import contextlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import layers

from tfprune.network.calibration import kept, structured_inputs, variable_scope
from tfprune.network.calls import replaced_calls
from tfprune.network.graph import all_layers
from tfprune.sparsity.search.divergence import DIVERGENCES, Divergence, divergence_of
from tfprune.sparsity.search.kernels import PrunedKernels


class Candidates:
    """The divergence of candidates, computed by the model itself with their kernels in it.

    Args:
        model: A built model.
        kernels: The number of kernels that are searched.
        images: Inputs of the model, in its structure, each an array of all examples.
        batch_size: The examples of a batch, at most.
        divergence: One of `DIVERGENCES`, for all outputs; None to choose by the outputs and the loss.
        recalibrate: Whether BatchNorm normalizes each batch by its own statistics.

    Raises:
        ValueError: If the model's outputs are not finite, or no `divergence` fits them.
    """

    def __init__(
        self,
        model: keras.Model,
        kernels: int,
        images: Any,
        batch_size: int,
        divergence: str | None,
        recalibrate: bool,
    ) -> None:
        self._norms = [part for part in all_layers(model) if isinstance(part, layers.BatchNormalization)]
        count = len(keras.tree.flatten(images)[0])
        edges = np.linspace(0, count, -(-count // batch_size) + 1).round().astype(int)
        self._spans = list(zip(edges, edges[1:], strict=False))
        self._batches = [
            keras.tree.map_structure(lambda array, span=slice(*span): array[span], images)
            for span in self._spans
        ]
        dense = _Forward(model, [])
        outputs = [keras.tree.flatten(dense.predict_on_batch(batch)) for batch in self._batches]
        together = [np.concatenate(same) for same in zip(*outputs, strict=True)]
        for output in together:
            if not np.isfinite(output).all():
                raise ValueError("The model's outputs must be finite on `images`. Received: NaN or infinity")
        kinds = [divergence or _divergence(model, together, output) for output in together]
        if "logits" in kinds or "probabilities" in kinds:
            for output, kind in zip(together, kinds, strict=True):
                if kind != "squared" and (output.ndim < 2 or output.shape[-1] < 2):
                    raise ValueError(
                        f"`divergence` must be 'squared' for outputs that are no classes. Received: "
                        f"divergence={kind!r}, and an output of shape {output.shape}"
                    )
        self.divergence = "+".join(dict.fromkeys(kinds))
        self._divergence = Divergence(together, kinds)
        self._forward = _Forward(model, self._norms if recalibrate else [])
        self._loaded: list[int | None] = [None] * kernels

    @property
    def batches(self) -> int:
        """Returns the number of batches."""
        return len(self._batches)

    @contextlib.contextmanager
    def exchanging(self, pruned: PrunedKernels) -> Iterator[None]:
        """Brings the model's kernels and statistics back at the end of the block.

        Args:
            pruned: What is left of the kernels.
        """
        self._pruned = pruned
        changed = list(pruned.variables)
        for norm in self._norms:
            changed += norm.non_trainable_variables
        with kept(list({id(variable): variable for variable in changed}.values())):
            yield

    def divergences(self, removed: Sequence[int], batch: int) -> np.ndarray:
        """Returns the divergence of each example of a batch, with so many weights removed from each kernel.

        Only inside `exchanging`.
        """
        for number, count in enumerate(map(int, removed)):
            if self._loaded[number] != count:
                for variable, values in self._pruned.at(number, count):
                    variable.assign(values)
                self._loaded[number] = count
        outputs = keras.tree.flatten(self._forward.predict_on_batch(self._batches[batch]))
        return self._divergence.of(outputs, int(self._spans[batch][0]))


class _Forward(keras.Model):
    """Calls a model; the compiled function is its own, and the model's stays as it is.

    Args:
        model: A built model.
        norms: BatchNorm layers that normalize by the batch.
    """

    def __init__(self, model: keras.Model, norms: Sequence[layers.Layer]) -> None:
        with variable_scope(model):
            super().__init__(name="forward", dtype=model.dtype_policy)
        self.model = model
        self._by_batch = [id(norm) for norm in norms]
        self.built = True
        # XLA makes TensorFlow's convolutions slower, and compiles for longer than a short search takes.
        self.compile(jit_compile="auto" if keras.backend.backend() == "jax" else False)

    def call(self, inputs: Any) -> Any:
        """Calls the model at inference, but for the layers that normalize by the batch."""
        norms = [part for part in all_layers(self.model) if id(part) in self._by_batch]
        with replaced_calls(norms, _by_batch):
            return self.model(inputs, training=False)


def _by_batch(layer: layers.Layer, call: Callable) -> Callable:
    def run(*args: Any, **kwargs: Any) -> Any:
        given = inspect.signature(call).bind(*args, **kwargs)
        given.arguments["training"] = True
        return call(*given.args, **given.kwargs)

    return run


def _divergence(model: keras.Model, outputs: Sequence[np.ndarray], output: np.ndarray) -> str:
    """Returns the divergence for an output: by the compiled loss if it is of logits, else by its numbers."""
    loss = getattr(model, "loss", None)
    crossentropies = (
        keras.losses.CategoricalCrossentropy,
        keras.losses.SparseCategoricalCrossentropy,
        keras.losses.CategoricalFocalCrossentropy,
    )
    if len(outputs) == 1 and isinstance(loss, crossentropies):
        return "logits" if loss.get_config().get("from_logits") else "probabilities"
    return divergence_of(output)


def check_divergence(divergence: str | None) -> None:
    """Raises a ValueError that lists `DIVERGENCES` if `divergence` is neither None nor one of them."""
    if divergence is not None and divergence not in DIVERGENCES:
        raise ValueError(
            f"`divergence` must be one of {list(DIVERGENCES)} or None. Received: divergence={divergence!r}"
        )


def images_of(model: keras.Model, images: Any) -> Any:
    """Returns inputs of a model as arrays of all examples, in the model's structure.

    Args:
        model: The model.
        images: An array, the model's structure of them, or an iterable of batches, such as a
            `tf.data.Dataset`; labels in batches are passed over.

    Raises:
        ValueError: If they are none, not finite, fewer than two, or do not fit the model's inputs.
    """
    arrays = structured_inputs(model, images)
    for array in keras.tree.flatten(arrays):
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError("`images` must be finite. Received: NaN or infinity")
    return arrays
