"""`Pruner` in `train_on_batch` and in loops of one's own: the masks and weights are those of `fit`."""

import gc

import keras
import numpy as np
import pytest
from keras import layers, ops

from tfprune.sparsity import (
    ConstantSparsity,
    PolynomialDecay,
    Pruner,
    UpdatePruningStep,
    prune_low_magnitude,
    prune_to,
    pruned_layers,
)

BACKEND = keras.backend.backend()
BATCHES = 8
# Updates before batches 1, 3, 5 and 7.
SCHEDULE = PolynomialDecay(0.2, 0.8, begin_step=1, end_step=7, power=1, frequency=2)
DUE = [True, False] * 4
PERCENTS = [20, 20, 40, 40, 60, 60, 80, 80]


def mse(y, outputs):
    return ops.mean(ops.square(y - outputs))


def on_batches(model, pruner, optimizer, batches):
    for x, y in batches:
        pruner.before_step()
        model.train_on_batch(x, y)
        pruner.after_step()


def in_tensorflow(model, pruner, optimizer, batches):
    import tensorflow as tf

    @tf.function
    def step(x, y):
        with tf.GradientTape() as tape:
            loss = mse(y, model(x, training=True))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))

    for x, y in batches:
        pruner.before_step()
        step(tf.constant(x), tf.constant(y))
        pruner.after_step()


def in_jax(model, pruner, optimizer, batches):
    import jax

    def loss_of(trainable, fixed, x, y):
        outputs, fixed = model.stateless_call(trainable, fixed, x, training=True)
        return mse(y, outputs), fixed

    @jax.jit
    def step(state, x, y):
        trainable, fixed, slots = state
        (_, fixed), gradients = jax.value_and_grad(loss_of, has_aux=True)(trainable, fixed, x, y)
        trainable, slots = optimizer.stateless_apply(slots, gradients, trainable)
        return trainable, fixed, slots

    variables = model.trainable_variables, model.non_trainable_variables, optimizer.variables
    state = [[v.value for v in kind] for kind in variables]
    for x, y in batches:
        if pruner.update_due():
            for kind, values in zip(variables, state, strict=True):
                for variable, value in zip(kind, values, strict=True):
                    variable.assign(value)
            pruner.before_step()
            state = [[v.value for v in kind] for kind in variables]
        state = step(state, x, y)
        pruner.after_step()
    for kind, values in list(zip(variables, state, strict=True))[::2]:
        for variable, value in zip(kind, values, strict=True):
            variable.assign(value)


def in_torch(model, pruner, optimizer, batches):
    import torch

    for x, y in batches:
        pruner.before_step()
        model.zero_grad()
        mse(torch.from_numpy(y), model(x, training=True)).backward()
        gradients = [v.value.grad for v in model.trainable_variables]
        with torch.no_grad():
            optimizer.apply(gradients, model.trainable_variables)
        pruner.after_step()


def in_torch_alone(model, pruner, optimizer, batches):
    import torch

    for x, y in batches:
        pruner.before_step()
        optimizer.zero_grad()
        mse(torch.from_numpy(y), model(x, training=True)).backward()
        optimizer.step()
        pruner.after_step()


LOOPS = {
    "tensorflow": [on_batches, in_tensorflow],
    "jax": [on_batches, in_jax],
    "torch": [on_batches, in_torch, in_torch_alone],
}


@pytest.fixture
def start(mlp):
    """A function that makes the same wrapped model each time, with its optimizer, built."""

    def make(schedule=SCHEDULE, **options):
        keras.utils.set_random_seed(3)
        model = prune_low_magnitude(mlp(), schedule, **options)
        optimizer = keras.optimizers.SGD(0.05, momentum=0.9)
        model.compile(optimizer, "mse")
        optimizer.build(model.trainable_variables)
        return model, optimizer

    return make


@pytest.fixture
def batches(data):
    x, y = data(BATCHES)
    return [(x[i : i + 4], y[i : i + 4]) for i in range(0, len(x), 4)]


