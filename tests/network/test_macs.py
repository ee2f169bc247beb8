import keras
import numpy as np
import pytest
from keras import layers, ops

from tfprune.network.macs import kernel_uses, total
from tfprune.sparsity import PruneLowMagnitude, prune_low_magnitude


def model_of(shape, *stack, dtype="float32"):
    x = inputs = keras.Input(shape, dtype=dtype)
    for layer in stack:
        x = layer(x)
    return keras.Model(inputs, x)


def macs(model, **options):
    """`layer/kernel` -> MACs, of layers in layers too."""
    return {f"{use.layer.name}/{use.variable.name}": use.macs for use in kernel_uses(model, **options)}


def named(cls, *args, **options):
    return cls(*args, **options, name="it")


@pytest.mark.parametrize(
    "shape, layer, expected",
    [
        ((7,), named(layers.Dense, 5), {"kernel": 7 * 5}),
        ((6, 7), named(layers.Dense, 5), {"kernel": 6 * 7 * 5}),
        ((9, 3), named(layers.Conv1D, 4, 3), {"kernel": 7 * 3 * 3 * 4}),
        ((9, 3), named(layers.Conv1D, 4, 3, padding="causal", dilation_rate=2), {"kernel": 9 * 3 * 3 * 4}),
        ((8, 9, 3), named(layers.Conv2D, 4, 3, strides=2), {"kernel": 3 * 4 * 27 * 4}),
        ((8, 9, 3), named(layers.Conv2D, 4, 3, strides=2, padding="same"), {"kernel": 4 * 5 * 27 * 4}),
        ((8, 8, 4), named(layers.Conv2D, 6, 3, groups=2), {"kernel": 36 * 9 * 2 * 6}),
        ((5, 6, 7, 2), named(layers.Conv3D, 3, 2), {"kernel": 4 * 5 * 6 * 8 * 2 * 3}),
        # A transposed convolution multiplies each input position with the whole kernel.
        ((5, 3), named(layers.Conv1DTranspose, 4, 3, strides=2), {"kernel": 5 * 3 * 3 * 4}),
        ((5, 6, 3), named(layers.Conv2DTranspose, 4, 3, strides=2, padding="same"), {"kernel": 30 * 9 * 12}),
        ((5, 6, 3), named(layers.Conv2DTranspose, 4, 3), {"kernel": 30 * 9 * 12}),
        ((2, 3, 4, 2), named(layers.Conv3DTranspose, 3, 2), {"kernel": 24 * 8 * 6}),
        ((8, 8, 3), named(layers.DepthwiseConv2D, 3, depth_multiplier=2), {"kernel": 36 * 9 * 6}),
        ((8, 3), named(layers.DepthwiseConv1D, 3), {"kernel": 6 * 9}),
        (
            (8, 8, 3),
            named(layers.SeparableConv2D, 5, 3),
            {"depthwise_kernel": 36 * 27, "pointwise_kernel": 36 * 15},
        ),
        (
            (8, 3),
            named(layers.SeparableConv1D, 5, 3, strides=2),
            {"depthwise_kernel": 3 * 9, "pointwise_kernel": 3 * 15},
        ),
        ((5, 6, 4), named(layers.EinsumDense, "abcd,cde->abe", (5, 3)), {"kernel": 5 * 6 * 4 * 3}),
        ((5, 6, 4), named(layers.EinsumDense, "...x,xyz->...yz", (2, 3)), {"kernel": 30 * 4 * 6}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, layers.Layer) else None,
)
def test_one_layer(shape, layer, expected):
    model = model_of(shape, layer)
    assert macs(model) == {f"it/{name}": count for name, count in expected.items()}


def test_macs_are_the_products_of_a_convolution():
    """Counted the slow way: a kernel of ones over an image of ones sums one for each product."""
    layer = layers.Conv2D(4, 3, strides=2, use_bias=False, kernel_initializer="ones")
    model = model_of((9, 8, 3), layer)
    products = float(ops.sum(model(np.ones((1, 9, 8, 3), "float32"))))
    assert macs(model) == {f"{layer.name}/kernel": products}
    transposed = layers.Conv2DTranspose(4, 3, strides=2, use_bias=False, kernel_initializer="ones")
    model = model_of((9, 8, 3), transposed)
    products = float(ops.sum(model(np.ones((1, 9, 8, 3), "float32"))))
    assert macs(model) == {f"{transposed.name}/kernel": products}


def test_recurrent_layers_count_once_a_time_step():
    model = model_of((7, 4), layers.LSTM(5, return_sequences=True), layers.GRU(3), layers.Dense(2))
    counts = [use.macs for use in kernel_uses(model)]
    assert counts == [7 * 4 * 20, 7 * 5 * 20, 7 * 5 * 9, 7 * 3 * 9, 6]
    stacked = layers.RNN([layers.LSTMCell(3), layers.SimpleRNNCell(2)])
    counts = {use.variable.shape: use.macs for use in kernel_uses(model_of((6, 4), stacked))}
    assert counts == {(4, 12): 6 * 48, (3, 12): 6 * 36, (3, 2): 6 * 6, (2, 2): 6 * 4}
    # Unrolled, or called by hand, step by step.
    assert [u.macs for u in kernel_uses(model_of((6, 4), layers.SimpleRNN(3, unroll=True)))] == [72, 54]


def test_a_layer_inside_another_is_counted():
    model = model_of(
        (5, 8, 3),
        layers.TimeDistributed(layers.Conv1D(4, 3, name="conv")),
        layers.TimeDistributed(layers.Flatten()),
        layers.Bidirectional(layers.LSTM(2)),
    )
    counts = [use.macs for use in kernel_uses(model)]
    assert counts[0] == 5 * 6 * 3 * 3 * 4
    assert sorted(counts[1:]) == sorted(2 * [5 * 24 * 8, 5 * 2 * 8])


@pytest.mark.parametrize("sequences", [False, True])
def test_conv_lstm(sequences):
    layer = layers.ConvLSTM2D(4, 3, strides=2, return_sequences=sequences)
    counts = {use.variable.name: use.macs for use in kernel_uses(model_of((5, 9, 9, 3), layer))}
    # 4x4 output positions; the recurrent convolution keeps them.
    assert counts == {"kernel": 5 * 16 * 27 * 16, "recurrent_kernel": 5 * 16 * 36 * 16}


def test_attention_counts_its_projections():
    query, value = keras.Input((6, 16)), keras.Input((9, 16))
    outputs = layers.MultiHeadAttention(2, 4)(query, value)
    counts = macs(keras.Model([query, value], outputs))
    assert counts == {
        "query/kernel": 6 * 16 * 8,
        "key/kernel": 9 * 16 * 8,
        "value/kernel": 9 * 16 * 8,
        "attention_output/kernel": 6 * 8 * 16,
    }
    grouped = macs(keras.Model([query, value], layers.GroupQueryAttention(4, 4, 2)(query, value)))
    assert grouped["query/kernel"] == 6 * 16 * 16 and grouped["key/kernel"] == 9 * 16 * 8


def test_a_lookup_multiplies_nothing_but_its_reverse_does():
    model = model_of((6,), layers.Embedding(10, 4, name="table"), dtype="int32")
    assert macs(model) == {"table/embeddings": 0}
    tokens = keras.Input((6,), dtype="int32")
    table = layers.ReversibleEmbedding(10, 4, name="table")
    assert macs(keras.Model(tokens, table(table(tokens), reverse=True))) == {"table/embeddings": 6 * 40}
    two = layers.ReversibleEmbedding(10, 4, tie_weights=False, name="table")
    assert macs(keras.Model(tokens, two(two(tokens), reverse=True))) == {
        "table/embeddings": 0,
        "table/reverse_embeddings": 6 * 40,
    }


def test_each_call_of_a_shared_layer_counts():
    shared = layers.Dense(4, name="shared")
    a, b = keras.Input((4,)), keras.Input((3, 4))
    model = keras.Model([a, b], [shared(a), shared(b)])
    assert macs(model) == {"shared/kernel": (1 + 3) * 16}


def test_nested_and_wrapped_models_count_alike():
    inner = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(4, 3, name="conv")], name="inner")
    model = model_of((8, 8, 3), inner, layers.Flatten(), layers.Dense(2, name="head"))
    expected = {"conv/kernel": 36 * 27 * 4, "head/kernel": 36 * 4 * 2}
    assert macs(model) == expected
    assert macs(prune_low_magnitude(model, None)) == expected
    assert macs(PruneLowMagnitude(inner.layers[0], None)) == {"conv/kernel": 36 * 27 * 4}


