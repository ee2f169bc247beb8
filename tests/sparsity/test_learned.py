"""Masks that are learned, DST and CS, and phases that go up and down, AC/DC."""

import keras
import numpy as np
import pytest
from keras import ops

from tfprune import sparsity
from tfprune.network.kinds import Kernel
from tfprune.network.optimizers import averages
from tfprune.sparsity import CS, DST, AlternatingSparsity, PolynomialDecay, Pruner, UpdatePruningStep
from tfprune.sparsity.apply import parts_of
from tfprune.sparsity.learned import make_learned
from tfprune.sparsity.targets import late
from tfprune.structured import shrink

METHODS = [DST(), DST("layer"), DST("weight"), CS(50.0)]
IDS = ["DST_unit", "DST_layer", "DST_weight", "CS"]
END = 40


def ramp(target=0.8, end=END):
    return PolynomialDecay(0.0, target, begin_step=2, end_step=end, power=1, frequency=2)


@pytest.fixture
def problem():
    """A function that makes a compiled network whose masks are learned, and its data."""

    def make(learning, schedule=None, scope="global", **options):
        rng = np.random.default_rng(1)
        x = rng.normal(size=(256, 10)).astype("float32")
        y = (x[:, :4] * x[:, 4:8]).astype("float32")
        model = keras.Sequential(
            [
                keras.Input((10,)),
                keras.layers.Dense(20, activation="relu", name="first"),
                keras.layers.Dense(4, name="second"),
            ]
        )
        schedule = schedule or ramp()
        model = sparsity.prune_low_magnitude(model, schedule, scope=scope, learning=learning, **options)
        model.compile(keras.optimizers.Adam(0.01), "mse")
        return model, x, y

    return make


def learned_of(model):
    return [part.learned for part in parts_of(sparsity.pruned_layers(model))]


def value(variable):
    return np.array(ops.convert_to_numpy(variable.value))


def density(model):
    parts = parts_of(sparsity.pruned_layers(model))
    kept = sum(part.learned.kept(part.variable, part.mask) for part in parts)
    return kept / sum(int(np.prod(part.shape)) for part in parts)


# --- the methods, without a model


def alone(method, shape=(3, 4), output_axes=(-1,)):
    """Returns the learned mask of a kernel of a layer of its own."""
    layer = keras.layers.Layer()
    variable = layer.add_weight(shape=shape, initializer="ones", name="kernel")
    kernel = Kernel(layer, "kernel", variable, 0, output_axes)
    return make_learned(method, kernel, layer.add_weight, "kernel")


@pytest.mark.parametrize(
    "thresholds, shape", [("unit", (1, 1, 1, 5)), ("layer", (1, 1, 1, 1)), ("weight", (3, 3, 2, 5))]
)
def test_thresholds_are_of_units_layers_or_weights(thresholds, shape):
    learned = alone(DST(thresholds), (3, 3, 2, 5))
    assert tuple(learned.parameter.shape) == shape
    assert not value(learned.parameter).any()


def test_the_step_of_dst_and_its_long_tail():
    margins = np.array([-1.5, -0.7, -0.3, 0.0, 0.1, 0.4, 0.9, 1.1], "float32")
    weights = keras.Variable(margins + 2)
    threshold = keras.Variable(np.array([2.0], "float32"))
    method, one = DST("layer"), keras.Variable(1.0)
    factor = method.factor(weights.value, threshold.value, one.value)
    np.testing.assert_array_equal(ops.convert_to_numpy(factor), margins > 0)
    np.testing.assert_allclose(method.margin(margins + 2, np.float32(2)), margins, atol=1e-6)
    # By the paper's formula; of the weight it is the opposite sign.
    tail = np.where(np.abs(margins) <= 0.4, 2 - 4 * np.abs(margins), np.where(np.abs(margins) <= 1, 0.4, 0))
    tail[3] = tail[5] = np.nan  # At the corners there is more than one derivative.
    found = gradient(lambda t: method.factor(weights.value, t, one.value), threshold, margins.size)
    np.testing.assert_allclose(found[~np.isnan(tail)], -tail[~np.isnan(tail)], atol=1e-5)


