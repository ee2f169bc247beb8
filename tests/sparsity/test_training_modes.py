"""`fit` with `UpdatePruningStep` in each of Keras's ways to train: masks by schedule, exact zeros."""

import functools

import keras
import numpy as np
import pytest
from keras import ops

from tfprune.sparsity import PolynomialDecay, UpdatePruningStep, prune_low_magnitude, pruned_layers

pytestmark = pytest.mark.slow

BACKEND = keras.backend.backend()
# Percent removed before each batch of three epochs of three: the updates are at steps 2 to 7.
PERCENTS = [0, 0, 12, 24, 36, 48, 60, 60, 60]


def schedule():
    return PolynomialDecay(0.0, 0.6, begin_step=2, end_step=7, frequency=1, power=1)


def numpy_of(value):
    return np.array(ops.convert_to_numpy(value)).astype("float32")


def wrong_weights(model):
    """How many raw weights are not exactly zero though removed, or zero though kept."""
    count = 0
    for layer in pruned_layers(model):
        for variable, mask in zip(layer.prunable_variables, layer.masks, strict=True):
            values, removed = numpy_of(variable), numpy_of(mask) == 0
            count += np.count_nonzero(values[removed])
            if variable.dtype == "float32":  # In half precision a kept weight may well be zero.
                count += np.count_nonzero(values[~removed] == 0)
    return int(count)


class Watch(keras.callbacks.Callback):
    """Records the masks each batch meets, and whether zeros are exact then and at its end.

    To be given after `UpdatePruningStep`, so that at a batch's begin it sees the update.
    """

    def __init__(self):
        super().__init__()
        self.masks, self.wrong_at_begin, self.wrong_at_end = [], [], []

    def on_train_batch_begin(self, batch, logs=None):
        model = self.model
        self.masks.append([numpy_of(mask) for layer in pruned_layers(model) for mask in layer.masks])
        self.wrong_at_begin.append(wrong_weights(model))

    def on_train_batch_end(self, batch, logs=None):
        self.wrong_at_end.append(wrong_weights(self.model))

    @property
    def percents(self):
        return [int(np.count_nonzero(masks[0] == 0)) for masks in self.masks]


def fit(model, data, *callbacks, batches=3, epochs=3, **options):
    """Returns the `Watch` of a fit; checks that the weights are finite and the zeros exact after it."""
    x, y = data(batches)
    watch = Watch()
    callbacks = [*callbacks, watch] if callbacks else [UpdatePruningStep(), watch]
    model.fit(
        x, y, batch_size=4, epochs=epochs, shuffle=False, verbose=0, callbacks=list(callbacks), **options
    )
    assert wrong_weights(model) == 0
    assert all(np.isfinite(numpy_of(variable)).all() for variable in model.variables)
    return watch


@pytest.fixture
def wrapped(mlp):
    def make(optimizer, pruning_schedule=None, first_options=None, **options):
        keras.utils.set_random_seed(1)
        model = prune_low_magnitude(mlp(**(first_options or {})), pruning_schedule or schedule())
        # Operation by operation is the quickest for a few steps, but not on JAX.
        options.setdefault("run_eagerly", BACKEND != "jax" and "jit_compile" not in options)
        model.compile(optimizer, "mse", **options)
        return model

    return make


def test_the_watch_sees_a_removed_weight_that_moved(wrapped, data):
    model = wrapped("sgd")
    fit(model, data)
    kernel = pruned_layers(model)[1].prunable_variables[0]
    values, mask = numpy_of(kernel), numpy_of(pruned_layers(model)[1].masks[0])
    kernel.assign(values + (mask == 0) * 1e-30)
    assert wrong_weights(model) == 24


