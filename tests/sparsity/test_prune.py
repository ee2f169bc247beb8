import keras
import numpy as np
import pytest
from keras import layers

from tfprune.sparsity import (
    ConstantSparsity,
    PolynomialDecay,
    PrunableLayer,
    PruneLowMagnitude,
    PruningPolicy,
    UpdatePruningStep,
    masks_of,
    prune_low_magnitude,
    prune_to,
    pruned_layers,
    strip_pruning,
    summarize,
)


def inner_names(model):
    return [layer.layer.name for layer in pruned_layers(model)]


def convnet():
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(4, 3, name="stage1_conv"),
            layers.BatchNormalization(name="norm"),
            layers.DepthwiseConv2D(3, name="depthwise"),
            layers.Conv2D(4, 1, name="stage2_conv"),
            layers.Flatten(name="flatten"),
            layers.Dense(2, name="head"),
        ]
    )


def test_a_functional_model_computes_the_same_when_wrapped():
    inputs = keras.Input((6,))
    x = layers.Dense(5, activation="relu", name="a")(inputs)
    x = layers.Dropout(0.5, name="dropout")(x)
    outputs = [layers.Dense(2, name="b")(x), layers.Dense(3, name="c")(x)]
    model = keras.Model(inputs, outputs)
    wrapped = prune_low_magnitude(model)
    assert inner_names(wrapped) == ["a", "b", "c"]
    x = np.random.default_rng(0).normal(size=(3, 6))
    for before, after in zip(model.predict(x, verbose=0), wrapped.predict(x, verbose=0), strict=True):
        np.testing.assert_allclose(before, after, atol=1e-6)


def test_layers_without_prunable_weights_pass_through_as_they_are():
    model = convnet()
    wrapped = prune_low_magnitude(model)
    assert inner_names(wrapped) == ["stage1_conv", "stage2_conv", "head"]
    for name in ("norm", "depthwise", "flatten"):
        assert wrapped.get_layer(name) is model.get_layer(name)
    assert {"norm", "depthwise"} <= set(summarize(wrapped).left_out)


@pytest.mark.parametrize(
    "selection, expected",
    [
        (None, ["stage1_conv", "stage2_conv", "head"]),
        (layers.Conv2D, ["stage1_conv", "stage2_conv"]),
        ((layers.Dense, layers.Embedding), ["head"]),
        (r"stage\d_conv", ["stage1_conv", "stage2_conv"]),
        (r"stage1.*|head", ["stage1_conv", "head"]),
        (lambda layer: layer.name != "head", ["stage1_conv", "stage2_conv"]),
        (".*", ["stage1_conv", "stage2_conv", "head"]),
    ],
)
def test_layers_are_selected_by_type_pattern_or_predicate(selection, expected):
    assert inner_names(prune_low_magnitude(convnet(), layers=selection)) == expected


def test_a_pattern_must_match_the_whole_name():
    with pytest.raises(ValueError, match="Nothing to prune.*stage"):
        prune_low_magnitude(convnet(), layers="stage")


@pytest.mark.parametrize("selection", ["no_such_layer", layers.LSTM, "norm", lambda layer: False])
def test_a_selection_without_prunable_layers_is_an_error(selection):
    with pytest.raises(ValueError, match="Nothing to prune"):
        prune_low_magnitude(convnet(), layers=selection)


def test_a_bad_selection_is_an_error():
    with pytest.raises(ValueError, match="valid regular expression"):
        prune_low_magnitude(convnet(), layers="(")
    with pytest.raises(ValueError, match="`layers` must be"):
        prune_low_magnitude(convnet(), layers=3)


def test_a_single_layer():
    dense = layers.Dense(3)
    wrapper = prune_low_magnitude(dense, ConstantSparsity(0.25, 0), scope="global")
    assert isinstance(wrapper, PruneLowMagnitude)
    assert wrapper.layer is dense
    assert (wrapper.pruning_schedule.target_sparsity, wrapper.rule.scope) == (0.25, "global")


NOTHING_TO_PRUNE = [
    lambda: layers.Dropout(0.4),
    layers.Flatten,
    layers.BatchNormalization,
    lambda: layers.DepthwiseConv2D(3),
    lambda: layers.Activation("relu"),
    type("OwnDropout", (layers.Dropout,), {}),
]


