"""SET and RigL: which weights move, how many and when."""

import math
from typing import NamedTuple

import keras
import numpy as np
import pytest

from tfprune.sparsity import (
    SET,
    ConstantSparsity,
    PolynomialDecay,
    Pruner,
    Regrowth,
    RigL,
    UpdatePruningStep,
    prune_low_magnitude,
    prune_to,
    pruned_layers,
)
from tfprune.sparsity.regrowth import drop_and_grow

METHODS = [SET(0.4), RigL(0.4)]
BEGIN, END = 2, 10
# Updates before batches 2, 4, 6, 8 and 10.
SCHEDULE = ConstantSparsity(0.75, begin_step=BEGIN, end_step=END, frequency=2)
UPDATES = [2, 4, 6, 8, 10]


def share(step, drop_fraction=0.4):
    return drop_fraction / 2 * (1 + math.cos(math.pi * (step - BEGIN) / (END - BEGIN)))


@pytest.fixture
def start(mlp):
    """A function that makes the same wrapped and compiled model each time."""

    def make(method, schedule=SCHEDULE, **options):
        keras.utils.set_random_seed(4)
        model = prune_low_magnitude(mlp(), schedule, regrowth=method, **options)
        model.compile(keras.optimizers.SGD(0.05, momentum=0.9), "mse")
        return model

    return make


@pytest.fixture
def batches(data):
    x, y = data(12)
    return [(x[i : i + 4], y[i : i + 4]) for i in range(0, len(x), 4)]


# --- arrays alone


def test_drop_and_grow_by_hand():
    scores = np.array([[5, 1, 0], [3, 0, 2]])
    growth = np.array([[0, 9, 4], [0, 6, 0]])
    mask = np.array([[1, 1, 0], [1, 0, 1]], bool)

    def moved(count):
        return drop_and_grow(scores, growth, mask, count).astype(int).tolist()

    assert moved(0) == [[1, 1, 0], [1, 0, 1]]
    assert moved(1) == [[1, 1, 0], [1, 0, 1]]  # The smallest, 1, has the largest gradient: it is back.
    assert moved(2) == [[1, 1, 0], [1, 1, 0]]
    # No more than two can grow, so no more are dropped.
    assert moved(3) == moved(4) == moved(2)


def test_growth_ties_and_full_and_empty_masks():
    ones = np.ones(6)
    mask = np.array([0, 1, 1, 0, 1, 1], bool)
    # Ties stay, and grow, from the lower index.
    assert drop_and_grow(ones, ones, mask, 2).astype(int).tolist() == [1, 1, 1, 1, 0, 0]
    for same in (np.ones(6, bool), np.zeros(6, bool)):
        np.testing.assert_array_equal(drop_and_grow(ones, ones, same, 3), same)


@pytest.mark.parametrize("drop_fraction", [0.3, 0.5])
def test_the_share_falls_along_half_a_cosine(drop_fraction):
    shares = [SET(drop_fraction).share(step, 10, 50) for step in (0, 10, 20, 30, 40, 50, 99)]
    expected = [drop_fraction * part for part in (1, 1, 0.5 + 0.25 * 2**0.5, 0.5, 0.5 - 0.25 * 2**0.5, 0, 0)]
    assert shares == pytest.approx(expected)


# --- in training


class Met(NamedTuple):
    """What a step's batch met, one array a layer, and the weights before the update."""

    masks: list
    kernels: list
    slots: list
    weights: list


def watch(model, batches, data=None, steps=12):
    """Trains, and returns what each step met."""

    def copies(variables):
        return [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]

    model.optimizer.build(model.trainable_variables)
    kernels = [layer.layer.kernel for layer in pruned_layers(model)]
    masks = [layer.masks[0] for layer in pruned_layers(model)]
    pruner = Pruner(model, gradient_data=data)
    met = []
    for x, y in batches[pruner.steps_taken : steps]:
        weights = copies(kernels)
        pruner.before_step()
        met.append(Met(copies(masks), copies(kernels), copies(model.optimizer.momentums[::2]), weights))
        model.train_on_batch(x, y)
        pruner.after_step()
    return met


