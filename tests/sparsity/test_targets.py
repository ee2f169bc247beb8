"""Schedules that do not get where they were going, epochs of the fit, and "best" at the target."""

import keras
import numpy as np
import pytest

from tfprune.sparsity import (
    ByEpoch,
    ConstantSparsity,
    PolynomialDecay,
    Pruner,
    PruningSchedule,
    PruningSummaries,
    RigL,
    UpdatePruningStep,
    masks_of,
    prune_low_magnitude,
    prune_to,
    pruned_layers,
    strip_pruning,
    summarize,
)

pytestmark = pytest.mark.slow

STEPS = 5


class Worsening(keras.callbacks.Callback):
    """Reports a loss that rises from epoch to epoch: the first counts as best."""

    def on_epoch_end(self, epoch, logs):
        logs["rising"] = float(epoch)


BEST = {"monitor": "rising", "mode": "min"}


@pytest.fixture
def wrapped(mlp):
    def make(schedule, **options):
        model = prune_low_magnitude(mlp(), schedule, **options)
        model.compile("sgd", "mse")
        return model

    return make


@pytest.fixture
def fit(data, recwarn):
    """A function that fits with the callbacks and returns what this library warned of."""

    def run(model, *callbacks, epochs=4, **options):
        recwarn.clear()
        x, y = data(STEPS)
        model.fit(x, y, batch_size=4, epochs=epochs, verbose=0, callbacks=list(callbacks), **options)
        return [str(w.message) for w in recwarn if w.category is UserWarning]

    return run


def stripped(model, recwarn):
    recwarn.clear()
    strip_pruning(model)
    return [str(w.message) for w in recwarn if w.category is UserWarning]


