import warnings

import keras
import numpy as np
import pytest
from keras import layers, ops

from tfprune.sparsity import (
    ConstantSparsity,
    PolynomialDecay,
    UpdatePruningStep,
    prune_low_magnitude,
    prune_to,
    pruned_layers,
)

ON_TORCH = keras.backend.backend() == "torch"


class At:
    """A plain object as a schedule: step -> sparsity at the steps named, never elsewhere."""

    def __init__(self, sparsity_at, end_step=-1):
        self.sparsity_at, self.end_step = sparsity_at, end_step

    def __call__(self, step):
        sparsity = self.sparsity_at.get(step, 0.0)
        return ops.convert_to_tensor(step in self.sparsity_at), ops.convert_to_tensor(np.float32(sparsity))


class Watch(keras.callbacks.Callback):
    """Records the masks at the start of each batch or group, and whether zeros are exact at its end."""

    def __init__(self):
        super().__init__()
        self.masks, self.exact = [], []

    def on_train_batch_begin(self, batch, logs=None):
        layer = pruned_layers(self.model)[0]
        self.masks.append(np.array(ops.convert_to_numpy(layer.masks[0])))

    def on_train_batch_end(self, batch, logs=None):
        for layer in pruned_layers(self.model):
            for variable, mask in zip(layer.prunable_variables, layer.masks, strict=True):
                removed = ~np.array(ops.convert_to_numpy(mask))
                values = np.array(ops.convert_to_numpy(variable))[removed]
                self.exact.append(not values.any())

    @property
    def percents(self):
        """Share removed of the first kernel's 100 weights, as each batch or group met it."""
        return [int(np.count_nonzero(~mask)) for mask in self.masks]


def fit(model, data, batches, *callbacks, **options):
    x, y = data(batches)
    model.fit(x, y, batch_size=4, shuffle=False, verbose=0, callbacks=list(callbacks), **options)


@pytest.fixture
def wrapped(mlp):
    def make(schedule, optimizer="sgd", run_eagerly=True, **options):
        model = prune_low_magnitude(mlp(), schedule, **options.pop("pruning", {}))
        model.compile(optimizer, "mse", run_eagerly=run_eagerly, **options)
        return model

    return make


def percents(model, data, batches, **options):
    watch = Watch()
    fit(model, data, batches, UpdatePruningStep(), watch, **options)
    return watch.percents


def test_begin_step_zero_acts_before_the_first_batch(wrapped, data):
    model = wrapped(ConstantSparsity(0.3, begin_step=0, frequency=100))
    assert percents(model, data, 2) == [30, 30]


def test_step_t_acts_before_batch_t_across_epochs(wrapped, data):
    model = wrapped(At({1: 0.1, 3: 0.2, 5: 0.4}))
    assert percents(model, data, 3, epochs=2) == [10, 10, 20, 20, 40, 40]


def test_the_last_of_steps_zero_and_one_wins(wrapped, data):
    assert percents(wrapped(At({0: 0.1, 1: 0.25})), data, 1) == [25]


def test_end_step_acts_off_the_frequency(wrapped, data):
    model = wrapped(PolynomialDecay(0.0, 0.5, begin_step=0, end_step=5, frequency=4, power=1))
    assert percents(model, data, 6) == [0, 0, 0, 40, 50, 50]


def test_a_foreign_schedules_end_step_acts_though_it_says_no(wrapped, data):
    class MissesItsEnd(At):
        def __call__(self, step):
            return np.bool_(step == 1), np.float32(0.1 * step)

    assert percents(wrapped(MissesItsEnd({}, end_step=3)), data, 4) == [10, 10, 30, 30]


def test_the_schedule_goes_on_in_the_next_fit(wrapped, data):
    model = wrapped(At({2: 0.1, 4: 0.2, 5: 0.3}))
    assert percents(model, data, 3) == [0, 10, 10]
    assert percents(model, data, 3) == [20, 30, 30]


def test_removed_weights_never_return_under_a_falling_schedule(wrapped, data):
    model = wrapped(At({1: 0.3, 2: 0.1, 3: 0.5}), keras.optimizers.SGD(1.0))
    watch = Watch()
    fit(model, data, 3, UpdatePruningStep(), watch)
    assert watch.percents == [30, 30, 50]
    assert all((new <= old).all() for old, new in zip(watch.masks, watch.masks[1:], strict=False))