@pytest.mark.parametrize("method", METHODS, ids=["SET", "RigL"])
def test_every_update_keeps_the_count_and_moves_the_smallest(method, start, batches):
    met = watch(start(method), batches, data=batches[:1])
    moves = {step: 0 for step in UPDATES}
    for layer, size in enumerate((100, 40)):
        for step in range(BEGIN, 13):
            mask, kernel, slot, weights = (parts[layer] for parts in met[step - 1])
            before = met[step - 2].masks[layer]
            grown, gone = mask & ~before, before & ~mask
            assert np.count_nonzero(mask) == size // 4
            if step == BEGIN:
                continue
            # What grew starts at zero, in the optimizer too.
            np.testing.assert_array_equal(kernel, np.where(mask & before, weights, 0))
            assert not slot[~(mask & before)].any()
            assert slot[mask & before].any()
            assert np.count_nonzero(grown) == np.count_nonzero(gone)
            if step not in UPDATES:
                assert not grown.any()
                continue
            count = round(share(step) * np.count_nonzero(before))
            assert np.count_nonzero(grown) <= count
            moves[step] += np.count_nonzero(grown)
            # The `count` smallest were dropped; of them those that grew at once are still there.
            smallest = np.sort(np.abs(weights[before]))[:count]
            assert np.isin(np.abs(weights[gone]), smallest).all()
    assert moves[4] > moves[END] == 0


def test_the_first_masks_are_random_and_the_largest_weights_may_go(start, batches):
    for method in METHODS:
        met = watch(start(method), batches, batches[:1], steps=BEGIN)[-1]
        masks, weights = met.masks, np.abs(met.weights[0])
        assert weights[~masks[0]].max() > weights[masks[0]].min()
    first, second = (np.flatnonzero(mask.ravel()[:40]) for mask in masks)
    assert first.tolist() != second.tolist()


def test_rigl_grows_where_gradients_are_largest(start, batches, kernels_of, masks_of):
    """In one linear layer, whose gradient is known."""
    layer = keras.layers.Dense(4, use_bias=False)
    schedule = ConstantSparsity(0.5, begin_step=1, end_step=100, frequency=1)
    model = prune_low_magnitude(keras.Sequential([keras.Input((10,)), layer]), schedule, regrowth=RigL(0.4))
    model.compile("sgd", "mse")
    pruner = Pruner(model, gradient_data=batches[3:])
    pruner.before_step()
    pruner.after_step()
    before, w = masks_of(model)[0], kernels_of(model)[0]
    pruner.before_step()
    x, y = batches[3]
    gradient = np.abs(x.T @ (x @ w - y))
    count = round(0.4 / 2 * (1 + math.cos(math.pi / 99)) * 20)
    assert count == 8
    dropped = before & (np.abs(w) <= np.sort(np.abs(w[before]))[count - 1])
    free = ~before | dropped
    grown = free & (gradient >= np.sort(gradient[free])[-count])
    np.testing.assert_array_equal(masks_of(model)[0], (before & ~dropped) | grown)
    assert np.count_nonzero(grown & ~before) > 0


def test_set_grows_at_random(start, masks_of):
    """Another seed: other weights grow, the same ones are dropped."""
    grown, stayed = [], []
    for seed in (1, 2):
        model = start(None)
        prune_to(model, 0.75)
        before = masks_of(model)[0]
        model = prune_low_magnitude(model, SCHEDULE, regrowth=SET(0.4), seed=seed)
        Pruner(model).before_step(BEGIN)
        grown.append(masks_of(model)[0] & ~before)
        stayed.append(masks_of(model)[0] & before)
    assert (grown[0] != grown[1]).any()
    # A dropped weight may be among those that grow at once, so that more than the rest stay.
    assert np.count_nonzero(stayed[0] & stayed[1]) >= 15


@pytest.mark.parametrize("method", METHODS, ids=["SET", "RigL"])
def test_a_network_pruned_before_keeps_its_masks_to_start_with(method, start, batches, masks_of):
    model = start(None)
    prune_to(model, 0.75)
    model = prune_low_magnitude(model, SCHEDULE, regrowth=method)
    before = masks_of(model)
    met = watch(model, batches, batches[:1], steps=2)
    for mask, old in zip(met[-1].masks, before, strict=True):
        kept = np.count_nonzero(mask & old)
        count = round(0.4 * np.count_nonzero(old))  # The share of the first update.
        assert np.count_nonzero(mask) == np.count_nonzero(old)
        assert np.count_nonzero(old) - count <= kept < np.count_nonzero(old)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS, ids=["SET", "RigL"])
