"""The search for how much to prune where: its budgets, that it is repeatable, and that it loses nothing."""

import json
import re

import keras
import numpy as np
import pytest
from keras import layers

from tfprune.errors import FileError, UserError
from tfprune.sparsity import (
    Blocks,
    masks_of,
    prune_low_magnitude,
    prune_to,
    prune_with_data,
    search_sparsities,
    strip_pruning,
)
from tfprune.sparsity.search.allocation import Allocations, Timed, Uses, level_counts
from tfprune.sparsity.search.database import Database
from tfprune.sparsity.search.divergence import Divergence, divergence_of
from tfprune.sparsity.search.kernels import ByMagnitude, removal_order, searched_kernels
from tfprune.sparsity.search.latency import Times

QUICK = {"generations": 2, "offspring": 5, "population": 3, "batch_size": 12, "verbose": 0}


def images(count=24, seed=0):
    return np.random.default_rng(seed).normal(size=(count, 6, 6, 2)).astype("float32")


def network(seed=0):
    """A small classifier with BatchNorm whose statistics are not those of a new one."""
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            layers.Conv2D(6, 3, name="first"),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Conv2D(8, 3, name="second", use_bias=False),
            layers.GlobalAveragePooling2D(),
            layers.Dense(5, activation="softmax", name="head"),
        ]
    )
    model.layers[1].moving_mean.assign(np.linspace(-1, 1, 6))
    model.layers[1].moving_variance.assign(np.linspace(0.5, 2, 6))
    return model


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.inner = keras.Sequential([layers.Conv2D(4, 3, name="convolution"), layers.ReLU()])
        self.pool = layers.GlobalAveragePooling2D()
        self.head = layers.Dense(3, name="head")

    def call(self, inputs):
        return self.head(self.pool(self.inner(inputs)))


def nested():
    keras.utils.set_random_seed(1)
    inside = keras.Sequential([keras.Input((6, 6, 2)), layers.Conv2D(4, 3, name="inside")], name="block")
    inputs = keras.Input((6, 6, 2))
    hidden = layers.GlobalMaxPooling2D()(inside(inputs))
    return keras.Model(inputs, layers.Dense(3, name="head")(hidden))


def subclassed():
    keras.utils.set_random_seed(2)
    model = Subclassed()
    model(images(2))
    return model


def values(model):
    return [np.array(keras.ops.convert_to_numpy(weight)) for weight in model.weights]


def same(first, second):
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def pruned_by(model, sparsities):
    wrapped = prune_low_magnitude(model, None)
    prune_to(wrapped, {re.escape(name): share for name, share in sparsities.items()})
    return wrapped


@pytest.mark.parametrize("make", [network, nested, subclassed])
def test_as_many_weights_go_as_are_to_and_the_model_stays(make):
    model = make()
    before = values(model)
    result = search_sparsities(model, 0.7, images(), **QUICK)
    assert same(values(model), before)
    total = sum(layer.weights for layer in result.layers)
    assert sum(layer.removed for layer in result.layers) == round(0.7 * total)
    assert result.divergence <= min(start.divergence for start in result.starts)
    masks = masks_of(pruned_by(model, result.sparsities))
    assert sum(np.count_nonzero(~mask) for mask in masks.values()) == round(0.7 * total)