@pytest.mark.skipif(ON_TORCH, reason="Keras refuses steps_per_execution above 1 on PyTorch")
def test_steps_inside_a_group_act_before_it(wrapped, data):
    model = wrapped(At({1: 0.1, 3: 0.2, 5: 0.4}), run_eagerly=False, steps_per_execution=4)
    assert percents(model, data, 8) == [20, 40]


@pytest.mark.skipif(ON_TORCH, reason="Keras refuses steps_per_execution above 1 on PyTorch")
def test_a_group_cut_short_by_the_epochs_end_counts_its_batches_only(wrapped, data, to_numpy):
    # Epochs of 6 batches: the groups are steps 1-4, 5-6, 7-10, 11-12.
    model = wrapped(At({4: 0.1, 6: 0.2, 7: 0.3, 12: 0.4}), run_eagerly=False, steps_per_execution=4)
    assert percents(model, data, 6, epochs=2) == [10, 20, 30, 40]
    assert int(to_numpy(pruned_layers(model)[0].pruning_step)) == 12


def test_an_epoch_of_unknown_length_counts_its_batches(wrapped, data, to_numpy):
    x, y = data(3)
    batches = [(x[i : i + 4], y[i : i + 4]) for i in range(0, 12, 4)]
    model = wrapped(At({3: 0.1, 4: 0.2}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras: the generator ran out of data.
        model.fit((batch for batch in batches), verbose=0, callbacks=[UpdatePruningStep()])
    assert int(to_numpy(pruned_layers(model)[0].pruning_step)) == 3
    assert percents(model, data, 1) == [20]


def test_layers_of_global_scope_are_pruned_together(wrapped, data, masks_of):
    model = wrapped(ConstantSparsity(0.5, begin_step=0), pruning={"scope": "global"})
    first = pruned_layers(model)[0].prunable_variables[0]
    first.assign(first * 0.01)
    fit(model, data, 1, UpdatePruningStep())
    assert [np.count_nonzero(mask) for mask in masks_of(model)] == [30, 40]


def test_two_functions_of_one_name_are_two_schedules(mlp, data, masks_of):
    def constant(sparsity):
        def schedule(step):
            return step == 1, sparsity

        return schedule

    model = prune_low_magnitude(mlp(), constant(0.3), layers="first", scope="global")
    model = prune_low_magnitude(model, constant(0.5), layers="second", scope="global")
    model.compile("sgd", "mse", run_eagerly=True)
    fit(model, data, 1, UpdatePruningStep())
    assert [np.count_nonzero(~mask) for mask in masks_of(model)] == [30, 20]


def optimizers():
    make = keras.optimizers
    return {
        "momentum": lambda: make.SGD(0.1, momentum=0.9, nesterov=True),
        "adam": lambda: make.Adam(0.1),
        "amsgrad": lambda: make.Adam(0.1, amsgrad=True),
        "adamw": lambda: make.AdamW(0.1, weight_decay=0.1),
        "ftrl": lambda: make.Ftrl(0.1),
        "moving_average": lambda: make.Adam(0.1, use_ema=True, ema_overwrite_frequency=1),
        "accumulation": lambda: make.Adam(0.1, gradient_accumulation_steps=2),
        "loss_scale": lambda: make.LossScaleOptimizer(make.Adam(0.1), initial_scale=8.0),
    }


@pytest.mark.parametrize("name", optimizers())
def test_no_optimizer_moves_a_removed_weight(name, wrapped, data, assert_exact_zeros):
    schedule = PolynomialDecay(0.0, 0.6, begin_step=3, end_step=5, frequency=1)
    model = wrapped(schedule, optimizers()[name]())
    watch = Watch()
    # Before the pruning callback: it sees the weights as the optimizer left them.
    fit(model, data, 4, watch, UpdatePruningStep(), epochs=2)
    assert watch.exact and all(watch.exact)
    assert_exact_zeros(model, 0.6)


def test_slots_of_several_optimizers_are_cleared(wrapped, data, assert_exact_zeros):
    optimizer_of = keras.optimizers.OptimizerMap(
        keras.optimizers.Adam(0.1), {"second/.*": keras.optimizers.SGD(0.1, momentum=0.9)}
    )
    model = wrapped(ConstantSparsity(0.5, begin_step=3), keras.optimizers.MultiOptimizer(optimizer_of))
    watch = Watch()
    fit(model, data, 6, watch, UpdatePruningStep())
    assert all(watch.exact)
    assert_exact_zeros(model, 0.5)


@pytest.mark.slow
def test_compiled_steps_see_new_masks_in_mid_epoch(wrapped, data, assert_exact_zeros):
    model = wrapped(
        PolynomialDecay(0.0, 0.6, begin_step=2, end_step=6, frequency=1, power=1),
        keras.optimizers.Adam(0.05),
        run_eagerly=False,
    )
    watch = Watch()
    fit(model, data, 4, watch, UpdatePruningStep(), epochs=2)
    assert all(watch.exact)
    assert_exact_zeros(model, 0.6)


def saved_masks_and_kernels(path):
    model = keras.models.load_model(path)
    for layer in pruned_layers(model):
        for variable, mask in zip(layer.prunable_variables, layer.masks, strict=True):
            kernel = np.array(ops.convert_to_numpy(variable))
            yield np.array(ops.convert_to_numpy(mask)), kernel, int(ops.convert_to_numpy(layer.pruning_step))


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adam", "momentum", "muon"])
@pytest.mark.parametrize("checkpoint_first", [True, False])
def test_every_checkpoint_has_exact_zeros_and_the_right_step(
    optimizer, checkpoint_first, wrapped, data, tmp_path
):
    # Muon moves weights that have no gradient; the file has exact zeros even so.
    make = {**optimizers(), "muon": lambda: keras.optimizers.Muon(0.1)}[optimizer]
    model = wrapped(PolynomialDecay(0.0, 0.6, begin_step=2, end_step=7, frequency=1, power=1), make())
    callbacks = [
        keras.callbacks.ModelCheckpoint(str(tmp_path / "{epoch}.keras")),
        UpdatePruningStep(),
    ]
    fit(model, data, 3, *(callbacks if checkpoint_first else callbacks[::-1]), epochs=3)
    expected = {1: 0.12, 2: 0.48, 3: 0.6}  # At steps 3, 6 and 7.
    for epoch, sparsity in expected.items():
        found = list(saved_masks_and_kernels(tmp_path / f"{epoch}.keras"))
        assert len(found) == 2
        for mask, kernel, step in found:
            assert np.count_nonzero(~mask) == round(sparsity * mask.size)
            np.testing.assert_array_equal(kernel == 0, ~mask)
            assert step == 3 * epoch


def test_a_checkpoint_in_mid_epoch_knows_its_step(wrapped, data, tmp_path):
    model = wrapped(At({1: 0.1, 2: 0.2, 3: 0.3}, end_step=9), keras.optimizers.Adam(0.1))
    path = str(tmp_path / "{batch}.weights.h5")
    save = keras.callbacks.ModelCheckpoint(path, save_weights_only=True, save_freq=2)
    fit(model, data, 3, UpdatePruningStep(), save)
    model.load_weights(path.format(batch=2))
    assert int(ops.convert_to_numpy(pruned_layers(model)[0].pruning_step)) == 2
    assert percents(model, data, 1) == [30]


def test_backup_and_restore_after_the_callback_restores_the_step(mlp, data, tmp_path):
    class Interrupt(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                raise InterruptedError

    def run(*extra):
        model = prune_low_magnitude(mlp(), At({2: 0.1, 4: 0.3, 5: 0.6}))
        model.compile("sgd", "mse", run_eagerly=True)
        watch = Watch()
        backup = keras.callbacks.BackupAndRestore(str(tmp_path))
        try:
            fit(model, data, 3, UpdatePruningStep(), backup, watch, *extra, epochs=2)
        except InterruptedError:
            pass
        return watch.percents

    assert run(Interrupt()) == [0, 10, 10]
    assert run() == [30, 60, 60]


@pytest.mark.parametrize("run_eagerly", [False, True])
@pytest.mark.parametrize("fits_before", [0, 1, 2])
def test_a_missing_callback_is_an_error_in_every_fit(wrapped, data, run_eagerly, fits_before):
    model = wrapped(ConstantSparsity(0.5, begin_step=0, frequency=1), run_eagerly=run_eagerly)
    for _ in range(fits_before):
        fit(model, data, 1, UpdatePruningStep())
    with pytest.raises(RuntimeError, match="UpdatePruningStep"):
        fit(model, data, 1)


def test_training_on_a_batch_without_the_callback_is_an_error(wrapped, data):
    with pytest.raises(RuntimeError, match="UpdatePruningStep"):
        wrapped(ConstantSparsity(0.5, begin_step=0)).train_on_batch(*data(1))


def test_without_a_schedule_no_callback_is_needed(wrapped, data, assert_exact_zeros):
    model = wrapped(None, keras.optimizers.Adam(0.1))
    prune_to(model, 0.5)
    fit(model, data, 3)
    assert_exact_zeros(model, 0.5)


def test_evaluating_and_predicting_need_no_callback(wrapped, data):
    x, y = data(1)
    model = wrapped(ConstantSparsity(0.5, begin_step=0))
    assert np.isfinite(model.evaluate(x, y, verbose=0))
    assert np.isfinite(model.predict(x, verbose=0)).all()


def test_the_callback_on_a_model_without_pruned_layers_is_a_warning(mlp, data, wrapped):
    """One list of callbacks may serve the dense model and the pruned one."""
    model, pruned, callback = mlp(), wrapped(ConstantSparsity(0.5, begin_step=0)), UpdatePruningStep()
    model.compile("sgd", "mse")
    with pytest.warns(
        UserWarning, match="prunes nothing: the model has no pruned layers.*prune_low_magnitude"
    ):
        fit(model, data, 2, callback)
    assert callback.steps_taken == 0
    fit(pruned, data, 2, callback)
    assert callback.steps_taken == 2


def test_an_unbuilt_model_is_built_or_refused_never_left_dense(data, masks_of):
    model = prune_low_magnitude(keras.Sequential([layers.Dense(4)]), ConstantSparsity(0.5, begin_step=0))
    model.compile("sgd", "mse")
    if keras.backend.backend() == "tensorflow":  # Keras builds it in the first step, after the callback.
        with pytest.raises(ValueError, match="must be built before training"):
            fit(model, data, 1, UpdatePruningStep())
        model.build((None, 10))
    fit(model, data, 1, UpdatePruningStep())
    assert [np.count_nonzero(~mask) for mask in masks_of(model)] == [20]


def test_a_schedule_that_never_fires_is_a_warning_with_its_name_and_the_steps(wrapped, data):
    model = wrapped(ConstantSparsity(0.5, begin_step=50))
    with pytest.warns(UserWarning, match=r"ConstantSparsity\(.*begin_step=50.*steps 1 to 4 "):
        fit(model, data, 2, UpdatePruningStep(), epochs=2)
    with pytest.warns(UserWarning, match="steps 5 to 6 "):
        fit(model, data, 2, UpdatePruningStep())


def test_no_warning_where_the_schedule_fired_or_is_over(wrapped, data):
    model = wrapped(ConstantSparsity(0.5, begin_step=0, end_step=2, frequency=1))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        fit(model, data, 2, UpdatePruningStep())
        fit(model, data, 2, UpdatePruningStep())


def test_weights_that_became_nan_stop_the_fit_with_the_layers_name(wrapped, data):
    class Break(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            kernel = pruned_layers(self.model)[1].prunable_variables[0]
            kernel.assign(np.full(kernel.shape, np.nan))

    model = wrapped(ConstantSparsity(0.5, begin_step=0))
    with pytest.raises(ValueError, match="layer 'second'"):
        fit(model, data, 1, Break(), UpdatePruningStep())


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="only JAX keeps the state outside the model")
def test_jax_state_is_fetched_for_updates_only(wrapped, data, monkeypatch):
    model = wrapped(ConstantSparsity(0.5, begin_step=2), run_eagerly=False)
    fetched = []
    sync = type(model).jax_state_sync

    def counting_sync(self):
        if getattr(self, "_jax_state", None) and not self._jax_state_synced:
            fetched.append(True)
        return sync(self)

    monkeypatch.setattr(type(model), "jax_state_sync", counting_sync)
    fit(model, data, 8, UpdatePruningStep())
    assert len(fetched) == 2  # The update and the epoch's end, of 8 batches.
