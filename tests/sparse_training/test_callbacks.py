"""Callbacks of a sparse fit: they see the model as after each step of Keras's, and may change it."""

import signal

import keras
import numpy as np
import pytest
from keras import ops

from tests.support.trained_twins import (
    LOGITS,
    assert_alike,
    assert_same_training,
    images,
    numbers,
    perceptron,
    residual,
    vectors,
)
from tfprune.sparse_training import SparseTrainer
from tfprune.sparse_training.optimizers import Update
from tfprune.sparse_training.steps import uninterrupted
from tfprune.sparsity import (
    SET,
    ConstantSparsity,
    PolynomialDecay,
    RigL,
    UpdatePruningStep,
    masks_of,
    prune_low_magnitude,
    summarize,
)
from tfprune.training.callbacks import DeviceCallbackList

pytestmark = pytest.mark.slow


def sgd():
    return keras.optimizers.SGD(0.05, momentum=0.9)


def compiled(make, optimizer=sgd):
    model = make()
    model.compile(optimizer(), LOGITS, metrics=["accuracy"])
    return model


class Reader(keras.callbacks.Callback):
    """Reads the weights and the slots after each batch, and the learning rate before."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(numbers(self.model.variables) + numbers(self.model.optimizer.variables))


def test_a_callback_reads_each_batch():
    readers = [Reader(), Reader()]
    for reader, trains in zip(readers, (False, True), strict=True):
        model = compiled(perceptron)
        fit = SparseTrainer(model).fit if trains else model.fit
        fit(*vectors(24), batch_size=8, shuffle=False, verbose=0, callbacks=[reader])
    assert len(readers[1].seen) == 3
    for wanted, found in zip(readers[0].seen, readers[1].seen, strict=True):
        for one, other in zip(wanted, found, strict=True):
            np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-5)


class Halver(keras.callbacks.Callback):
    """Halves the head's kernel, and the rate, in mid-epoch."""

    def on_train_batch_begin(self, batch, logs=None):
        if batch == 2:
            kernel = self.model.layers[-1].layer.kernel
            kernel.assign(ops.convert_to_numpy(kernel) / 2)
            self.model.optimizer.learning_rate = 0.01


def test_what_a_callback_writes_is_taken_up():
    assert_same_training(perceptron, sgd, vectors(40), callbacks=[Halver()])


def test_rates_of_keras_callbacks():
    plateau = keras.callbacks.ReduceLROnPlateau("loss", min_delta=10.0, patience=1, factor=0.1)
    scheduler = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.5)
    models = assert_same_training(perceptron, sgd, vectors(16), epochs=4, callbacks=[plateau, scheduler])
    assert float(models[1].optimizer.learning_rate) < 0.05 / 16


def test_the_best_weights_come_back():
    model = compiled(perceptron)
    first = Reader()
    stopping = keras.callbacks.EarlyStopping("loss", mode="max", patience=2, restore_best_weights=True)
    SparseTrainer(model).fit(*vectors(8), batch_size=8, epochs=9, verbose=0, callbacks=[first, stopping])
    assert len(first.seen) < 9
    for old, new in zip(first.seen[0], numbers(model.variables), strict=False):
        np.testing.assert_array_equal(old, new)


def test_files_of_single_batches_hold_them(tmp_path):
    model = compiled(gradual)
    reader = Reader()
    saver = keras.callbacks.ModelCheckpoint(str(tmp_path / "{batch}.keras"), save_freq=2)
    SparseTrainer(model).fit(
        *vectors(40), batch_size=8, verbose=0, callbacks=[UpdatePruningStep(), saver, reader]
    )
    saved = keras.saving.load_model(tmp_path / "4.keras")
    found = numbers(saved.variables) + numbers(saved.optimizer.variables)
    for one, other in zip(reader.seen[3], found, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_callback_list_is_taken_as_it_is():
    model = compiled(perceptron)
    counted = []

    class Counter(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            counted.append(float(logs["loss"]))

    callbacks = DeviceCallbackList([Counter()], model=model, epochs=1, steps=3, verbose=0)
    before = list(callbacks.callbacks)
    SparseTrainer(model).fit(*vectors(24), batch_size=8, verbose=0, callbacks=callbacks)
    assert len(counted) == 3 and callbacks.callbacks == before


def test_a_fit_that_goes_on_from_a_file_ends_with_the_same_bits(tmp_path):
    """Dropout, momentum, statistics, the rate's schedule."""

    def optimizer():
        return keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.01, 20))

    def fit(model, first, last):
        data = images(40)
        options = {"batch_size": 8, "shuffle": False, "verbose": 0}
        SparseTrainer(model).fit(*data, epochs=last, initial_epoch=first, **options)
        return model

    whole = compiled(lambda: residual(dropout=0.4), optimizer)
    whole.save(tmp_path / "start.keras")
    fit(whole, 0, 4)
    stopped = fit(keras.saving.load_model(tmp_path / "start.keras"), 0, 2)
    stopped.save(tmp_path / "half.keras")
    assert_alike(whole, fit(keras.saving.load_model(tmp_path / "half.keras"), 2, 4), tolerance=0)