def test_wrapped_attention():
    query, value = keras.Input((6, 16)), keras.Input((9, 16))
    model = keras.Model([query, value], layers.MultiHeadAttention(2, 4)(query, value))
    assert macs(prune_low_magnitude(model, None)) == macs(model)


def test_what_depends_on_an_open_size_is_unknown():
    model = model_of(
        (None, None, 3),
        layers.Conv2D(4, 3, name="conv"),
        layers.GlobalAveragePooling2D(),
        layers.Dense(2, name="head"),
    )
    assert macs(model) == {"conv/kernel": None, "head/kernel": 8}
    assert macs(model, input_shape=(None, 8, 8, 3)) == {"conv/kernel": 36 * 27 * 4, "head/kernel": 8}
    text = model_of(
        (None,), layers.Embedding(9, 4), layers.GRU(2), layers.Dense(2, name="head"), dtype="int32"
    )
    assert [use.macs for use in kernel_uses(text)] == [0, None, None, 4]


def test_a_fixed_batch_size_is_divided_out():
    inputs = keras.Input(batch_shape=(4, 6))
    model = keras.Model(inputs, layers.Dense(2, name="dense")(ops.reshape(inputs, (4, 3, 2))))
    assert macs(model) == {"dense/kernel": 3 * 4}


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.first = layers.Dense(4, name="first")
        self.rest = [layers.Dense(4, name=f"rest{i}") for i in range(2)]
        self.unused = layers.Dense(3, name="unused")
        self.unused.build((None, 4))

    def call(self, x):
        x = self.first(x)
        for layer in self.rest:
            x = layer(x)
        return x


