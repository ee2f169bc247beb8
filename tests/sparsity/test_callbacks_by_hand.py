"""`UpdatePruningStep` in loops of one's own, as they were written for tfmot's callback."""

import keras
import numpy as np
import pytest
from keras import ops

from tfprune.sparsity import (
    PolynomialDecay,
    UpdatePruningStep,
    masks_of,
    prune_low_magnitude,
    pruned_layers,
)

EPOCHS, BATCHES = 6, 4
# Sparsity 0.8 at the last of 24 steps, of a kernel of 100 weights.
SCHEDULE = PolynomialDecay(0.0, 0.8, begin_step=0, end_step=EPOCHS * BATCHES, power=1, frequency=1)


@pytest.fixture
def model(mlp):
    model = prune_low_magnitude(mlp(), SCHEDULE)
    model.compile(keras.optimizers.Adam(0.01), "mse", run_eagerly=True)
    return model


def removed(model):
    """The number of weights that are out of the first kernel, all of them zero."""
    mask = masks_of(model)["first/kernel"]
    assert not ops.convert_to_numpy(pruned_layers(model)[0].layer.kernel)[~mask].any()
    return int(np.count_nonzero(~mask))


def begin(model):
    callback = UpdatePruningStep()
    callback.set_model(model)
    callback.on_train_begin()
    return callback


# What each loop tells the callback: before an epoch, before a batch, after a batch.
LOOPS = {
    "as in tfmot's guide": (False, lambda batch: -1, False),
    "epochs begin too": (True, lambda batch: -1, False),
    "numbered batches": (False, lambda batch: batch, False),
    "all of it": (True, lambda batch: batch, True),
}


@pytest.mark.slow
@pytest.mark.parametrize("loop", LOOPS)
def test_a_batch_that_begins_is_a_step(loop, model, data):
    tells_epochs, number, tells_ends = LOOPS[loop]
    callback = begin(model)
    x, y = data(1)
    counts = []
    for epoch in range(EPOCHS):
        if tells_epochs:
            callback.on_epoch_begin(epoch)
        for batch in range(BATCHES):
            callback.on_train_batch_begin(batch=number(batch))
            counts.append(removed(model))
            model.train_on_batch(x, y)
            if tells_ends:
                callback.on_train_batch_end(batch)
        callback.on_epoch_end(batch=-1)
        assert pruned_layers(model)[0].steps_taken == callback.steps_taken == (epoch + 1) * BATCHES
    assert counts == [round(100 * SCHEDULE(step)[1]) for step in range(1, 25)]
    callback.on_train_end()
    with pytest.raises(RuntimeError, match="without a pruning callback"):
        model.train_on_batch(x, y)


@pytest.mark.parametrize("params", [{}, {"epochs": EPOCHS, "steps": BATCHES, "verbose": 0}])
def test_a_list_of_callbacks_is_driven_as_by_fit(params, model, data):
    callback = UpdatePruningStep()
    callbacks = keras.callbacks.CallbackList([callback], model=model, **params)
    logs = callbacks.on_train_begin()
    x, y = data(1)
    for epoch in range(EPOCHS):
        callbacks.on_epoch_begin(epoch, logs)
        for batch in range(BATCHES):
            callbacks.on_train_batch_begin(batch, logs)
            model.train_on_batch(x, y)
            callbacks.on_train_batch_end(batch, logs)
        callbacks.on_epoch_end(epoch, logs)
        assert callback.steps_taken == pruned_layers(model)[0].steps_taken == (epoch + 1) * BATCHES
    callbacks.on_train_end(logs)
    assert removed(model) == 80


def test_without_batches_the_calls_in_training_are_the_steps(model, data):
    callback = begin(model)
    x, y = data(1)
    counts = []
    for epoch in range(EPOCHS):
        for _ in range(BATCHES):
            model.train_on_batch(x, y)
            model(x, training=False)
        assert pruned_layers(model)[0].steps_taken == callback.steps_taken == (epoch + 1) * BATCHES
        callback.on_epoch_end(epoch)
        counts.append(removed(model))
    assert counts == [round(100 * SCHEDULE(step)[1]) for step in range(4, 25, 4)]
    assert pruned_layers(model)[0].steps_taken == callback.steps_taken == EPOCHS * BATCHES


def test_a_model_saved_in_the_midst_of_an_epoch_knows_the_steps_so_far(model, data, tmp_path):
    callback = begin(model)
    for _ in range(3):
        model.train_on_batch(*data(1))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert callback.steps_taken == pruned_layers(loaded)[0].steps_taken == 3


def test_a_fit_after_a_loop_goes_on_counting(model, data):
    callback = begin(model)
    for _ in range(8):
        model.train_on_batch(*data(1))
    callback.on_epoch_end(batch=-1)
    model.fit(*data(4), batch_size=4, verbose=0, callbacks=[callback])
    assert callback.steps_taken == pruned_layers(model)[0].steps_taken == 12
    assert removed(model) == 40
    callback.on_train_begin()
    model.train_on_batch(*data(1))
    assert callback.steps_taken == 13


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="a loop of TensorFlow's")
@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("tells_batches", [False, True])
def test_a_compiled_loop_counts_in_its_graph(jit_compile, tells_batches, mlp, data):
    import tensorflow as tf

    model = prune_low_magnitude(mlp(), SCHEDULE)
    optimizer = model.optimizer = keras.optimizers.Adam(0.01)
    x, y = data(1)

    @tf.function(jit_compile=jit_compile)
    def train(x, y):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(x, training=True) - y) ** 2)
        optimizer.apply_gradients(
            zip(tape.gradient(loss, model.trainable_variables), model.trainable_variables, strict=True)
        )

    callback = begin(model)
    for _ in range(EPOCHS):
        for _ in range(BATCHES):
            if tells_batches:
                callback.on_train_batch_begin(-1)
            train(x, y)
        callback.on_epoch_end(batch=-1)
    assert callback.steps_taken == EPOCHS * BATCHES and removed(model) == 80


def test_a_dense_model_in_the_same_loop_is_a_warning(mlp, data):
    model = mlp()
    model.compile("sgd", "mse")
    with pytest.warns(UserWarning, match="no pruned layers"):
        callback = begin(model)
    callback.on_epoch_begin(0)
    callback.on_train_batch_begin(-1)
    model.train_on_batch(*data(1))
    callback.on_train_batch_end(-1)
    callback.on_epoch_end(batch=-1)
    callback.on_train_end()
    assert callback.steps_taken == 0