def optimizers():
    make = keras.optimizers
    return {
        "momentum": lambda **options: make.SGD(0.1, momentum=0.9, **options),
        "nesterov": lambda **options: make.SGD(0.1, momentum=0.9, nesterov=True, **options),
        "adam": lambda **options: make.Adam(0.05, **options),
        "amsgrad": lambda: make.Adam(0.05, amsgrad=True),
        "adamw": lambda: make.AdamW(0.05, weight_decay=0.1),
        "nadam": lambda: make.Nadam(0.05),
        "adamax": lambda: make.Adamax(0.05),
        "rmsprop": lambda: make.RMSprop(0.01, momentum=0.9),
        "centered_rmsprop": lambda: make.RMSprop(0.01, momentum=0.9, centered=True),
        "adagrad": lambda: make.Adagrad(0.1),
        "adadelta": lambda: make.Adadelta(1.0),
        "lion": lambda **options: make.Lion(0.01, weight_decay=0.1, **options),
        "ftrl": lambda: make.Ftrl(0.1, l2_regularization_strength=0.01),
        "ftrl_shrinkage": lambda: make.Ftrl(0.1, l2_shrinkage_regularization_strength=0.01),
        "lamb": lambda: make.Lamb(0.05),
        "muon": lambda **options: make.Muon(0.05, **options),
        "adafactor": lambda: make.Adafactor(0.05),
        "schedule_free": lambda: make.ScheduleFreeAdamW(0.05),
        "clipped": lambda: make.Adam(0.05, global_clipnorm=0.1, weight_decay=0.01),
        "loss_scale": lambda: make.LossScaleOptimizer(make.SGD(0.1, momentum=0.9), initial_scale=8.0),
        "several": lambda: make.MultiOptimizer(
            make.OptimizerMap(make.Adam(0.05), {"second/.*": make.SGD(0.1, momentum=0.9)})
        ),
    }


# An update of one weight that depends on the others' moves those without gradient; the next update, the
# epoch's end and every save put them back.
MOVES_REMOVED_WEIGHTS = ("muon",)


@pytest.mark.parametrize("name", optimizers())
def test_every_optimizer_leaves_removed_weights_at_zero(name, wrapped, data):
    model = wrapped(optimizers()[name]())
    # JAX compiles again for a second fit.
    watches = [fit(model, data, epochs=epochs) for epochs in ([3] if BACKEND == "jax" else [2, 1])]
    percents, at_begin, at_end = (
        [value for watch in watches for value in getattr(watch, attribute)]
        for attribute in ("percents", "wrong_at_begin", "wrong_at_end")
    )
    assert percents == PERCENTS
    assert at_begin[1:7] == [0] * 6  # At the updates.
    if name not in MOVES_REMOVED_WEIGHTS:
        assert not any(at_begin + at_end)


def test_a_regularizer_over_all_weights_leaves_no_removed_weight_beside_zero(wrapped, data):
    regularizer = keras.regularizers.OrthogonalRegularizer(0.1)
    model = wrapped(optimizers()["momentum"](), first_options={"kernel_regularizer": regularizer})
    watch = fit(model, data)
    assert watch.percents == PERCENTS
    assert watch.wrong_at_begin[1:7] == [0] * 6


def test_a_constraint_that_moves_zeros_leaves_none_moved(wrapped, data):
    def away_from_zero(kernel):
        kernel = ops.convert_to_tensor(kernel)
        return ops.where(ops.abs(kernel) < 1e-3, 1e-3, kernel)

    model = wrapped("adam", first_options={"kernel_constraint": away_from_zero})
    watch = fit(model, data)
    assert watch.percents == PERCENTS
    assert watch.wrong_at_begin[1:7] == [0] * 6


class Move(keras.callbacks.Callback):
    """Moves the removed weights after each batch, as some optimizers, regularizers and constraints do."""

    def on_train_batch_end(self, batch, logs=None):
        for layer in pruned_layers(self.model):
            for variable, mask in zip(layer.prunable_variables, layer.masks, strict=True):
                variable.assign(numpy_of(variable) + (numpy_of(mask) == 0))


@pytest.mark.parametrize("score", ["magnitude", "taylor"])
def test_removed_weights_that_move_between_updates_change_nothing(score, mlp, data):
    def run(*callbacks):
        keras.utils.set_random_seed(1)
        model = prune_low_magnitude(mlp(), schedule(), score=score)
        model.compile(keras.optimizers.SGD(0.1), "mse", run_eagerly=BACKEND != "jax")
        watch = fit(model, data, UpdatePruningStep(gradient_data=[data(1)]), *callbacks)
        return model, watch

    reference, expected = run()
    model, watch = run(Move())
    assert_same_masks(watch, expected.masks)
    assert_close(model, reference)


