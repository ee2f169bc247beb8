import json

import keras
import numpy as np
import pytest
from keras import layers

from tfprune.sparsity import PruneLowMagnitude, prune_low_magnitude, prune_to, strip_pruning, summarize


@pytest.fixture
def model():
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(4, 3, name="conv"),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(name="relu"),
            layers.Flatten(name="flatten"),
            layers.Dense(2, name="head"),
        ]
    )


def test_a_pruned_model_is_counted_layer_by_layer(model):
    wrapped = prune_low_magnitude(model, None, layers="conv")
    prune_to(wrapped, 0.75)
    summary = summarize(wrapped)
    conv, head = summary.variables
    assert (conv.layer, conv.variable, conv.shape) == ("conv", "kernel", (3, 3, 3, 4))
    assert (conv.parameters, conv.nonzeros, conv.sparsity, conv.pruned) == (108, 27, 0.75, True)
    assert (head.layer, head.parameters, head.nonzeros, head.pruned) == ("head", 288, 288, False)
    assert summary.sparsity == 0.75  # Of the pruned kernels alone.
    assert summary.all_parameters == 108 + 4 + 8 + 288 + 2
    # The biases and the normalisation's shift start at zero.
    assert summary.all_nonzeros == 27 + 4 + 288
    assert summary.sparsity_all_parameters == pytest.approx(1 - 319 / 410)


def test_what_was_left_out_is_listed_with_the_reason(model):
    summary = summarize(prune_low_magnitude(model, None, layers="conv"))
    assert summary.left_out == {"norm": "no prunable variables", "head": "not wrapped"}


def test_wrapped_and_stripped_agree(model):
    wrapped = prune_low_magnitude(model, None)
    prune_to(wrapped, 0.5)
    before, after = summarize(wrapped), summarize(strip_pruning(wrapped))
    assert before.sparsity == after.sparsity == 0.5
    assert before.sparsity_all_parameters == after.sparsity_all_parameters
    assert not any(v.pruned for v in after.variables)


def test_a_removed_weight_counts_as_zero_whatever_its_raw_value(model):
    wrapped = prune_low_magnitude(model, None)
    prune_to(wrapped, 0.5)
    model.get_layer("conv").kernel.assign(np.ones((3, 3, 3, 4)))
    assert summarize(wrapped).sparsity == 0.5


def test_a_dense_model_has_no_zeros(model):
    assert summarize(model).sparsity == 0.0


def test_a_shared_layer_counts_once():
    dense = layers.Dense(4, use_bias=False)
    a, b = keras.Input((4,)), keras.Input((4,))
    wrapped = prune_low_magnitude(keras.Model([a, b], layers.Add()([dense(a), dense(b)])), None)
    prune_to(wrapped, 0.5)
    summary = summarize(wrapped)
    assert (len(summary.variables), summary.all_parameters, summary.all_nonzeros) == (1, 16, 8)


class Block(layers.Layer):
    def __init__(self):
        super().__init__(name="block")
        self.wrapped = PruneLowMagnitude(layers.Dense(8, name="inside"), None)
        self.bare = layers.Dense(2, name="bare")

    def call(self, x):
        return self.bare(self.wrapped(x))


def test_wrappers_inside_a_custom_layer_are_found():
    inputs = keras.Input((8,))
    model = keras.Model(inputs, Block()(inputs))
    prune_to(model, 0.5)
    summary = summarize(model)
    assert [(v.layer, v.pruned, v.nonzeros) for v in summary.variables] == [
        ("inside", True, 32),
        ("bare", False, 16),
    ]
    assert summary.sparsity == 0.5
    assert summary.left_out == {"bare": "not wrapped"}


def test_the_text_shows_the_figures_and_what_was_left_out(model):
    wrapped = prune_low_magnitude(model, None, layers="conv")
    prune_to(wrapped, 0.75)
    text = str(summarize(wrapped))
    assert "0.7500" in text and "3x3x3x4" in text and "108" in text
    assert "not pruned, not wrapped: head" in text
    assert "not pruned, no prunable variables: norm" in text
    lines = summarize(wrapped).to_markdown().splitlines()
    assert lines[0] == (
        "| layer | variable | shape | parameters | nonzeros | sparsity | MACs | sparse MACs |"
    )
    assert lines[2] == "| conv | kernel | 3x3x3x4 | 108 | 27 | 0.7500 | 3,888 | 972 |"
    assert {line.count("|") for line in lines} == {9}


