"""Training steps by an engine, for a Keras model whose variables follow when they are asked for."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from tfprune.extras import extra
from tfprune.network.fitting import compiled_parts
from tfprune.sparse_training.loss import Head, Logs
from tfprune.sparse_training.trace import Traced, trace, traced_network
from tfprune.sparsity.apply import pruned_layers

with extra("runtime"):
    from tfprune.sparse_training import exchange
    from tfprune.sparse_training.engine import Engine
    from tfprune.sparse_training.optimizers import Update


class EngineSteps:
    """The steps of `network.fitting.Steps`, by an engine.

    The engine or the model has the newest numbers. A step begins with those of the model, where it may have
    been changed; after it the engine is ahead, until `synchronize`.

    Args:
        model: The compiled model.
        threads: The number of threads; None: the cores that the process may use.

    Attributes:
        engine: The engine; None before the first step.
        each_batch: Whether each training step ends with `synchronize`.
    """

    def __init__(self, model: keras.Model, threads: int | None) -> None:
        self.engine: Engine | None = None
        self.each_batch = False
        self._model, self._network, self._threads = model, traced_network(model), threads
        self._wrappers = pruned_layers(self._network)
        self._traced: Traced | None = None
        self._update: Update | None = None
        self._optimizer = self._rule = None
        self._head: Head | None = None
        self._compiled: tuple[Any, ...] = ()
        self._ahead, self._stale = False, True
        self._iterations = 0

    def expect_changes(self) -> None:
        """Makes the next step begin with what the model holds."""
        self._stale = True

    def train(self, batch: Any) -> Logs:
        """See `Steps`."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
        self._check_watched()
        pixels = _pixels(x)
        self._take_up(len(pixels), to_train=True)
        engine, optimizer = self.engine, self._model.optimizer
        engine.step = self._iterations
        with self._statistics_kept():
            outputs = engine.forward(self._images(pixels), training=True)
            gradient, logs = self._head.train(x, y, outputs, sample_weight)
            engine.backward(gradient)
            rate = float(ops.convert_to_numpy(optimizer.learning_rate))
        with uninterrupted():
            self._ahead = True
            self._update.apply(rate, self._iterations + 1)
            self._iterations += 1
            optimizer.iterations.assign(self._iterations)  # Schedules of the learning rate read it.
        if self.each_batch:
            self.synchronize()
        return logs

    def test(self, batch: Any) -> Logs:
        """See `Steps`."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
        outputs = self._outputs(x)
        return self._head.test(x, y, outputs, sample_weight)

    def predict(self, batch: Any) -> Any:
        """See `Steps`."""
        x, _, _ = keras.utils.unpack_x_y_sample_weight(batch)
        outputs = self._outputs(x)
        return self._head.predict(outputs)

    def synchronize(self) -> None:
        """See `Steps`."""
        if not self._ahead:
            return
        with uninterrupted():
            exchange.write_weights(self.engine, self._traced)
            exchange.write_slots(self._update, self.engine, self._traced, self._model.optimizer)
            self._ahead, self._stale = False, True

    def _outputs(self, x: Any) -> np.ndarray:
        pixels = _pixels(x)
        self._take_up(len(pixels), to_train=False)
        images, size = self._images(pixels), self.engine.batch_size
        parts = [self.engine.forward(images[start : start + size]) for start in range(0, len(images), size)]
        return np.concatenate(parts)

    def _take_up(self, examples: int, to_train: bool) -> None:
        """Makes the engine what the next step needs: the size of its batch, and the model's numbers."""
        engine, optimizer = self.engine, self._model.optimizer
        larger = engine is None or (to_train and examples > engine.batch_size)
        if larger:
            self.synchronize()
            self._stale = True
        if self._stale:
            traced = trace(self._model)
            if larger or not exchange.alike(engine.graph, traced.graph):
                size = examples if engine is None else max(examples if to_train else 0, engine.batch_size)
                self.engine = self._update = None  # Before the next one takes memory.
                self.engine = engine = Engine(traced.graph, size, self._threads)
            else:
                exchange.read_weights(engine, traced.graph)
            self._traced = traced.with_graph(engine.graph)
            if optimizer is not self._optimizer:
                self._update = None
            if self._update is not None:
                exchange.read_slots(self._update, engine, self._traced, optimizer)
            self._iterations = int(ops.convert_to_numpy(optimizer.iterations))
            self._stale = False
        if to_train and (self._update is None or self._rule != exchange.rule_of(optimizer)):
            if not optimizer.built:
                optimizer.build(self._model.trainable_variables)
            self._optimizer, self._rule = optimizer, exchange.rule_of(optimizer)
            self._update = exchange.update_of(engine, self._traced, optimizer)
        parts = compiled_parts(self._model)
        if self._head is None or any(a is not b for a, b in zip(parts, self._compiled, strict=True)):
            self._compiled = parts
            self._head = Head(self._model, self._network, self._traced.ending, self._traced.output_shape)

    def _images(self, pixels: np.ndarray) -> np.ndarray:
        """Returns pixels as the model would cast them, in a type that the engine takes."""
        shape = tuple(self._network.input_shape[1:])
        if pixels.ndim == len(shape) and shape[-1] == 1:
            pixels = pixels[..., None]
        elif pixels.ndim == len(shape) + 2 and pixels.shape[-1] == 1:
            pixels = pixels[..., 0]
        wanted = self._traced.input_dtype
        if str(pixels.dtype) != wanted:
            pixels = pixels.astype(wanted)
        return pixels if pixels.dtype == np.uint8 else pixels.astype(np.float32, copy=False)

    def _check_watched(self) -> None:
        """Does what the wrappers do where the model is called in training."""
        for wrapper in self._wrappers:
            if wrapper.masked and not wrapper.measured:
                wrapper.check_watched()
                if wrapper.counts_calls:
                    wrapper.pruning_step.assign(wrapper.pruning_step + 1)

    @contextlib.contextmanager
    def _statistics_kept(self) -> Iterator[None]:
        """Puts the moving statistics back where the block does not end."""
        moving = [self.engine.moving(name) for name in self._traced.statistics]
        before = [(each.mean.copy(), each.variance.copy()) for each in moving]
        try:
            yield
        except BaseException:
            for each, (mean, variance) in zip(moving, before, strict=True):
                each.mean[:], each.variance[:] = mean, variance
            raise


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Puts off Ctrl-C to the end of the block."""
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT) if main else None
    if before is None:  # Another thread, or a handler that is not Python's.
        yield
        return
    caught = []
    signal.signal(signal.SIGINT, lambda *frame: caught.append(frame))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if caught:
        signal.raise_signal(signal.SIGINT)


def _pixels(x: Any) -> np.ndarray:
    """Returns the only array of a batch's input."""
    arrays = keras.tree.flatten(x)
    if len(arrays) != 1:
        raise ValueError(f"The input must be one array. Received: {len(arrays)} arrays")
    return np.asarray(ops.convert_to_numpy(arrays[0]))