MODES = {
    "eager": {"run_eagerly": True},
    "graph": {"jit_compile": False},
    "jit": {"jit_compile": True},
}


@pytest.mark.parametrize("mode", MODES)
def test_compiled_and_eager_training_prune_alike(mode, wrapped, data, monkeypatch):
    if BACKEND == "torch" and mode == "jit":
        # Without its last stage, which calls a C++ compiler for half a minute.
        torch = pytest.importorskip("torch")
        monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    reference = wrapped(optimizers()["adam"]())
    expected = fit(reference, data)
    model = wrapped(optimizers()["adam"](), **MODES[mode])
    watch = fit(model, data)
    assert watch.percents == PERCENTS
    assert_same_masks(watch, expected.masks)
    assert not any(watch.wrong_at_begin + watch.wrong_at_end)
    assert_close(model, reference)


def assert_same_masks(watch, expected):
    assert len(watch.masks) == len(expected)
    for masks, others in zip(watch.masks, expected, strict=True):
        for mask, other in zip(masks, others, strict=True):
            np.testing.assert_array_equal(mask, other)


def assert_close(model, reference, atol=1e-5):
    for variable, other in zip(model.trainable_variables, reference.trainable_variables, strict=True):
        np.testing.assert_allclose(numpy_of(variable), numpy_of(other), atol=atol)


class AtGroups:
    """Names the first step of each group: epochs of 6 batches, in groups of 4 and 2."""

    end_step = 11

    def __call__(self, step):
        return step in (1, 5, 7, 11), 0.05 * step


@pytest.mark.skipif(BACKEND == "torch", reason="Keras refuses steps_per_execution above 1 on PyTorch")
@pytest.mark.parametrize("jit_compile", [False, True])
def test_several_steps_an_execution_end_where_single_steps_do(jit_compile, wrapped, data):
    reference = wrapped(optimizers()["momentum"](), AtGroups())
    expected = fit(reference, data, batches=6, epochs=2)
    assert expected.percents == [5] * 4 + [25] * 2 + [35] * 4 + [55] * 2
    model = wrapped(optimizers()["momentum"](), AtGroups(), jit_compile=jit_compile, steps_per_execution=4)
    watch = fit(model, data, batches=6, epochs=2)
    assert_same_masks(watch, [expected.masks[i] for i in (0, 4, 6, 10)])
    assert not any(watch.wrong_at_begin + watch.wrong_at_end)
    assert_close(model, reference)
    assert int(numpy_of(pruned_layers(model)[0].pruning_step)) == 12


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float16", "bfloat16"])
def test_half_precision(policy, wrapped, data):
    keras.config.set_dtype_policy(policy)
    model = wrapped(optimizers()["momentum"](), jit_compile="auto")
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer) == (policy == "mixed_float16")
    watch = fit(model, data)
    assert watch.percents == PERCENTS
    assert not any(watch.wrong_at_begin + watch.wrong_at_end)
    outputs = model(data(1)[0])
    assert keras.backend.standardize_dtype(outputs.dtype) == policy.removeprefix("mixed_")
    kernel = pruned_layers(model)[0].prunable_variables[0]
    assert kernel.dtype == ("float32" if policy.startswith("mixed") else policy)


def test_batches_that_loss_scaling_skips_count_as_steps(wrapped, data):
    inner = keras.optimizers.SGD(0.1, momentum=0.9)
    model = wrapped(keras.optimizers.LossScaleOptimizer(inner, initial_scale=2.0**126))
    x, y = data(3)
    watch = fit(model, lambda batches: (x, 100 * y))
    assert int(numpy_of(inner.iterations)) < 9
    assert watch.percents == PERCENTS
    assert int(numpy_of(pruned_layers(model)[0].pruning_step)) == 9


AVERAGES = {
    "at_the_end": {},
    "every_batch": {"ema_overwrite_frequency": 1},
    "every_other_batch": {"ema_overwrite_frequency": 2},
}


@pytest.mark.parametrize("overwrite", AVERAGES)
@pytest.mark.parametrize("name", ["adam", "muon"])
def test_moving_averages_of_removed_weights_are_zero(name, overwrite, wrapped, data):
    optimizer = optimizers()[name](use_ema=True, ema_momentum=0.9, **AVERAGES[overwrite])
    model = wrapped(optimizer)
    watch = fit(model, data)
    assert watch.percents == PERCENTS
    if name not in MOVES_REMOVED_WEIGHTS:
        assert not any(watch.wrong_at_begin + watch.wrong_at_end)
    assert wrong_averages(model) == 0


