"""Measures the gradients of the loss by some variables, on any backend, through Keras alone."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tfprune.network.calibration import Probe, kept, to_numpy, variable_scope
from tfprune.network.optimizers import Still
from tfprune.sparsity.apply import apply_masks, read
from tfprune.sparsity.scores import Gradients
from tfprune.sparsity.wrapper import PruneLowMagnitude

GradientData = Iterable[Any] | Callable[[int], Iterable[Any]] | None


class GradientMeter:
    """Measures the gradients that a training step on given batches would see.

    Removed weights have gradients too: the layers run without their masks, which changes nothing else, as
    removed weights are zero. The model runs in training mode; afterwards its weights, BatchNorm's statistics
    and random seeds are as they were.

    Args:
        model: A compiled model; its loss, `compute_loss` and regularizers count.
        layers: The wrappers of the model.
        variables: The variables that are measured. Default: those that the wrappers prune.

    Raises:
        ValueError: If the model is not compiled.
    """

    def __init__(
        self,
        model: keras.Model,
        layers: Sequence[PruneLowMagnitude],
        variables: Iterable[keras.Variable] | None = None,
    ) -> None:
        if not getattr(model, "compiled", False):
            raise ValueError(
                f"The model must be compiled: gradients are those of its loss. Received: model={model!r}"
            )
        self._model, self._layers = model, layers
        if variables is None:
            variables = (variable for layer in layers for variable in layer.prunable_variables)
        found = {id(variable): variable for variable in variables if variable.trainable}
        with variable_scope(model):
            self._recorder = _Recorder(list(found.values()))
            self._probe = Probe(model, self._recorder)

    def measure(self, batches: Iterable[Any]) -> Mapping[int, Gradients]:
        """Measures the mean gradients over batches.

        Args:
            batches: Of the form (x, y) or (x, y, sample_weight), as for `fit`.

        Returns:
            id of a measured variable -> its gradients, valid until the next measurement. Layers that do not
            train are left out.

        Raises:
            ValueError: If there is no batch, or in float16 gradients that are infinite at any scale.
        """
        masks = {id(mask) for layer in self._layers for mask in layer.masks}
        # A loss of several outputs adds up each one's in metrics of the model.
        state = [*self._model.non_trainable_variables, *self._model.metrics_variables]
        count = 0
        self._recorder.reset()
        apply_masks(self._layers)  # Muon moves removed weights too.
        for layer in self._layers:
            layer.masked = False
        try:
            with kept([variable for variable in state if id(variable) not in masks]):
                for batch in batches:
                    x, y, weight = keras.utils.unpack_x_y_sample_weight(to_numpy(batch))
                    self._add(x, y, weight)
                    count += 1
        finally:
            for layer in self._layers:
                layer.masked = True
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
    """Returns the batches for an update before a training step.

    Args:
        data: An iterable of batches, or a function from the step to one.
        step: The training step, 1-based.
        count: The largest number of batches; None for all.

    Raises:
        ValueError: If `data` is one batch.
    """
    batches = data(step) if callable(data) else data
    if isinstance(batches, tuple) and any(hasattr(part, "shape") for part in batches):
        raise ValueError(
            "`gradient_data` must be an iterable of batches: for one batch of arrays give [(x, y)]. "
            f"Received: a tuple of {len(batches)} arrays"
        )
    return itertools.islice(batches, count)


class _Recorder(Still):
    """An optimizer that moves nothing and adds up the gradients of some variables."""

    def __init__(self, recorded: Sequence[keras.Variable]) -> None:
        super().__init__(name="gradient_recorder")
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

    def see(self, gradient: Any, variable: keras.Variable) -> None:
        if id(variable) not in self._sums:
            return
        gradient = ops.cast(ops.convert_to_tensor(gradient), variable.dtype)  # An embedding's is sparse.
        sum_abs, sum_square = self._sums[id(variable)]
        self.assign_add(sum_abs, ops.abs(gradient))
        self.assign_add(sum_square, ops.square(gradient))

    def reset(self) -> None:
        """Sets the sums to zero."""
        for sums in self._sums.values():
            for total in sums:
                total.assign(ops.zeros_like(total.value))

    def means(self, count: int) -> Mapping[int, Gradients]:
        """Returns the means over `count` batches."""
        return _Means(self._sums, count)


class _Means(Mapping[int, Gradients]):
    """The means over batches, computed one by one on request: those of a whole model may be large."""

    def __init__(self, sums: Mapping[int, tuple[keras.Variable, keras.Variable]], count: int) -> None:
        self._sums, self._count = sums, count

    def __getitem__(self, key: int) -> Gradients:
        return Gradients(*(np.asarray(read(total), np.float32) / self._count for total in self._sums[key]))

    def __iter__(self) -> Iterator[int]:
        return iter(self._sums)

    def __len__(self) -> int:
        return len(self._sums)
