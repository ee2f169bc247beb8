"""One fit of a small classifier: what it records, at which rates it learns, where it stops."""

import csv
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfprune.training.callbacks import (
    DeviceCallbackList,
    EpochTensorBoard,
    NonFiniteLossError,
    StopOnNonFiniteLoss,
    Throughput,
    mean_data_wait_percent,
)
from tfprune.training.checkpoint import read_checkpoint
from tfprune.training.fit import compile_for_training, evaluate, fit
from tfprune.training.progress import Progress
from tfprune.training.settings import TrainingSettings

pytestmark = pytest.mark.slow

EXAMPLES, BATCH = 24, 10  # three steps an epoch, the last of four examples


def make_model(seed=0):
    keras.utils.set_random_seed(seed)
    body = keras.layers.Dense(4, activation="tanh", name="body")
    model = keras.Sequential([keras.Input((3,)), body, keras.layers.Dense(2, name="head")])
    return model


def data(seed=0):
    x = np.random.default_rng(seed).normal(size=(EXAMPLES, 3)).astype("float32")
    return x, (x.sum(axis=1) > 0).astype("int32")


def train_batches(first, last):
    x, y = data()
    batches = []
    for epoch in range(first, last):
        order = np.random.default_rng(epoch).permutation(EXAMPLES)
        batches += [order[i : i + BATCH] for i in range(0, EXAMPLES, BATCH)]

    def generate():
        for batch in batches:
            yield x[batch], y[batch]

    shapes = (tf.TensorSpec((None, 3)), tf.TensorSpec((None,), tf.int32))
    return tf.data.Dataset.from_generator(generate, output_signature=shapes)


def test_batches():
    return tf.data.Dataset.from_tensor_slices(data(1)).batch(BATCH)


test_batches.__test__ = False


def run(folder, settings, model=None, history=None, callbacks=(), batches=train_batches):
    if model is None:
        model = make_model()
        compile_for_training(model, settings)
    rows = fit(
        model,
        settings,
        folder=folder,
        train_images=EXAMPLES,
        train_batches=batches,
        test_batches=test_batches(),
        history=[] if history is None else history,
        notes={"note": 1},
        callbacks=callbacks,
    )
    return model, rows


def test_every_epoch_is_recorded(tmp_path):
    settings = TrainingSettings(epochs=3, batch_size=BATCH, learning_rate=1e-2)
    model, history = run(tmp_path, settings)
    keys = {"epoch", "accuracy", "loss", "val_accuracy", "val_loss", "learning_rate"}
    keys |= {"train_seconds", "images_per_second"}
    assert [row["epoch"] for row in history] == [1, 2, 3]
    assert all(row.keys() == keys for row in history)
    assert all(row["train_seconds"] > 0 and row["images_per_second"] > 0 for row in history)
    with open(tmp_path / "history.csv", newline="") as file:
        read = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    assert read == history
    assert list((tmp_path / "tensorboard").rglob("events.*"))
    assert int(model.optimizer.iterations) == 9
    assert read_checkpoint(tmp_path).epochs_done == 3
    assert read_checkpoint(tmp_path).notes == {"note": 1}


def test_the_last_rows_accuracy_is_the_models(tmp_path):
    settings = TrainingSettings(epochs=2, batch_size=BATCH, learning_rate=1e-2)
    model, history = run(tmp_path, settings)
    x, y = data(1)
    accuracy = 100 * float(np.mean(np.argmax(model.predict(x, verbose=0), axis=1) == y))
    assert 100 * history[-1]["val_accuracy"] == pytest.approx(accuracy, abs=1e-4)
    assert 100 * evaluate(model, test_batches())["accuracy"] == pytest.approx(accuracy, abs=1e-4)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(y, model(x))
    assert history[-1]["val_loss"] == pytest.approx(float(loss), rel=1e-5)


def test_the_rate_drops_after_the_boundary(tmp_path):
    settings = TrainingSettings(
        epochs=4, batch_size=BATCH, learning_rate=1e-2, lr_boundaries_epochs=(2, 3), lr_factor=0.1
    )
    _, history = run(tmp_path, settings)
    rates = [row["learning_rate"] for row in history]
    assert rates == pytest.approx([1e-2, 1e-2, 1e-3, 1e-4], rel=1e-6)