def wrong_averages(model):
    """How many removed weights have a moving average that is not exactly zero."""
    optimizer = model.optimizer
    average_of = {
        id(variable): numpy_of(average)
        for variable, average in zip(
            optimizer._trainable_variables, optimizer._model_variables_moving_average, strict=True
        )
    }
    return sum(
        int(np.count_nonzero(average_of[id(variable)][numpy_of(mask) == 0]))
        for layer in pruned_layers(model)
        for variable, mask in zip(layer.prunable_variables, layer.masks, strict=True)
    )


class WatchEvaluation(keras.callbacks.Callback):
    """Counts wrong weights, of the model and of its averages, where `SwapEMAWeights` has swapped the two."""

    def __init__(self):
        super().__init__()
        self.wrong = []

    def look(self, *args, **kwargs):
        self.wrong.append((wrong_weights(self.model), wrong_averages(self.model)))

    on_test_begin = on_test_end = on_epoch_end = look


@pytest.mark.parametrize(
    "swap_first, swap_on_epoch, name",
    [(first, on_epoch, "adam") for first in (False, True) for on_epoch in (False, True)]
    + [(False, True, "muon"), (True, True, "muon")],
)
def test_swapped_averages_have_exact_zeros(swap_first, swap_on_epoch, name, wrapped, data):
    model = wrapped(optimizers()[name](use_ema=True, ema_momentum=0.9))
    swap, evaluation = keras.callbacks.SwapEMAWeights(swap_on_epoch), WatchEvaluation()
    callbacks = [swap, UpdatePruningStep()] if swap_first else [UpdatePruningStep(), swap]
    watch = fit(model, data, *callbacks, evaluation, validation_data=data(2))
    assert watch.percents == PERCENTS
    assert wrong_averages(model) == 0
    assert len(evaluation.wrong) == 9 and evaluation.wrong[2::3] == [(0, 0)] * 3  # The epochs' ends.
    if name not in MOVES_REMOVED_WEIGHTS:
        assert evaluation.wrong == [(0, 0)] * 9


@pytest.mark.parametrize("name, steps", [("momentum", 4), ("adam", 2), ("lion", 4)])
def test_gradients_accumulated_before_an_update_return_no_weight(name, steps, wrapped, data):
    # Updates at steps 2 to 7, most of them between two applications of the gradients.
    model = wrapped(optimizers()[name](gradient_accumulation_steps=steps))
    watch = fit(model, data)
    assert watch.percents == PERCENTS
    assert not any(watch.wrong_at_begin + watch.wrong_at_end)


def test_all_modes_at_once(wrapped, data):
    keras.config.set_dtype_policy("mixed_float16")
    optimizer = keras.optimizers.AdamW(
        0.05,
        weight_decay=0.1,
        use_ema=True,
        ema_momentum=0.9,
        ema_overwrite_frequency=3,
        gradient_accumulation_steps=2,
        global_clipnorm=1.0,
    )
    groups = 1 if BACKEND == "torch" else 2
    model = wrapped(optimizer, jit_compile="auto", steps_per_execution=groups)
    watch = fit(model, data, keras.callbacks.SwapEMAWeights(True), UpdatePruningStep(), batches=4, epochs=2)
    assert watch.percents == ([0, 24, 48, 60] if groups == 2 else [0, 0, 12, 24, 36, 48, 60, 60])
    assert not any(watch.wrong_at_begin + watch.wrong_at_end)


def test_a_frozen_layer_is_pruned_too(wrapped, data):
    model = wrapped("adam")
    pruned_layers(model)[0].trainable = False
    model.compile("adam", "mse")
    before = numpy_of(pruned_layers(model)[0].prunable_variables[0])
    watch = fit(model, data)
    assert watch.percents == PERCENTS
    kernel, mask = numpy_of(pruned_layers(model)[0].prunable_variables[0]), watch.masks[-1][0]
    np.testing.assert_array_equal(kernel, before * mask)