def test_multiply_accumulates_go_but_for_less_than_those_of_a_weight():
    model = network()
    result = search_sparsities(model, 0.6, images(), budget="macs", **QUICK)
    whole, left = (sum(getattr(layer, name) for layer in result.layers) for name in ("before", "after"))
    uses = [layer.before // layer.weights for layer in result.layers]
    assert uses == [16, 4, 1]
    assert whole == 16 * 108 + 4 * 432 + 40
    cheapest = min(use for use, layer in zip(uses, result.layers, strict=True) if layer.removed)
    assert 0 <= round(0.4 * whole) - left < cheapest
    assert result.reached == pytest.approx(0.6, abs=cheapest / whole)


def fake_times(monkeypatch):
    """Has a kernel take 1 ms and 0.01 ms for each weight that is left, and the rest of a network 2 ms."""

    def of_each(times, counts):
        kernels = zip(times._kernels, counts, strict=True)
        return [(kernel.path, 1 + 0.01 * (kernel.size - int(count))) for kernel, count in kernels]

    def of_networks(times, removed):
        calls.append(list(removed))
        return {name: 2 + sum(time for _, time in of_each(times, removed[name])) for name in removed}

    calls = []
    monkeypatch.setattr(Times, "_nodes", of_each)
    monkeypatch.setattr(Times, "of_networks", of_networks)
    return calls


def test_times_go_as_are_to_and_an_interrupted_search_measures_no_kernel_again(tmp_path, monkeypatch):
    model, path = network(), tmp_path / "search.json"
    calls = fake_times(monkeypatch)
    result = search_sparsities(model, 0.4, images(), budget="latency", path=path, **QUICK)
    dense = 2 + 3 + 5.8
    assert result.rest == pytest.approx(2)
    assert result.milliseconds[0] == pytest.approx(dense)
    assert 0 <= 0.6 * dense - result.milliseconds[1] < 0.02
    assert result.reached == pytest.approx(0.4, abs=2e-3)
    assert "the whole network in the sparse runtime: 10.8 ms dense, 6.4" in str(result)
    calls.clear()
    again = search_sparsities(model, 0.4, images(), budget="latency", path=path, **QUICK)
    assert again == result and calls == [["dense", "pruned"]]
    with pytest.raises(ValueError, match=r"`target` must be at most 0\.53"):
        search_sparsities(model, 0.6, images(), budget="latency", **QUICK)


@pytest.mark.parametrize("together", [1.3, 0.8])
def test_a_time_is_met_where_kernels_take_another_one_together(monkeypatch, together):
    fake_times(monkeypatch)
    alone = Times.of_networks

    def of_networks(times, removed):
        found = alone(times, removed)
        return {name: time * (together if any(removed[name]) else 1) for name, time in found.items()}

    monkeypatch.setattr(Times, "of_networks", of_networks)
    result = search_sparsities(network(), 0.25, images(), budget="latency", **QUICK)
    dense, pruned = result.milliseconds
    assert 1 - pruned / dense == pytest.approx(0.25, abs=0.01)


def test_a_time_that_is_not_met_is_told(monkeypatch):
    fake_times(monkeypatch)
    monkeypatch.setattr(Times, "of_networks", lambda times, removed: {"dense": 10.0, "pruned": 9.5})
    with pytest.warns(UserWarning, match=r"takes 5 % less time than the dense one, where 25 % were asked"):
        result = search_sparsities(network(), 0.25, images(), budget="latency", **QUICK)
    assert result.milliseconds == (10.0, 9.5)


@pytest.mark.slow
def test_kernels_are_timed_in_the_sparse_runtime(monkeypatch):
    pytest.importorskip("llvmlite")
    monkeypatch.setattr("tfprune.sparsity.search.latency.MEASURED", (1.0, 0.3))
    model = prune_low_magnitude(nested(), None)
    before = values(model)
    kernels = searched_kernels(model, None, None)
    times = Times(model, kernels, ByMagnitude(kernels))
    removed, milliseconds = times.of_kernels()
    assert [counts.tolist() for counts in removed] == [[0, 50], [0, 8]]
    assert all(time > 0 for each in milliseconds for time in each)
    found = times.of_networks({"dense": [0, 0], "pruned": [50, 8]})
    assert found["dense"] > 0 and found["pruned"] > 0
    assert same(values(model), before)


@pytest.mark.slow
def test_a_model_that_the_sparse_runtime_cannot_run_has_no_budget_of_time():
    pytest.importorskip("llvmlite")
    model = subclassed()
    before = values(model)
    with pytest.raises(UserError, match="functional and Sequential"):
        search_sparsities(model, 0.4, images(), budget="latency", **QUICK)
    assert same(values(model), before)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["reconstruct", "wanda"])
def test_kernels_pruned_with_data_are_searched(method):
    model = network()
    before = values(model)
    result = search_sparsities(model, 0.7, images(), method=method, **QUICK)
    assert same(values(model), before)
    by_magnitude = search_sparsities(model, 0.7, images(), **QUICK)
    assert result.starts[0].sparsities == by_magnitude.starts[0].sparsities
    assert result.starts[0].divergence != by_magnitude.starts[0].divergence
    assert [start.name for start in result.starts] == ["uniform", "erk", "lamp", "global", "errors"]
    assert result.divergence <= min(start.divergence for start in result.starts)
    report = prune_with_data(model, result.sparsities, images(), method=method, verbose=0)
    assert round(report.sparsity * 580) == 406 == round(0.7 * 580)