def test_epochs_without_an_evaluation_have_no_test_figures(tmp_path):
    settings = TrainingSettings(epochs=3, batch_size=BATCH, evaluate_every=2)
    _, history = run(tmp_path, settings)
    assert ["val_accuracy" in row for row in history] == [False, True, True]
    assert ["val_loss" in row for row in history] == [False, True, True]
    with open(tmp_path / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["val_accuracy"] == "" for row in rows] == [True, False, False]
    for written, row in zip(rows, history, strict=True):
        assert {name: float(value) for name, value in written.items() if value} == row


def test_a_warm_up_and_a_cosine_reach_the_optimizer(tmp_path):
    """Adam's first step is the learning rate: a third of it, in the first of three warm-up steps."""
    settings = TrainingSettings(
        epochs=4, batch_size=BATCH, learning_rate=3e-3, lr_schedule="cosine", warmup_epochs=1
    )
    moved = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            self.before = np.array(self.model.get_layer("body").kernel)

        def on_train_batch_end(self, batch, logs=None):
            moved.append(np.abs(np.array(self.model.get_layer("body").kernel) - self.before).max())

    _, history = run(tmp_path, settings, callbacks=[Watch()])
    assert moved[0] == pytest.approx(1e-3, rel=1e-2)
    assert moved[-1] < 3e-4  # (1 + cos(8/9 pi)) / 2 is 0.03.
    expected = [1e-3, *(1.5e-3 * (1 + math.cos(math.pi * k / 3)) for k in range(3))]
    assert [row["learning_rate"] for row in history] == pytest.approx(expected, rel=1e-5)


def first_step(settings):
    """How far each layer's weights move in one step; Adam's first step is the learning rate."""
    model = make_model()
    compile_for_training(model, settings)
    before = {layer.name: np.array(layer.kernel) for layer in model.layers}
    x, y = data()
    model.train_on_batch(x, y)
    return {layer.name: np.abs(np.array(layer.kernel) - before[layer.name]) for layer in model.layers}


def test_the_head_learns_at_its_own_rate():
    moved = first_step(TrainingSettings(epochs=1, learning_rate=1e-3, head_learning_rate=2e-2))
    assert np.allclose(moved["body"], 1e-3, rtol=1e-2)
    assert np.allclose(moved["head"], 2e-2, rtol=1e-2)


def test_without_one_it_learns_like_the_others():
    moved = first_step(TrainingSettings(epochs=1, learning_rate=1e-3))
    assert np.allclose(moved["body"], 1e-3, rtol=1e-2)
    assert np.allclose(moved["head"], 1e-3, rtol=1e-2)


def test_weight_decay_reaches_the_optimizer():
    settings = TrainingSettings(epochs=1, weight_decay=0.125)
    model = make_model()
    compile_for_training(model, settings)
    assert model.optimizer.get_config()["weight_decay"] == 0.125


@pytest.mark.parametrize(
    "rates", [{"lr_boundaries_epochs": (3,)}, {"lr_schedule": "cosine", "warmup_epochs": 2.5}]
)
def test_a_fit_continues_from_its_checkpoint_as_if_it_had_not_stopped(tmp_path, rates):
    settings = TrainingSettings(epochs=4, batch_size=BATCH, learning_rate=1e-2, **rates)
    whole, history = run(tmp_path / "whole", settings)

    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.epoch = epoch

        def on_train_batch_end(self, batch, logs=None):
            if (self.epoch, batch) == (2, 1):
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "part", settings, callbacks=[Stop()])
    checkpoint = read_checkpoint(tmp_path / "part")
    assert checkpoint.epochs_done == 2
    asked = []

    def batches(first, last):
        asked.append((first, last))
        return train_batches(first, last)

    part, continued = run(
        tmp_path / "part", settings, checkpoint.load_model(), checkpoint.history, batches=batches
    )
    assert asked == [(2, 4)]
    for ours, theirs in zip(part.variables, whole.variables, strict=True):
        assert np.array_equal(ours, theirs), theirs.path
    for ours, theirs in zip(continued, history, strict=True):
        for name in ("epoch", "loss", "accuracy", "val_loss", "val_accuracy", "learning_rate"):
            assert ours[name] == theirs[name]


