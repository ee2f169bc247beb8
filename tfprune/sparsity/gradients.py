"""Gradients of the loss with respect to the prunable variables, on any backend, through Keras alone."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from typing import Any

import keras
import numpy as np
from keras import ops

from tfprune.sparsity.apply import apply_masks
from tfprune.sparsity.scores import Gradients
from tfprune.sparsity.wrapper import PruneLowMagnitude

GradientData = Iterable[Any] | Callable[[int], Iterable[Any]] | None


class GradientMeter:
    """Measures the gradients that a training step on given batches would see.

    Those of removed weights too: the layers run without their masks, which changes nothing else, as removed
    weights are zero. The model is in training mode, and afterwards as it was: weights, BatchNorm's statistics
    and random seeds.

    Args:
        model: Compiled; its loss, `compute_loss` and regularizers count.
        layers: Its wrappers.

    Raises:
        ValueError: If the model has no loss.
    """

    def __init__(self, model: keras.Model, layers: Sequence[PruneLowMagnitude]) -> None:
        if not getattr(model, "compiled", False):
            raise ValueError(
                f"The model must be compiled: gradients are those of its loss. Received: model={model!r}"
            )
        self._model, self._layers = model, layers
        variables = [v for layer in layers for v in layer.prunable_variables if v.trainable]
        # Under a `tf.distribute` strategy variables are made in its scope.
        strategy = getattr(model, "distribute_strategy", None)
        with strategy.scope() if strategy is not None else nullcontext():
            self._recorder = _Recorder(variables)
            self._probe = _Probe(model)
            self._probe.compile(optimizer=self._recorder, loss=None, jit_compile=model.jit_compile)

    def measure(self, batches: Iterable[Any]) -> dict[int, Gradients]:
        """Returns the gradients over all of `batches`, of the form (x, y) or (x, y, sample_weight).

        Returns:
            id of a prunable variable -> its gradients; those of layers that do not train are left out.

        Raises:
            ValueError: If there is no batch, or in float16 gradients that are infinite at any scale.
        """
        masks = {id(mask) for layer in self._layers for mask in layer.masks}
        state = [
            (variable, np.array(ops.convert_to_numpy(variable)))
            # A loss of several outputs adds up each one's in metrics of the model.
            for variable in [*self._model.non_trainable_variables, *self._model.metrics_variables]
            if id(variable) not in masks
        ]
        count = 0
        self._recorder.reset()
        apply_masks(self._layers)  # Muon moves removed weights too.
        for layer in self._layers:
            layer.masked = False
        try:
            for batch in batches:
                x, y, weight = keras.utils.unpack_x_y_sample_weight(_to_numpy(batch))
                self._add(x, y, weight)
                count += 1
        finally:
            for layer in self._layers:
                layer.masked = True
            for variable, value in state:
                variable.assign(value)
        if not count:
            raise ValueError(
                "`gradient_data` must have at least one batch each time. Received: none; "
                "an iterator is used up after one pass, a list or a function is not"
            )
        return self._recorder.means(count)

    def _add(self, x: Any, y: Any, weight: Any) -> None:
        before = int(ops.convert_to_numpy(self._recorder.iterations))
        for _ in range(_MOST_LOSS_SCALES):
            self._probe.train_on_batch(x, y, weight)
            if int(ops.convert_to_numpy(self._recorder.iterations)) > before:
                return
        raise ValueError("Gradients must be finite. Received: NaN or infinity on a batch of `gradient_data`")


# In float16 a batch with infinite gradients is left out, and the scale of the loss halved, from 2 ** 15 on.
_MOST_LOSS_SCALES = 40


def first_batches(data: GradientData, step: int, count: int | None) -> Iterable[Any]:
    """Returns the batches for an update before training step `step`: the first `count` of `data`.

    Args:
        data: An iterable of batches, or a function from the step to one.
        step: The training step, 1-based.
        count: At most so many; None: all.
    """
    batches = data(step) if callable(data) else data
    if isinstance(batches, tuple) and any(hasattr(part, "shape") for part in batches):
        raise ValueError(
            "`gradient_data` must be an iterable of batches: for one batch of arrays give [(x, y)]. "
            f"Received: a tuple of {len(batches)} arrays"
        )
    return itertools.islice(batches, count)


class _Probe(keras.Model):
    """The model and its loss, with an optimizer of its own."""

    def __init__(self, model: keras.Model) -> None:
        super().__init__(name="gradient_probe", dtype=model.dtype_policy)
        self.model = model
        self.built = True

    @property
    def metrics(self) -> list[keras.Metric]:
        """Its own loss only: the model's metrics stay as they are."""
        return [self._loss_tracker]

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        return self.model(inputs, training=training)

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        # On JAX `add_loss` and activity regularizers hand their losses to the model that trains.
        self.model._losses_override = list(self._losses_override)
        try:
            return self.model.compute_loss(*args, **kwargs)
        finally:
            self.model._losses_override = []


class _Recorder(keras.optimizers.Optimizer):
    """An optimizer that moves nothing and adds up the gradients of some variables."""

    def __init__(self, recorded: Sequence[keras.Variable]) -> None:
        super().__init__(learning_rate=0.0, name="gradient_recorder")
        self._recorded = {id(variable) for variable in recorded}
        self._sums: dict[int, tuple[keras.Variable, keras.Variable]] = {}

    def build(self, variables: Sequence[keras.Variable]) -> None:
        if self.built:
            return
        super().build(variables)
        for variable in variables:
            if id(variable) in self._recorded:
                self._sums[id(variable)] = tuple(
                    self.add_variable_from_reference(variable, name=name)
                    for name in ("sum_abs", "sum_square")
                )

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        # On TensorFlow this is the backend's variable, not the Keras variable around it.
        variable = self._trainable_variables[self._get_variable_index(variable)]
        if id(variable) not in self._sums:
            return
        gradient = ops.cast(ops.convert_to_tensor(gradient), variable.dtype)  # An embedding's is sparse.
        sum_abs, sum_square = self._sums[id(variable)]
        self.assign_add(sum_abs, ops.abs(gradient))
        self.assign_add(sum_square, ops.square(gradient))

    def reset(self) -> None:
        """Begins anew."""
        for sums in self._sums.values():
            for total in sums:
                total.assign(ops.zeros_like(total.value))

    def means(self, count: int) -> dict[int, Gradients]:
        """Returns the means over `count` batches."""
        return {
            key: Gradients(*(np.asarray(ops.convert_to_numpy(total), np.float32) / count for total in sums))
            for key, sums in self._sums.items()
        }


def _to_numpy(batch: Any) -> Any:
    """Batches made for another backend are welcome."""
    return keras.tree.map_structure(
        lambda value: None if value is None else np.asarray(ops.convert_to_numpy(value)), batch
    )
