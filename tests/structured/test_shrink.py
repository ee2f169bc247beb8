"""Channels that change no output go, and no others; the outputs stay."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from tfprune.sparsity import (
    PolynomialDecay,
    masks_of,
    prune_low_magnitude,
    prune_to,
    set_masks,
    strip_pruning,
)
from tfprune.structured import dead_channels, shrink

IMAGES = np.random.default_rng(0).normal(size=(3, 9, 9, 3)).astype("float32")


def randomize(model, seed=0):
    """Gives every weight other values than its initializer's, so that biases and statistics matter."""
    rng = np.random.default_rng(seed)
    for weight in model.trainable_variables:
        weight.assign(rng.normal(size=weight.shape) * 0.3)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.moving_mean.assign(rng.normal(size=layer.moving_mean.shape) * 0.3)
            layer.moving_variance.assign(rng.uniform(0.5, 2, layer.moving_variance.shape))


def zero(variable, *where):
    values = np.array(ops.convert_to_numpy(variable))
    values[where] = 0
    variable.assign(values)


def shrunk(model, images=IMAGES):
    """The smaller model, whose outputs are those of `model`, which is as it was."""
    before = [np.array(ops.convert_to_numpy(weight)) for weight in model.weights]
    expected = ops.convert_to_numpy(model(images))
    small = shrink(model)
    difference = np.abs(ops.convert_to_numpy(small(images)) - expected).max()
    assert difference <= 1e-5 * np.abs(expected).max()
    for old, weight in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(old, ops.convert_to_numpy(weight))
    return small


def filters(model):
    return {layer.name: layer.filters for layer in model.layers if hasattr(layer, "filters")}


def chain(padding="valid", activation="relu", norm=False, bias=True, last_bias=True):
    """first -> second -> Dense; of `first`, filters 0 to 3 have no weight."""
    inputs = keras.Input((9, 9, 3))
    x = layers.Conv2D(8, 3, padding="same", name="first", use_bias=bias)(inputs)
    if norm:
        x = layers.BatchNormalization(name="norm")(x)
    x = layers.Activation(activation)(x)
    x = layers.Conv2D(6, 3, padding=padding, name="second", use_bias=last_bias)(x)
    x = layers.Dense(4, name="head")(layers.GlobalAveragePooling2D()(layers.ReLU()(x)))
    model = keras.Model(inputs, x)
    randomize(model)
    zero(model.get_layer("first").kernel, ..., slice(0, 4))
    return model


def test_what_nothing_takes_goes_and_constants_too():
    model = chain()
    zero(model.get_layer("second").kernel, ..., slice(1, 4))
    zero(model.get_layer("head").kernel, slice(0, 2))
    assert filters(shrunk(model)) == {"first": 4, "second": 2}


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("last_bias", [False, True])
def test_a_constant_goes_into_the_next_bias(norm, last_bias):
    small = shrunk(chain(norm=norm, last_bias=last_bias))
    assert filters(small)["first"] == 4
    assert small.get_layer("second").use_bias


def test_a_constant_goes_into_the_next_batchnorm():
    inputs = keras.Input((9, 9, 3))
    x = layers.Conv2D(8, 3, name="first")(inputs)
    x = layers.Conv2D(6, 1, padding="same", name="second", use_bias=False)(layers.ReLU()(x))
    x = layers.ReLU()(layers.BatchNormalization(name="norm")(x))
    model = keras.Model(inputs, layers.Dense(4)(layers.Flatten()(x)))
    randomize(model)
    zero(model.get_layer("first").kernel, ..., slice(0, 4))
    small = shrunk(model)
    assert filters(small)["first"] == 4
    assert not small.get_layer("second").use_bias