@pytest.mark.slow
@pytest.mark.parametrize("loop", LOOPS[BACKEND])
@pytest.mark.parametrize("score", ["magnitude", "taylor"])
def test_a_loop_of_ones_own_ends_as_fit_does(loop, score, start, data, batches, masks_of, kernels_of):
    fitted, _ = start(score=score)
    x, y = data(BATCHES)
    given = {"gradient_data": batches[:2]}
    callback = UpdatePruningStep(**given)
    fitted.fit(x, y, batch_size=4, shuffle=False, verbose=0, callbacks=[callback])

    model, optimizer = start(score=score)
    if loop is in_torch_alone:
        import torch

        optimizer = torch.optim.SGD([v.value for v in model.trainable_variables], 0.05, momentum=0.9)
    pruner = Pruner(model, optimizer, **given)
    loop(model, pruner, optimizer, batches)
    assert pruner.steps_taken == callback.steps_taken == BATCHES
    for mask, kernel, other, values in zip(
        masks_of(model), kernels_of(model), masks_of(fitted), kernels_of(fitted), strict=True
    ):
        assert np.count_nonzero(~mask) == round(0.8 * mask.size)
        np.testing.assert_array_equal(mask, other)
        np.testing.assert_array_equal(kernel == 0, ~mask)
        if loop is not in_torch_alone:  # Its momentum of what was just removed is not cleared.
            np.testing.assert_allclose(kernel, values, atol=1e-5)


@pytest.mark.parametrize("loop", LOOPS[BACKEND][:2])  # PyTorch's own optimizers keep theirs.
def test_momentum_of_removed_weights(loop, start, batches, masks_of, to_numpy):
    model, optimizer = start()
    pruner = Pruner(model, optimizer)
    loop(model, pruner, optimizer, batches)
    for mask, slot in zip(masks_of(model), optimizer.momentums[::2], strict=True):
        np.testing.assert_array_equal(to_numpy(slot) == 0, ~mask)


def test_updates_and_counts_step_by_step(start, batches, masks_of, to_numpy):
    model, _ = start()
    pruner = Pruner(model)
    due, percents, taken = [], [], []
    for x, y in batches:
        due.append(pruner.update_due())
        pruner.before_step()
        assert not pruner.update_due()  # Looking twice at one step does nothing more.
        percents.append(int(np.count_nonzero(~masks_of(model)[0])))
        model.train_on_batch(x, y)
        pruner.after_step()
        taken.append(pruner.steps_taken)
    assert (due, percents, taken) == (DUE, PERCENTS, list(range(1, BATCHES + 1)))
    assert to_numpy(pruned_layers(model)[0].pruning_step) == BATCHES


@pytest.mark.parametrize("group", [2, 3, 4])
def test_several_steps_at_once(group, start, batches, masks_of):
    """As `steps_per_execution`: updates due in a group act before it."""
    model, _ = start()
    pruner = Pruner(model)
    percents = []
    for first in range(0, BATCHES, group):
        steps = min(group, BATCHES - first)
        assert pruner.update_due(steps)
        pruner.before_step(steps)
        percents.append(int(np.count_nonzero(~masks_of(model)[0])))
        for x, y in batches[first : first + steps]:
            model.train_on_batch(x, y)
        pruner.after_step(steps)
    assert percents == PERCENTS[group - 1 :: group] + [80] * (BATCHES % group > 0)
    assert pruner.steps_taken == BATCHES


@pytest.mark.slow
def test_loops_and_fits_and_reloads_take_turns(start, data, batches, tmp_path, masks_of):
    whole, optimizer = start()
    on_batches(whole, Pruner(whole), optimizer, batches)

    model, _ = start()
    on_batches(model, Pruner(model), None, batches[:3])
    x, y = data(BATCHES)
    callback = UpdatePruningStep()
    model.fit(x[12:20], y[12:20], batch_size=4, shuffle=False, verbose=0, callbacks=[callback])
    assert callback.steps_taken == 5
    model.save(tmp_path / "model.keras")
    model = keras.models.load_model(tmp_path / "model.keras")
    pruner = Pruner(model)
    assert pruner.steps_taken == 5 and not pruner.update_due()
    on_batches(model, pruner, None, batches[5:])
    for mask, expected in zip(masks_of(model), masks_of(whole), strict=True):
        np.testing.assert_array_equal(mask, expected)


def test_saved_by_a_loop_in_mid_schedule_it_knows_its_step(start, batches, tmp_path, to_numpy):
    model, _ = start()
    pruner = Pruner(model)
    on_batches(model, pruner, None, batches[:3])
    model.save_weights(tmp_path / "model.weights.h5")
    other, _ = start()
    other.load_weights(tmp_path / "model.weights.h5")
    assert [int(to_numpy(layer.pruning_step)) for layer in pruned_layers(other)] == [3, 3]


def at_step(model, step):
    for layer in pruned_layers(model):
        layer.pruning_step.assign(step)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("in_fit", [True, False], ids=["fit", "loop"])