@pytest.mark.parametrize("make", NOTHING_TO_PRUNE)
def test_a_single_layer_that_has_nothing_to_prune_gets_a_wrapper_without_masks(make, to_numpy):
    layer = make() if make is not NOTHING_TO_PRUNE[-1] else make(0.5)
    x = np.ones((2, 6, 6, 3), "float32")
    wrapper = prune_low_magnitude(layer)
    assert isinstance(wrapper, PruneLowMagnitude) and wrapper.layer is layer
    np.testing.assert_array_equal(to_numpy(wrapper(x)), to_numpy(layer(x)))
    assert wrapper.masks == wrapper.pruning_vars == layer.get_prunable_weights() == []
    assert prune_low_magnitude(wrapper).layer is strip_pruning(wrapper) is layer


@pytest.mark.parametrize("around", [lambda layer: layer, layers.TimeDistributed])
def test_a_single_layer_of_an_unknown_kind_is_an_error(around):
    class Scale(layers.Layer):
        def call(self, x):
            return 2 * x

        def compute_output_shape(self, shape):
            return shape

    with pytest.raises(ValueError, match="Nothing to prune"):
        prune_low_magnitude(around(Scale()))
    wrapper = PruneLowMagnitude(around(Scale()))
    with pytest.raises(ValueError, match="says by `get_prunable_weights` what may be pruned.*layer '.*which"):
        wrapper(np.ones((2, 3, 4), "float32"))


@pytest.mark.slow
def test_every_layer_wrapped_by_a_clone_function_trains_saves_loads_and_is_stripped(tmp_path, data):
    """Layers without masks neither need the callback nor hinder anything."""
    model = keras.Sequential(
        [
            keras.Input((10,)),
            layers.Dense(8, name="dense"),
            layers.BatchNormalization(name="norm"),
            layers.Dropout(0.1),
            layers.ReLU(),
            layers.Dense(4, name="head"),
        ]
    )
    schedule = ConstantSparsity(0.5, begin_step=0)
    wrapped = keras.models.clone_model(
        model, clone_function=lambda layer: prune_low_magnitude(layer, schedule)
    )
    assert len(pruned_layers(wrapped)) == 5 and list(masks_of(wrapped)) == ["dense/kernel", "head/kernel"]
    wrapped.compile("sgd", "mse")
    wrapped.fit(*data(2), verbose=0, callbacks=[UpdatePruningStep()])
    wrapped.save(tmp_path / "wrapped.keras")
    wrapped.save_weights(tmp_path / "wrapped.weights.h5")
    loaded = keras.saving.load_model(tmp_path / "wrapped.keras")
    loaded.load_weights(tmp_path / "wrapped.weights.h5")
    assert summarize(loaded).sparsity == summarize(wrapped).sparsity == 0.5
    prune_to(loaded, 0.75)
    stripped = strip_pruning(loaded)
    assert [layer.name for layer in stripped.layers] == [layer.name for layer in model.layers]
    assert summarize(stripped).sparsity == 0.75

    only_norm = keras.Sequential(
        [keras.Input((10,)), prune_low_magnitude(layers.BatchNormalization(), schedule)]
    )
    only_norm.compile("sgd", "mse")
    only_norm.fit(*[data(2)[0]] * 2, verbose=0)
    with pytest.raises(ValueError, match="nothing to prune"):
        prune_to(only_norm, 0.5)


class Nothing(PruningPolicy):
    """Allows no layer."""

    def allow_pruning(self, layer):
        return False

    def ensure_model_supports_pruning(self, model):
        pass


def test_a_policy_that_allows_no_layer_is_a_warning(to_numpy):
    for to_prune in (convnet(), layers.Dense(3), [layers.Dense(3)]):
        with pytest.warns(UserWarning, match="Nothing is pruned.*Nothing"):
            result = prune_low_magnitude(to_prune, pruning_policy=Nothing())
        results = result if isinstance(result, list) else [result]
        assert not any(pruned_layers(each) for each in results)


def test_a_list_of_layers_keeps_its_order_and_what_it_cannot_prune():
    given = [layers.Dense(3, name="a"), layers.ReLU(), layers.Conv2D(2, 3, name="b")]
    wrapped = prune_low_magnitude(given)
    assert [type(layer) for layer in wrapped] == [PruneLowMagnitude, layers.ReLU, PruneLowMagnitude]
    assert wrapped[1] is given[1]
    model = keras.Sequential([keras.Input((4,)), *wrapped[:2]])
    prune_to(model, 0.5)
    assert summarize(model).sparsity == 0.5
    assert strip_pruning(wrapped) == given