def test_of_the_constants_that_padding_would_change_one_stays_and_is_named():
    model = chain(padding="same", norm=True)
    zero(model.get_layer("norm").beta, slice(0, 1))  # Of this one, BatchNorm's mean alone is left.
    small = shrunk(model)
    beta, mean = (np.array(ops.convert_to_numpy(model.get_layer("norm").variables[i]))[:4] for i in (1, 2))
    bias = ops.convert_to_numpy(model.get_layer("first").bias)[:4]
    scale = ops.convert_to_numpy(model.get_layer("norm").gamma)[:4] / np.sqrt(
        ops.convert_to_numpy(model.get_layer("norm").moving_variance)[:4] + model.get_layer("norm").epsilon
    )
    silent = ((bias - mean) * scale + beta) <= 0
    assert 0 < silent.sum() < 4
    assert filters(small)["first"] == 4 + 1
    (row,) = dead_channels(model).silent
    assert (row.layers, row.channels) == (("first",), 1)
    assert row.reason == "second: its zero padding would change the constant value"


def test_a_mask_keeps_the_weights_that_take_for_others():
    model = prune_low_magnitude(chain(padding="same", activation="sigmoid"), PolynomialDecay(0.2, 0.7, 0, 40))
    prune_to(model, 0.7)
    masks = {name: np.array(mask) for name, mask in masks_of(model).items()}
    masks["first/kernel"][..., :4] = False
    masks["second/kernel"][:, :, 4:] = True
    set_masks(model, masks)
    small = shrunk(model)
    kernel = masks["second/kernel"]
    np.testing.assert_array_equal(masks_of(small)["second/kernel"][:, :, 1:], kernel[:, :, 4:])
    np.testing.assert_array_equal(masks_of(small)["second/kernel"][:, :, 0], kernel[:, :, :4].any(2))
    stripped = shrunk(strip_pruning(model))
    assert filters(stripped) == {"first": 5, "second": 6}


def test_constants_that_layers_take_in_other_ways_stay_apart():
    """Two are taken by both layers, two by `left` alone: one of each stays."""
    inputs = keras.Input((9, 9, 3))
    x = layers.Conv2D(6, 3, padding="same", activation="sigmoid", name="first")(inputs)
    left = layers.Conv2D(4, 3, padding="same", name="left")(x)
    right = layers.Conv2DTranspose(4, 3, padding="same", name="right")(x)
    model = keras.Model(inputs, layers.Dense(3)(layers.Flatten()(layers.Concatenate()([left, right]))))
    randomize(model)
    zero(model.get_layer("first").kernel, ..., slice(0, 4))
    zero(model.get_layer("right").kernel, ..., slice(0, 2))  # It takes along the last axis.
    assert filters(shrunk(model))["first"] == 4
    assert sum(row.channels for row in dead_channels(model).silent) == 2


def test_padding_at_each_position_of_a_flattened_map_is_known():
    """Behind Flatten each position has weights of its own, so that a map of constants can be moved."""
    inputs = keras.Input((5, 5, 2))
    x = layers.Conv2D(4, 3, padding="same", name="first")(inputs)
    x = layers.DepthwiseConv2D(3, padding="same")(layers.Activation("sigmoid")(x))
    model = keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x)))
    randomize(model)
    zero(model.get_layer("first").kernel, ..., slice(0, 2))
    small = shrunk(model, IMAGES[:, :5, :5, :2])
    assert filters(small) == {"first": 2}


def test_layers_that_are_added_go_together():
    inputs = keras.Input((9, 9, 3))
    x = layers.Conv2D(8, 3, padding="same", name="first")(inputs)
    y = layers.Conv2D(8, 3, padding="same", name="second")(layers.ReLU()(x))
    x = layers.ReLU()(layers.Add()([x, y]))
    model = keras.Model(inputs, layers.Dense(4)(layers.GlobalAveragePooling2D()(x)))
    randomize(model)
    for name, gone in (("first", 4), ("second", 6)):
        layer = model.get_layer(name)
        zero(layer.kernel, ..., slice(0, gone))
        zero(layer.bias, slice(0, gone))
    # 0 to 3 are zero in both; 4 and 5 are those of `first` alone.
    assert filters(shrunk(model)) == {"first": 4, "second": 4}