def test_the_count_of_steps_does_not_wrap(in_fit, start, data, batches, tmp_path, to_numpy, masks_of):
    last = 2**31 - 1
    schedule = PolynomialDecay(0.0, 0.5, begin_step=last - 2, end_step=last, frequency=1)
    model = at_step(start(schedule)[0], last - 3)
    for _ in range(2):  # Over the end, and from the end on.
        if in_fit:
            callback = UpdatePruningStep()
            x, y = data(BATCHES)
            model.fit(x, y, batch_size=4, verbose=0, callbacks=[callback])
        else:
            on_batches(model, Pruner(model), None, batches)
        assert {int(to_numpy(layer.pruning_step)) for layer in pruned_layers(model)} <= {last - 3, last}
        assert [np.mean(mask) for mask in masks_of(model)] == pytest.approx([0.5, 0.5], abs=0.05)
        model.save_weights(tmp_path / "model.weights.h5")
        other, _ = start(schedule)
        other.load_weights(tmp_path / "model.weights.h5")
        assert Pruner(other).steps_taken == last
        model = other


def test_a_count_in_mid_loop_is_exact_beyond_what_is_stored(start, tmp_path, to_numpy):
    last = 2**31 - 1
    model = at_step(start(ConstantSparsity(0.5, 0))[0], last)
    pruner = Pruner(model)
    for steps in (1, 10**6, 2**40):
        pruner.after_step(steps)
    assert pruner.steps_taken == last + 1 + 10**6 + 2**40
    model.save_weights(tmp_path / "model.weights.h5")
    assert [int(to_numpy(layer.pruning_step)) for layer in pruned_layers(model)] == [last, last]


def test_a_negative_count_does_not_load(start, tmp_path):
    model = at_step(start()[0], -5)
    with pytest.raises(ValueError, match=r"number of steps of layer .* must be at least 0. Received: -5"):
        pruned_layers(model)[0].load_own_variables(stored(pruned_layers(model)[0]))


def stored(layer):
    """What a layer's own variables are in a file."""
    store = {}
    keras.layers.Layer.save_own_variables(layer, store)
    return store


@pytest.mark.slow
def test_training_without_a_pruner_is_an_error_again_once_it_is_gone(start, batches):
    model, _ = start()
    model.run_eagerly = True
    with pytest.raises(RuntimeError, match="Pruner"):
        model.train_on_batch(*batches[0])
    pruner = Pruner(model)
    on_batches(model, pruner, None, batches[:1])
    del pruner
    gc.collect()
    assert all(layer.updater is None for layer in pruned_layers(model))
    with pytest.raises(RuntimeError, match="Pruner"):
        model.train_on_batch(*batches[0])
    pruner = Pruner(model)
    model.train_on_batch(*batches[0])
    del pruner
    gc.collect()
    with pytest.raises(RuntimeError, match="Pruner"):
        model.train_on_batch(*batches[0])


def test_without_schedules_it_only_counts(start, batches, masks_of):
    model, _ = start(None)
    prune_to(model, 0.5)
    before = masks_of(model)
    pruner = Pruner(model)
    assert not pruner.update_due(1000)
    on_batches(model, pruner, None, batches[:2])
    assert pruner.steps_taken == 2
    for mask, expected in zip(masks_of(model), before, strict=True):
        np.testing.assert_array_equal(mask, expected)


def test_layers_of_two_schedules_are_due_apart(mlp, batches, masks_of):
    schedules = {"first": ConstantSparsity(0.5, 2), "second": ConstantSparsity(0.25, 3)}
    model = prune_low_magnitude(mlp(), schedules)
    model.compile("sgd", "mse")
    pruner = Pruner(model)
    removed = []
    for x, y in batches[:3]:
        pruner.before_step()
        removed.append([int(np.count_nonzero(~mask)) for mask in masks_of(model)])
        model.train_on_batch(x, y)
        pruner.after_step()
    assert removed == [[0, 0], [50, 0], [50, 10]]


def test_models_that_cannot_be_pruned_are_errors(mlp):
    with pytest.raises(ValueError, match="no pruned layers"):
        Pruner(mlp())
    with pytest.raises(ValueError, match="must be built"):
        Pruner(prune_low_magnitude(keras.Sequential([layers.Dense(3)])))
    wrapped = prune_low_magnitude(mlp(), score="fisher")
    with pytest.raises(ValueError, match="needs batches.*gradient_data=None, for layer 'first'"):
        Pruner(wrapped)
    with pytest.raises(ValueError, match="`gradient_batches` must be a whole number, at least 1"):
        Pruner(wrapped, gradient_data=[(None, None)], gradient_batches=0)
