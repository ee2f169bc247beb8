"""Pruning with data and no training: what the library promises, on small networks."""

import itertools

import keras
import numpy as np
import pytest
from keras import layers, ops

from tfprune import sparsity
from tfprune.network.kinds import prunable
from tfprune.sparsity.error_curves import Curve, _some_outputs, share_out
from tfprune.sparsity.patterns import WEIGHTS
from tfprune.sparsity.reconstruction import CHOICES, exchanged, make_problem, refit, removal_costs
from tfprune.sparsity.with_data import METHODS, prune_with_data

IMAGES = np.random.default_rng(0).normal(size=(32, 8, 8, 3)).astype("float32")


def weights_alone(scores, mask, share):
    return WEIGHTS.select(scores.astype("float32"), mask, share)


def random_problem(inputs=6, outputs=1, rows=40, seed=0):
    random = np.random.default_rng(seed)
    given = random.normal(size=(rows, inputs)) @ random.normal(size=(inputs, inputs))
    weights = random.normal(size=(inputs, outputs))
    wanted = given @ weights
    return make_problem(
        (given.T @ given / rows)[None],
        (given.T @ wanted / rows)[None],
        (wanted**2).mean(0)[None],
        weights[None],
        rows,
    )


def cost(problem, kept):
    """The smallest damped error of an output with some weights, by least squares."""
    gram, cross = problem.gram[0][np.ix_(kept, kept)], problem.cross[0, kept, 0]
    return -cross @ np.linalg.solve(gram, cross)


def functional():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(6, 3, use_bias=False, name="first")(inputs)
    x = layers.ReLU()(layers.BatchNormalization(name="norm")(x))
    x = layers.Add()([x, layers.SeparableConv2D(6, 3, padding="same", name="separable")(x)])
    shared = layers.Dense(6, name="shared")
    x = shared(layers.ReLU()(shared(x)))
    return keras.Model(inputs, layers.Dense(4, name="head")(layers.Flatten()(x)))


def sequential():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(4, 3, activation="relu"),
            layers.Conv2DTranspose(4, 3, strides=2),
            layers.GlobalAveragePooling2D(),
            layers.Dense(4),
        ]
    )


def nested():
    keras.utils.set_random_seed(0)
    block = keras.Input((36, 6))
    inner = keras.Model(block, layers.MultiHeadAttention(2, 3)(block, block))
    inputs = keras.Input((8, 8, 3))
    x = layers.Reshape((36, 6))(layers.Conv2D(6, 3)(inputs))
    return keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling1D()(inner(x))))


class Own(keras.Model):
    def __init__(self):
        super().__init__()
        self.conv = layers.Conv2D(6, 3)
        self.norm = layers.BatchNormalization()
        self.attention = layers.MultiHeadAttention(2, 3)
        self.head = layers.Dense(3)

    def call(self, images, training=False):
        x = ops.reshape(ops.relu(self.norm(self.conv(images), training=training)), (-1, 36, 6))
        return self.head(ops.mean(self.attention(x, x), 1))


def own():
    keras.utils.set_random_seed(0)
    model = Own()
    model(IMAGES[:1])
    return model


MODELS = {"functional": functional, "sequential": sequential, "nested": nested, "own": own}


def outputs(model):
    return ops.convert_to_numpy(model(IMAGES, training=False))


def state(model):
    return [np.array(ops.convert_to_numpy(variable)) for variable in model.variables]


def zeros(model):
    kernels = [kernel.variable for kernel in prunable(model)]
    values = [ops.convert_to_numpy(variable) for variable in kernels]
    return [np.count_nonzero(value == 0) / value.size for value in values]


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_each_kernel_reaches_the_sparsity_and_errors_are_smaller_than_by_magnitude(make):
    model, peer = make(), make()
    before = outputs(model)
    report = prune_with_data(model, 0.5, IMAGES, allocation="uniform", verbose=0)
    options = {"method": "magnitude", "variance": False, "allocation": "uniform"}
    prune_with_data(peer, 0.5, IMAGES, verbose=0, **options)
    assert all(abs(share - 0.5) < 0.05 for share in zeros(model))
    assert len(report.layers) == len(zeros(model))
    assert abs(report.sparsity - 0.5) < 0.01
    assert all(one.error_after <= one.error_before + 1e-9 for one in report.layers)
    errors = [np.square(outputs(each) - before).mean() for each in (model, peer)]
    assert errors[0] < 0.7 * errors[1]
    assert "repaired" in str(report) and report.layers[-1].name in str(report)


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_a_wrapped_model_ends_as_one_that_is_not_and_holds_masks(make):
    plain, model = make(), sparsity.prune_low_magnitude(make(), None)
    prune_with_data(plain, 0.5, IMAGES, allocation="uniform", verbose=0)
    prune_with_data(model, 0.5, IMAGES, verbose=0)
    assert np.allclose(outputs(model), outputs(plain), atol=1e-4)
    masks = sparsity.masks_of(model)
    assert all(abs(mask.mean() - 0.5) < 0.05 for mask in masks.values())
    again = prune_with_data(model, 0.7, IMAGES, verbose=0)
    assert again.sparsity == pytest.approx(0.7, abs=0.02)
    for name, mask in sparsity.masks_of(model).items():
        assert not (mask & ~masks[name]).any()