def test_a_gate_of_zero_silences_what_it_multiplies():
    inputs = keras.Input((9, 9, 3))
    x = layers.Conv2D(8, 3, name="first")(inputs)
    gate = layers.Dense(8, name="gate")(layers.GlobalAveragePooling2D(keepdims=True)(x))
    x = layers.Multiply()([x, gate])
    model = keras.Model(inputs, layers.Conv2D(2, 3, padding="same", name="last")(x))
    randomize(model)
    for variable in (model.get_layer("gate").kernel, model.get_layer("gate").bias):
        zero(variable, ..., slice(0, 3))
    # The mean of each channel goes into all gates.
    assert filters(shrunk(model))["first"] == 8
    zero(model.get_layer("gate").kernel, slice(0, 3))
    assert filters(shrunk(model))["first"] == 5


def test_layer_normalization_keeps_its_channels():
    inputs = keras.Input((9, 9, 3))
    x = layers.LayerNormalization(name="norm")(layers.Conv2D(8, 3, name="first")(inputs))
    model = keras.Model(inputs, layers.Dense(4, name="head")(x))
    randomize(model)
    zero(model.get_layer("first").kernel, ..., slice(0, 4))
    zero(model.get_layer("head").kernel, slice(0, 4))
    assert filters(shrunk(model)) == {"first": 8}
    (row,) = dead_channels(model).silent
    assert row.reason == "norm: it normalises over its channels"


def test_group_normalization_loses_whole_groups():
    inputs = keras.Input((9, 9, 3))
    x = layers.GroupNormalization(4, name="norm")(layers.Conv2D(8, 3, name="first")(inputs))
    model = keras.Model(inputs, layers.Dense(4, name="head")(x))
    randomize(model)
    zero(model.get_layer("head").kernel, slice(0, 3))
    small = shrunk(model)
    assert filters(small) == {"first": 6}
    assert small.get_layer("norm").groups == 3


def test_a_layer_keeps_one_channel():
    model = chain()
    zero(model.get_layer("head").kernel, ...)
    assert filters(shrunk(model)) == {"first": 4, "second": 1}


def test_a_shared_layer_takes_a_constant_that_is_the_same_in_each_call():
    first, second = (keras.Input((9, 9, 3)) for _ in range(2))
    convs = [layers.Conv2D(6, 3, name=f"conv{i}") for i in range(2)]
    shared = layers.Conv2D(5, 1, name="shared")
    outs = [shared(layers.ReLU()(conv(x))) for conv, x in zip(convs, (first, second), strict=True)]
    model = keras.Model([first, second], layers.Dense(3)(layers.Concatenate()(outs)))
    randomize(model)
    for conv in convs:
        zero(conv.kernel, ..., slice(0, 3))
        conv.bias.assign([0.5, 0.5, 0.5, 0.1, 0.2, 0.3])
    convs[1].bias.assign([0.5, 0.6, -0.5, 0.1, 0.2, 0.3])
    # Equal constants; different ones; a constant and zero.
    small = shrunk(model, [IMAGES, IMAGES[::-1]])
    assert filters(small) == {"conv0": 5, "conv1": 5, "shared": 5}


def test_nested_and_sequential_models():
    body = keras.Sequential(
        [
            keras.Input((9, 9, 4)),
            layers.Conv2D(6, 3, activation="relu", name="in"),
            layers.Conv2D(4, 1, name="out"),
        ]
    )
    inputs = keras.Input((9, 9, 3))
    x = body(layers.Conv2D(4, 1, name="first")(inputs))
    model = keras.Model(inputs, layers.Dense(3)(layers.GlobalMaxPooling2D()(x)))
    randomize(model)
    zero(body.get_layer("in").kernel, ..., slice(0, 2))
    zero(body.get_layer("in").kernel, slice(None), slice(None), slice(0, 1))
    small = shrunk(model)
    assert filters(small) == {"first": 3}
    inside = next(layer for layer in small.layers if isinstance(layer, keras.Sequential))
    assert filters(inside) == {"in": 4, "out": 4}


