"""How an overall sparsity is shared out: ERK, global, targets by name, and the ends spared."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import layers

from tfprune.sparsity import (
    ConstantSparsity,
    PolynomialDecay,
    PruneLowMagnitude,
    UpdatePruningStep,
    prune_low_magnitude,
    prune_to,
    pruned_layers,
)
from tfprune.sparsity.masks import erk_sparsities, update_masks


def erk_densities(shapes, density):
    """By bisection on the factor, not by setting tensors aside: the densities are min(1, factor * raw)."""
    sizes = np.array([np.prod(shape) for shape in shapes])
    raw = np.array([sum(shape) for shape in shapes]) / sizes
    low, high = 0.0, 1 / raw.min()
    for _ in range(200):
        middle = (low + high) / 2
        kept = (np.minimum(1, middle * raw) * sizes).sum()
        low, high = (middle, high) if kept < density * sizes.sum() else (low, middle)
    return np.minimum(1, low * raw)


# A small ResNet's, a multilayer perceptron's, equal ones, and one of vectors and one-element kernels.
SHAPES = {
    "convolutions": [(3, 3, 3, 16), (3, 3, 16, 16), (1, 1, 16, 32), (3, 3, 32, 64), (64, 10)],
    "dense": [(784, 300), (300, 100), (100, 10)],
    "equal": [(8, 8)] * 3,
    "tiny": [(1, 1), (5,), (2, 2), (40, 30)],
    "one": [(20, 30)],
}


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.5, 0.9, 0.98])
@pytest.mark.parametrize("name", SHAPES)
def test_erk_as_by_its_formula(name, sparsity):
    found = erk_sparsities(SHAPES[name], sparsity)
    assert found == pytest.approx(1 - erk_densities(SHAPES[name], 1 - sparsity), abs=1e-9)
    sizes = [np.prod(shape) for shape in SHAPES[name]]
    assert np.dot(found, sizes) == pytest.approx(sparsity * sum(sizes), abs=1e-6)


def test_erk_by_hand():
    # Raw densities (10 + 10) / 100 and (10 + 4) / 40: 34 weights at factor 1.
    assert erk_sparsities([(10, 10), (10, 4)], 1 - 34 / 140) == pytest.approx([0.8, 0.65])
    # At factor 3 the second would keep 1.05: it stays dense, the first has the rest.
    assert erk_sparsities([(10, 10), (10, 4)], 1 - 102 / 140) == pytest.approx([0.38, 0.0])


def test_erk_leaves_the_small_ones_denser():
    found = erk_sparsities(SHAPES["convolutions"], 0.9)
    # Raw densities 25/432, 38/2304, 50/512, 102/18432 and 74/640.
    assert list(np.argsort(found)) == [4, 2, 0, 1, 3]
    assert found[3] > 0.9 > found[0]


shape = st.lists(st.integers(1, 12), min_size=1, max_size=4).map(tuple)


@given(st.lists(shape, min_size=1, max_size=6), st.floats(0, 0.99), st.floats(0, 0.99))
def test_erk_is_a_sparsity_keeps_the_total_and_rises_with_it(shapes, one, other):
    low, high = sorted((one, other))
    sizes = [np.prod(s) for s in shapes]
    below, above = erk_sparsities(shapes, low), erk_sparsities(shapes, high)
    for found, sparsity in ((below, low), (above, high)):
        assert all(-1e-9 <= s < 1 for s in found)
        assert np.dot(found, sizes) == pytest.approx(sparsity * sum(sizes), abs=1e-6 * sum(sizes))
    assert all(a <= b + 1e-9 for a, b in zip(below, above, strict=True))


@given(
    st.lists(shape, min_size=1, max_size=5),
    st.lists(st.floats(0, 0.99), min_size=1, max_size=5).map(sorted),
    st.sampled_from(["global", "erk"]),
    st.integers(0, 9),
)
def test_masks_are_nested_and_the_total_is_kept(shapes, sparsities, scope, seed):
    rng = np.random.default_rng(seed)
    masks = [np.ones(s, bool) for s in shapes]
    size = sum(mask.size for mask in masks)
    for sparsity in sparsities:
        new = update_masks([rng.random(s) for s in shapes], masks, sparsity, scope)
        assert all((a <= b).all() and a.any() for a, b in zip(new, masks, strict=True))
        masks = new
        removed = sum(np.count_nonzero(~mask) for mask in masks)
        if scope == "global":
            assert removed == min(round(sparsity * size), size - len(masks))
        else:  # Each tensor rounds by itself, and keeps a weight.
            assert sparsity * size - 1.5 * len(masks) <= removed <= sparsity * size + 0.5 * len(masks) + 1e-6


# --- in a model


@pytest.fixture
def four():
    """A function that makes an unwrapped model of "first" to "fourth", 64 weights each but the last's 16."""

    def make():
        names = ("first", "second", "third")
        dense = [layers.Dense(8, name=name) for name in names]
        ends = [layers.BatchNormalization(name="norm"), layers.Dense(2, name="fourth")]
        return keras.Sequential([keras.Input((8,)), *dense, *ends])

    return make


def removed(model):
    return {
        layer.layer.name: int(sum(np.count_nonzero(~keras.ops.convert_to_numpy(m)) for m in layer.masks))
        for layer in pruned_layers(model)
    }