def test_multiply_accumulates_follow_the_nonzeros(model):
    wrapped = prune_low_magnitude(model, None, layers="conv")
    prune_to(wrapped, 0.75)
    summary = summarize(wrapped)
    conv, head = summary.variables
    assert (conv.macs, conv.sparse_macs) == (36 * 108, 36 * 27)
    assert (head.macs, head.sparse_macs) == (288, 288)
    assert (summary.macs, summary.sparse_macs) == (36 * 108, 36 * 27)  # Of the pruned kernels.
    assert (summary.all_macs, summary.all_sparse_macs) == (36 * 108 + 288, 36 * 27 + 288)
    stripped = summarize(strip_pruning(wrapped))
    assert (stripped.all_macs, stripped.all_sparse_macs) == (36 * 108 + 288, 36 * 27 + 288)


def test_kernels_that_are_never_pruned_count_in_all_macs():
    model = keras.Sequential([keras.Input((8, 8, 3)), layers.DepthwiseConv2D(3), layers.Conv2D(2, 1)])
    wrapped = prune_low_magnitude(model, None)
    prune_to(wrapped, 0.5)
    summary = summarize(wrapped)
    assert (summary.macs, summary.sparse_macs) == (36 * 6, 36 * 3)
    assert (summary.all_macs, summary.all_sparse_macs) == (36 * (6 + 27), 36 * (3 + 27))


def test_unknown_macs_are_a_dash_and_an_input_shape_makes_them_known():
    inputs = keras.Input((None, None, 3))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3, name="conv")(inputs))
    model = keras.Model(inputs, layers.Dense(2, name="head")(x))
    summary = summarize(model)
    assert [v.macs for v in summary.variables] == [None, 8]
    assert (summary.macs, summary.all_sparse_macs) == (None, None)
    rows = [line.split("|")[-3:-1] for line in summary.to_markdown().splitlines()[2:]]
    assert rows == [[" - ", " - "], [" 8 ", " 8 "], [" - ", " - "], [" - ", " - "]]
    assert summarize(model, input_shape=(None, 8, 8, 3)).macs == 36 * 108 + 8


def test_depthwise_kernels_are_left_alone_on_purpose():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.DepthwiseConv2D(3, name="depthwise"),
            layers.SeparableConv2D(4, 3, name="separable"),
        ]
    )
    purpose = "depthwise kernels are left alone on purpose"
    wrapped = prune_low_magnitude(model, None)
    assert summarize(wrapped).left_out == {"depthwise": purpose, "separable/depthwise_kernel": purpose}
    assert f"not pruned, {purpose}: depthwise, separable/depthwise_kernel" in str(summarize(wrapped))
    assert [v.variable for v in summarize(wrapped).variables] == ["pointwise_kernel"]


def test_variables_of_layers_in_a_layer_are_told_apart():
    inputs = keras.Input((5, 8))
    attention = layers.MultiHeadAttention(2, 4, name="attention")
    x = layers.Bidirectional(layers.GRU(2, name="gru"), name="both")(attention(inputs, inputs))
    for model in (keras.Model(inputs, x), prune_low_magnitude(keras.Model(inputs, x), None)):
        names = {(v.layer, v.variable) for v in summarize(model).variables}
        assert names == {("attention", f"{part}/kernel") for part in _ATTENTION} | {
            ("both", f"{direction}_gru/gru_cell/{kernel}")
            for direction in ("forward", "backward")
            for kernel in ("kernel", "recurrent_kernel")
        }


_ATTENTION = ("query", "key", "value", "attention_output")


def test_the_dictionary_is_ready_for_json(model):
    wrapped = prune_low_magnitude(model, None)
    prune_to(wrapped, 0.5)
    loaded = json.loads(json.dumps(summarize(wrapped).to_dict()))
    assert loaded["sparsity"] == 0.5
    assert loaded["variables"][0]["layer"] == "conv"
    assert loaded["macs"] == 36 * 108 + 288 and loaded["sparse_macs"] == loaded["macs"] / 2
    assert loaded["variables"][0]["sparse_macs"] == 36 * 54
    assert loaded["left_out"] == {"norm": "no prunable variables"}


def test_an_unbuilt_model_is_an_error():
    with pytest.raises(ValueError, match="must be built"):
        summarize(keras.Sequential([layers.Dense(3)]))