def test_units_of_recurrent_layers_and_heads():
    inputs = keras.Input((7, 6))
    x = layers.LSTM(5, return_sequences=True, name="lstm")(inputs)
    x = layers.MultiHeadAttention(4, 3, name="attention")(x, x)
    model = keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x)))
    randomize(model)
    attention, lstm = model.get_layer("attention"), model.get_layer("lstm")
    zero(attention.output_dense.kernel, slice(0, 2))  # Two heads that nothing takes.
    for kernel in (attention.query_dense.kernel, attention.key_dense.kernel, attention.value_dense.kernel):
        zero(kernel, slice(0, 1))
    zero(lstm.cell.recurrent_kernel, slice(0, 1))
    for variable in (attention.output_dense.kernel, attention.output_dense.bias):
        zero(variable, ..., slice(0, 1))
    small = shrunk(model, np.random.default_rng(1).normal(size=(2, 7, 6)).astype("float32"))
    assert small.get_layer("attention").num_heads == 2
    assert small.get_layer("lstm").units == 4


def test_a_wrapped_model_keeps_its_masks_its_schedule_and_its_step():
    model = prune_low_magnitude(chain(norm=True), PolynomialDecay(0.2, 0.7, 0, 40, frequency=1))
    prune_to(model, 0.5)
    masks = {name: np.array(mask) for name, mask in masks_of(model).items()}
    masks["first/kernel"][..., :5] = False
    set_masks(model, masks)
    model.get_layer("prune_low_magnitude_first").store_step(7)
    small = shrunk(model)
    wrapper = small.get_layer("prune_low_magnitude_first")
    assert wrapper.layer.filters == 3 and wrapper.steps_taken == 7
    assert wrapper.pruning_schedule.final_sparsity == 0.7
    left = masks_of(small)
    np.testing.assert_array_equal(left["first/kernel"], masks["first/kernel"][..., 5:])
    np.testing.assert_array_equal(left["second/kernel"], masks["second/kernel"][:, :, 5:])
    stripped = shrink(strip_pruning(model))
    np.testing.assert_allclose(
        ops.convert_to_numpy(stripped(IMAGES)), ops.convert_to_numpy(small(IMAGES)), rtol=1e-4, atol=1e-5
    )


def test_a_model_without_dead_channels_stays_as_it_is():
    model = chain(norm=True)
    randomize(model)
    small = shrunk(model)
    assert small is not model and small.count_params() == model.count_params()
    assert str(dead_channels(model)) == "0 of 18 channels change no output"


def test_the_report_reads_well():
    model = chain(padding="same", activation="sigmoid")
    zero(model.get_layer("head").kernel, slice(0, 2))
    assert str(dead_channels(model)) == (
        "5 of 18 channels change no output\n"
        "  first: 3 of 8\n"
        "  second: 2 of 6\n"
        "Channels whose kernels are zero, and that stay:\n"
        "  1 of first: second: its zero padding would change the constant value"
    )


def test_sizes_that_are_left_open_and_steps_that_are_masked():
    inputs = keras.Input((None,), dtype="int32")
    x = layers.Embedding(11, 6, mask_zero=True)(inputs)
    x = layers.Dense(5, name="first")(x)
    model = keras.Model(inputs, layers.Dense(3)(layers.GlobalMaxPooling1D()(x)))
    randomize(model)
    zero(model.get_layer("first").kernel, ..., slice(0, 2))
    small = shrunk(model, np.array([[4, 5, 0, 0], [1, 2, 3, 10]]))
    assert small.get_layer("first").units == 3