OPTIONS = [
    {},
    {"scope": "global"},
    {"scope": "erk"},
    {"granularity": "channel"},
    {"granularity": "channel", "scope": "global"},
    {"block_size": (2, 3)},
    {"block_size": (2, 3), "scope": "global"},
    {"sparsity_m_by_n": (2, 4)},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_fit_that_ends_early_says_so_with_both_numbers_and_one_that_arrives_is_silent(
    wrapped, fit, recwarn, options
):
    target = 0.5
    model = wrapped(PolynomialDecay(0.0, target, 0, 10 * STEPS, frequency=3, power=1), **options)
    before, after = fit(model, UpdatePruningStep())
    sparsity = f"{summarize(model).sparsity:.2f}"
    assert "ends at step 20" in before and "gets to 0.5 at step 50" in before
    assert f"sparsity {sparsity} in layers 'first', 'second'" in after
    assert "gets to 0.5 at step 50" in after and "ended at step 20" in after
    (told,) = stripped(model, recwarn)
    assert f"sparsity {sparsity} " in told and "gets to 0.5" in told
    assert fit(model, UpdatePruningStep(), epochs=6) == []
    assert stripped(model, recwarn) == []


@pytest.mark.parametrize("options", OPTIONS[:6], ids=str)
@pytest.mark.parametrize("ahead", [False, True])
def test_a_fit_that_arrives_by_rounding_or_is_beyond_is_silent(wrapped, fit, recwarn, options, ahead):
    # At step 20 of 21 with power 3, of 140 weights none is missing.
    end = 10 * STEPS if ahead else 4 * STEPS + 1
    model = wrapped(PolynomialDecay(0.0, 0.5, 0, end, frequency=1), **options)
    if ahead:
        prune_to(model, 0.6)
    assert fit(model, UpdatePruningStep()) == []
    assert stripped(model, recwarn) == []


@pytest.mark.parametrize("frequency", [3, 7, 100])
def test_a_last_step_that_the_frequency_misses_is_reached(wrapped, fit, recwarn, frequency):
    model = wrapped(PolynomialDecay(0.0, 0.9, 0, 4 * STEPS, frequency=frequency))
    assert fit(model, UpdatePruningStep()) == []
    assert stripped(model, recwarn) == []
    assert summarize(model).sparsity == 0.9


def test_only_the_layers_that_are_short_are_named(wrapped, fit):
    late = PolynomialDecay(0.0, 0.8, 0, 100, frequency=2)
    model = wrapped({"first": ConstantSparsity(0.5, 0), "second": late})
    (_, after) = fit(model, UpdatePruningStep())
    assert "in layers 'second';" in after


def test_small_kernels_and_unknown_ends_are_no_shortfall(fit, data):
    class NoEnd(PruningSchedule):
        def __call__(self, step):
            return True, 0.1

        def get_config(self):
            return {}

    tiny = keras.Sequential([keras.Input((10,)), keras.layers.Dense(1), keras.layers.Dense(4)])
    for schedule in (ConstantSparsity(0.9, 0), NoEnd(), None):
        model = prune_low_magnitude(keras.models.clone_model(tiny), schedule)
        model.compile("sgd", "mse")
        assert fit(model, UpdatePruningStep(), epochs=1) == []


def test_regrowth_arrives_with_its_first_update(wrapped, fit, data):
    model = wrapped(ConstantSparsity(0.75, 0, end_step=12, frequency=4), scope="erk", regrowth=RigL())
    assert fit(model, UpdatePruningStep(gradient_data=[data(1)])) == []


@pytest.mark.parametrize("stopper_first", [True, False])
def test_weights_put_back_by_early_stopping_are_told(wrapped, fit, stopper_first):
    model = wrapped(PolynomialDecay(0.0, 0.9, 0, 20, frequency=5))
    stopper = keras.callbacks.EarlyStopping(**BEST, patience=6, restore_best_weights=True)
    pair = [stopper, UpdatePruningStep()] if stopper_first else [UpdatePruningStep(), stopper]
    (told,) = fit(model, Worsening(), *pair, epochs=9)
    sparsity = summarize(model).sparsity
    assert sparsity < 0.6 and f"sparsity {sparsity:.2f} " in told and "gets to 0.9 at step 20" in told
    assert "ended at step 35, and the weights of step 5 were put back" in told and "at_target" in told
    assert {layer.steps_taken for layer in pruned_layers(model)} == {5}
    assert fit(model, UpdatePruningStep(), epochs=3) == []  # The schedule goes on from step 5.


@pytest.mark.parametrize("kind", ["keras", "weights.h5"])
def test_a_best_file_below_the_target_is_told(wrapped, fit, tmp_path, kind):
    model = wrapped(PolynomialDecay(0.0, 0.9, 0, 20, frequency=5))
    path = tmp_path / f"best.{kind}"
    saver = keras.callbacks.ModelCheckpoint(
        path, **BEST, save_best_only=True, save_weights_only=kind == "weights.h5"
    )
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    (told,) = fit(model, Worsening(), backup, saver, UpdatePruningStep(), epochs=5)
    assert str(path) in told and "gets to 0.9 at step 20" in told and "at_target" in told
    if kind == "keras":
        again = keras.models.load_model(path)
        assert f"sparsity {summarize(again).sparsity:.2f} " in told


def test_files_of_every_epoch_are_no_shortfall(wrapped, fit, tmp_path):
    model = wrapped(PolynomialDecay(0.0, 0.9, 0, 20, frequency=5))
    savers = [keras.callbacks.ModelCheckpoint(tmp_path / name) for name in ("all_{epoch}.keras", "one.keras")]
    assert fit(model, UpdatePruningStep(), *savers, epochs=5) == []
    assert "save" not in vars(model) and "save_weights" not in vars(model)


def test_best_counts_from_the_target_on(wrapped, fit, tmp_path):
    model = wrapped(PolynomialDecay(0.0, 0.9, 0, 16, frequency=5, power=1))
    saver = keras.callbacks.ModelCheckpoint(tmp_path / "best.keras", **BEST, save_best_only=True)
    stopper = keras.callbacks.EarlyStopping(**BEST, patience=2, restore_best_weights=True)
    told = fit(model, Worsening(), UpdatePruningStep(at_target=[saver, stopper]), epochs=20)
    assert told == []
    # The target is there from step 16 on, in the fourth epoch; two worse ones follow.
    assert model.history.epoch[-1] == 5 and stopper.best_epoch == 3
    assert pruned_layers(model)[0].steps_taken == 20
    for found in (model, keras.models.load_model(tmp_path / "best.keras")):
        assert summarize(found).sparsity == pytest.approx(0.9)


def test_callbacks_at_the_target_see_nothing_if_it_is_never_reached(wrapped, fit, tmp_path):
    model = wrapped(PolynomialDecay(0.0, 0.9, 0, 1000, frequency=5))
    path = tmp_path / "best.keras"
    savers = [keras.callbacks.ModelCheckpoint(path), keras.callbacks.ModelCheckpoint(path, save_freq=2)]
    stopper = keras.callbacks.EarlyStopping("loss", patience=0, restore_best_weights=True)
    fit(model, UpdatePruningStep(at_target=[*savers, stopper]), epochs=3)
    assert not path.exists() and len(model.history.epoch) == 3


def test_a_single_callback_and_a_model_without_schedule(wrapped, fit, tmp_path):
    model = wrapped(None)
    prune_to(model, 0.5)
    saver = keras.callbacks.ModelCheckpoint(tmp_path / "best.keras", save_best_only=True, monitor="loss")
    assert fit(model, UpdatePruningStep(at_target=saver), epochs=1) == []
    assert (tmp_path / "best.keras").exists()
    with pytest.raises(ValueError, match="`at_target` must be a callback"):
        UpdatePruningStep(at_target="EarlyStopping")


def test_a_target_by_an_epoch(wrapped, fit, tmp_path):
    model = wrapped(ByEpoch(0.8, 4, begin_epoch=2, updates_per_epoch=2))
    saver = keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras")
    summaries = PruningSummaries(tmp_path / "logs")
    assert fit(model, summaries, saver, UpdatePruningStep(), epochs=4) == []
    found = [summarize(keras.models.load_model(tmp_path / f"{epoch}.keras")) for epoch in (1, 2, 3, 4)]
    shares = [summary.sparsity for summary in found]
    assert shares[0] == 0 < shares[1] < shares[2] < shares[3] == pytest.approx(0.8)
    schedule = pruned_layers(model)[0].pruning_schedule
    assert (schedule.begin_step, schedule.end_step, schedule.frequency) == (6, 16, 2)


def test_a_target_by_an_epoch_is_the_same_in_one_fit_or_in_three(wrapped, fit, tmp_path):
    whole = wrapped(ByEpoch(0.8, 5))
    fit(whole, UpdatePruningStep(), epochs=6, shuffle=False)
    expected = pruned_layers(whole)[0].pruning_schedule
    parts = wrapped(ByEpoch(0.8, 5))
    fit(parts, UpdatePruningStep(), epochs=2, shuffle=False)
    parts.save(tmp_path / "model.keras")
    parts = keras.models.load_model(tmp_path / "model.keras")
    fit(parts, UpdatePruningStep(), initial_epoch=2, epochs=6, shuffle=False)
    assert repr(pruned_layers(parts)[0].pruning_schedule) == repr(expected)
    # A model that begins to count in a later epoch of the fit.
    late = wrapped(ByEpoch(0.8, 5))
    assert fit(late, UpdatePruningStep(), initial_epoch=3, epochs=5) == []
    assert pruned_layers(late)[0].pruning_schedule.end_step == STEPS + 1


def test_a_target_by_an_epoch_survives_a_save_before_training(wrapped, tmp_path):
    wrapped(ByEpoch(0.8, 5, power=2)).save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert repr(pruned_layers(again)[0].pruning_schedule) == repr(ByEpoch(0.8, 5, power=2))


def test_a_target_by_an_epoch_needs_an_epochs_length(wrapped, data):
    model = wrapped(ByEpoch(0.8, 2))
    x, y = data(2)

    def batches():
        yield from ((x[:4], y[:4]) for _ in range(3))

    with pytest.raises(ValueError, match="`steps_per_epoch`"):
        model.fit(batches(), epochs=2, verbose=0, callbacks=[UpdatePruningStep()])
    with pytest.raises(ValueError, match=r"`in_steps\(steps_per_epoch\)`"):
        Pruner(model).before_step()
    counted = ByEpoch(0.8, 3).in_steps(STEPS)
    assert counted(11) == (True, 0.8) and counted(10)[1] < 0.8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1.0, 3), "`target_sparsity`"),
        ((0.5, 0), "`epoch`"),
        ((0.5, 2.5), "`epoch`"),
        ((0.5, 2, 3), "at least `begin_epoch`"),
        ((0.5, 2, 1, 0.6), "at least `initial_sparsity`"),
        ((0.5, 2, 1, 0.0, 0), "`power`"),
        ((0.5, 2, 1, 0.0, 3, 0), "`updates_per_epoch`"),
    ],
)
def test_bad_targets_by_an_epoch(arguments, message):
    with pytest.raises(ValueError, match=message):
        ByEpoch(*arguments)


def test_a_fit_that_starts_at_the_target_changes_nothing(wrapped, fit):
    model = wrapped(ByEpoch(0.5, 1))
    assert fit(model, UpdatePruningStep(), epochs=1) == []
    masks = masks_of(model)
    assert fit(model, UpdatePruningStep(), epochs=1) == []
    for name, mask in masks_of(model).items():
        np.testing.assert_array_equal(mask, masks[name])