def test_a_layer_twice_in_a_list_gets_one_wrapper():
    dense = layers.Dense(3)
    first, second = prune_low_magnitude([dense, dense])
    assert first is second


def test_nested_models():
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4, name="in_sequential")], name="inner")
    inputs = keras.Input((4,))
    middle = keras.Model(inputs, layers.Dense(4, name="in_functional")(inner(inputs)), name="middle")
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(4, name="outside")(middle(inputs)))
    wrapped = prune_low_magnitude(model)
    assert sorted(inner_names(wrapped)) == ["in_functional", "in_sequential", "outside"]
    prune_to(wrapped, 0.75)
    assert summarize(wrapped).sparsity == 0.75
    stripped = strip_pruning(wrapped)
    assert pruned_layers(stripped) == []
    x = np.ones((2, 4), "float32")
    np.testing.assert_allclose(
        wrapped.predict(x, verbose=0), stripped.predict(x, verbose=0), rtol=1e-6, atol=1e-7
    )


def test_a_shared_layer_has_one_wrapper_and_one_mask():
    dense = layers.Dense(4, name="shared")
    a, b = keras.Input((4,)), keras.Input((4,))
    model = keras.Model([a, b], layers.Add()([dense(a), dense(b)]))
    wrapped = prune_low_magnitude(model)
    assert inner_names(wrapped) == ["shared"]
    assert len(wrapped.non_trainable_variables) == 2  # The mask and the step.
    prune_to(wrapped, 0.5)
    assert [(v.parameters, v.nonzeros) for v in summarize(wrapped).variables] == [(16, 8)]


def test_a_layer_shared_by_two_nested_models_has_one_wrapper():
    dense = layers.Dense(4, name="shared")
    branches = []
    for name in ("left", "right"):
        inputs = keras.Input((4,))
        branches.append(keras.Model(inputs, dense(inputs), name=name))
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Add()([branch(inputs) for branch in branches] + [dense(inputs)]))
    assert inner_names(prune_low_magnitude(model)) == ["shared"]


def test_operations_that_are_no_layers_pass_through():
    inputs = keras.Input((4,))
    x = layers.Dense(4, name="dense")(inputs)
    model = keras.Model(inputs, keras.ops.relu(x + inputs) * 2.0)
    wrapped = prune_low_magnitude(model, layers=lambda layer: isinstance(layer, keras.layers.Layer))
    assert inner_names(wrapped) == ["dense"]
    x = np.ones((2, 4), "float32")
    expected = model.predict(x, verbose=0)
    np.testing.assert_allclose(wrapped.predict(x, verbose=0), expected, rtol=1e-6)
    np.testing.assert_allclose(strip_pruning(wrapped).predict(x, verbose=0), expected, rtol=1e-6)


class Subclassed(keras.Model):
    def __init__(self, schedule=None):
        super().__init__()
        self.hidden = PruneLowMagnitude(layers.Dense(10, name="hidden"), schedule)
        self.head = PruneLowMagnitude(layers.Dense(4, name="head"), schedule)

    def call(self, x):
        return self.head(self.hidden(x))


def test_a_subclassed_model_wraps_its_own_layers(data, assert_exact_zeros):
    x, y = data(2)
    model = Subclassed(ConstantSparsity(0.5, begin_step=0))
    model(x)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    model.fit(x, y, batch_size=4, verbose=0, callbacks=[UpdatePruningStep()])
    assert inner_names(model) == ["hidden", "head"]
    assert_exact_zeros(model, 0.5)
    assert summarize(model).sparsity == 0.5


@pytest.mark.parametrize("value", [None, "model", np.ones(3)])
def test_what_is_no_model_is_an_error(value):
    with pytest.raises(ValueError, match="`to_prune` must be"):
        prune_low_magnitude(value)


def test_bad_arguments_are_errors_before_anything_is_wrapped(mlp):
    with pytest.raises(ValueError, match=r"`scope` must be one of \['layer', 'global', 'erk'\]"):
        prune_low_magnitude(mlp(), scope="model")
    with pytest.raises(ValueError, match="`score` must be one of"):
        prune_low_magnitude(mlp(), score="l7")
    with pytest.raises(ValueError, match="`pruning_schedule` must be a schedule"):
        prune_low_magnitude(mlp(), 0.5)