def test_a_model_that_cannot_be_called_on_constants():
    @keras.saving.register_keras_serializable("test_shrink")
    class Strict(layers.Layer):
        def call(self, x):
            if x.shape[0] == 1:
                raise ValueError("one example is too few")
            return x

    inputs = keras.Input((9, 9, 3))
    x = layers.Conv2D(8, 3, name="first")(Strict()(inputs))
    model = keras.Model(inputs, layers.Dense(4)(layers.Flatten()(x)))
    randomize(model)
    zero(model.get_layer("first").kernel, ..., slice(0, 4))
    with pytest.warns(UserWarning, match="Constant channels are not looked for, .*one example is too few"):
        small = shrunk(model)
    assert filters(small) == {"first": 8}
    with pytest.warns(UserWarning):
        (row,) = dead_channels(model).silent
    assert row.reason.startswith("its value is not known, because a call of the model failed")


def test_a_subclassed_model_is_an_error():
    class Subclassed(keras.Model):
        def call(self, inputs):
            return inputs

    with pytest.raises(ValueError, match="`model` must be functional or Sequential and built"):
        shrink(Subclassed())


@pytest.mark.parametrize("change", [lambda layer: layer.quantize("int8"), lambda layer: layer.enable_lora(2)])
def test_layers_with_other_weights_than_their_class_has_keep_their_channels(change):
    inputs = keras.Input((6,))
    x = inputs
    for name in ("first", "second", "third", "fourth"):
        x = layers.Dense(8, activation="relu", name=name)(x)
    model = keras.Model(inputs, layers.Dense(3)(x))
    randomize(model)
    for name in ("first", "third"):
        zero(model.get_layer(name).kernel, ..., slice(0, 3))
    change(model.get_layer("second"))
    for weight in model.get_layer("second").weights:
        if "lora" in weight.name:
            weight.assign(np.ones(weight.shape))
    small = shrunk(model, IMAGES[:, 0, 0, :1].repeat(6, 1))
    assert [layer.units for layer in small.layers[1:]] == [8, 8, 5, 8, 3]


def residual(x, name, norm=True):
    y = layers.Conv2D(6, 3, padding="same", use_bias=False, name=f"{name}_conv1")(x)
    y = layers.ReLU(name=f"{name}_relu1")(layers.BatchNormalization(name=f"{name}_bn1")(y))
    y = layers.Conv2D(6, 3, padding="same", use_bias=False, name=f"{name}_conv2")(y)
    y = layers.BatchNormalization(name=f"{name}_bn2")(y)
    return layers.ReLU(name=f"{name}_relu2")(layers.Add(name=f"{name}_add")([y, x]))


def residuals():
    """stem -> first -> second -> head, two residual blocks, of which the second lost its last kernel."""
    inputs = keras.Input((9, 9, 3))
    x = layers.ReLU(name="relu")(layers.Conv2D(6, 3, name="stem")(inputs))
    x = residual(residual(x, "first"), "second")
    model = keras.Model(inputs, layers.Dense(4, name="head")(layers.GlobalAveragePooling2D(name="pool")(x)))
    randomize(model)
    zero(model.get_layer("second_conv2").kernel)
    return model


def names(model):
    return [operation.name for operation in model.operations[1:]]


FIRST = [
    "stem",
    "relu",
    *(f"first_{part}" for part in ("conv1", "bn1", "relu1", "conv2", "bn2", "add", "relu2")),
]


