import warnings

import keras
import numpy as np
import pytest
from keras import layers, ops

from tfprune.sparsity import (
    ConstantSparsity,
    PruneLowMagnitude,
    UpdatePruningStep,
    prune_low_magnitude,
    prune_to,
    pruned_layers,
    strip_pruning,
)

RNG = np.random.default_rng(0)


class Block(layers.Layer):
    """A composite of layers with state, losses and noise, built in `call` alone."""

    def __init__(self, rate=0.0, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(6, kernel_regularizer="l2", activity_regularizer="l2")
        self.norm = layers.BatchNormalization(momentum=0.5)
        self.dropout = layers.Dropout(rate)

    def call(self, x, training=None):
        y = self.dropout(self.norm(self.dense(x), training=training), training=training)
        self.add_loss(0.1 * ops.mean(ops.square(y)))
        return y


def floats(*shape):
    return RNG.normal(size=(3, *shape)).astype("float32")


# Name -> (layer, inputs, number of masks).
LAYERS = {
    "dense": (lambda: layers.Dense(5), [floats(6)], 1),
    "einsum": (lambda: layers.EinsumDense("abc,cd->abd", (None, 5)), [floats(4, 6)], 1),
    "conv1d": (lambda: layers.Conv1D(4, 3), [floats(8, 3)], 1),
    "conv2d_strided": (lambda: layers.Conv2D(4, 3, strides=2, padding="same"), [floats(8, 8, 3)], 1),
    "conv2d_groups": (lambda: layers.Conv2D(4, 3, groups=2), [floats(8, 8, 4)], 1),
    "transposed": (lambda: layers.Conv2DTranspose(4, 3), [floats(5, 5, 3)], 1),
    "separable": (lambda: layers.SeparableConv2D(6, 3), [floats(6, 6, 3)], 1),
    "embedding": (lambda: layers.Embedding(10, 4), [np.array([[1, 2, 9]])], 1),
    "lstm": (lambda: layers.LSTM(4, return_sequences=True), [floats(5, 3)], 2),
    "gru": (lambda: layers.GRU(4), [floats(5, 3)], 2),
    "bidirectional": (lambda: layers.Bidirectional(layers.LSTM(4)), [floats(5, 3)], 4),
    "time_distributed": (lambda: layers.TimeDistributed(layers.Dense(4)), [floats(5, 6)], 1),
    "attention": (lambda: layers.MultiHeadAttention(2, 3), [floats(5, 6), floats(4, 6)], 4),
    "composite": (lambda: Block(), [floats(6)], 1),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_the_inner_layer_runs_on_masked_weights(kind, to_numpy):
    make, inputs, masks = LAYERS[kind]
    layer = make()
    dense_outputs = to_numpy(layer(*inputs))
    wrapper = PruneLowMagnitude(layer, None)
    assert len(wrapper.masks) == len(wrapper.prunable_variables) == masks
    np.testing.assert_allclose(to_numpy(wrapper(*inputs)), dense_outputs, atol=1e-6)

    # The masks act by themselves: the raw weights are still dense.
    for mask in wrapper.masks:
        mask.assign(RNG.random(mask.shape) > 0.5)
    masked_outputs = to_numpy(wrapper(*inputs))
    assert np.abs(masked_outputs - dense_outputs).max() > 1e-3
    strip_pruning(wrapper)
    np.testing.assert_allclose(to_numpy(layer(*inputs)), masked_outputs, atol=1e-6)


@pytest.mark.parametrize("kind", ["dense", "separable", "lstm", "attention", "composite"])
def test_an_unbuilt_layer_is_built_at_its_first_call(kind, to_numpy):
    make, inputs, masks = LAYERS[kind]
    wrapper = PruneLowMagnitude(make(), None)
    assert not wrapper.built and wrapper.masks == []
    outputs = wrapper(*inputs)
    assert len(wrapper.masks) == masks
    np.testing.assert_allclose(to_numpy(outputs), to_numpy(wrapper.layer(*inputs)), atol=1e-6)


def test_biases_and_normalisation_are_not_masked():
    model = prune_low_magnitude(keras.Sequential([keras.Input((4,)), Block(name="block")]), None)
    assert [v.name for v in pruned_layers(model)[0].prunable_variables] == ["kernel"]


def test_removed_weights_get_no_gradient_the_others_the_dense_one(mlp, data, kernels_of, masks_of):
    x, y = data(1)
    model = mlp()
    wrapped = prune_low_magnitude(model, None)
    prune_to(wrapped, 0.5)
    before = kernels_of(wrapped)
    dense = keras.models.clone_model(model)
    dense.set_weights(model.get_weights())
    for each in (wrapped, dense):
        each.compile(keras.optimizers.SGD(0.5), "mse", run_eagerly=True)
        each.train_on_batch(x, y)
    for old, new, mask, layer in zip(
        before, kernels_of(wrapped), masks_of(wrapped), dense.layers, strict=True
    ):
        free = np.array(ops.convert_to_numpy(layer.kernel))
        assert np.abs(new - old)[mask].mean() > 1e-3
        np.testing.assert_allclose(new[mask], free[mask], atol=1e-6)
        assert np.count_nonzero(new[~mask]) == 0
        assert np.count_nonzero(free[~mask]) > 0


def block_model():
    return keras.Sequential([keras.Input((10,)), Block(name="block"), layers.Dense(4, name="head")])


@pytest.mark.slow
def test_losses_and_moving_averages_survive_the_wrapper(data, to_numpy):
    x, y = data(2)
    plain = block_model()
    wrapped = block_model()
    wrapped.set_weights(plain.get_weights())
    wrapped = prune_low_magnitude(wrapped, None)
    history = []
    for model in (plain, wrapped):
        model.compile(keras.optimizers.SGD(0.1), "mse")
        fitted = model.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0)
        history.append(fitted.history["loss"] + [model.evaluate(x, y, verbose=0)])
    np.testing.assert_allclose(history[0], history[1], rtol=1e-4)
    # All three kinds of loss are in it: of the activity, of the kernel, and by `add_loss`.
    plain(x), wrapped(x)
    assert len(plain.losses) == len(wrapped.losses) == 3
    assert to_numpy(sum(plain.losses)) == pytest.approx(to_numpy(sum(wrapped.losses)), rel=1e-4)
    norm, wrapped_norm = plain.layers[0].norm, pruned_layers(wrapped)[0].layer.norm
    assert np.abs(to_numpy(norm.moving_mean)).max() > 0
    np.testing.assert_allclose(to_numpy(norm.moving_mean), to_numpy(wrapped_norm.moving_mean), atol=1e-5)
    np.testing.assert_allclose(
        to_numpy(norm.moving_variance), to_numpy(wrapped_norm.moving_variance), atol=1e-5
    )


def test_dropout_inside_draws_anew_at_each_call(to_numpy):
    wrapper = PruneLowMagnitude(Block(rate=0.5), None)
    x = floats(6)
    first, second = to_numpy(wrapper(x, training=True)), to_numpy(wrapper(x, training=True))
    assert np.abs((first == 0).astype(int) - (second == 0)).any()
    np.testing.assert_array_equal(to_numpy(wrapper(x)), to_numpy(wrapper(x)))


def test_a_stateful_rnn_keeps_its_state(to_numpy):
    layer = layers.LSTM(4, stateful=True)
    x = floats(5, 3)
    first, second = to_numpy(layer(x)), to_numpy(layer(x))
    assert np.abs(first - second).max() > 1e-3
    layer.reset_state()
    wrapper = PruneLowMagnitude(layer, None)
    np.testing.assert_allclose(to_numpy(wrapper(x)), first, atol=1e-6)
    np.testing.assert_allclose(to_numpy(wrapper(x)), second, atol=1e-6)


def test_keras_masks_go_through_wrappers(to_numpy):
    inputs = keras.Input((6,), dtype="int32")
    x = layers.Embedding(10, 8, mask_zero=True)(inputs)
    x = layers.Dense(8)(x)
    x = layers.LSTM(4, return_sequences=True)(x)
    model = keras.Model(inputs, layers.GRU(5)(x))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # Keras: "does not support masking".
        wrapped = prune_low_magnitude(model, None)
    assert len(pruned_layers(wrapped)) == 4
    padded, other = np.array([[1, 2, 3, 0, 0, 0]]), np.array([[1, 2, 3, 7, 8, 9]])
    assert np.abs(to_numpy(model(padded)) - to_numpy(model(other))).max() > 1e-4
    np.testing.assert_allclose(to_numpy(wrapped(padded)), to_numpy(model(padded)), atol=1e-6)


def test_keyword_tensors_reach_the_inner_layer(to_numpy):
    query, value = keras.Input((5, 8)), keras.Input((6, 8))
    allowed = keras.Input((5, 6), dtype="bool")
    hidden, cell = keras.Input((8,)), keras.Input((8,))
    x = layers.MultiHeadAttention(2, 4)(query, value, attention_mask=allowed)
    x = layers.LSTM(8)(x, initial_state=[hidden, cell])
    model = keras.Model([query, value, allowed, hidden, cell], x)
    wrapped = prune_low_magnitude(model, None)
    assert len(pruned_layers(wrapped)) == 2
    inputs = [floats(5, 8), floats(6, 8), RNG.random((3, 5, 6)) > 0.5, floats(8), floats(8)]
    np.testing.assert_allclose(to_numpy(wrapped(inputs)), to_numpy(model(inputs)), atol=1e-6)


class Gate(layers.Layer):
    """A layer of two optional inputs with names of its own."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(6)

    def build(self, left_shape=None, right_shape=None):
        self.dense.build(left_shape or right_shape)

    def call(self, left=None, right=None, scale=1.0, training=True):
        return scale * self.dense(right if left is None else left)


@pytest.mark.parametrize(
    "make, inputs, options",
    [
        (lambda: layers.MultiHeadAttention(2, 4), {"query": (5, 8), "value": (6, 8)}, {}),
        (
            lambda: layers.MultiHeadAttention(2, 4),
            {"value": (6, 8), "attention_mask": (5, 6), "query": (5, 8)},
            {"use_causal_mask": True},
        ),
        (lambda: layers.GroupQueryAttention(4, 4, 2), {"query": (5, 8), "value": (6, 8)}, {}),
        (lambda: layers.LSTM(4), {"sequences": (5, 8)}, {}),
        (Gate, {"left": (8,)}, {}),
        (Gate, {"right": (8,)}, {"scale": 2.0}),
        (lambda: layers.Dense(3), {"inputs": (8,)}, {}),
    ],
    ids=["attention", "causal", "grouped", "lstm", "left", "right", "dense"],
)
def test_tensors_may_all_be_given_by_keyword(make, inputs, options, to_numpy, tmp_path):
    """Built or not, with arrays and in a graph, beside arguments that are no tensors; reloaded too."""
    arrays = {name: floats(*shape) for name, shape in inputs.items()}
    if "attention_mask" in arrays:
        arrays["attention_mask"] = arrays["attention_mask"] > 0
    plain = make()
    expected = to_numpy(plain(**arrays, **options))
    built, unbuilt = PruneLowMagnitude(plain, None), PruneLowMagnitude(make(), None)
    np.testing.assert_allclose(to_numpy(built(**arrays, **options)), expected, atol=1e-6)
    assert unbuilt(**arrays, **options).shape == expected.shape and unbuilt.masks

    symbols = {name: keras.Input(a.shape[1:], name=name, dtype=str(a.dtype)) for name, a in arrays.items()}
    model = keras.Model(symbols, plain(**symbols, **options))
    wrapped = prune_low_magnitude(model, None)
    np.testing.assert_allclose(to_numpy(wrapped(arrays)), expected, atol=1e-6)
    if make is not Gate:
        wrapped.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras")
        np.testing.assert_allclose(to_numpy(loaded(arrays)), expected, atol=1e-6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Do not pass an `input_shape`")
@pytest.mark.parametrize("option", [{"input_shape": (10,)}, {"input_dim": 10}])
def test_the_input_shape_of_a_layer_builds_the_model(option, data):
    first, second = (lambda: layers.Dense(5, name="a", **option)), (lambda: layers.Dense(4, name="b"))
    schedule = ConstantSparsity(0.5, begin_step=0)
    models = [
        keras.Sequential([prune_low_magnitude(first(), schedule), second()]),
        keras.Sequential(prune_low_magnitude([first(), second()], schedule)),
        keras.Sequential([prune_low_magnitude(layers.Dense(5), schedule, **option), second()]),
    ]
    added = keras.Sequential()
    added.add(prune_low_magnitude(first(), schedule))
    added.add(second())
    for model in [*models, added]:
        assert model.built and model.input_shape == (None, 10)
        model.compile("sgd", "mse")
        model.fit(*data(1), verbose=0, callbacks=[UpdatePruningStep()])
        kernel = ops.convert_to_numpy(pruned_layers(model)[0].layer.kernel)
        assert np.count_nonzero(kernel) == 25
        assert strip_pruning(model).input_shape == (None, 10)


def test_the_inner_layers_weights_come_first(to_numpy):
    """Code that was written for tfmot reads `weights[0]` and sets what it got."""
    layer = layers.Dense(3)
    model = prune_low_magnitude(keras.Sequential([keras.Input((4,)), layer]), None)
    (wrapper,) = pruned_layers(model)
    expected = [layer.kernel, layer.bias, wrapper.pruning_step, *wrapper.masks]
    for found in (wrapper.weights, wrapper.variables, model.weights):
        assert [id(weight) for weight in found] == [id(weight) for weight in expected]
    assert [w.path for w in wrapper.trainable_weights] == [layer.kernel.path, layer.bias.path]
    kernel, bias = wrapper.get_weights()
    assert kernel.shape == (4, 3) and bias.shape == (3,)
    prune_to(model, 0.5)
    wrapper.set_weights([kernel + 1, bias + 2])
    np.testing.assert_array_equal(to_numpy(layer.bias), bias + 2)
    assert np.count_nonzero(to_numpy(wrapper.masks[0])) == 6
    with pytest.raises(ValueError, match="weight list of length 1"):
        wrapper.set_weights([kernel])


@pytest.mark.parametrize("trainable", [True, False])
def test_files_of_the_old_h5_format_keep_their_order(trainable):
    """Keras reads them by the place of a weight among the trainable and then the other weights."""
    layer = Block()
    wrapper = PruneLowMagnitude(layer, None)
    wrapper(floats(6))
    layer.trainable = trainable
    inner = [weight for weight in layer.weights if not weight.trainable]
    assert len(inner) == (2 if trainable else 6)
    expected = [wrapper.pruning_step, *wrapper.masks, *inner]
    assert [w.path for w in wrapper.non_trainable_weights] == [w.path for w in expected]


def test_the_attributes_of_tfmots_wrapper(to_numpy):
    layer = layers.Dense(4)
    model = keras.Sequential([keras.Input((8,)), layer, layers.LayerNormalization()])
    wrapped = prune_low_magnitude(model, block_size=(2, 2), block_pooling_type="MAX")
    (wrapper,) = pruned_layers(wrapped)
    assert (wrapper.block_size, wrapper.block_pooling_type, wrapper.sparsity_m_by_n) == ((2, 2), "MAX", None)
    assert wrapper.prunable_weights == layer.get_prunable_weights() == [layer.kernel]
    prune_to(wrapped, 0.5)
    ((weight, mask, threshold),) = wrapper.pruning_vars
    assert weight is layer.kernel and mask is wrapper.masks[0] and to_numpy(threshold).shape == ()
    assert to_numpy(threshold) == np.abs(to_numpy(weight))[to_numpy(mask)].min() > 0
    of_three = prune_low_magnitude(layers.Dense(4), sparsity_m_by_n=(1, 3))
    assert (of_three.block_size, of_three.block_pooling_type, of_three.sparsity_m_by_n) == (
        (1, 1),
        "AVG",
        (1, 3),
    )
    assert of_three.prunable_weights == of_three.pruning_vars == []  # It is not built.
    # The answer of a layer that tfprune gave one is no statement of its own: axes are known as before.
    again = prune_low_magnitude(strip_pruning(wrapped), None, granularity="channel")
    assert pruned_layers(again)[0].pruned[0].kernel.name == "kernel"


def test_composite_layers_name_all_their_prunable_weights():
    layer = layers.Bidirectional(layers.LSTM(4))
    PruneLowMagnitude(layer, None)(floats(5, 3))
    assert [w.name for w in layer.get_prunable_weights()] == ["kernel", "recurrent_kernel"] * 2
    first, second = layers.LSTMCell(4), layers.GRUCell(3)
    stack = layers.RNN([first, second])
    wrapper = PruneLowMagnitude(stack, None)
    wrapper(floats(5, 3))
    expected = [first.kernel, first.recurrent_kernel, second.kernel, second.recurrent_kernel]
    for found in (stack.get_prunable_weights(), wrapper.prunable_weights):
        assert [id(weight) for weight in found] == [id(weight) for weight in expected]


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(policy, mlp, data, assert_exact_zeros, kernels_of, to_numpy):
    keras.config.set_dtype_policy(policy)
    x, y = data(3)
    model = mlp()
    model.get_layer("first").trainable = False
    frozen = to_numpy(model.get_layer("first").kernel)
    wrapped = prune_low_magnitude(model, ConstantSparsity(0.5, begin_step=2))
    wrapped.compile(keras.optimizers.Adam(0.1), "mse")
    wrapped.fit(x, y, batch_size=4, epochs=2, verbose=0, callbacks=[UpdatePruningStep()])
    assert {v.dtype for layer in pruned_layers(wrapped) for v in layer.prunable_variables} == {"float32"}
    assert keras.backend.standardize_dtype(wrapped(x).dtype) == policy.removeprefix("mixed_")
    assert_exact_zeros(wrapped, 0.5)
    # What stays of a frozen kernel keeps all its digits.
    kernel = kernels_of(wrapped)[0]
    np.testing.assert_array_equal(kernel[kernel != 0], frozen[kernel != 0])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_low_precision_kernels(dtype, assert_exact_zeros):
    model = keras.Sequential([keras.Input((10,)), layers.Dense(10, dtype=dtype)])
    wrapped = prune_low_magnitude(model, None)
    prune_to(wrapped, 0.7)
    assert pruned_layers(wrapped)[0].prunable_variables[0].dtype == dtype
    assert_exact_zeros(wrapped, 0.7)


def test_a_frozen_layer_is_pruned_and_else_unchanged(mlp, data, kernels_of, to_numpy, assert_exact_zeros):
    x, y = data(3)
    model = mlp()
    wrapped = prune_low_magnitude(model, ConstantSparsity(0.5, begin_step=2))
    pruned_layers(wrapped)[0].trainable = False
    frozen = to_numpy(model.get_layer("first").kernel)
    wrapped.compile(keras.optimizers.Adam(0.1), "mse", run_eagerly=True)
    wrapped.fit(x, y, batch_size=4, verbose=0, callbacks=[UpdatePruningStep()])
    assert_exact_zeros(wrapped, 0.5)
    kernel = kernels_of(wrapped)[0]
    np.testing.assert_array_equal(kernel[kernel != 0], frozen[kernel != 0])


def test_the_wrapper_shares_the_inner_layers_variables(mlp):
    model = mlp()
    wrapped = prune_low_magnitude(model, None)
    assert [id(v) for v in wrapped.trainable_variables] == [id(v) for v in model.trainable_variables]
    assert wrapped.layers[0].name == "prune_low_magnitude_first"


def test_a_wrapped_layer_is_not_wrapped_again():
    with pytest.raises(ValueError, match="wrapped already.*'twice'"):
        PruneLowMagnitude(PruneLowMagnitude(layers.Dense(2), name="twice"))


def test_bad_arguments():
    with pytest.raises(ValueError, match="`scope` must be one of"):
        PruneLowMagnitude(layers.Dense(2), scope="all")
    with pytest.raises(ValueError, match="`score` must be one of"):
        PruneLowMagnitude(layers.Dense(2), score="l7")
    with pytest.raises(ValueError, match="`pruning_schedule` must be.*0.5"):
        PruneLowMagnitude(layers.Dense(2), 0.5)