def test_a_compiled_model_stays_compiled_with_a_fresh_optimizer(mlp, data):
    model = mlp()
    model.compile(keras.optimizers.SGD(0.125, momentum=0.75), "mae", metrics=["mse"])
    wrapped = prune_low_magnitude(model, None)
    assert wrapped.compiled
    assert wrapped.optimizer is not model.optimizer
    assert wrapped.optimizer.momentum == 0.75
    x, y = data(1)
    assert wrapped.evaluate(x, y, verbose=0) == pytest.approx(model.evaluate(x, y, verbose=0), rel=1e-5)


def test_wrapping_again_keeps_the_masks_and_takes_the_new_schedule(mlp, masks_of):
    wrapped = prune_low_magnitude(mlp(), ConstantSparsity(0.5, 0))
    prune_to(wrapped, 0.5)
    old = masks_of(wrapped)
    again = prune_low_magnitude(wrapped, PolynomialDecay(0.5, 0.9, 0, 10), scope="global")
    assert inner_names(again) == ["first", "second"]
    for layer in pruned_layers(again):
        assert isinstance(layer.pruning_schedule, PolynomialDecay)
        assert layer.rule.scope == "global"
    for a, b in zip(old, masks_of(again), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_default_schedule_is_tfmots(mlp):
    schedule = pruned_layers(prune_low_magnitude(mlp()))[0].pruning_schedule
    assert schedule.get_config() == ConstantSparsity(0.5, begin_step=0, frequency=100).get_config()


def test_prune_to_is_exact_in_every_layer(mlp, assert_exact_zeros):
    wrapped = prune_low_magnitude(mlp(), None)
    prune_to(wrapped, 0.83)
    assert_exact_zeros(wrapped, 0.83)


def test_prune_to_removes_the_smallest(mlp, to_numpy):
    model = mlp()
    kernel = np.abs(to_numpy(model.get_layer("first").kernel))
    wrapped = prune_low_magnitude(model, None)
    prune_to(wrapped, 0.4)
    mask = to_numpy(pruned_layers(wrapped)[0].masks[0])
    assert kernel[~mask].max() < kernel[mask].min()


def test_prune_to_globally_counts_all_layers_together(mlp, masks_of, to_numpy):
    model = mlp()
    model.get_layer("first").kernel.assign(0.01 * model.get_layer("first").kernel)
    wrapped = prune_low_magnitude(model, None, scope="global")
    prune_to(wrapped, 0.9)
    first, second = (np.count_nonzero(mask) for mask in masks_of(wrapped))
    assert (first, second) == (1, 13)  # 14 of 140; the small kernel keeps one.
    kernel = to_numpy(model.get_layer("second").kernel)
    assert np.count_nonzero(kernel) == 13


def test_the_scope_of_prune_to_goes_before_the_layers_own(mlp, masks_of):
    model = mlp()
    model.get_layer("first").kernel.assign(0.01 * model.get_layer("first").kernel)
    wrapped = prune_low_magnitude(model, None)
    prune_to(wrapped, 0.5, scope="global")
    assert [np.count_nonzero(mask) for mask in masks_of(wrapped)] == [30, 40]
    with pytest.raises(ValueError, match="`scope` must be"):
        prune_to(wrapped, 0.5, scope="all")


def test_prune_to_a_lower_sparsity_changes_nothing(mlp, assert_exact_zeros):
    wrapped = prune_low_magnitude(mlp(), None)
    prune_to(wrapped, 0.8)
    prune_to(wrapped, 0.3)
    assert_exact_zeros(wrapped, 0.8)


def test_prune_to_clears_the_optimizers_slots(mlp, data, assert_exact_zeros, to_numpy, masks_of):
    x, y = data(1)
    wrapped = prune_low_magnitude(mlp(), None)
    wrapped.compile(keras.optimizers.Adam(0.1), "mse", run_eagerly=True)
    wrapped.train_on_batch(x, y)
    prune_to(wrapped, 0.5)
    momentum = to_numpy(wrapped.optimizer._momentums[0])
    np.testing.assert_array_equal(momentum == 0, ~masks_of(wrapped)[0])
    for _ in range(3):
        wrapped.train_on_batch(x, y)
    assert_exact_zeros(wrapped, 0.5)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_an_error_that_names_the_layer(mlp, masks_of, bad):
    model = mlp()
    kernel = np.ones((10, 4), "float32")
    kernel[3, 2] = bad
    model.get_layer("second").kernel.assign(kernel)
    wrapped = prune_low_magnitude(model, None)
    with pytest.raises(ValueError, match="layer 'second', variable 'kernel'"):
        prune_to(wrapped, 0.5)
    assert all(mask.all() for mask in masks_of(wrapped))  # Nothing half done.


@pytest.mark.parametrize("sparsity", [1.0, -0.1, float("nan")])
def test_prune_to_rejects_a_sparsity_outside_its_range(mlp, sparsity):
    with pytest.raises(ValueError, match=r"`sparsity` must be in \[0, 1\)"):
        prune_to(prune_low_magnitude(mlp(), None), sparsity)


def test_prune_to_needs_wrapped_and_built_layers(mlp):
    with pytest.raises(ValueError, match="no pruned layers"):
        prune_to(mlp(), 0.5)
    with pytest.raises(ValueError, match="must be built"):
        prune_to(prune_low_magnitude(keras.Sequential([layers.Dense(3)]), None), 0.5)


def test_strip_returns_the_layers_themselves_with_exact_zeros(mlp, to_numpy):
    model = mlp()
    wrapped = prune_low_magnitude(model, None)
    prune_to(wrapped, 0.5)
    # What a custom training loop may leave behind.
    first = model.get_layer("first").kernel
    first.assign(first + 1.0)
    stripped = strip_pruning(wrapped)
    assert stripped.get_layer("first") is model.get_layer("first")
    assert np.count_nonzero(to_numpy(stripped.get_layer("first").kernel)) == 50
    assert [layer.name for layer in stripped.layers] == ["first", "second"]


def test_strip_of_what_is_not_pruned_changes_nothing(mlp):
    dense = layers.Dense(3)
    assert strip_pruning(dense) is dense
    assert strip_pruning(prune_low_magnitude(dense)) is dense
    x = np.ones((2, 10), "float32")
    model = mlp()
    np.testing.assert_array_equal(strip_pruning(model).predict(x, verbose=0), model.predict(x, verbose=0))


class TwoKernels(layers.Layer):
    """A custom layer that says itself what may be pruned."""

    def build(self, input_shape):
        self.wide = self.add_weight(shape=(input_shape[-1], 4), name="wide")
        self.kernel = self.add_weight(shape=(input_shape[-1], 4), name="kernel")

    def call(self, x):
        return x @ self.wide + x @ self.kernel

    def get_prunable_weights(self):
        return [self.wide]


def test_a_custom_layer_says_what_may_be_pruned(to_numpy):
    layer = TwoKernels()
    assert isinstance(layer, PrunableLayer)
    model = prune_low_magnitude(keras.Sequential([keras.Input((5,)), layer]), None)
    prune_to(model, 0.5)
    assert np.count_nonzero(to_numpy(layer.wide)) == 10
    assert np.count_nonzero(to_numpy(layer.kernel)) == 20


def test_a_lora_kernel_is_left_alone(mlp):
    model = mlp()
    model.get_layer("first").enable_lora(2)
    with pytest.warns(UserWarning, match="Left dense, because LoRA adds a dense product .*: layer 'first'"):
        assert inner_names(prune_low_magnitude(model)) == ["second"]


def test_lora_in_a_wrapped_layer_is_an_error(mlp):
    model = prune_low_magnitude(mlp(), None)
    prune_to(model, 0.5)
    model.get_layer("prune_low_magnitude_first").enable_lora(2)
    for act in (lambda: model(np.ones((1, 10))), lambda: prune_to(model, 0.75), lambda: summarize(model)):
        with pytest.raises(ValueError, match="strip the model first, then enable LoRA"):
            act()


@pytest.mark.slow
def test_losses_and_labels_keyed_by_output_names_work_as_before():
    inputs = keras.Input((4,))
    outputs = [layers.Dense(2, name="first")(inputs), layers.Dense(3, name="second")(inputs)]
    model = keras.Model(inputs, outputs)
    model.compile("sgd", {"first": "mse", "second": "mae"}, metrics={"first": ["mae"]})
    wrapped = prune_low_magnitude(model, None)
    x, y = np.ones((8, 4), "float32"), {"first": np.zeros((8, 2)), "second": np.zeros((8, 3))}
    assert wrapped.evaluate(x, y, verbose=0) == pytest.approx(model.evaluate(x, y, verbose=0), rel=1e-5)
    assert strip_pruning(wrapped).output_names == ["first", "second"]


@pytest.mark.parametrize(
    "function, message",
    [
        (lambda model: prune_low_magnitude(model, None, pruning_policy=3), "`pruning_policy` must be"),
        (
            lambda model: prune_low_magnitude(model, None, spare_ends="yes"),
            "`spare_ends` must be True or False",
        ),
        (lambda model: prune_low_magnitude(model, ConstantSparsity), "`pruning_schedule` must be a schedule"),
        (lambda model: prune_low_magnitude(model, None, block_size=(True, True)), "`block_size` must be two"),
        (lambda model: prune_to(prune_low_magnitude(model, None), None), "`sparsity` must be a number"),
        (lambda model: prune_to(3, 0.5), "model or layer is needed. Received: 3"),
        (lambda model: strip_pruning(3), "`model` must be a Keras 3 model"),
        (
            lambda model: prune_to(
                prune_low_magnitude(model, None, sparsity_m_by_n=(2, 4)), 0.5, scope="global"
            ),
            "`scope` must be 'layer'.*'global'.*'first'",
        ),
        (
            lambda model: prune_to(prune_low_magnitude(model, None, sparsity_m_by_n=(2, 4)), 0.8),
            "at most 0.5. Received: sparsity=0.8",
        ),
    ],
)
def test_what_makes_no_sense_is_an_error_that_says_so(function, message, mlp):
    with pytest.raises(ValueError, match=message):
        function(mlp())


IGNORED = {"name": "pruned", "trainable": False, "input_shape": (4,), "batch_input_shape": (None, 4)}


@pytest.mark.parametrize("argument", IGNORED)
def test_arguments_of_a_single_layer_are_ignored_for_a_model_and_a_list_with_a_warning(argument, mlp):
    for to_prune in (mlp(), [layers.Dense(3, name="first"), layers.Dense(2, name="second")]):
        with pytest.warns(UserWarning, match=f"Ignored, because they are for a single layer: {argument}="):
            wrapped = prune_low_magnitude(to_prune, **{argument: IGNORED[argument]})
        wrapped = wrapped if isinstance(wrapped, list) else pruned_layers(wrapped)
        assert [layer.name for layer in wrapped] == [
            f"prune_low_magnitude_{name}" for name in ("first", "second")
        ]
        assert all(layer.trainable for layer in wrapped)


def test_other_arguments_are_never_ignored(mlp):
    assert prune_low_magnitude(layers.Dense(3), name="pruned").name == "pruned"
    assert {layer.seed for layer in pruned_layers(prune_low_magnitude(mlp(), seed=3))} == {3}
    for to_prune in (mlp(), [layers.Dense(3)], layers.Dense(3)):
        with pytest.raises(ValueError, match="sheldule"):
            prune_low_magnitude(to_prune, sheldule=None)
        with pytest.raises(ValueError, match="`kernels` is for `PruneLowMagnitude`: give `layers`"):
            prune_low_magnitude(to_prune, kernels=[0])


@pytest.mark.parametrize(
    "make",
    [
        lambda: keras.Sequential([keras.Input((4,)), layers.ReLU(), layers.BatchNormalization()]),
        lambda: [layers.Dropout(0.5), layers.ReLU()],
        list,
    ],
)
def test_a_model_or_a_list_without_kernels_stays_as_it_is_with_a_warning(make):
    to_prune = make()
    with pytest.warns(UserWarning, match="Nothing is pruned: there is no kernel or embedding table in"):
        result = prune_low_magnitude(to_prune)
    before, after = (each if isinstance(each, list) else each.layers for each in (to_prune, result))
    assert len(before) == len(after) and all(a is b for a, b in zip(before, after, strict=True))
    for argument in ({"layers": ".*"}, {"spare": layers.Dense}, {"spare_ends": True}):
        with pytest.raises(ValueError, match="Nothing to prune"):
            prune_low_magnitude(to_prune, **argument)
