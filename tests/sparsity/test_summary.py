"""`summarize`: counts, tables, and the picture."""

import json

import keras
import matplotlib.pyplot as plt
import numpy as np
import pytest
from keras import layers
from matplotlib.figure import Figure

from tfprune.sparsity import (
    PruneLowMagnitude,
    Summary,
    prune_low_magnitude,
    prune_to,
    strip_pruning,
    summarize,
)
from tfprune.sparsity.summary import VariableSummary, draw


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


def test_dead_channels_are_told(model):
    assert (summarize(model).channels[0].dead, "channels" in str(summarize(model))) == (0, False)
    kernel, head = model.get_layer("conv").kernel, model.get_layer("head").kernel
    kernel.assign(kernel * np.array([0, 1, 1, 1]))  # Constant, whatever comes in.
    head.assign(head * np.tile([1, 1, 0, 1], 36)[:, None])  # Taken by nothing.
    line = "2 of 6 channels change no output: conv (2 of 4)"
    for wrapped in (model, prune_low_magnitude(model, None, keep_zeros=True)):
        summary = summarize(wrapped)
        assert line in str(summary).splitlines()
        assert summary.to_markdown().endswith(f" |\n\n{line}")
        channels = json.loads(json.dumps(summary.to_dict()))["channels"]
        assert channels == [
            {"layer": "conv", "channels": 4, "dead": 2},
            {"layer": "head", "channels": 2, "dead": 0},
        ]


def test_the_channels_of_a_model_without_a_graph_are_unknown():
    layer = layers.Dense(2)
    layer.build((None, 3))
    assert summarize(layer).channels is None and summarize(layer).to_dict()["channels"] is None


def test_an_unbuilt_model_is_an_error():
    with pytest.raises(ValueError, match="must be built"):
        summarize(keras.Sequential([layers.Dense(3)]))


def summary_of(count, pruned=True):
    """Of `count` kernels of 1,000 to 1,000 * count weights, 10 to 90 % of them zero."""
    shares = np.linspace(0.9, 0.1, count)
    variables = [
        VariableSummary(
            f"stage{i}_conv", "kernel", (1, 1, 100, 10 * i), 1000 * i, int(1000 * i * share), pruned
        )
        for i, share in enumerate(shares, start=1)
    ]
    total = sum(v.parameters for v in variables)
    return Summary(tuple(variables), {}, total, sum(v.nonzeros for v in variables))


@pytest.mark.parametrize("count", [1, 3, 36])
def test_one_readable_row_a_variable(count):
    summary = summary_of(count)
    figure = draw(summary)
    sizes, shares = figure.axes
    dense, left = (container.datavalues for container in sizes.containers)
    assert list(dense) == [v.parameters for v in summary.variables]
    assert list(left) == [v.nonzeros for v in summary.variables]
    np.testing.assert_allclose(shares.containers[0].datavalues, [100 * v.sparsity for v in summary.variables])
    assert [label.get_text() for label in sizes.get_yticklabels()] == [v.layer for v in summary.variables]
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    boxes = [label.get_window_extent(renderer) for label in sizes.get_yticklabels()]
    assert all(upper.y0 >= lower.y1 for upper, lower in zip(boxes, boxes[1:], strict=False))
    assert all(box.x0 >= 0 for box in boxes)
    texts = [text.get_window_extent(renderer) for text in (*sizes.texts, *shares.texts)]
    assert len(texts) == 2 * count
    assert max(text.x1 for text in texts) <= figure.bbox.x1
    assert max(text.get_window_extent(renderer).x1 for text in sizes.texts) <= sizes.bbox.x1
    assert shares.xaxis.label.get_window_extent(renderer).x1 <= figure.bbox.x1


def test_layers_with_several_variables_are_told_apart():
    rows = [VariableSummary("lstm", name, (2, 2), 4, 2, True) for name in ("kernel", "recurrent_kernel")]
    rows.append(VariableSummary("x" * 60, "kernel", (2, 2), 4, 2, True))
    names = [t.get_text() for t in draw(Summary(tuple(rows), {}, 12, 6)).axes[0].get_yticklabels()]
    assert names[:2] == ["lstm/kernel", "lstm/recurrent_kernel"]
    assert len(names[2]) == 40 and names[2].startswith("…")


def test_only_pruned_variables_are_drawn_where_some_are():
    pruned, dense = summary_of(2), summary_of(1, pruned=False)
    both = Summary(pruned.variables + dense.variables, {}, 4000, 2000)
    assert len(draw(both).axes[0].texts) == 2
    assert "pruned parameters" in draw(both).axes[0].get_title(loc="left")
    assert "prunable parameters" in draw(dense).axes[0].get_title(loc="left")


@pytest.mark.parametrize("name, start", [("a.png", b"\x89PNG"), ("a.svg", b"<?xml"), ("a.PDF", b"%PDF")])
def test_plot_writes_one_whole_file(tmp_path, name, start, mlp):
    model = prune_low_magnitude(mlp(), None)
    prune_to(model, 0.5)
    path = tmp_path / name
    path.write_text("old")
    summarize(model).plot(path)
    assert path.read_bytes().startswith(start)
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    def fail(self, file, **options):
        file.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", fail)
    path = tmp_path / "a.png"
    path.write_text("old")
    with pytest.raises(OSError, match="disk full"):
        summary_of(2).plot(str(path))
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_errors_come_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match=r"`path` must end in .png, .svg, .pdf"):
        summary_of(2).plot(tmp_path / "picture.bmp")
    flat = keras.Sequential([keras.Input((2, 2)), layers.Flatten()])
    with pytest.raises(ValueError, match="nothing to draw"):
        summarize(flat).plot(tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


def test_no_pyplot_state_is_made():
    before = plt.get_fignums()
    draw(summary_of(2))
    assert plt.get_fignums() == before