def test_a_database_has_each_number_of_zeros_and_the_bias_that_goes_with_them():
    model = network()
    before = values(model)
    kernels = searched_kernels(model, None, None)
    database = Database(model, kernels, [images()], "reconstruct", True, 0)
    assert same(values(model), before)
    assert [id(variable) for variable in database.variables] == [
        id(variable)
        for variable in (
            *(kernel.variable for kernel in kernels),
            model.get_layer("first").bias,
            model.get_layer("head").bias,
        )
    ]
    for number, kernel in enumerate(kernels):
        for count in (0, 1, kernel.size // 2, kernel.size - 1):
            (variable, weights), *bias = database.at(number, count)
            assert variable is kernel.variable and weights.shape == tuple(variable.shape)
            assert np.count_nonzero(weights == 0) == count
            assert len(bias) == (number != 1)
    dense, half = database.at(2, 0), database.at(2, 20)
    assert np.array_equal(dense[0][1], before[-2]) and np.array_equal(dense[1][1], before[-1])
    assert not np.array_equal(half[1][1], before[-1])


@pytest.mark.slow
def test_the_divergence_is_that_of_the_pruned_network():
    model = network()
    result = search_sparsities(model, 0.5, images(), recalibrate=False, **QUICK)
    dense = model.predict(images(), verbose=0).astype("float64")
    pruned = strip_pruning(pruned_by(model, result.sparsities)).predict(images(), verbose=0)
    expected = (dense * np.log(dense / pruned)).sum(-1).mean()
    assert result.kind == "probabilities"
    assert result.divergence == pytest.approx(expected, rel=1e-3, abs=1e-6)


def test_batches_have_statistics_of_their_own_where_they_are_to():
    model = network()
    moving = search_sparsities(model, 0.8, images(), recalibrate=False, **QUICK)
    own = search_sparsities(model, 0.8, images(), **QUICK)
    assert moving.starts[0].sparsities == own.starts[0].sparsities
    assert moving.starts[0].divergence != own.starts[0].divergence


@pytest.mark.slow
def test_one_seed_finds_the_same_and_more_generations_are_no_worse():
    model = network()
    first = search_sparsities(model, 0.8, images(), **QUICK)
    assert search_sparsities(model, 0.8, images(), **QUICK) == first
    longer = search_sparsities(model, 0.8, images(), **{**QUICK, "generations": 4})
    assert longer.history[: len(first.history)] == first.history
    assert list(longer.history) == sorted(longer.history, reverse=True)
    other = search_sparsities(model, 0.8, images(), **QUICK, seed=1)
    assert other.starts == first.starts


@pytest.mark.slow
def test_an_interrupted_search_ends_as_an_uninterrupted_one(tmp_path, monkeypatch):
    model, path = network(), tmp_path / "search.json"
    before = values(model)
    settings = {**QUICK, "generations": 4}
    whole = search_sparsities(model, 0.8, images(), **settings)

    def interrupt(bar, generation, *values, **named):
        if generation == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(keras.utils.Progbar, "update", interrupt)
        search_sparsities(model, 0.8, images(), path=path, **settings)
    assert same(values(model), before)
    assert len(json.loads(path.read_text())["history"]) == 3
    assert search_sparsities(model, 0.8, images(), path=path, **settings) == whole
    assert search_sparsities(model, 0.8, images(), path=path, **settings) == whole


@pytest.mark.slow
def test_the_file_of_another_search_is_refused(tmp_path):
    model, path = network(), tmp_path / "search.json"
    search_sparsities(model, 0.8, images(), path=path, **QUICK)
    with pytest.raises(FileError, match=r"search\.json: .* another search: target"):
        search_sparsities(model, 0.7, images(), path=path, **QUICK)
    with pytest.raises(FileError, match="another search: content"):
        search_sparsities(model, 0.8, images(seed=1), path=path, **QUICK)
    path.write_text("{")
    with pytest.raises(FileError, match="not a readable search of sparsities"):
        search_sparsities(model, 0.8, images(), path=path, **QUICK)


def test_what_masks_remove_stays_removed():
    model = prune_low_magnitude(network(), None)
    prune_to(model, {"second": 0.9})
    result = search_sparsities(model, 0.75, images(), **QUICK)
    assert result.sparsities["second"] >= 0.9 - 1 / 432
    total = sum(layer.weights for layer in result.layers)
    assert sum(layer.removed for layer in result.layers) == round(0.75 * total)
    with pytest.raises(ValueError, match=r"`target` must be at least 0\.67"):
        search_sparsities(model, 0.5, images(), **QUICK)


def test_weights_that_go_in_groups_are_an_error():
    model = prune_low_magnitude(network(), None, layers="head", pattern=Blocks((2, 1)))
    with pytest.raises(ValueError, match="Single weights are searched"):
        search_sparsities(model, 0.5, images(), **QUICK)


def test_only_what_is_chosen_is_searched():
    result = search_sparsities(network(), 0.5, images(), layers=layers.Conv2D, **QUICK)
    assert list(result.sparsities) == ["first", "second"]
    spared = search_sparsities(network(), 0.5, images(), spare="second", **QUICK)
    assert list(spared.sparsities) == ["first", "head"]


def test_images_may_come_in_batches_with_labels():
    array = images()
    batches = [(array[:10], np.zeros(10)), (array[10:], np.zeros(14))]
    assert search_sparsities(network(), 0.5, iter(batches), **QUICK) == search_sparsities(
        network(), 0.5, array, **QUICK
    )


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"target": 1.0}, r"`target` must be in \(0, 1\)"),
        ({"target": 0.9999, "budget": "macs"}, "`target` must be at most 0.99"),
        ({"budget": "money"}, "`budget` must be one of"),
        ({"images": None}, "`images` must be inputs"),
        ({"images": images()[:, :5]}, "`images` must have the shapes"),
        ({"images": images(1)}, "`images` must be two at least"),
        ({"images": np.full((4, 6, 6, 2), np.nan)}, "`images` must be finite"),
        ({"divergence": "far"}, "`divergence` must be one of"),
        ({"generations": 0}, "`generations` must be a whole number, at least 1"),
        ({"method": "guess"}, "`method` must be one of"),
        ({"seed": -1}, "`seed` must be a whole number, at least 0"),
        ({"layers": layers.Embedding}, "Nothing to prune"),
        ({"spare": "missing"}, "Each entry of `spare` must match"),
        ({"path": "missing/search.json"}, "`path` must be in a folder that is there"),
        ({"path": 3}, "`path` must be a path or None. Received: path=3"),
        ({"target": True}, r"`target` must be in \(0, 1\). Received: target=True"),
        ({"recalibrate": 1}, "`recalibrate` must be True or False. Received: recalibrate=1"),
        ({"verbose": "yes"}, "`verbose` must be 0, 1, 2 or None. Received: verbose='yes'"),
        ({"spare": "("}, "`spare` must be a valid regular expression"),
        ({"images": images().astype(complex)}, "`images` must be numbers. Received: complex128"),
        ({"budget": "macs", "input_shape": (1, 6, -6, 2)}, "`input_shape` must be a shape"),
    ],
)
def test_a_bad_argument_is_an_error_that_names_it(changed, message):
    model = network()
    before = values(model)
    arguments = {"target": 0.5, "images": images(), **QUICK, **changed}
    with pytest.raises(ValueError, match=message):
        search_sparsities(model, **arguments)
    assert same(values(model), before)


