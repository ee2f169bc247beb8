"""`SparseTrainer`: Keras's `fit` around an engine that skips the weights that were removed."""

from collections.abc import Iterator
from typing import Any

import keras

from tfprune.extras import extra
from tfprune.network.batch_norm import over_replicas
from tfprune.network.fitting import replaced_steps
from tfprune.sparse_training.errors import UnsupportedError
from tfprune.sparse_training.trace import trace, traced_network
from tfprune.sparsity.apply import pruned_layers

with extra("runtime"):
    from tfprune.sparse_training.exchange import rule_of
    from tfprune.sparse_training.steps import EngineSteps

_BATCH_HOOKS = ("on_train_batch_begin", "on_train_batch_end", "on_batch_begin", "on_batch_end")


def check(model: keras.Model) -> None:
    """Checks that the sparse trainer can train a compiled model, without compiling anything.

    Args:
        model: As for `SparseTrainer`.

    Raises:
        UnsupportedError: It cannot; the message names all layers that it does not take, or the optimizer.
    """
    trace(model)
    for wrapper in pruned_layers(model):
        if any(learned is not None for learned in wrapper.learned):
            raise UnsupportedError(
                f"model {model.name!r}: the sparse trainer cannot train it: the mask of layer "
                f"{wrapper.layer.name!r} is learned, by steps that need all weights. Where it is fixed "
                "already, `strip_pruning` the model and wrap it anew"
            )
    rule_of(model.optimizer)
    ours = traced_network(model) is not model  # Its loss may be its own: it says that it may.
    for name in ("train_step", "test_step", *(() if ours else ("compute_loss",))):
        if not getattr(type(model), name).__module__.startswith("keras."):
            raise UnsupportedError(
                f"model {model.name!r}: the sparse trainer cannot train it: it has a `{name}` of its own"
            )
    if over_replicas(model):
        raise UnsupportedError(
            f"model {model.name!r}: the sparse trainer cannot train it: its strategy has several replicas"
        )