class Stop(keras.callbacks.Callback):
    """Ends a fit by an error before a batch."""

    def __init__(self, error, batch):
        super().__init__()
        self.error, self.batch = error, batch

    def on_train_batch_begin(self, batch, logs=None):
        if batch == self.batch:
            raise self.error


def test_ctrl_c_waits_for_what_must_be_whole():
    done = []
    with pytest.raises(KeyboardInterrupt):
        with uninterrupted():
            signal.raise_signal(signal.SIGINT)
            done.append(True)
    assert done
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_in_a_step_ends_after_it(monkeypatch):
    """The update of the weights and its count stay together, and come to the model."""
    x, y = vectors(24)
    whole, stopped = compiled(perceptron), compiled(perceptron)
    SparseTrainer(whole).fit(x[:16], y[:16], batch_size=8, shuffle=False, verbose=0)
    apply, calls = Update.apply, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGINT)
        apply(*arguments)

    monkeypatch.setattr(Update, "apply", interrupted)
    with pytest.raises(KeyboardInterrupt):
        SparseTrainer(stopped).fit(x, y, batch_size=8, shuffle=False, verbose=0)
    assert_alike(whole, stopped, tolerance=0)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_after_an_error_the_model_holds_the_last_step(error):
    x, y = vectors(40)
    whole, stopped = compiled(perceptron), compiled(perceptron)
    SparseTrainer(whole).fit(x[:24], y[:24], batch_size=8, shuffle=False, verbose=0)
    with pytest.raises(error):
        SparseTrainer(stopped).fit(x, y, batch_size=8, shuffle=False, verbose=0, callbacks=[Stop(error(), 3)])
    assert_alike(whole, stopped, tolerance=0)
    assert stopped.train_function is None


def test_an_error_within_a_step_leaves_the_step_before():
    """Also in the loss, when the statistics have moved."""
    fails = []

    def loss(y, outputs):
        if fails:
            raise ArithmeticError("a loss of one's own")
        return ops.mean(ops.square(outputs), -1)

    model, twin = perceptron(), perceptron()
    for each in (model, twin):
        each.compile(sgd(), loss, run_eagerly=True)
    x, y = vectors(16)
    trainer = SparseTrainer(model)
    for each in (trainer, SparseTrainer(twin)):
        each.fit(x, y, batch_size=8, verbose=0, shuffle=False)
    fails.append(True)
    with pytest.raises(ArithmeticError):
        trainer.fit(x, y, batch_size=8, verbose=0)
    assert_alike(model, twin, tolerance=0)


def gradual():
    return perceptron(schedule=PolynomialDecay(0.2, 0.8, 1, 7, frequency=3))


def test_masks_change_between_steps():
    models = assert_same_training(
        gradual, sgd, vectors(40), epochs=2, callbacks=[UpdatePruningStep()], validation_data=vectors(8)
    )
    assert summarize(models[1]).sparsity == pytest.approx(0.8, abs=0.02)
    assert all(map(np.array_equal, masks_of(models[0]).values(), masks_of(models[1]).values()))


@pytest.mark.parametrize("growth", [SET, RigL])
def test_weights_that_regrow(growth):
    """The dense gradients of RigL are Keras's, at the updates alone."""

    def make():
        keras.utils.set_random_seed(1)  # Of the growth.
        return prune_low_magnitude(
            perceptron(wrap=False), ConstantSparsity(0.5, 0, end_step=20, frequency=3), regrowth=growth()
        )

    updates = UpdatePruningStep(gradient_data=[vectors(8)] if growth is RigL else None)
    models = assert_same_training(make, sgd, vectors(40), metrics=[], callbacks=[updates])
    assert all(map(np.array_equal, masks_of(models[0]).values(), masks_of(models[1]).values()))


def test_a_schedule_needs_its_callback():
    model = compiled(gradual)
    with pytest.raises(RuntimeError, match="without a pruning callback"):
        SparseTrainer(model).fit(*vectors(8), verbose=0)
