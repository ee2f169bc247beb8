"""A plan says exactly how large the network becomes, meets its budget, and empties nothing."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from tfprune.network.macs import kernel_uses, total
from tfprune.sparsity import ConstantSparsity, masks_of, prune_low_magnitude, prune_to, summarize
from tfprune.structured import plan
from tfprune.structured.importance import Importance


def make_model(width=20):
    """A network with residual, grouped, depthwise, separable, mixing, recurrent and attention layers."""
    image = keras.Input((10, 10, 3), name="image")
    x = layers.Conv2D(width, 3, padding="same", name="first")(image)
    x = layers.BatchNormalization(name="norm")(x)
    y = layers.Conv2D(width, 3, padding="same", name="second")(layers.ReLU()(x))
    x = layers.Add(name="sum")([x, y])
    x = layers.Conv2D(24, 3, groups=4, name="grouped")(x)
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, name="depthwise")(x)
    x = layers.SeparableConv2D(17, 3, name="separable")(x)
    x = layers.Reshape((16, 17))(x)
    x = layers.Permute((2, 1))(x)
    x = layers.Permute((2, 1))(layers.Dense(9, name="mix")(x))
    x = layers.LSTM(12, return_sequences=True, name="lstm")(x)
    x = layers.MultiHeadAttention(4, 3, name="attention")(x, x)
    return keras.Model(image, layers.Dense(5, name="head")(layers.Flatten()(x)))


def make_chain(*widths, **arguments):
    return keras.Sequential(
        [
            keras.Input((6, 6, 3)),
            *(layers.Conv2D(width, 3, padding="same", name=f"conv{n}") for n, width in enumerate(widths)),
            layers.GlobalAveragePooling2D(),
            layers.Dense(4, name="head"),
        ],
        **arguments,
    )


def values_of(model):
    return [np.array(ops.convert_to_numpy(weight)) for weight in model.weights]


@pytest.mark.slow
@pytest.mark.one_backend
@pytest.mark.parametrize(("scope", "budget"), [("global", {"params": 0.6}), ("equal", {"macs": 0.4})])
def test_sizes_are_those_of_the_applied_model(scope, budget):
    model = make_model()
    before = values_of(model)
    made = plan(model, scope=scope, **budget)
    small = made.apply()
    assert made.before.parameters == model.count_params()
    assert made.before.macs == total([use.macs for use in kernel_uses(model)])
    assert made.after.parameters == small.count_params()
    assert made.after.macs == total([use.macs for use in kernel_uses(small)])
    for old, new in zip(before, values_of(model), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.one_backend
def test_groups_say_what_each_layer_becomes():
    model = make_chain(16, 12)
    made = plan(model, macs=0.5)
    small = made.apply()
    first, second, head = made.groups
    assert (first.layers, first.takers, first.channels, first.fixed) == (("conv0",), ("conv1",), 16, "")
    assert (first.kept, second.kept) == tuple(small.get_layer(name).filters for name in ("conv0", "conv1"))
    assert head.fixed == "output of the model"
    assert (head.channels, head.kept) == (4, 4)
    for name, row in (("conv0", first), ("conv1", second), ("head", head)):
        assert row.before.parameters == model.get_layer(name).count_params()
        assert row.after.parameters == small.get_layer(name).count_params()
        sparse = {one.layer: one for one in summarize(small).variables if one.macs}
        assert row.after.macs == sparse[name].macs
    assert sum(row.after.macs for row in made.groups) == made.after.macs


@pytest.mark.one_backend
@pytest.mark.parametrize("scope", ["global", "layer", "equal"])
@pytest.mark.parametrize("unit", ["params", "macs"])
@pytest.mark.parametrize("fraction", [1.0, 0.71, 0.5, 0.2])
def test_budgets_are_met_as_nearly_as_one_channel_allows(scope, unit, fraction):
    model = make_chain(16, 12, 8)
    made = plan(model, scope=scope, **{unit: fraction})
    cost = {"params": lambda size: size.parameters, "macs": lambda size: size.macs}[unit]
    assert cost(made.after) <= fraction * cost(made.before)
    # One channel of the widest layer takes its own weights and those of it in the next layer.
    largest = (9 * 16 + 9 * 12 + 1) * (36 if unit == "macs" else 1)
    assert cost(made.after) > fraction * cost(made.before) - largest


@pytest.mark.one_backend
def test_the_scopes():
    model = make_chain(16, 12, 8)
    kernels = [model.get_layer(f"conv{n}").kernel for n in range(3)]
    for kernel, scale in zip(kernels, (1.0, 100.0, 1.0), strict=True):
        kernel.assign(kernel * scale)
    each = [row.kept / row.channels for row in plan(model, params=0.4, scope="layer").groups[:3]]
    assert max(each) - min(each) < 1 / 8
    first = model.get_layer("conv0")
    first.kernel.assign(first.kernel * np.where(np.arange(16) < 2, 100.0, 0.1))
    model.get_layer("conv1").kernel.assign(np.full(model.get_layer("conv1").kernel.shape, 1e-3))
    made = plan(model, params=0.4, scope="equal", score="l1")
    # Two channels have nearly all of the sum of the scores: the others are a small share.
    assert made.groups[0].kept <= 3
    assert made.groups[1].kept >= 6
    values = Importance(made.traced, "l1", None).values
    gone = []
    for group in made.traced.groups[:3]:
        scores, stays = values[group.sets], made.stays[group.sets]
        gone.append((scores[~stays].sum() / scores.sum(), scores[stays].min() / scores.sum()))
    for share, next_one in gone:
        assert max(other for other, _ in gone) <= share + next_one + 1e-9


@pytest.mark.one_backend
def test_global_scores_are_compared_after_division_by_the_mean_of_the_group():
    model = make_chain(16, 16)
    rng = np.random.default_rng(0)
    for number, scale in ((0, 1.0), (1, 1000.0)):
        layer = model.get_layer(f"conv{number}")
        layer.kernel.assign(scale * rng.normal(size=layer.kernel.shape))
    made = plan(model, macs=0.5)
    assert all(4 <= row.kept <= 14 for row in made.groups[:2])


@pytest.mark.one_backend
def test_the_smallest_by_magnitude_go():
    model = make_chain(8)
    kernel = np.ones(model.layers[0].kernel.shape, np.float32)
    kernel[..., [1, 4, 6]] = 0.01
    model.layers[0].kernel.assign(kernel)
    model.layers[-1].kernel.assign(np.ones((8, 4)))
    small = plan(model, params=0.7).apply()
    np.testing.assert_array_equal(ops.convert_to_numpy(small.layers[0].kernel), kernel[..., [0, 2, 3, 5, 7]])
    # What takes a channel counts too.
    model.layers[-1].kernel.assign(np.eye(8, 4) * 1000 + 1)
    small = plan(model, params=0.55, score="l1").apply()
    assert ops.convert_to_numpy(small.layers[-1].kernel).max(1).min() == 1001


@pytest.mark.one_backend
@pytest.mark.parametrize("scope", ["global", "layer", "equal"])
def test_what_is_kept_is_a_multiple(scope):
    model = make_chain(20, 30, 6, 64)
    made = plan(model, macs=0.4, scope=scope, round_to=8)
    assert all(row.kept % 8 == 0 for row in (made.groups[0], made.groups[1], made.groups[3]))
    assert made.groups[2].kept == 6
    assert made.groups[0].kept < 20
    full = plan(model, macs=1.0, round_to=8)
    assert [row.kept for row in full.groups[:4]] == [16, 24, 6, 64]


@pytest.mark.one_backend
def test_multiples_are_of_the_channels_of_grouped_convolutions():
    image = keras.Input((6, 6, 3))
    x = layers.Conv2D(32, 1, name="before")(image)
    x = layers.Conv2D(64, 3, groups=8, name="grouped")(x)
    model = keras.Model(image, layers.Dense(2)(layers.GlobalMaxPooling2D()(x)))
    small = plan(model, macs=0.6, round_to=8).apply()
    assert small.get_layer("before").filters % 8 == 0
    assert small.get_layer("grouped").groups == small.get_layer("before").filters // 4


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("patterns", "whole"),
    [("conv1", [1]), (["conv[01]"], [0, 1]), (["conv0", "conv*2"], [0, 2])],
)
def test_layers_are_kept(patterns, whole):
    model = make_chain(8, 8, 8)
    made = plan(model, params=0.65, keep=patterns)
    for number in range(3):
        row = made.groups[number]
        assert (row.kept == 8) == (number in whole)
        assert row.fixed == ("it is kept, by `keep`" if number in whole else "")


@pytest.mark.one_backend
def test_keep_may_name_a_layer_that_hands_channels_on():
    model = make_model()
    made = plan(model, params=0.8, keep="norm")
    assert made.groups[0].kept == made.groups[0].channels
    assert "norm" not in made.groups[0].layers


@pytest.mark.one_backend
def test_keep_may_name_a_nested_model():
    inner = make_chain(8, 8, name="backbone")
    image = keras.Input((6, 6, 3))
    x = inner(layers.Conv2D(3, 1, name="before")(image))
    model = keras.Model(image, layers.Dense(2, name="after")(layers.Dense(16, name="wide")(x)))
    made = plan(model, params=0.9, keep=["backbone", "wide"])
    kept = {row.layers: row.kept for row in made.groups}
    assert (kept["conv0",], kept["conv1",], kept["head",], kept["wide",]) == (8, 8, 4, 16)
    assert kept["before",] < 3


@pytest.mark.one_backend
def test_no_part_of_a_split_is_emptied():
    image = keras.Input((8,))
    x = layers.Dense(12, name="wide")(image)
    first, second = ops.split(x, 2, axis=-1)
    outputs = [layers.Dense(2)(first), layers.Dense(2)(second)]
    model = keras.Model(image, outputs)
    wide = model.get_layer("wide")
    wide.kernel.assign(np.ones((8, 12)) * np.where(np.arange(12) < 6, 1e-3, 1.0))
    small = plan(model, params=0.2).apply()
    assert small.get_layer("wide").units == 2
    assert all(np.isfinite(ops.convert_to_numpy(y)).all() for y in small(np.ones((1, 8), np.float32)))


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "Exactly one budget must be given, of `params`, `macs`.*Received: none"),
        ({"params": 0.5, "macs": 0.5}, "Exactly one budget.*Received: params=0.5, macs=0.5"),
        ({"params": 0.0}, r"`params` must be a fraction in \(0, 1\]. Received: params=0.0"),
        ({"macs": 1.5}, "Received: macs=1.5"),
        ({"macs": float("nan")}, "Received: macs=nan"),
        ({"macs": True}, "Received: macs=True"),
        ({"macs": "half"}, "Received: macs='half'"),
        ({"macs": 0.5, "scope": "all"}, "`scope` must be one of.*Received: scope='all'"),
        (
            {"macs": 0.5, "score": "large"},
            "`score` must be one of.*'fisher', .*'l1', 'l2'.*Received: score='la",
        ),
        (
            {"macs": 0.5, "round_to": 0},
            "`round_to` must be a whole number of at least 1. Received: round_to=0",
        ),
        ({"macs": 0.5, "round_to": 2.5}, "Received: round_to=2.5"),
        (
            {"macs": 0.5, "keep": ["conv0", "block*"]},
            "`keep` must name .*, of which 'block[*]' matches",
        ),
        ({"macs": 0.5, "score": "gathered"}, "`score` must be one of.*Received: score='gathered'"),
        ({"macs": 0.5, "input_shape": "x"}, "`input_shape` must be a shape.*Received: 'x'"),
        ({"macs": 0.5, "keep": 3}, "`keep` must be a name of a layer.*Received: keep=3"),
        ({"macs": 0.5, "keep": [None]}, r"`keep` must be a name of a layer.*Received: keep=\[None\]"),
        ({"macs": 0.5, "data": [3]}, "`data` must be None.*Received: score='l2', data of type list"),
        ({"macs": 0.5, "score": "variance", "data": np.zeros((0, 6, 6, 3))}, "`data` must have at least one"),
        ({"macs": 0.5, "score": "taylor"}, "`data` must be given.*Received: score='taylor', data=None"),
        ({"macs": 0.5, "score": lambda t: t.weights[0]}, "`score` must return numbers of shape"),
        ({"macs": 0.5, "score": lambda t: t.weights * np.nan}, "Scores must be finite"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        plan(make_chain(8), **arguments)


@pytest.mark.one_backend
@pytest.mark.parametrize("unit", ["params", "macs"])
def test_a_budget_that_cannot_be_reached_names_the_least_that_can(unit):
    model = make_chain(16, 12)
    with pytest.raises(ValueError, match=f"`{unit}` must be at least") as caught:
        plan(model, **{unit: 0.001})
    least = float(str(caught.value).split("at least ")[1].split(":")[0])
    made = plan(model, **{unit: least})
    assert [row.kept for row in made.groups[:2]] == [1, 1]
    with pytest.raises(ValueError, match="must be at least"):
        plan(model, **{unit: least - 2e-4})


@pytest.mark.one_backend
def test_open_sizes_need_an_input_shape():
    image = keras.Input((None, None, 3))
    x = layers.GlobalMaxPooling2D()(layers.Conv2D(8, 3, name="open")(image))
    model = keras.Model(image, layers.Dense(2)(x))
    with pytest.raises(ValueError, match="MACs must be known of all layers, but are not of open"):
        plan(model, macs=0.5)
    assert plan(model, params=0.6).after.macs is None
    assert "unknown" in str(plan(model, params=0.6))
    made = plan(model, macs=0.5, input_shape=(None, 5, 5, 3))
    assert made.after.macs == total([use.macs for use in kernel_uses(made.apply(), (None, 5, 5, 3))])


@pytest.mark.one_backend
def test_the_table():
    class Own(layers.Layer):
        def call(self, inputs):
            return inputs * 2

    image = keras.Input((6, 6, 3))
    x = layers.Conv2D(8, 3, name="free")(image)
    x = layers.Conv2D(8, 3, name="bound")(x)
    x = layers.Flatten()(Own(name="doubled")(x))
    text = str(plan(keras.Model(image, layers.Dense(2, name="head")(x)), params=0.8))
    lines = text.splitlines()
    assert lines[0].split() == ["layers", "kept", "of", "parameters", "after", "MACs", "after"]
    free = next(line for line in lines if line.startswith("free")).split()
    assert int(free[1]) < int(free[2]) == 8
    assert int(free[3]) == 9 * 3 * 8 + 8
    assert "  bound: doubled: Own has no rule for its channels" in lines
    assert "  head: output of the model" in lines
    assert lines[-1].endswith("doubled (Own)")


@pytest.mark.slow
def test_masks_count_and_stay():
    model = prune_low_magnitude(make_chain(16, 12), ConstantSparsity(0.5, begin_step=0))
    prune_to(model, 0.5)
    masks = masks_of(model)
    gone = np.array(ops.convert_to_numpy(masks["conv0/kernel"]))
    gone[..., 3] = 0
    wrapper = model.get_layer("prune_low_magnitude_conv0")
    wrapper.masks[0].assign(gone)
    wrapper.layer.kernel.assign(np.ones(gone.shape) * 5)  # Removed weights that are not zero yet.
    made = plan(model, params=0.95, score="l1", scope="layer")
    assert made.before.parameters == make_chain(16, 12).count_params()
    small = made.apply()
    left = np.array(masks_of(small)["conv0/kernel"])
    assert left.shape[-1] == made.groups[0].kept < 16
    assert left.any((0, 1, 2)).all()


@pytest.mark.slow
@pytest.mark.one_backend
def test_a_fit_under_way_is_an_error():
    from tfprune.sparsity import UpdatePruningStep

    model = prune_low_magnitude(make_chain(8), ConstantSparsity(0.5, begin_step=0))
    model.compile("sgd", "mse")
    seen = []

    class Cut(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            with pytest.raises(ValueError, match="must not be in the middle of a `fit`"):
                plan(model, params=0.5)
            seen.append(batch)

    data = np.ones((4, 6, 6, 3), np.float32), np.ones((4, 4), np.float32)
    model.fit(*data, batch_size=4, verbose=0, callbacks=[UpdatePruningStep(), Cut()])
    assert seen == [0]
    assert plan(model, params=0.5).after.parameters > 0


@pytest.mark.one_backend
def test_where_nothing_can_go_the_reasons_are_named():
    def make(**options):
        inputs = keras.Input((5, 6), batch_size=2)
        x = layers.LSTM(4, return_sequences=True, name="first")(inputs)
        return keras.Model(inputs, layers.Dense(2)(layers.LSTM(3, name="second", **options)(x)))

    kept = r"leave (\d+) of \1 parameters \(first: it is kept, by `keep`; second: it is kept, by `keep`; "
    with pytest.raises(ValueError, match=kept):
        plan(make(), params=0.5, keep=["first", "second"])
    model = make(stateful=True)
    assert "  second: it keeps its state from call to call" in str(plan(model, params=1.0))
    with pytest.raises(ValueError, match="second: it keeps its state from call to call"):
        plan(model, params=0.5, keep="first")