def test_a_subclassed_model_is_counted_as_it_was_built():
    model = Subclassed()
    model(np.ones((3, 5, 7)))
    expected = {"first/kernel": 140, "rest0/kernel": 80, "rest1/kernel": 80, "unused/kernel": None}
    assert macs(model) == expected
    assert macs(model, input_shape=(None, 7))["first/kernel"] == 28


class Two(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(4, name="dense")

    def call(self, left, right):
        return self.dense(left) + self.dense(right)


class OfDictionary(Two):
    def call(self, inputs):
        return super().call(inputs["x"], inputs["y"][0])


def test_inputs_in_containers_and_several_arguments():
    x = np.ones((3, 7))
    model = OfDictionary()
    model({"x": x, "y": [x]})
    assert macs(model) == {"dense/kernel": 2 * 28}
    model = Two()
    model(x, x)
    # Keras keeps the first argument's shape alone.
    with pytest.warns(UserWarning, match="MACs are unknown, because a symbolic call of 'two"):
        assert macs(model) == {"dense/kernel": None}
    assert macs(model, input_shape={"left": (None, 7), "right": (None, 7)}) == {"dense/kernel": 2 * 28}


class OwnKernel(layers.Layer):
    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 2), name="kernel")

    def call(self, x):
        return ops.matmul(x, self.kernel)


class CustomCell(layers.Layer):
    def __init__(self, **options):
        super().__init__(**options)
        self.dense = layers.Dense(3, name="in_cell")
        self.state_size = 3

    def call(self, inputs, states):
        output = self.dense(inputs) + states[0]
        return output, [output]


def test_what_is_not_understood_is_unknown():
    model = model_of((4,), OwnKernel(name="own"), layers.Dense(2, name="dense"))
    assert macs(model) == {"own/kernel": None, "dense/kernel": 4}
    assert macs(model_of((6, 4), layers.RNN(CustomCell()))) == {"in_cell/kernel": None}
    lora = layers.Dense(3, name="dense")
    model = model_of((4,), lora)
    lora.enable_lora(2)
    assert set(macs(model).values()) == {None}


def test_normalisation_has_no_kernel():
    model = model_of(
        (4, 5), layers.LayerNormalization(axis=(1, 2)), layers.PReLU(), layers.BatchNormalization()
    )
    assert kernel_uses(model) == []


def test_counting_leaves_the_model_as_it_was():
    dense = layers.Dense(4, activity_regularizer="l2")
    model = model_of((3,), dense, layers.BatchNormalization(), layers.Dropout(0.5))
    before = [np.array(ops.convert_to_numpy(v)) for v in model.variables]
    nodes = len(dense._inbound_nodes)
    kernel_uses(model)
    assert "call" not in vars(dense) and len(dense._inbound_nodes) == nodes and model.losses == []
    for old, new in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(old, ops.convert_to_numpy(new))


def test_a_wrong_number_of_shapes_is_an_error():
    with pytest.raises(ValueError, match="a shape for each of the model's 1 inputs"):
        kernel_uses(model_of((10,), layers.Dense(4)), [(None, 10), (None, 10)])


def test_total():
    assert total([1, 2]) == 3 and total([1, None]) is None and total([]) == 0