def gradient(function, variable, size):
    """Returns the derivatives of each element of a function of a variable's value, one by one."""
    found = []
    for place in range(size):
        if keras.backend.backend() == "torch":
            import torch

            at = torch.tensor(value(variable), requires_grad=True)
            found.append(torch.autograd.grad(function(at)[place], at)[0].numpy().sum())
        elif keras.backend.backend() == "jax":
            import jax

            found.append(float(jax.grad(lambda at, i=place: function(at)[i])(variable.value).sum()))
        else:
            import tensorflow as tf

            at = tf.constant(value(variable))
            with tf.GradientTape() as tape:
                tape.watch(at)
                one = function(at)[place]
            found.append(float(tf.reduce_sum(tape.gradient(one, at))))
    return np.array(found)


def test_the_factor_of_cs_against_finite_differences():
    method, size = CS(100.0, initial=0.1), 5
    gates = np.array([-0.2, -0.01, 0.0, 0.05, 0.3], "float32")
    weights = np.ones(size, "float32")
    sharp = np.float32(method.sharpness(0.5))
    assert sharp == 10.0 and method.sharpness(0) == 1.0 and method.sharpness(1) == 100.0

    def factor(at):
        return np.array(ops.convert_to_numpy(method.factor(weights, at, sharp)))

    expected = (1 + np.exp(-0.1)) / (1 + np.exp(-10.0 * gates))
    np.testing.assert_allclose(factor(gates), expected, rtol=1e-5)
    found = gradient(lambda at: method.factor(weights, at, sharp), keras.Variable(gates), size)
    step = np.float32(1e-2)
    np.testing.assert_allclose(found, (factor(gates + step) - factor(gates - step)) / (2 * step), rtol=1e-2)


@pytest.mark.parametrize("method", METHODS, ids=IDS)
def test_strength_rises_where_too_many_stay_and_falls_where_too_few(method):
    learned = alone(method)
    learned.steer(0.5, 0.0)
    first = float(value(learned.strength))
    learned.steer(0.5, 0.0)
    second = float(value(learned.strength))
    learned.steer(-0.5, 0.5)
    assert 0 < first < second and float(value(learned.strength)) < second
    assert float(value(learned.sharpness)) == pytest.approx(method.sharpness(0.5))


# --- in training