def test_a_branch_without_weights_goes_and_leaves_its_constants(tmp_path):
    model = residuals()
    small = shrunk(model)
    assert names(small) == [*FIRST, "second_add_constant", "second_relu2", "pool", "head"]
    found = dead_channels(model)
    gone = [f"second_{part}" for part in ("conv1", "bn1", "relu1", "conv2", "bn2", "add")]
    assert sorted(found.gone) == sorted(gone)
    assert [(one.layer, one.dead) for one in found.layers if one.dead] == [
        ("second_conv1", 6),
        ("second_conv2", 6),
    ]
    assert "Layers that go altogether: " in str(found)
    small.save(tmp_path / "small.keras")
    loaded = keras.saving.load_model(tmp_path / "small.keras")
    np.testing.assert_array_equal(*(ops.convert_to_numpy(each(IMAGES)) for each in (small, loaded)))
    assert names(shrunk(small)) == names(small)
    # Again, of the smaller model: its constants lose the channel too.
    zero(small.get_layer("head").kernel, slice(0, 1))
    for name in ("stem", "first_conv2"):
        zero(small.get_layer(name).kernel, ..., 0)
    zero(small.get_layer("first_conv1").kernel, slice(None), slice(None), 0)
    assert filters(shrunk(small))["stem"] == 5


def test_a_branch_of_zero_goes_without_a_trace():
    model = residuals()
    for weight in ("beta", "moving_mean"):
        zero(getattr(model.get_layer("second_bn2"), weight))
    assert names(shrunk(model)) == [*FIRST, "second_relu2", "pool", "head"]


def test_what_only_a_dead_branch_takes_goes_with_it():
    model = residuals()
    for name in ("first_conv1", "head"):
        zero(model.get_layer(name).kernel, ..., slice(0, 2), slice(None))
    # `second_conv1`, which took channels 0 and 1 of the sum, is gone, so that nobody does.
    assert filters(shrunk(model)) == {"stem": 4, "first_conv1": 6, "first_conv2": 4}


def test_a_wrapped_model_loses_branches_too():
    """Masks leave each kernel a weight: here one that takes a channel of zeros."""
    model = residuals()
    for weight in ("beta", "moving_mean"):
        zero(getattr(model.get_layer("second_bn1"), weight), 0)
    model.get_layer("second_conv2").kernel.assign(np.ones((3, 3, 6, 6)))
    model = prune_low_magnitude(model, PolynomialDecay(0.2, 0.7, 0, 40, frequency=1))
    masks = {name: np.array(mask) for name, mask in masks_of(model).items()}
    for name in ("second_conv1/kernel", "second_conv2/kernel"):
        masks[name][:] = False
    masks["second_conv1/kernel"][0, 0, 2, 3] = masks["second_conv2/kernel"][1, 2, 0, 4] = True
    set_masks(model, masks)
    small = shrunk(model)
    assert sorted(masks_of(small)) == sorted(
        name for name in masks if name.split("/")[0] not in ("second_conv1", "second_conv2")
    )
    assert names(strip_pruning(small)) == names(shrunk(residuals()))


def test_constant_gates_and_operations():
    inputs = keras.Input((9, 9, 3))
    x = layers.Conv2D(8, 3, name="first")(inputs)
    gate = layers.Dense(8, activation="sigmoid", name="gate")(
        layers.Dense(2, name="squeeze")(layers.GlobalAveragePooling2D(keepdims=True, name="mean")(x))
    )
    x = layers.Multiply(name="product")([x, gate])
    x = x - layers.Conv2D(8, 1, name="subtracted")(x)
    x = layers.Add(name="sum")([layers.Conv2D(8, 1, name="one")(x), x, layers.Conv2D(8, 1, name="two")(x)])
    model = keras.Model(inputs, layers.Dense(2, name="head")(layers.Flatten(name="flat")(x)))
    randomize(model)
    for name in ("gate", "subtracted", "two"):
        zero(model.get_layer(name).kernel)
    small = shrunk(model)
    left = [layer.name for layer in small.layers[1:]]
    assert left == ["first", "one", "sum", "flat", "head"]
    constants = [name for name in names(small) if name not in left]
    assert len(constants) == 3 and {"product_constant", "sum_constant"} < set(constants)