@pytest.mark.slow
def test_erk_in_a_model_rises_with_the_schedule(four, masks_of):
    model = prune_low_magnitude(four(), PolynomialDecay(0.2, 0.8, 0, 4, frequency=2), scope="erk")
    model.compile(keras.optimizers.SGD(0.1), "mse")
    x, y = np.ones((20, 8)), np.ones((20, 2))
    before = None
    for batches in (1, 2, 2):
        model.fit(x, y, steps_per_epoch=batches, verbose=0, callbacks=[UpdatePruningStep()])
        masks = masks_of(model)
        assert before is None or all((a <= b).all() for a, b in zip(masks, before, strict=True))
        before = masks
    # Kept: 0.2 * 208 = 41.6, in proportion to 16, 16, 16 and 10.
    assert removed(model) == {"first": 53, "second": 53, "third": 53, "fourth": 9}


def test_the_ends_are_spared(four):
    model = four()
    wrapped = prune_low_magnitude(model, None, spare_ends=True)
    assert [layer.layer.name for layer in pruned_layers(wrapped)] == ["second", "third"]
    assert wrapped.get_layer("first") is model.get_layer("first")
    assert wrapped.get_layer("fourth") is model.get_layer("fourth")
    with pytest.raises(ValueError, match="Nothing to prune"):
        prune_low_magnitude(model, None, spare_ends=True, layers="first|fourth")


def test_ends_are_those_of_the_whole_model_whatever_is_in_it_or_wrapped(four):
    inputs = keras.Input((8,))
    nested = keras.Model(inputs, layers.Dense(3, name="last")(four()(layers.ReLU()(inputs))))
    names = [layer.layer.name for layer in pruned_layers(prune_low_magnitude(nested, None, spare_ends=True))]
    assert sorted(names) == ["fourth", "second", "third"]
    # Wrapped before: the ends are still the same two.
    wrapped = prune_low_magnitude(four(), None, layers="second|third")
    again = prune_low_magnitude(wrapped, ConstantSparsity(0.5, 0), spare_ends=True)
    assert [layer.layer.name for layer in pruned_layers(again)] == ["second", "third"]


def test_a_schedule_for_each_name(four):
    half, more = ConstantSparsity(0.5, 0), PolynomialDecay(0.0, 0.75, 0, 2)
    model = prune_low_magnitude(four(), {"first|f.*h": half, ".*ir.*": more})
    schedules = {layer.layer.name: layer.pruning_schedule for layer in pruned_layers(model)}
    # The first that matches the whole name; none matches "second", which is not wrapped.
    assert schedules == {"first": half, "third": more, "fourth": half}
    model.compile("sgd", "mse")
    x, y = np.ones((3, 8)), np.ones((3, 2))
    model.fit(x, y, batch_size=1, verbose=0, callbacks=[UpdatePruningStep()])
    assert removed(model) == {"first": 32, "third": 48, "fourth": 8}
    assert not isinstance(model.get_layer("second"), PruneLowMagnitude)


def test_a_name_that_no_layer_has_is_an_error(four):
    schedule = ConstantSparsity(0.5, 0)
    with pytest.raises(ValueError, match="fourth, fourth/kernel. Received: 'secon'"):
        prune_low_magnitude(four(), {"first": schedule, "secon": schedule})


@pytest.mark.parametrize("scope", ["global", "erk"])
def test_layers_of_one_target_share_it_out_among_themselves(scope, four):
    model = prune_low_magnitude(four(), None, scope=scope)
    prune_to(model, {"first|fourth": 0.5, ".*": 0.25})
    counts = removed(model)
    assert counts["first"] + counts["fourth"] == 40
    assert counts["second"] + counts["third"] == 32
    if scope == "erk":
        # 40 stay, in proportion to 16 and 10.
        assert counts == {"first": 39, "second": 16, "third": 16, "fourth": 1}


def test_prune_to_a_sparsity_for_each_name(four):
    model = prune_low_magnitude(four(), None)
    prune_to(model, {"third": 0.75, "t.*|f.*": 0.25})
    assert removed(model) == {"first": 16, "second": 0, "third": 48, "fourth": 4}
    prune_to(model, {"s.*": 0.5})
    assert removed(model) == {"first": 16, "second": 32, "third": 48, "fourth": 4}


@pytest.mark.parametrize(
    "schedules, message",
    [
        ({}, "`pruning_schedule` must have at least one entry"),
        ({"(": None}, "`pruning_schedule` must be a valid regular expression"),
        ({"fifth": ConstantSparsity(0.5, 0)}, "must match a layer or a kernel that can be pruned.*'fifth'"),
        ({"norm": None}, "must match a layer or a kernel that can be pruned.*'norm'"),
        ({"first": 0.5}, "`pruning_schedule` must be a schedule.*0.5"),
    ],
)
def test_a_mapping_of_schedules_that_is_wrong(schedules, message, four):
    with pytest.raises(ValueError, match=message):
        prune_low_magnitude(four(), schedules)


@pytest.mark.parametrize(
    "sparsity, message",
    [
        ({}, "`sparsity` must have at least one entry"),
        ({"(": 0.5}, "`sparsity` must be a valid regular expression"),
        ({"fifth": 0.5}, "must match a pruned layer.*fifth"),
        ({"first": 0.5, "second": 1.0}, r"`sparsity\['second'\]` must be in \[0, 1\)"),
    ],
)
def test_a_mapping_of_sparsities_that_is_wrong(sparsity, message, four):
    model = prune_low_magnitude(four(), None)
    with pytest.raises(ValueError, match=message):
        prune_to(model, sparsity)
    assert set(removed(model).values()) == {0}
