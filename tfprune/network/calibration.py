"""Measures what a network does on given batches, and leaves it as it was.

`layer_statistics` runs the layers and looks at their inputs and outputs, for pruning with calibration data
and to find channels that are nearly constant. A `Probe` runs training steps, whose gradients or BatchNorm
statistics somebody else reads.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from tfprune.network.calls import replaced_calls, tensors
from tfprune.network.graph import all_layers, functional, input_structure
from tfprune.network.kinds import kernels, kind_of


@dataclass(frozen=True)
class Moments:
    """The mean and the variance of each channel of a tensor, over batches.

    Attributes:
        count: Values of each channel: examples times positions.
        mean: float64 `[channels]`.
        variance: float64 `[channels]`; divided by `count`.
    """

    count: int
    mean: np.ndarray
    variance: np.ndarray

    @property
    def second_moment(self) -> np.ndarray:
        """The mean of the squares, float64 `[channels]`."""
        return self.variance + self.mean**2

    def merged(self, other: "Moments") -> "Moments":
        """Returns the moments of both together, by the rule of Chan, Golub and LeVeque (1983)."""
        count = self.count + other.count
        share = other.count / count
        step = other.mean - self.mean
        # A small variance around a large mean, which a difference of squares would lose, is kept.
        variance = (1 - share) * self.variance + share * other.variance + share * (1 - share) * step**2
        return Moments(count, self.mean + share * step, variance)


@dataclass(frozen=True)
class LayerStatistics:
    """The moments of a layer's inputs and outputs.

    Attributes:
        inputs: Those of each tensor that the layer takes; none for an embedding, whose inputs are indices.
        outputs: Those of each tensor that the layer returns.
    """

    inputs: tuple[Moments, ...]
    outputs: tuple[Moments, ...]


def layer_statistics(
    model: keras.layers.Layer,
    batches: Iterable[Any],
    layers: Iterable[keras.layers.Layer] | None = None,
    training: bool = False,
) -> dict[keras.layers.Layer, LayerStatistics]:
    """Measures the inputs and outputs of layers over batches.

    Runs the model eagerly, layer by layer, so that it works on every backend and needs no compilation; layers
    in nested models and in layers are seen too. No weight of the model changes, and with `training=False`
    nothing else of it either. A layer inside a pruning wrapper sees the masked weights.

    Args:
        model: A built model or layer.
        batches: Inputs, or tuples `(inputs, ...)` as for `fit`.
        layers: Layers of the model. Default: every layer with a kernel of its own.
        training: Whether the layers run as in training.

    Returns:
        The statistics of each layer that was called, over all its calls together. Channels are the last axis,
        or the axis after the batch of a layer with `data_format="channels_first"`.

    Raises:
        ValueError: If there is no batch, if a layer is not of the model, or if a layer runs in a compiled
            loop (in a recurrent layer, on some backends), where values cannot be seen.
    """
    parts = all_layers(model)
    # A cell runs in its recurrent layer's loop.
    watched = [part for part in parts if kernels(part) and not kind_of(part).cell]
    if layers is not None:
        watched = list(layers)
        for layer in watched:
            if not any(layer is part for part in parts):
                raise ValueError(f"`layers` must be layers of the model. Received: {layer!r}")
    found: dict[keras.layers.Layer, LayerStatistics] = {}

    def recorded(layer: keras.layers.Layer, call: Callable) -> Callable:
        def run(*args: Any, **kwargs: Any) -> Any:
            outputs = call(*args, **kwargs)
            looks_up = any(kernel.input_axis is None for kernel in kernels(layer))
            new = LayerStatistics(
                () if looks_up else _moments(layer, (args, kwargs)), _moments(layer, outputs)
            )
            found[layer] = _merged(found[layer], new) if layer in found else new
            return outputs

        return run

    count = 0
    with replaced_calls(watched, recorded):
        for batch in batches:
            inputs = keras.utils.unpack_x_y_sample_weight(batch)[0]
            model(keras.tree.map_structure(ops.convert_to_tensor, inputs), training=training)
            count += 1
    if not count:
        raise ValueError("`batches` must have at least one batch. Received: none")
    return found


def _merged(old: LayerStatistics, new: LayerStatistics) -> LayerStatistics:
    pairs = [zip(old.inputs, new.inputs, strict=True), zip(old.outputs, new.outputs, strict=True)]
    return LayerStatistics(*(tuple(a.merged(b) for a, b in pair) for pair in pairs))


def _moments(layer: Any, values: Any) -> tuple[Moments, ...]:
    first = getattr(layer, "data_format", None) == "channels_first"
    result = []
    for tensor in tensors(values):
        try:
            array = np.asarray(ops.convert_to_numpy(tensor)).astype(np.float64)
        except Exception as error:  # Each backend has its own for a tensor without a value.
            raise ValueError(
                f"The values of layer {layer.name!r} must be visible: it runs in a compiled loop. "
                f"Received: {tensor}"
            ) from error
        array = np.moveaxis(array, 1, -1) if first and array.ndim > 2 else array
        array = array.reshape(-1, array.shape[-1] if array.ndim > 1 else 1)
        result.append(Moments(len(array), array.mean(axis=0), array.var(axis=0)))
    return tuple(result)


def inputs_of(model: keras.layers.Layer, images: Any, batch_size: int) -> list[Any]:
    """Returns the inputs of a model in batches, each in the structure that the model is called with.

    Args:
        model: A built model. The shapes that a model of a class of its own takes are not known.
        images: An array, the model's structure of them, or an iterable of batches of either, or of tuples
            `(inputs, ...)` as for `fit`; at least two examples.
        batch_size: Examples in a batch.

    Raises:
        ValueError: If the images are fewer, or do not fit the model's inputs.
    """
    whole = structured_inputs(model, images)
    return [
        keras.tree.map_structure(lambda array, start=start: array[start : start + batch_size], whole)
        for start in range(0, len(keras.tree.flatten(whole)[0]), batch_size)
    ]


def checked_inputs(model: keras.layers.Layer, images: Any) -> list[np.ndarray]:
    """Returns the inputs of a model as an array each, in its order; arguments as those of `inputs_of`."""
    return keras.tree.flatten(structured_inputs(model, images))


def structured_inputs(model: keras.layers.Layer, images: Any) -> Any:
    """Returns the inputs of a model as arrays, in the structure that it is called with.

    That of a model without a graph is the structure of the images, as a list of one the one.

    Args:
        model, images: As for `inputs_of`.
    """
    if images is None:
        raise ValueError("`images` must be inputs of the model. Received: images=None")
    together = _together(images)
    graph = functional(model)
    # A model of a class of its own may take text.
    texts = graph is None or any(tensor.dtype == "string" for tensor in graph.inputs)
    arrays = [_numbers(one, texts) for one in keras.tree.flatten(together)]
    shapes = [array.shape for array in arrays]
    if graph is not None:
        wanted = [tuple(tensor.shape) for tensor in graph.inputs]
        if len(shapes) != len(wanted) or not all(map(_fits, shapes, wanted)):
            raise ValueError(
                f"`images` must have the shapes of the model's inputs, {wanted}. Received: {shapes}"
            )
    counts = [len(array) if array.ndim else 0 for array in arrays]
    if not counts or min(counts) < 2 or len(set(counts)) > 1:
        raise ValueError(f"`images` must be two at least, as many for each input. Received: {counts}")
    if graph is not None:
        return keras.tree.pack_sequence_as(input_structure(model), arrays)
    if len(arrays) == 1 and isinstance(together, (list, tuple)):
        return arrays[0]
    return keras.tree.pack_sequence_as(together, arrays)


def _together(images: Any) -> Any:
    """Returns the inputs of all batches together; inputs that are no batches as they are."""
    if hasattr(images, "shape") or isinstance(images, (list, tuple, Mapping)):
        return images
    if not isinstance(images, Iterable) or isinstance(images, (str, bytes)):
        raise ValueError(
            f"`images` must be inputs of the model, or batches of them. Received: images={images!r}"
        )
    batches = [keras.utils.unpack_x_y_sample_weight(batch)[0] for batch in images]
    if not batches:
        raise ValueError("`images` must have at least one batch. Received: none")
    try:
        return keras.tree.map_structure(
            lambda *same: np.concatenate([ops.convert_to_numpy(one) for one in same]), *batches
        )
    except (TypeError, ValueError) as error:
        shapes = [[getattr(one, "shape", one) for one in keras.tree.flatten(batch)] for batch in batches]
        raise ValueError(
            "`images` must be batches of one structure and one shape, but for the number of examples. "
            f"Received: {', '.join(map(str, shapes[:5]))}"
        ) from error


def _numbers(values: Any, texts: bool) -> np.ndarray:
    """Returns an input as an array.

    Args:
        values: The input.
        texts: Whether it may be text.

    Raises:
        ValueError: If it is not of numbers that a model takes.
    """
    array = np.asarray(ops.convert_to_numpy(values)) if hasattr(values, "shape") else np.asarray(values)
    # "V" is that of bfloat16, which NumPy does not know.
    if array.dtype.kind not in ("biufVSUO" if texts else "biufV"):
        raise ValueError(f"`images` must be numbers. Received: {array.dtype} of shape {array.shape}")
    return array


def _fits(shape: Sequence[int], wanted: Sequence[int | None]) -> bool:
    return len(shape) == len(wanted) and all(
        size is None or one == size for one, size in zip(shape, wanted, strict=True)
    )


class Probe(keras.Model):
    """Runs the training step of a model with an optimizer of its own, so that the model's stays as it is.

    What a training step changes besides weights, such as the statistics of BatchNorm, changes in the model:
    see `kept`.

    Args:
        model: A compiled model; its loss, `compute_loss` and regularizers count.
        optimizer: The optimizer, such as a `Still`.
    """

    def __init__(self, model: keras.Model, optimizer: keras.optimizers.Optimizer) -> None:
        super().__init__(name="probe", dtype=model.dtype_policy)
        self.model = model
        self.built = True
        self.compile(optimizer=optimizer, loss=None, jit_compile=model.jit_compile)

    @property
    def metrics(self) -> list[keras.Metric]:
        """Returns the loss of the probe alone, so that the metrics of the model stay as they are."""
        return [self._loss_tracker]

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Calls the model."""
        return self.model(inputs, training=training)

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        """Returns the loss of the model."""
        # On JAX `add_loss` and activity regularizers hand their losses to the model that trains.
        self.model._losses_override = list(self._losses_override)
        try:
            return self.model.compute_loss(*args, **kwargs)
        finally:
            self.model._losses_override = []


def variable_scope(model: keras.Model) -> contextlib.AbstractContextManager:
    """Returns the scope in which variables are made that train together with those of a model."""
    strategy = getattr(model, "distribute_strategy", None)
    return strategy.scope() if strategy is not None else nullcontext()


@contextlib.contextmanager
def kept(variables: Iterable[keras.Variable]) -> Iterator[None]:
    """Brings variables back to their values at the end of the block."""
    before = [(variable, np.array(ops.convert_to_numpy(variable))) for variable in variables]
    try:
        yield
    finally:
        for variable, value in before:
            variable.assign(value)


def to_numpy(batch: Any) -> Any:
    """Returns a batch as NumPy arrays; batches made for another backend are welcome."""
    return keras.tree.map_structure(
        lambda value: None if value is None else np.asarray(ops.convert_to_numpy(value)), batch
    )