def test_what_a_concatenation_takes_of_dead_channels_alone():
    inputs = keras.Input((9, 9, 3))
    x = layers.Conv2D(8, 3, activation="relu", name="first")(inputs)
    sides = [layers.Conv2D(4, 3, padding="same", name=f"side{n}")(x) for n in range(3)]
    joined = layers.Concatenate(name="joined")([x, *sides])
    x = layers.Conv2D(5, 1, name="last")(joined)
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x)))
    randomize(model)
    zero(model.get_layer("last").kernel, slice(None), slice(None), slice(8, 12))
    zero(model.get_layer("side1").kernel)  # A constant, which goes into the bias of `last`.
    small = shrunk(model)
    assert filters(small) == {"first": 8, "side2": 4, "last": 5}
    zero(model.get_layer("last").kernel, slice(None), slice(None), slice(16, 20))
    assert "joined" not in names(shrunk(model))


def test_a_tensor_that_others_take_too_keeps_its_channel():
    inputs = keras.Input((9, 9, 3))
    x = layers.Conv2D(8, 3, name="first")(inputs)
    side = layers.Conv2D(4, 3, padding="same", name="side")(x)
    joined = layers.Concatenate(name="joined")([x, side])
    outs = [layers.Dense(2, name=f"head{n}")(layers.Flatten()(y)) for n, y in enumerate((joined, side))]
    model = keras.Model(inputs, layers.Concatenate()(outs))
    randomize(model)
    zero(model.get_layer("side").kernel)
    assert filters(shrunk(model)) == {"first": 8, "side_select": 1, "side": 1}


def test_a_branch_that_may_do_more_stays():
    @keras.saving.register_keras_serializable("test_shrink")
    class Counts(layers.Layer):
        def call(self, x):
            return x

    for extra, stays in (
        (Counts(), True),
        (layers.ActivityRegularization(0.1), True),
        (layers.ReLU(activity_regularizer="l2"), True),
        (layers.Dropout(0.5), False),
    ):
        inputs = keras.Input((9, 9, 3))
        x = layers.Conv2D(8, 3, name="first")(inputs)
        y = layers.Conv2D(8, 1, name="branch")(extra(layers.Conv2D(8, 1, name="before")(x)))
        model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(layers.Add()([x, y]))))
        randomize(model)
        zero(model.get_layer("branch").kernel)
        assert ("branch" in filters(shrunk(model))) == stays


def test_branches_in_nested_models_and_of_shared_layers():
    inner = keras.Input((7, 7, 6))
    block = keras.Model(inner, residual(inner, "block"), name="block")
    inputs = keras.Input((9, 9, 3))
    x = block(block(layers.Conv2D(6, 3, name="stem")(inputs)))
    add, shared = layers.Add(name="sum"), layers.Conv2D(6, 1, name="shared")
    x = add([x, shared(x)])
    x = layers.Concatenate()([add([x, layers.Conv2D(6, 1, name="alive")(x)]), add([x, shared(x)])])
    model = keras.Model(inputs, layers.Dense(2, name="head")(layers.GlobalMaxPooling2D(name="pool")(x)))
    randomize(model)
    for kernel in (block.get_layer("block_conv2").kernel, model.get_layer("shared").kernel):
        zero(kernel)
    small = shrunk(model)
    assert names(small.get_layer("block")) == ["block_add_constant", "block_relu2"]
    assert filters(small) == {"stem": 6, "alive": 6}
    assert {"sum", "sum_constant", "sum_constant1"} < set(names(small))


def test_an_output_keeps_the_layer_that_makes_it():
    inputs = keras.Input((6,))
    x = layers.Dense(6, name="first")(inputs)
    y = layers.Dense(6, name="branch")(x)
    model = keras.Model(inputs, layers.Add(name="sum")([x, y]))
    zero(model.get_layer("branch").kernel)
    assert names(shrink(model)) == ["first", "branch", "sum"]