class SparseTrainer:
    """Trains a Keras model on the CPU at the cost of the weights that stay.

    ```python
    trainer = SparseTrainer(pruned_model)  # compiled, its kernels wrapped by `prune_low_magnitude`
    trainer.fit(dataset, epochs=10, validation_data=validation, callbacks=[UpdatePruningStep()])
    pruned_model.save("pruned.keras")
    ```

    The loops are Keras's own: data, shuffling, callbacks, logs, the history. A step computes the network's
    passes and the optimizer's update with the removed weights left out; the loss, its gradient with respect
    to the outputs, and the metrics are the model's own and computed by Keras's backend. Kernels without
    removed weights are computed densely, so that dense models train too.

    The numbers are with the engine while it trains. They come to the model's variables, that is weights,
    moving statistics, the optimizer's slots and its count of steps, before validation, at the end of each
    epoch, when the masks are updated, where a method of the model that reads them is called, such as `save`,
    and at the end of `fit`, after an error or Ctrl-C too: the model then holds the last whole step. For
    callbacks that read variables at single batches: on JAX whenever they use `self.model`; on TensorFlow and
    PyTorch after each batch, at some cost, as soon as a callback of yours has a hook for batches. What a
    callback writes into the model at such times, such as other weights or masks, is taken up at the next
    step.

    Dropout draws numbers of its own, by the seeds of its layers and the optimizer's count of steps: a fit
    that goes on from a saved model ends with the weights of one that was never stopped.

    Args:
        model: A built functional or Sequential model with one input and one output, as `trace` takes it. It
            may be compiled. A model around such a one, which is its `student` and whose `compute_loss` sees
            it through `y_pred` alone, says so by an attribute `loss_of_outputs = True`.
        optimizer: Compiles the model with this optimizer: Adam, AdamW, SGD or TorchAdam. Default: the
            model's.
        loss: Compiles the model with this loss. Default: the model's.
        metrics: Compiles the model with these metrics, where an optimizer or a loss is given.
        threads: The number of threads; None: the cores that the process may use. Results do not depend on it.

    Attributes:
        model: The model.

    Raises:
        UnsupportedError: The sparse trainer cannot train the model, or not with its optimizer; the message
            names all layers that it does not take.
        ValueError: The model is not compiled.
    """

    def __init__(
        self,
        model: keras.Model,
        optimizer: Any = None,
        loss: Any = None,
        metrics: Any = None,
        *,
        threads: int | None = None,
    ) -> None:
        if not isinstance(model, keras.Model):
            raise ValueError(f"`model` must be a Keras model. Received: model={model!r}")
        trace(model)
        if optimizer is not None or loss is not None:
            if model.compiled:
                optimizer = model.optimizer if optimizer is None else optimizer
                loss = model.loss if loss is None else loss
            if optimizer is not None and loss is not None:
                rule_of(keras.optimizers.get(optimizer))
                model.compile(optimizer=optimizer, loss=loss, metrics=metrics)
        if not model.compiled:
            raise ValueError(
                "The model must be compiled, or `optimizer` and `loss` both be given."
                f" Received: model {model.name!r}, optimizer={optimizer!r}, loss={loss!r}"
            )
        check(model)
        self.model = model
        self._steps = EngineSteps(model, threads)

    @property
    def engine(self) -> Any:
        """Returns the engine that computes the steps, to look at its profile; None before the first."""
        return self._steps.engine

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: Any = "auto",
        callbacks: Any = None,
        **options: Any,
    ) -> keras.callbacks.History:
        """Trains the model; arguments and result are those of `keras.Model.fit`.

        Raises:
            UnsupportedError: As of the class, where the model was changed since.
            RuntimeError: The model has a pruning schedule, and `callbacks` no `UpdatePruningStep`.
        """
        check(self.model)
        keeper = _Keeper(self._steps)
        given = callbacks if isinstance(callbacks, keras.callbacks.CallbackList) else None
        if given is None:
            callbacks = [keeper, *keras.tree.flatten(callbacks or [])]
        else:
            given.callbacks.insert(0, keeper)
        reads = any(map(_may_read, _all(callbacks if given is None else given.callbacks)))
        self._steps.each_batch = reads and keras.backend.backend() != "jax"
        self._steps.synchronize()
        self._steps.expect_changes()
        try:
            with replaced_steps(self.model, self._steps):
                return self.model.fit(
                    x, y, batch_size, epochs, verbose=verbose, callbacks=callbacks, **options
                )
        finally:
            self._steps.each_batch = False
            if given is not None:
                given.callbacks.remove(keeper)
            self._steps.synchronize()

    def evaluate(self, *args: Any, **options: Any) -> Any:
        """Evaluates the model; arguments and result are those of `keras.Model.evaluate`."""
        with replaced_steps(self.model, self._steps):
            return self.model.evaluate(*args, **options)

    def predict(self, *args: Any, **options: Any) -> Any:
        """Returns the model's outputs; arguments and result are those of `keras.Model.predict`."""
        with replaced_steps(self.model, self._steps):
            return self.model.predict(*args, **options)

    def train_on_batch(self, *args: Any, **options: Any) -> Any:
        """Does one step; arguments and result are those of `keras.Model.train_on_batch`.

        The model's variables stay as they are until `update` is called.
        """
        with replaced_steps(self.model, self._steps, lag=True):
            return self.model.train_on_batch(*args, **options)

    def update(self, model: keras.Model | None = None) -> None:
        """Brings the model's variables up to date: weights, moving statistics, slots, the count of steps.

        `fit` ends with it. The next step takes up what the model then holds, changed or not: call it both
        before and after changes of the model between calls of `train_on_batch` or `evaluate`.

        Args:
            model: The trainer's model, or None.

        Raises:
            ValueError: It is another model.
        """
        if model is not None and model is not self.model:
            raise ValueError(f"`model` must be the trainer's. Received: another one, {model.name!r}")
        self._steps.synchronize()
        self._steps.expect_changes()


class _Keeper(keras.callbacks.Callback):
    """Brings the model up to date before the other callbacks of an epoch's end, and before validation."""

    def __init__(self, steps: EngineSteps) -> None:
        super().__init__()
        self._steps = steps

    def on_test_begin(self, logs: Any = None) -> None:
        self._steps.synchronize()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._steps.synchronize()


def _all(callbacks: Any) -> Iterator[keras.callbacks.Callback]:
    """Yields callbacks, and those that they hold."""
    for callback in callbacks:
        yield callback
        yield from _all(getattr(callback, "callbacks", ()))


def _may_read(callback: keras.callbacks.Callback) -> bool:
    """Returns whether a callback may read the model's variables at a batch, other than by its methods."""
    hooks = (getattr(callback, name, None) for name in _BATCH_HOOKS)
    modules = (getattr(hook, "__module__", None) or "" for hook in hooks if hook is not None)
    return any(not module.startswith(("keras.", "tfprune.")) for module in modules)