def test_numbers_of_numpy_are_numbers():
    found = search_sparsities(
        network(),
        np.float32(0.5),
        images(),
        **{**QUICK, "generations": np.int64(1), "recalibrate": np.True_, "verbose": np.int64(0)},
    )
    assert len(found.history) == 2


def test_weights_that_are_not_finite_are_an_error():
    model = network()
    model.get_layer("second").kernel.assign(np.full((3, 3, 6, 8), np.nan))
    with pytest.raises(ValueError, match="Weights must be finite. Received: NaN or infinity in second"):
        search_sparsities(model, 0.5, images(), **QUICK)


@pytest.mark.slow
def test_the_result_is_a_table_a_dictionary_and_a_picture(tmp_path):
    result = search_sparsities(network(), 0.5, images(), **QUICK)
    lines = str(result).splitlines()
    assert re.match(
        r"layer +weights +removed +searched +uniform +erk +lamp +global +weights +after", lines[0]
    )
    assert [line.split()[0] for line in lines[2:]] == ["first", "second", "head", "all", "divergence"]
    assert json.loads(json.dumps(result.to_dict()))["sparsities"] == result.sparsities
    pytest.importorskip("matplotlib")
    result.plot(tmp_path / "search.png")
    assert (tmp_path / "search.png").stat().st_size > 1000