@pytest.mark.parametrize(
    "method, scope",
    [(method, "global") for method in METHODS] + [(CS(50.0), "layer"), (DST(), "erk")],
    ids=[*IDS, "CS_layer", "DST_erk"],
)
def test_counts_are_exact_and_weights_fixed_after_the_schedule(problem, method, scope):
    model, x, y = problem(method, scope=scope)
    for epochs in (4, 4):  # Of 8 steps.
        assert all(mask.all() for mask in sparsity.masks_of(model).values())
        model.fit(x, y, epochs=epochs, verbose=0, callbacks=[UpdatePruningStep()])
    masks = sparsity.masks_of(model)
    assert not any(learned.is_open() for learned in learned_of(model))
    assert sum(map(np.count_nonzero, masks.values())) == pytest.approx(56, abs=1 if scope == "erk" else 0)
    for wrapper in sparsity.pruned_layers(model):
        for kernel, mask in wrapper.pruned:
            if scope == "layer":
                size = value(mask).size
                assert np.count_nonzero(value(mask)) == size - round(0.8 * size)
            np.testing.assert_array_equal(value(kernel.variable) != 0, value(mask))
    outputs = model.predict(x[:8], verbose=0)
    stripped = sparsity.strip_pruning(model)
    assert len(stripped.variables) == 4
    np.testing.assert_allclose(stripped.predict(x[:8], verbose=0), outputs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", [DST(), CS(50.0)], ids=["DST", "CS"])
def test_what_is_learned_gets_to_the_target_before_the_ranking(problem, method):
    model, x, y = problem(method, PolynomialDecay(0.0, 0.8, 0, 160, frequency=5))
    pruner = Pruner(model)
    densities = {}
    for step in range(1, 160):
        pruner.before_step()
        model.train_on_batch(x[:64], y[:64])
        pruner.after_step()
        if step in (1, 80, 159):
            densities[step] = density(model)
    assert densities[1] > 0.9 > densities[80]
    assert 0.13 < densities[159] < 0.3
    pruner.before_step()
    assert sum(map(np.count_nonzero, sparsity.masks_of(model).values())) == 56


@pytest.mark.parametrize("method, epochs", [(DST(), 3), (CS(50.0), 3), (CS(50.0), 7)])
def test_a_saved_model_goes_on_as_if_never_stopped(problem, method, epochs, tmp_path):
    kept = []
    for stop in (False, True):
        keras.utils.set_random_seed(0)
        model, x, y = problem(method)
        options = {"verbose": 0, "shuffle": False, "callbacks": [UpdatePruningStep()]}
        if stop:
            model.fit(x, y, epochs=epochs, **options)
            model.save(tmp_path / "model.keras")
            model = keras.models.load_model(tmp_path / "model.keras")
            assert repr(sparsity.pruned_layers(model)[0].rule.learning) == repr(method)
        model.fit(x, y, epochs=9, initial_epoch=epochs if stop else 0, **options)
        kept.append([value(variable) for variable in model.variables])
    for one, other in zip(*kept, strict=True):
        np.testing.assert_array_equal(one, other)


def test_several_steps_in_one_execution_and_mixed_precision(problem):
    keras.config.set_dtype_policy("mixed_float16")
    model, x, y = problem(DST())
    steps = 1 if keras.backend.backend() == "torch" else 4  # Keras has no more on PyTorch.
    model.compile(keras.optimizers.Adam(0.01), "mse", steps_per_execution=steps)
    model.fit(x, y, epochs=8, verbose=0, callbacks=[UpdatePruningStep()])
    assert sum(map(np.count_nonzero, sparsity.masks_of(model).values())) == 56
    assert all(np.isfinite(value(variable)).all() for variable in model.trainable_variables)


def test_a_loop_of_ones_own_and_the_penalty_among_the_losses(problem):
    model, x, y = problem(CS(50.0))
    pruner = Pruner(model)
    losses = []
    for step in range(END + 4):
        pruner.before_step()
        losses.append(sum(float(ops.convert_to_numpy(loss)) for loss in model.losses))
        model.train_on_batch(x[:32], y[:32])
        pruner.after_step()
        assert step > END - 2 or losses[0] == 0.0
    assert max(losses) > 0 == losses[-1]
    assert len(model.losses) == 2  # One a kernel.


def test_stripping_before_the_end_fixes_what_stays_at_present(problem):
    model, x, y = problem(DST("weight"), ramp(end=400))
    model.fit(x, y, epochs=30, verbose=0, callbacks=[UpdatePruningStep()])
    share = density(model)
    outputs = model.predict(x[:8], verbose=0)
    assert 0 < share < 1
    with pytest.warns(UserWarning, match="The stripped model has sparsity"):
        stripped = sparsity.strip_pruning(model)
    zeros = sum(np.count_nonzero(value(layer.kernel) == 0) for layer in stripped.layers)
    assert zeros == round(280 * (1 - share))
    np.testing.assert_allclose(stripped.predict(x[:8], verbose=0), outputs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", METHODS, ids=IDS)
def test_before_anything_is_learned_nothing_is_fixed_or_lost(problem, method):
    dense, x, _ = problem(None, None)
    dense = sparsity.strip_pruning(dense)
    before = dense.predict(x[:8], verbose=0)
    for make in (sparsity.strip_pruning, lambda model: sparsity.prune_low_magnitude(model, None)):
        model = make(sparsity.prune_low_magnitude(dense, ramp(), learning=method))
        np.testing.assert_allclose(model.predict(x[:8], verbose=0), before, rtol=1e-5, atol=1e-6)
    assert all(mask.all() for mask in sparsity.masks_of(model).values())


@pytest.fixture
def halfway(problem):
    """A function that returns a network whose masks are learned by a method, before the schedule's end."""

    def make(method):
        model, x, y = problem(method, ramp(end=60))
        model.fit(x, y, epochs=4, verbose=0, callbacks=[UpdatePruningStep()])
        assert all(learned.is_open() for learned in learned_of(model))
        return model, x, y

    return make


@pytest.mark.parametrize("method", [DST("weight"), CS(50.0)], ids=["DST", "CS"])
def test_pruning_at_once_ranks_by_what_was_learned_and_ends_it(halfway, method):
    model, x, y = halfway(method)
    ranks = [
        method.margin(value(part.variable), value(part.learned.parameter))
        for part in parts_of(sparsity.pruned_layers(model))
    ]
    sparsity.prune_to(model, 0.5)
    masks = list(sparsity.masks_of(model).values())
    assert sum(map(np.count_nonzero, masks)) == 140
    kept, gone = (
        np.concatenate([rank[mask == stays] for rank, mask in zip(ranks, masks, strict=True)])
        for stays in (True, False)
    )
    assert kept.min() >= gone.max()
    model.fit(x, y, epochs=8, initial_epoch=4, verbose=0, callbacks=[UpdatePruningStep()])
    assert sum(map(np.count_nonzero, sparsity.masks_of(model).values())) == 56
    stripped = sparsity.strip_pruning(model)
    assert sum(np.count_nonzero(value(layer.kernel)) for layer in stripped.layers) == 56


def test_wrapped_anew_what_stays_at_present_stays(halfway):
    model, x, _ = halfway(DST("weight"))
    share, outputs = density(model), model.predict(x[:8], verbose=0)
    for make in (sparsity.quantize_aware, lambda model: sparsity.prune_low_magnitude(model, None)):
        again = make(model)
        assert not any(learned_of(again))
        assert np.mean(np.concatenate([m.ravel() for m in sparsity.masks_of(again).values()])) == share
        assert sparsity.pruned_layers(again)[0].steps_taken == 32
    np.testing.assert_allclose(again.predict(x[:8], verbose=0), outputs, rtol=1e-5, atol=1e-6)


def test_what_needs_masks_refuses_a_model_that_still_learns_them(halfway):
    model, x, y = halfway(DST())
    for call in (
        lambda: sparsity.prune_with_data(model, 0.9, x[:32], verbose=0),
        lambda: sparsity.search_sparsities(model, 0.9, x[:32], verbose=0),
        lambda: shrink(model),
    ):
        with pytest.raises(ValueError, match="masks that are still learned.*layer 'first'"):
            call()
    model.fit(x, y, epochs=8, initial_epoch=4, verbose=0, callbacks=[UpdatePruningStep()])
    masks = sparsity.masks_of(model)
    masks["first/kernel"][:, :3] = False
    sparsity.set_masks(model, masks)
    smaller = shrink(model)
    assert smaller.layers[0].layer.units <= 17
    np.testing.assert_allclose(smaller.predict(x[:8]), model.predict(x[:8]), rtol=1e-5, atol=1e-6)


class Own(keras.Model):
    def __init__(self):
        super().__init__()
        self.first = keras.layers.Dense(20, activation="relu")
        self.second = keras.layers.Dense(4)

    def call(self, x):
        return self.second(self.first(x))


def test_a_compiled_model_of_a_class_of_its_own_learns_with_a_fresh_optimizer(problem):
    _, x, y = problem(None)
    model = Own()
    model.compile(keras.optimizers.Adam(0.01), "mse")
    model.fit(x, y, verbose=0)
    optimizer = model.optimizer
    sparsity.prune_low_magnitude(model, None)
    assert model.optimizer is optimizer
    sparsity.prune_low_magnitude(model, ramp(), scope="global", learning=CS(50.0))
    model.fit(x, y, epochs=6, verbose=0, callbacks=[UpdatePruningStep()])
    assert sum(map(np.count_nonzero, sparsity.masks_of(model).values())) == 56
    assert float(model.optimizer.learning_rate) == pytest.approx(0.01)
    sparsity.strip_pruning(model)
    model.fit(x, y, verbose=0)
    assert len(model.trainable_variables) == 4


def test_moving_averages_of_the_weights_follow_their_factors():
    learned = alone(CS(50.0, initial=1.0))
    variable, average = keras.Variable(np.ones((3, 4), "float32")), keras.Variable(np.full((3, 4), 2.0))
    gates = np.linspace(-1, 1, 12).reshape(3, 4)
    learned.parameter.assign(gates)
    learned.sharpness.assign(2.0)
    learned.fix(variable, [average])
    factors = (1 + np.exp(-1.0)) * np.where(gates > 0, 1 / (1 + np.exp(-2.0 * gates)), 1)
    np.testing.assert_allclose(value(variable), factors, rtol=1e-5)
    np.testing.assert_allclose(value(average), 2 * factors, rtol=1e-5)
    optimizer = keras.optimizers.SGD(0.1, use_ema=True)
    optimizer.build([variable])
    assert len(averages(optimizer, variable)) == 1
    assert averages(keras.optimizers.SGD(0.1), variable) == averages(None, variable) == []


def test_a_penalty_that_has_no_effect_is_told(problem):
    model, x, y = problem(CS(50.0))
    for learned in learned_of(model):
        learned.parameter.regularizer = None  # As in a loop of one's own that leaves out `model.losses`.
    with pytest.warns(UserWarning, match="What was learned keeps .* in layer 'first'.* and others"):
        model.fit(x, y, epochs=6, verbose=0, callbacks=[UpdatePruningStep()])
    assert sum(map(np.count_nonzero, sparsity.masks_of(model).values())) == 56


@pytest.mark.parametrize("inner, outer", [(None, CS()), (CS(), None)])
def test_wrappers_inside_layers_learn_only_by_themselves(inner, outer):
    dense = sparsity.prune_low_magnitude(keras.layers.Dense(5), ramp(), learning=inner)
    model = keras.Sequential([keras.Input((3, 4)), keras.layers.TimeDistributed(dense, name="each")])
    with pytest.raises(ValueError, match="`learning` needs a wrapper around layer 'each'"):
        sparsity.prune_low_magnitude(model, ramp(), learning=outer)


def test_masks_that_are_there_stay(problem):
    model, x, y = problem(None)
    sparsity.prune_to(model, 0.5)
    before = sparsity.masks_of(model)
    model = sparsity.prune_low_magnitude(model, ramp(), scope="global", learning=CS(50.0))
    model.compile(keras.optimizers.Adam(0.01), "mse")
    model.fit(x, y, epochs=6, verbose=0, callbacks=[UpdatePruningStep()])
    after = sparsity.masks_of(model)
    assert sum(map(np.count_nonzero, after.values())) == 56
    assert all((after[name] <= before[name]).all() for name in before)


def test_layers_that_share_a_kernel_share_what_is_learned():
    inputs = keras.Input((8,), dtype="int32")
    table = keras.layers.ReversibleEmbedding(20, 16, name="table")
    outputs = table(keras.layers.Dense(16, name="dense")(table(inputs)), reverse=True)
    model = sparsity.prune_low_magnitude(keras.Model(inputs, outputs), ramp(), learning=CS())
    assert len(learned_of(model)) == len(model.losses) == 2


@pytest.mark.parametrize(
    "options, words",
    [
        ({"learning": "dst"}, "`learning` must be None"),
        ({"learning": DST(), "pruning_schedule": None}, "needs a schedule that rises"),
        ({"learning": DST(), "pruning_schedule": sparsity.ConstantSparsity(0.5, 0)}, "needs a schedule"),
        (
            {"learning": DST(), "pruning_schedule": PolynomialDecay(0.0, 0.5, 3, 3)},
            "`end_step` must be above",
        ),
        ({"learning": DST(), "pruning_schedule": sparsity.ByEpoch(0.5, 1)}, "`epoch` must be above its `beg"),
        ({"learning": DST(), "granularity": "channel"}, "single weights"),
        ({"learning": DST(), "score": "lamp"}, "`score` must be 'magnitude'"),
        ({"learning": DST(), "regrowth": sparsity.SET()}, "`regrowth`"),
    ],
)
def test_what_does_not_go_together_is_refused(mlp, options, words):
    options = {"pruning_schedule": ramp(), **options}
    model = mlp()
    with pytest.raises(ValueError, match=words):
        sparsity.prune_low_magnitude(model, **options)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: DST("channel"), "`thresholds` must be one of"),
        (lambda: CS(1.0), "`sharpest` must be above 1"),
        (lambda: CS(initial=0.0), "`initial` must be above 0"),
        (lambda: CS(initial="low"), "`initial` must be above 0. Received: initial='low'"),
    ],
)
def test_arguments_out_of_range(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize("frozen", [lambda wrapper: wrapper, lambda wrapper: wrapper.layer])
def test_frozen_layers_cannot_learn(problem, frozen):
    model, x, y = problem(DST())
    frozen(model.layers[0]).trainable = False
    with pytest.raises(ValueError, match="must be trainable"):
        model.fit(x, y, verbose=0, callbacks=[UpdatePruningStep()])


# --- phases


def test_phases_go_up_and_down():
    schedule = AlternatingSparsity(0.9, begin_step=4, end_step=16, frequency=3)
    assert [schedule(step) for step in (4, 7, 10, 13, 16)] == [
        (True, sparse) for sparse in (0.9, 0.0, 0.9, 0.0, 0.9)
    ]
    assert [schedule(step)[0] for step in (0, 3, 5, 12, 17, 19)] == [False] * 6
    assert [schedule(step)[1] for step in (9, 12, 15, 17, 99)] == [0.0, 0.9, 0.0, 0.9, 0.9]
    assert repr(AlternatingSparsity.from_config(schedule.get_config())) == repr(schedule)


@pytest.mark.parametrize("options", [{}, {"scope": "global"}, {"block_size": (2, 2)}])
def test_weights_return_in_dense_phases_and_counts_end_exact(problem, options):
    options.setdefault("scope", "layer")
    target = 0.5
    model, x, y = problem(None, AlternatingSparsity(target, 5, 37, 8), **options)
    pruner = Pruner(model)
    kept = []
    for step in range(1, 45):
        pruner.before_step()
        masks = sparsity.masks_of(model)
        kept.append(sum(map(np.count_nonzero, masks.values())))
        model.train_on_batch(x[:32], y[:32])
        pruner.after_step()
        if step == 13:  # What returned starts from zero, and moves.
            returned = np.count_nonzero(value(sparsity.pruned_layers(model)[0].layer.kernel))
            assert returned > 150
    assert kept == [280] * 4 + ([140] * 8 + [280] * 8) * 2 + [140] * 8
    for wrapper in sparsity.pruned_layers(model):
        np.testing.assert_array_equal(value(wrapper.layer.kernel) != 0, value(wrapper.masks[0]))


def test_a_fit_that_ends_in_a_dense_phase_is_told(problem):
    schedule = AlternatingSparsity(0.5, 1, 33, 8)
    model, x, y = problem(None, schedule)
    layers = sparsity.pruned_layers(model)
    assert late(layers, 16) and late(layers, 32) and not late(layers, 33)
    with pytest.warns(UserWarning, match="0.5"):
        model.fit(x, y, epochs=2, verbose=0, callbacks=[UpdatePruningStep()])

    model.fit(x, y, epochs=3, verbose=0, callbacks=[UpdatePruningStep()])
    assert sparsity.summarize(model).sparsity == pytest.approx(0.5, abs=0.01)