def test_a_fit_that_is_done_does_nothing(tmp_path):
    settings = TrainingSettings(epochs=2, batch_size=BATCH)
    model = make_model()
    compile_for_training(model, settings)
    before = model.get_weights()
    done = [{"epoch": 1}, {"epoch": 2}]

    def batches(first, last):
        pytest.fail("it makes batches")

    _, rows = run(tmp_path, settings, model, done, batches=batches)
    assert rows == done
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
    assert not list(tmp_path.iterdir())


def test_callbacks_come_before_the_checkpoint(tmp_path):
    """What prunes at an epoch's end is in the epoch's checkpoint."""

    class Zero(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.get_layer("body").kernel.assign(np.zeros((3, 4)))

    run(tmp_path, TrainingSettings(epochs=1, batch_size=BATCH), callbacks=[Zero()])
    kernel = read_checkpoint(tmp_path).load_model().get_layer("body").kernel
    assert np.all(np.array(kernel) == 0)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_loss_that_is_no_number_stops_at_its_step(tmp_path, bad):
    """The data of epoch 2, step 2 is bad; epoch 1's checkpoint stays."""

    def batches(first, last):
        def spoil(i, batch):
            x, y = batch
            return (x * bad, y) if i == 4 else (x, y)

        whole = train_batches(first, last)

        def generate():
            for i, batch in enumerate(whole.as_numpy_iterator()):
                yield spoil(i, batch)

        return tf.data.Dataset.from_generator(generate, output_signature=whole.element_spec)

    settings = TrainingSettings(epochs=3, batch_size=BATCH, learning_rate=1e-2)
    with pytest.raises(NonFiniteLossError, match="the loss is nan in epoch 2, step 2 of the epoch"):
        run(tmp_path, settings, batches=batches)
    checkpoint = read_checkpoint(tmp_path)
    assert checkpoint.epochs_done == 1
    assert all(np.isfinite(value).all() for value in checkpoint.load_model().get_weights())


@pytest.mark.parametrize(
    "every, message",
    [
        (1, "the test loss is nan after epoch 2, step 3 of the epoch"),
        (9, "head/bias is not finite after epoch 2, step 3 of the epoch"),
    ],
)
def test_an_update_that_ruins_the_model_in_the_last_step_is_not_saved(every, message, tmp_path):
    class Ruin(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.epoch = epoch

        def on_train_batch_end(self, batch, logs=None):
            if (self.epoch, batch) == (1, 2):
                self.model.get_layer("head").bias.assign([np.nan, 0.0])

    settings = TrainingSettings(epochs=3, batch_size=BATCH, learning_rate=1e-2, evaluate_every=every)
    with pytest.raises(NonFiniteLossError, match=message):
        run(tmp_path, settings, callbacks=[Ruin()])
    assert read_checkpoint(tmp_path).epochs_done == 1


def test_a_finite_loss_stops_nothing():
    callback = StopOnNonFiniteLoss()
    callback.on_epoch_begin(0)
    callback.on_train_batch_end(0, {"loss": 1e30})
    callback.on_epoch_end(0, {"loss": 1e30, "val_loss": 1e30})


def test_a_loss_is_found_at_the_next_look_with_its_step(monkeypatch):
    clock = Clock(monkeypatch)
    callback = StopOnNonFiniteLoss()
    callback.on_epoch_begin(0)
    callback.on_train_batch_end(0, {"loss": 1.0})  # Looks.
    clock.now += 0.5
    for batch, loss in ((1, 1.0), (2, math.inf), (3, math.nan)):
        callback.on_train_batch_end(batch, {"loss": loss})
    clock.now += 0.6
    with pytest.raises(NonFiniteLossError, match="the loss is inf in epoch 1, step 3 of the epoch"):
        callback.on_train_batch_end(4, {"loss": math.nan})


def test_a_loss_that_nobody_looked_at_is_found_before_the_checkpoint(monkeypatch):
    Clock(monkeypatch)
    callback = StopOnNonFiniteLoss()
    callback.on_epoch_begin(1)
    callback.on_train_batch_end(0, {"loss": 1.0})
    callback.on_train_batch_end(1, {"loss": math.nan})
    with pytest.raises(NonFiniteLossError, match="the loss is nan in epoch 2, step 2 of the epoch"):
        callback.on_epoch_end(1, {"loss": math.nan})


class Unread:
    """A figure on the device; reading it waits for the step."""

    def __init__(self, reads):
        self.reads = reads

    def __float__(self):
        self.reads.append(1)
        return 1.0


def test_a_steps_figures_stay_on_the_device(tmp_path, monkeypatch):
    """30 steps in less than a second: the first step and the last are waited for, no other."""
    clock = Clock(monkeypatch)
    reads = []
    callbacks = [
        StopOnNonFiniteLoss(),
        Throughput(300, 10),
        EpochTensorBoard(tmp_path),
        Progress("x", batch_size=10, log=lambda line: None),
    ]
    params = {"epochs": 1, "steps": 30, "verbose": 0}
    model = make_model()
    compile_for_training(model, TrainingSettings(epochs=1))
    watching = DeviceCallbackList(callbacks, model=model, **params)
    watching.on_train_begin()
    watching.on_epoch_begin(0)
    for batch in range(30):
        clock.now += 0.01
        watching.on_train_batch_begin(batch)
        watching.on_train_batch_end(batch, {"loss": Unread(reads), "accuracy": Unread(reads)})
        if batch in (0, 28):
            assert len(reads) == 2  # The look at the first loss, and the first step's end.
    assert len(reads) == 3
    watching.on_test_begin()
    watching.on_test_batch_end(0, {"loss": Unread(reads)})
    watching.on_test_end({"loss": 1.0})
    assert len(reads) == 3
    watching.on_epoch_end(0, {"loss": 1.0})
    watching.on_train_end({"loss": 1.0})


def test_batch_figures_reach_callbacks_as_the_step_returned_them(tmp_path):
    seen = []

    class Look(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(keras.ops.is_tensor(logs["loss"]))

    run(tmp_path, TrainingSettings(epochs=1, batch_size=BATCH), callbacks=[Look()])
    assert seen == [True] * 3


class Clock:
    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr("tfprune.training.callbacks.time.perf_counter", lambda: self.now)


def test_the_first_batch_is_not_in_the_rate(monkeypatch):
    """100 s of compilation for the first batch of 10, then 1 s for each batch, of 10, 10 and 4."""
    clock, logs = Clock(monkeypatch), [{}, {}]
    throughput = Throughput(images=34, batch_size=10)
    throughput.on_train_begin()
    for epoch in range(2):
        throughput.on_epoch_begin(epoch)
        for batch in range(4):
            clock.now += 100.0 if (epoch, batch) == (0, 0) else 1.0
            throughput.on_train_batch_end(batch)
        clock.now += 50.0  # evaluation
        throughput.on_epoch_end(epoch, logs[epoch])
    assert logs[0] == {"train_seconds": 103.0, "images_per_second": 8.0}
    assert logs[1] == {"train_seconds": 4.0, "images_per_second": 8.5}


def test_the_wait_for_data_leaves_out_the_first_batch(monkeypatch):
    """The pipeline starts in 7 s; then each batch takes 1 s, 0.25 s of it waiting."""
    clock, waited, logs = Clock(monkeypatch), [0.0], [{}, {}]
    throughput = Throughput(images=30, batch_size=10, waited=lambda: waited[0])
    throughput.on_train_begin()
    for epoch in range(2):
        throughput.on_epoch_begin(epoch)
        for batch in range(3):
            first = (epoch, batch) == (0, 0)
            clock.now += 100.0 if first else 1.0
            waited[0] += 7.0 if first else 0.25
            throughput.on_train_batch_end(batch)
        clock.now += 50.0
        throughput.on_epoch_end(epoch, logs[epoch])
    assert [row["data_wait_percent"] for row in logs] == [25.0, 25.0]


def test_a_rounds_wait_is_weighted_by_time():
    rows = [
        {"train_seconds": 1.0, "data_wait_percent": 40.0},
        {"train_seconds": 3.0, "data_wait_percent": 0.0},
    ]
    assert mean_data_wait_percent(rows) == 10.0
    assert mean_data_wait_percent([{"train_seconds": 9.0}, *rows]) == 10.0
    assert mean_data_wait_percent([{"train_seconds": 9.0}]) is None
    assert mean_data_wait_percent([]) is None


def test_an_only_batch_is_in_the_rate(monkeypatch):
    clock, logs = Clock(monkeypatch), {}
    throughput = Throughput(images=8, batch_size=10)
    throughput.on_train_begin()
    throughput.on_epoch_begin(0)
    clock.now += 2.0
    throughput.on_train_batch_end(0)
    throughput.on_epoch_end(0, logs)
    assert logs == {"train_seconds": 2.0, "images_per_second": 4.0}