@pytest.mark.one_backend
def test_any_allocation_is_settled_within_the_budget_and_uses_it_up():
    rng = np.random.default_rng(0)
    sizes, uses = [40, 300, 5000, 90], [64, 16, 4, 1]
    levels = [level_counts(size) for size in sizes]
    for costs, of_each in ((Uses(sizes, [1] * 4), [1] * 4), (Uses(sizes, uses), uses)):
        limit = int(0.3 * costs.total([0] * 4))
        allocations = Allocations(costs, limit, levels)
        counts = allocations.settled([0] * 4, range(4))
        for _ in range(50):
            other = allocations.settled([rng.integers(0, size) for size in sizes], rng.permutation(4))
            counts = allocations.mutated(allocations.crossed(counts, other, rng), rng)
            for each in (counts, other):
                cheapest = min(use for use, count in zip(of_each, each, strict=True) if count)
                assert 0 <= limit - costs.total(each) < cheapest
                assert all(0 <= count < size for count, size in zip(each, sizes, strict=True))


@pytest.mark.one_backend
def test_a_mutation_changes_some_kernels_and_not_all():
    rng = np.random.default_rng(0)
    sizes = [1000] * 30
    costs = Uses(sizes, [1] * 30)
    allocations = Allocations(costs, 9000, [level_counts(size) for size in sizes])
    start = allocations.settled([700] * 30, range(30))
    changed = [np.count_nonzero(allocations.mutated(start, rng) != start) for _ in range(50)]
    assert min(changed) >= 2 and max(changed) <= 8


@pytest.mark.one_backend
def test_measured_times_are_met_from_below_and_never_rise():
    costs = Timed(
        [100, 100], [np.array([0, 50, 99])] * 2, [np.array([4.0, 2.0, 3.0]), np.array([8.0, 6.0, 1.0])]
    )
    assert [costs.of(0, count) for count in (0, 25, 50, 99)] == [4.0, 3.0, 2.0, 2.0]
    assert costs.removed_at(0, 3.0) == 25 and costs.removed_at(1, 6.0) == 50
    assert costs.removed_at(0, 1.0) == 100  # It cannot be as quick.
    allocations = Allocations(costs, 7.0, [level_counts(100)] * 2)
    for order in ([0, 1], [1, 0]):
        counts = allocations.settled([0, 0], order)
        assert 6.8 < costs.total(counts) <= 7.0


@pytest.mark.one_backend
def test_levels_begin_with_what_is_removed_and_leave_a_weight():
    assert level_counts(20).tolist()[:4] == [0, 1, 2, 3]
    assert level_counts(20)[-1] == 19 and level_counts(1).tolist() == [0]
    assert level_counts(1000, least=432)[0] == 432
    assert level_counts(1000)[-1] == 999
    assert (np.diff(level_counts(1000, least=432)) > 0).all()


@pytest.mark.one_backend
def test_weights_go_in_the_order_of_prune_to():
    model = network()
    kernels = searched_kernels(model, None, None)
    kernels[0].variable.assign(np.round(np.array(kernels[0].variable) * 5))  # Many of one magnitude.
    pruned = ByMagnitude(kernels)
    expected = [pruned.at(0, 33)[0][1], pruned.at(1, 400)[0][1]]
    wrapped = prune_low_magnitude(model, None, keep_zeros=False)
    prune_to(wrapped, {"first": 33 / 108, "second": 400 / 432})
    assert same(expected, [np.array(kernel.variable) for kernel in kernels[:2]])
    assert removal_order(np.array([1.0, -2.0, 1.0, 0.5]), np.array([True, False, True, True])).tolist() == [
        1,
        3,
        2,
        0,
    ]


@pytest.mark.one_backend
def test_divergences_by_hand():
    dense = np.array([[0.5, 0.5], [0.9, 0.1]])
    other = np.array([[0.9, 0.1], [0.9, 0.1]])
    by_hand = 0.5 * np.log(0.5 / 0.9) + 0.5 * np.log(0.5 / 0.1)
    assert divergence_of(dense) == "probabilities"
    assert Divergence([dense], ["probabilities"]).of([other], 0) == pytest.approx([by_hand, 0])
    logits = Divergence([np.log(dense) + 3], ["logits"]).of([np.log(other[:1]) - 2], 0)
    assert logits == pytest.approx([by_hand])
    numbers = np.array([[1.0, 0.0], [3.0, 0.0]])
    assert divergence_of(numbers) == divergence_of(numbers[:, 0]) == "squared"
    squared = Divergence([numbers], ["squared"])
    assert squared.of([np.array([[2.0, 0.0], [2.0, 0.0]])], 0) == pytest.approx([1, 1])
    assert squared.of([np.array([[np.nan, 0.0]])], 1).tolist() == [np.inf]