def test_nothing_removed_is_nothing_changed():
    model = functional()
    before = outputs(model)
    prune_with_data(model, 0.0, IMAGES, verbose=0)
    assert np.allclose(outputs(model), before, atol=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_patterns_hold_and_equal_calls_give_equal_weights(method):
    models = [functional(), functional()]
    for model in models:
        prune_with_data(
            model, 0.5, IMAGES, method=method, pattern=sparsity.MOfN(2, 4), layers="shared", verbose=0
        )
    kernel = ops.convert_to_numpy(models[0].get_layer("shared").kernel)
    assert (np.count_nonzero(kernel[:4], axis=0) == 2).all()
    assert np.array_equal(kernel, ops.convert_to_numpy(models[1].get_layer("shared").kernel))


def test_blocks_go_as_a_whole():
    model = sparsity.prune_low_magnitude(functional(), None, block_size=(2, 2), layers="shared")
    prune_with_data(model, 0.5, IMAGES, verbose=0)
    (mask,) = sparsity.masks_of(model).values()
    blocks = mask.reshape(3, 2, 3, 2).sum((1, 3))
    assert set(np.unique(blocks)) <= {0, 4} and mask.sum() == 20


def test_the_bias_takes_up_the_mean_and_batch_norm_follows():
    model = functional()
    wanted = outputs(model).mean(0)
    prune_with_data(model, 0.8, IMAGES, layers="head", verbose=0)
    assert np.allclose(outputs(model).mean(0), wanted, atol=1e-4)
    model = functional()
    norm = model.get_layer("norm")
    inner = keras.Model(model.inputs[0], norm.output)
    before = ops.convert_to_numpy(inner(IMAGES)).reshape(-1, 6)
    prune_with_data(model, 0.8, IMAGES, layers="first", verbose=0)
    after = ops.convert_to_numpy(inner(IMAGES)).reshape(-1, 6)
    assert np.allclose(after.mean(0), before.mean(0), atol=1e-3)
    assert np.allclose(after.std(0), before.std(0), atol=1e-2)


def test_removal_costs_are_those_of_brute_force():
    """Remove the weight after which least squares of the others errs least, then the next."""
    problem = random_problem()
    costs = removal_costs(problem.gram[0], problem.cross[0, :, 0])
    kept, order, least = list(range(6)), [], [cost(problem, list(range(6)))]
    while len(kept) > 1:
        best = min(kept, key=lambda one: cost(problem, [other for other in kept if other != one]))
        kept.remove(best)
        order.append(best)
        least.append(cost(problem, kept))
    assert list(np.argsort(costs, kind="stable"))[:5] == order
    steps = np.maximum.accumulate(np.diff(least))
    assert np.allclose(np.sort(costs)[:5], steps)


def test_a_refit_is_least_squares_whichever_way_it_is_solved():
    problem = random_problem(outputs=3)
    mask = np.random.default_rng(1).random((1, 6, 3)) < 0.6
    found = refit(problem, mask)
    assert np.allclose(refit(problem, mask, direct=0), found, atol=1e-3)
    assert not found[~mask].any()
    slope = problem.gram @ found - problem.cross
    assert np.abs(slope[mask]).max() < 1e-9


def test_reconstruct_comes_near_the_best_mask_of_all():
    for seed in range(5):
        problem = random_problem(inputs=8, seed=seed)
        every = [np.array(kept) for kept in itertools.combinations(range(8), 4)]
        best = min(cost(problem, kept) for kept in every)
        worst = max(cost(problem, kept) for kept in every)
        mask = CHOICES["reconstruct"](problem, np.ones((1, 8, 1), bool), 0.5, weights_alone)
        better = exchanged(problem, mask, np.ones_like(mask))
        reached = cost(problem, np.flatnonzero(better[0, :, 0]))
        assert reached <= cost(problem, np.flatnonzero(mask[0, :, 0]))
        assert reached - best < 0.1 * (worst - best)


@pytest.mark.parametrize("method", METHODS)
def test_an_input_that_is_always_zero_is_no_trouble(method):
    images = IMAGES.copy()
    images[..., 1] = 0
    model = functional()
    prune_with_data(model, 0.5, images, method=method, verbose=0)
    assert all(np.isfinite(value).all() for value in state(model))


def test_a_sparsity_is_shared_out_by_the_steepest_parts_of_the_errors():
    flat = Curve(np.array([0, 50, 100.0]), np.array([1.0, 0.1, 0.0]))
    steep = Curve(np.array([0, 50, 100.0]), np.array([1.0, 0.9, 0.0]))  # Above its hull, a line.
    shares = share_out([flat, steep, None], [100, 100, 40], 0.5)
    # The first 50 of the one, then as many of the other: one weight of which stays anyway.
    assert shares == pytest.approx([0.5, 0.5, 0.5])
    sizes = [100, 100, 43]
    for share in (0.0, 0.31, 0.777, 0.99):
        shares = np.array(share_out([flat, steep, None], sizes, share))
        assert np.round((1 - shares) * sizes).sum() == 243 - round(share * 243)
    assert list(flat.hull().kept) == [0, 50, 100] and list(steep.hull().kept) == [0, 100]


def test_a_global_allocation_keeps_the_number_of_weights_and_errs_less():
    errors = {}
    for allocation in ("uniform", "erk", "global"):
        model = functional()
        before = outputs(model)
        report = prune_with_data(model, 0.7, IMAGES, allocation=allocation, verbose=0)
        assert report.sparsity == pytest.approx(0.7, abs=0.01)
        total = sum(one.size for one in report.layers)
        assert allocation != "global" or round(report.sparsity * total) == round(0.7 * total)
        errors[allocation] = sum(one.error_after for one in report.layers)
        assert np.isfinite(outputs(model) - before).all()
    assert errors["global"] < errors["uniform"]


def test_a_wide_dense_layer_is_solved_in_blocks_of_inputs_and_a_huge_one_goes_by_magnitude(monkeypatch):
    def dense():
        keras.utils.set_random_seed(0)
        return keras.Sequential([keras.Input((50,)), layers.Dense(20), layers.BatchNormalization()])

    random = np.random.default_rng(0)
    images = (random.normal(size=(300, 10)) @ random.normal(size=(10, 50))).astype("float32")
    monkeypatch.setattr("tfprune.network.gram._WIDEST", 12)
    for allocation in ("uniform", "global"):
        model = dense()
        before = ops.convert_to_numpy(model(images))
        (layer,) = prune_with_data(model, 0.6, images, allocation=allocation, verbose=0).layers
        assert layer.sparsity == pytest.approx(0.6) and layer.error_after < 0.5 * layer.error_before
        after = ops.convert_to_numpy(model(images))
        # Biases take up what all blocks change in the mean.
        assert np.allclose(after.mean(0), before.mean(0), atol=1e-3)
        assert ((after - before) ** 2).mean() < 0.5 * before.var()
    monkeypatch.setattr("tfprune.sparsity.layer_problems._MOST_WEIGHTS", 999)
    (layer,) = prune_with_data(dense(), 0.6, images, verbose=0).layers
    assert layer.note == "by magnitude: more than 999 weights" and layer.sparsity == pytest.approx(0.6)


def test_curves_of_some_outputs_share_out_much_as_those_of_all(monkeypatch):
    shares = []
    for most in (1000, 3):
        monkeypatch.setattr("tfprune.sparsity.error_curves._OUTPUTS", most)
        report = prune_with_data(functional(), 0.7, IMAGES, verbose=0)
        shares.append([layer.sparsity for layer in report.layers])
    assert np.allclose(*shares, atol=0.15)
    problem, there = random_problem(outputs=7), np.ones((1, 6, 7), bool)
    monkeypatch.setattr(weights_alone, "is_free", True, raising=False)
    some, present, _ = _some_outputs(problem, there, weights_alone)
    assert np.array_equal(some.cross, problem.cross[:, :, [0, 3, 6]]) and present.shape == (1, 6, 3)


def test_entries_of_equal_sparsity_are_not_ranked_together():
    model = sparsity.prune_low_magnitude(functional(), None, layers="first|head", scope="global")
    model.layers[1].layer.kernel.assign(100 * model.layers[1].layer.kernel)
    sparsity.prune_to(model, {"first": 0.5, "head": 0.5})
    for mask in sparsity.masks_of(model).values():
        assert mask.mean() == pytest.approx(0.5, abs=0.01)


class Named(keras.Model):
    def __init__(self):
        super().__init__()
        self.left, self.right = layers.Dense(4), layers.Dense(4)

    def call(self, inputs):
        return {"sum": self.left(inputs["left"]) + self.right(inputs["right"])}


def test_a_model_of_its_own_class_takes_named_inputs_at_once_and_in_batches():
    inputs = {"left": IMAGES[:, 0, 0], "right": IMAGES[:, 0, :, 0]}
    kernels = []
    halves = [{name: value[cut] for name, value in inputs.items()} for cut in (slice(16), slice(16, None))]
    for given in (inputs, iter([(half, None) for half in halves])):
        keras.utils.set_random_seed(0)
        model = Named()
        model(inputs)
        prune_with_data(model, 0.5, given, verbose=0)
        kernels.append([ops.convert_to_numpy(kernel.variable) for kernel in prunable(model)])
    for one, other in zip(*kernels, strict=True):
        assert np.allclose(one, other, atol=1e-5)
    found = sparsity.search_sparsities(
        model, 0.6, inputs, method="wanda", generations=1, offspring=2, population=2, verbose=0
    )
    assert set(found.sparsities) == {model.left.name, model.right.name}


def test_errors_leave_the_model_as_it_was():
    model = functional()
    before = state(model)
    broken = IMAGES.copy()
    broken[3, 2, 2, 1] = np.nan
    for arguments, message in (
        ({"images": IMAGES[:1]}, "two at least"),
        ({"images": IMAGES[:, :4]}, "shapes of the model's inputs"),
        ({"images": broken}, "finite values"),
        ({"target_sparsity": 1.0}, "target_sparsity"),
        ({"target_sparsity": {"nothing": 0.5}}, "must match"),
        ({"method": "best"}, "`method` must be one of"),
        ({"pattern": "2:4"}, "`pattern` must be a `Pattern`"),
        ({"allocation": "global", "pattern": sparsity.MOfN(2, 4)}, "same share of zeros"),
        ({"allocation": "fair"}, "`allocation` must be one of"),
        ({"layers": "norm"}, "Nothing to prune"),
        ({"spare": "missing"}, "Each entry of `spare` must match"),
        ({"target_sparsity": "0.5"}, "`target_sparsity` must be a number in"),
        ({"target_sparsity": {"head": True}}, r"`target_sparsity\['head'\]` must be a number in"),
        ({"method": ["wanda"]}, "`method` must be one of"),
        ({"correct": 3}, "`correct` must be True, False or None. Received: correct=3"),
        ({"variance": 3}, "`variance` must be True, False or None. Received: variance=3"),
        ({"batch_norm": "no"}, "`batch_norm` must be True or False. Received: batch_norm='no'"),
        ({"verbose": float("nan")}, "`verbose` must be 0, 1, 2 or None. Received: verbose=nan"),
        ({"images": "folder"}, "`images` must be inputs of the model"),
        ({"images": IMAGES.astype(complex)}, "`images` must be numbers. Received: complex128"),
        ({"images": IMAGES.astype(str)}, "`images` must be numbers. Received: <U"),
        (
            {"images": iter([IMAGES, IMAGES[:, :4]])},
            "`images` must be batches of one structure",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            prune_with_data(model, **{"target_sparsity": 0.5, "images": IMAGES, "verbose": 0, **arguments})
        assert all(np.array_equal(a, b) for a, b in zip(before, state(model), strict=True))


def test_numbers_of_numpy_are_numbers():
    model = functional()
    arguments = {"correct": np.False_, "variance": np.False_, "batch_norm": np.True_, "verbose": np.int64(0)}
    report = prune_with_data(model, np.float32(0.5), IMAGES.astype("int32"), **arguments)
    assert report.sparsity == pytest.approx(0.5, abs=0.01)
    assert all(one.error_after == one.error_before for one in report.layers)


def test_a_layer_that_is_not_called_is_named():
    class Idle(Own):
        def __init__(self):
            super().__init__()
            self.idle = layers.Dense(2, name="idle")
            self.idle.build((None, 3))

    model = Idle()
    model(IMAGES[:1])
    before = state(model)
    with pytest.raises(ValueError, match="'idle'"):
        prune_with_data(model, 0.5, IMAGES, verbose=0)
    assert all(np.array_equal(a, b) for a, b in zip(before, state(model), strict=True))
