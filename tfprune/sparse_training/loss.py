"""The loss, its gradient with respect to the outputs, and the metrics of a compiled Keras model.

All are the model's own, computed by the backend on the outputs, which are small: every loss and every metric
is Keras's.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tfprune.network.fitting import add_loss

Logs = dict[str, Any]


class Head:
    """The end of a model: from the outputs of the engine to the loss and the metrics.

    Args:
        model: The compiled model, whose `compute_loss` and `compute_metrics` are called.
        network: The network that is trained, the model itself or a part of it.
        ending: What is computed of the outputs first, one after the other.
        output_shape: That of one output, without the batch.
    """

    def __init__(
        self,
        model: keras.Model,
        network: keras.Model,
        ending: Sequence[Callable[[Any], Any]],
        output_shape: tuple[int, ...],
    ) -> None:
        self._model, self._ending, self._shape = model, tuple(ending), output_shape
        make = {"tensorflow": _on_tensorflow, "jax": _on_jax, "torch": _on_torch}[keras.backend.backend()]
        self._train, self._test = make(self, model, network)

    def train(self, x: Any, y: Any, outputs: np.ndarray, sample_weight: Any) -> tuple[np.ndarray, Logs]:
        """Computes a batch's loss in training.

        Args:
            x: The batch's input, for losses that look at it.
            y: Its targets.
            outputs: float32 `[n, ...]`, from the engine.
            sample_weight: Weights of the examples, or None.

        Returns:
            The gradient of the loss with respect to the outputs; the loss and the metrics since they were
            reset.
        """
        gradient, logs = self._train(x, y, ops.convert_to_tensor(outputs), sample_weight)
        return np.asarray(ops.convert_to_numpy(gradient), np.float32), logs

    def test(self, x: Any, y: Any, outputs: np.ndarray, sample_weight: Any) -> Logs:
        """Computes a batch's loss and metrics in evaluation; arguments as for `train`."""
        return self._test(x, y, ops.convert_to_tensor(outputs), sample_weight)

    def predict(self, outputs: Any) -> Any:
        """Returns what the model returns, as a tensor."""
        outputs = ops.reshape(ops.convert_to_tensor(outputs), (-1, *self._shape))
        for function in self._ending:
            outputs = function(outputs)
        return outputs

    def loss(self, x: Any, y: Any, outputs: Any, sample_weight: Any, training: bool) -> tuple[Any, Any]:
        """Returns the loss, a scalar, and what the model returns."""
        y_pred = self.predict(outputs)
        loss = self._model.compute_loss(
            x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=training
        )
        return loss, y_pred

    def logs(self, x: Any, y: Any, y_pred: Any, sample_weight: Any, loss: Any) -> Logs:
        """Adds a batch to the loss and the metrics; returns them."""
        add_loss(self._model, loss, ops.shape(y_pred)[0])
        return self._model.compute_metrics(x, y, y_pred, sample_weight)


def _on_tensorflow(head: Head, model: keras.Model, network: keras.Model) -> tuple[Callable, Callable]:
    import tensorflow as tf

    def train(x: Any, y: Any, outputs: Any, sample_weight: Any) -> tuple[Any, Logs]:
        with tf.GradientTape() as tape:
            tape.watch(outputs)
            loss, y_pred = head.loss(x, y, outputs, sample_weight, True)
        return tape.gradient(loss, outputs), head.logs(x, y, y_pred, sample_weight, loss)

    def test(x: Any, y: Any, outputs: Any, sample_weight: Any) -> Logs:
        loss, y_pred = head.loss(x, y, outputs, sample_weight, False)
        return head.logs(x, y, y_pred, sample_weight, loss)

    if model.run_eagerly:
        return train, test
    compiled = [
        tf.function(tf.autograph.experimental.do_not_convert(step), reduce_retracing=True)
        for step in (train, test)
    ]
    return compiled[0], compiled[1]


def _on_jax(head: Head, model: keras.Model, network: keras.Model) -> tuple[Callable, Callable]:
    import jax

    def with_state(step: Callable) -> Callable:
        """Returns a step that computes with variables as values, and what assigns them afterwards."""

        def pure(values: list[Any], *batch: Any) -> tuple[Any, list[Any]]:
            with keras.StatelessScope(state_mapping=list(zip(variables(), values, strict=True))) as scope:
                made = step(*batch)
            return made, [scope.get_current_value(variable) for variable in variables()]

        compiled = pure if model.run_eagerly else jax.jit(pure)

        def stateful(*batch: Any) -> Any:
            made, values = compiled([variable.value for variable in variables()], *batch)
            for variable, value in zip(variables(), values, strict=True):
                variable.assign(value)
            return made

        return stateful

    @functools.cache
    def variables() -> list[keras.Variable]:
        """Returns the metrics' variables, which Keras makes before the first step, and those of a teacher."""
        own = {id(variable) for variable in network.variables}
        found = [*model.metrics_variables, *(v for v in model.variables if id(v) not in own)]
        return list({id(variable): variable for variable in found}.values())

    def train(x: Any, y: Any, outputs: Any, sample_weight: Any) -> tuple[Any, Logs]:
        differentiate = jax.value_and_grad(
            lambda outputs: head.loss(x, y, outputs, sample_weight, True), has_aux=True
        )
        (loss, y_pred), gradient = differentiate(outputs)
        return gradient, head.logs(x, y, y_pred, sample_weight, loss)

    def test(x: Any, y: Any, outputs: Any, sample_weight: Any) -> Logs:
        loss, y_pred = head.loss(x, y, outputs, sample_weight, False)
        return head.logs(x, y, y_pred, sample_weight, loss)

    return with_state(train), with_state(test)


def _on_torch(head: Head, model: keras.Model, network: keras.Model) -> tuple[Callable, Callable]:
    import torch

    def train(x: Any, y: Any, outputs: Any, sample_weight: Any) -> tuple[Any, Logs]:
        outputs = outputs.detach().requires_grad_()
        loss, y_pred = head.loss(x, y, outputs, sample_weight, True)
        (gradient,) = torch.autograd.grad(loss, outputs)
        with torch.no_grad():
            return gradient, head.logs(x, y, y_pred.detach(), sample_weight, loss.detach())

    def test(x: Any, y: Any, outputs: Any, sample_weight: Any) -> Logs:
        with torch.no_grad():
            loss, y_pred = head.loss(x, y, outputs, sample_weight, False)
            return head.logs(x, y, y_pred, sample_weight, loss)

    return train, test