@pytest.mark.parametrize("stop", [1, 4])
def test_resumed_in_mid_schedule_it_ends_with_the_same_masks(
    method, stop, start, batches, tmp_path, masks_of, kernels_of
):
    whole = start(method)
    watch(whole, batches, batches[:1])
    model = start(method)
    watch(model, batches, batches[:1], steps=stop)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert {repr(layer.rule.regrowth) for layer in pruned_layers(loaded)} == {repr(method)}
    watch(loaded, batches, batches[:1])
    for mask, expected in zip(masks_of(loaded), masks_of(whole), strict=True):
        np.testing.assert_array_equal(mask, expected)
    for kernel, expected in zip(kernels_of(loaded), kernels_of(whole), strict=True):
        np.testing.assert_allclose(kernel, expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS, ids=["SET", "RigL"])
def test_in_fit_as_step_by_step(method, start, data, batches, masks_of):
    expected = watch(start(method), batches, batches[:1])[-1].masks
    model = start(method)
    callback = UpdatePruningStep(gradient_data=lambda step: batches[:1])
    model.fit(*data(12), batch_size=4, shuffle=False, verbose=0, callbacks=[callback])
    for mask, other in zip(masks_of(model), expected, strict=True):
        np.testing.assert_array_equal(mask, other)


@pytest.mark.parametrize("scope", ["global", "erk"])
def test_scopes_divide_the_first_masks(scope, start, batches, masks_of):
    model = start(RigL(), scope=scope)
    watch(model, batches, batches[:1])
    counts = [np.count_nonzero(mask) for mask in masks_of(model)]
    assert sum(counts) == 35
    assert scope == "global" or counts == [21, 14]  # In proportion to 20 and 14.


@pytest.mark.parametrize("score", ["random", "taylor"])
def test_any_score_says_what_is_dropped(score, start, batches, masks_of):
    model = start(RigL(), score=score)
    watch(model, batches, batches[:1])
    assert [np.count_nonzero(mask) for mask in masks_of(model)] == [25, 10]


def test_a_method_of_ones_own(start, batches, masks_of):
    class FromTheEnd(Regrowth):
        def growth_scores(self, tensor, step):
            return np.arange(tensor.weights.size).reshape(tensor.weights.shape)

    met = watch(start(FromTheEnd(0.4)), batches, steps=4)
    before, after = met[2].masks[0], met[3].masks[0]
    grown = np.flatnonzero(after & ~before)
    assert len(grown) and grown.min() > np.flatnonzero(~after)[-1]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"regrowth": "rigl"}, r"`regrowth` must be None or a `Regrowth`.*'rigl'"),
        ({"regrowth": RigL}, "`regrowth` must be None or a `Regrowth`"),
        ({"regrowth": SET(), "block_size": (2, 2)}, r"single weights.*block_size=\(2, 2\)"),
        ({"regrowth": SET(), "granularity": "channel"}, "single weights.*channel"),
        ({"regrowth": SET(), "pruning_schedule": None}, "`ConstantSparsity` whose `end_step`"),
        ({"regrowth": SET(), "pruning_schedule": ConstantSparsity(0.5, 0)}, "needs.*end_step=-1"),
        ({"regrowth": SET(), "pruning_schedule": ConstantSparsity(0.5, 4, 4)}, "needs.*end_step=4"),
        ({"regrowth": SET(), "pruning_schedule": PolynomialDecay(0, 0.5, 0, 9)}, "needs.*Polynomial"),
    ],
)
def test_what_does_not_go_together(options, message, mlp):
    with pytest.raises(ValueError, match=message):
        prune_low_magnitude(mlp(), **{"pruning_schedule": SCHEDULE, **options})


@pytest.mark.parametrize("drop_fraction", [0, 1, -0.1, math.nan])
def test_a_drop_fraction_outside_its_range(drop_fraction):
    with pytest.raises(ValueError, match=r"`drop_fraction` must be in \(0, 1\)"):
        RigL(drop_fraction)


def test_rigl_without_data_is_an_error_before_training(start, data):
    with pytest.raises(ValueError, match=r"regrowth=RigL\(.*gradient_data=None"):
        start(RigL()).fit(*data(1), verbose=0, callbacks=[UpdatePruningStep()])
