"""The choice of kernels: of a model's layers, and of layers inside layers."""

import keras
import numpy as np
import pytest
from keras import layers

from tfprune.sparsity import (
    ByEpoch,
    ConstantSparsity,
    PolynomialDecay,
    PruneLowMagnitude,
    UpdatePruningStep,
    masks_of,
    prune_low_magnitude,
    prune_to,
    pruned_layers,
    set_masks,
    strip_pruning,
    summarize,
)

ATTENTION = {f"attention/{name}/kernel" for name in ("query", "key", "value", "attention_output")}
CELLS = {
    f"reader/{way}_lstm/lstm_cell/{name}"
    for way in ("forward", "backward")
    for name in ("kernel", "recurrent_kernel")
}
ALL = ATTENTION | CELLS | {"steps/head/kernel", "last/kernel"}


def make():
    inputs = keras.Input((5, 8))
    x = layers.MultiHeadAttention(2, 4, name="attention")(inputs, inputs)
    x = layers.Bidirectional(layers.LSTM(4, return_sequences=True, name="lstm"), name="reader")(x)
    x = layers.TimeDistributed(layers.Dense(4, name="head"), name="steps")(x)
    return keras.Model(inputs, layers.Dense(2, name="last")(x))


def chosen(model):
    return {f"{v.layer}/{v.variable}" for v in summarize(model).variables if v.pruned}


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ({}, ALL),
        ({"layers": "attention"}, ATTENTION),
        ({"layers": "attention/query"}, {"attention/query/kernel"}),
        ({"layers": ".*/query/kernel|last"}, {"attention/query/kernel", "last/kernel"}),
        ({"layers": "reader/forward_lstm"}, {name for name in CELLS if "forward" in name}),
        ({"layers": ".*/recurrent_kernel"}, {name for name in CELLS if "recurrent" in name}),
        ({"layers": "(?!attention).*"}, ALL - ATTENTION),
        ({"layers": layers.Dense}, {"steps/head/kernel", "last/kernel"}),
        ({"layers": (layers.EinsumDense, layers.LSTM)}, ATTENTION | CELLS),
        ({"layers": lambda layer: layer.name != "reader"}, ALL - CELLS),
        (
            {"spare": ".*/(key|query)|last"},
            ALL - {"attention/key/kernel", "attention/query/kernel", "last/kernel"},
        ),
        ({"spare": layers.EinsumDense}, ALL - ATTENTION),
        ({"spare": lambda layer: layer.name.startswith("backward")}, {n for n in ALL if "backward" not in n}),
        ({"layers": "attention", "spare": "attention/value"}, ATTENTION - {"attention/value/kernel"}),
        ({"layers": "attention/.*|steps", "spare_ends": True}, {"steps/head/kernel"}),
    ],
)
def test_kernels_are_chosen_one_by_one(arguments, expected):
    assert chosen(prune_low_magnitude(make(), None, **arguments)) == expected


@pytest.mark.parametrize("layers", ["query", "attention/que", "attention/query/", "nothing/.*"])
def test_a_path_must_be_whole(layers):
    with pytest.raises(ValueError, match="Nothing to prune"):
        prune_low_magnitude(make(), None, layers=layers)


def test_all_spared_is_an_error():
    with pytest.raises(ValueError, match="Nothing to prune"):
        prune_low_magnitude(make(), None, layers="last", spare=layers.Dense)
    with pytest.raises(ValueError, match="`spare` must be a valid regular expression"):
        prune_low_magnitude(make(), None, spare="(")
    with pytest.raises(ValueError, match="`spare` must be a layer class.*spare=3"):
        prune_low_magnitude(make(), None, spare=3)


@pytest.mark.slow
def test_only_the_chosen_kernels_are_pruned(tmp_path, to_numpy):
    model = prune_low_magnitude(make(), None, layers="attention/(query|value)|reader/.*/kernel")
    before = {v.path: to_numpy(v) for v in model.trainable_variables}
    prune_to(model, {"attention/query": 0.5, "reader/forward_lstm/.*": 0.75, "attention": 0.25})
    summary = summarize(model)
    found = {f"{v.layer}/{v.variable}": v.sparsity for v in summary.counted}
    assert found == {
        "attention/query/kernel": 0.5,
        "attention/value/kernel": 0.25,
        "reader/forward_lstm/lstm_cell/kernel": 0.75,
        "reader/backward_lstm/lstm_cell/kernel": 0.0,
    }
    assert {name for name, why in summary.left_out.items() if why == "not selected"} == {
        *(f"attention/{name}/kernel" for name in ("key", "attention_output")),
        *(f"reader/{way}_lstm/lstm_cell/recurrent_kernel" for way in ("forward", "backward")),
    }
    macs = {f"{v.layer}/{v.variable}": (v.macs, v.sparse_macs) for v in summary.counted}
    assert macs["attention/query/kernel"] == (5 * 64, 5 * 32)
    assert macs["reader/forward_lstm/lstm_cell/kernel"] == (5 * 128, 5 * 32)
    assert summary.macs == sum(dense for dense, _ in macs.values()) < summary.all_macs
    for variable in model.trainable_variables:
        if "/key/" in variable.path or "recurrent" in variable.path:
            np.testing.assert_array_equal(to_numpy(variable), before[variable.path])

    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert chosen(loaded) == chosen(model)
    for name, mask in masks_of(loaded).items():
        np.testing.assert_array_equal(mask, masks_of(model)[name])
    set_masks(loaded, masks_of(model))
    assert pruned_layers(strip_pruning(loaded)) == []


def test_kernels_chosen_later_join_those_that_have_masks():
    model = prune_low_magnitude(make(), None, layers="attention/query")
    prune_to(model, 0.5)
    model = prune_low_magnitude(model, None, layers="attention/value")
    assert chosen(model) == {"attention/query/kernel", "attention/value/kernel"}
    assert [v.sparsity for v in summarize(model).counted] == [0.5, 0.0]
    assert chosen(prune_low_magnitude(model, None, layers="attention")) == ATTENTION


def test_a_pattern_is_asked_of_the_chosen_kernels_alone():
    with pytest.raises(ValueError, match="layer 'reader', variable 'forward_lstm/lstm_cell/kernel'"):
        prune_low_magnitude(make(), None, granularity="channel")
    model = prune_low_magnitude(make(), None, granularity="channel", spare=".*lstm.*")
    assert chosen(model) == ALL - CELLS


def test_a_part_of_what_is_not_built_is_an_error():
    reader = layers.Bidirectional(layers.LSTM(4, name="lstm"), name="reader")
    assert pruned_layers(prune_low_magnitude(reader, None, layers="reader"))
    with pytest.raises(ValueError, match="must be built before layers inside it are selected.*'reader'"):
        prune_low_magnitude(reader, None, layers=".*/forward_lstm")


def test_a_mapping_that_matches_no_kernel_is_an_error():
    model = prune_low_magnitude(make(), None, layers="attention/query|last")
    with pytest.raises(
        ValueError, match="attention/query/kernel, last, last/kernel. Received: 'attention/key'"
    ):
        prune_to(model, {"attention/key": 0.5})


@pytest.mark.parametrize(
    "kernels, words",
    [
        ([9], ["below 1", "'a'", "[9]"]),
        ([-1], ["whole numbers, at least 0", "[-1]"]),
        (["x"], ["whole numbers", "['x']"]),
        ([0.5], ["whole numbers", "[0.5]"]),
        (3, ["a list of whole numbers", "kernels=3"]),
    ],
)
def test_kernels_that_a_layer_does_not_have_are_named(kernels, words):
    layer = keras.layers.Dense(4, name="a")
    layer.build((None, 3))
    with pytest.raises(ValueError) as caught:
        PruneLowMagnitude(layer, None, kernels=kernels)
    assert all(word in str(caught.value) for word in ["`kernels` must be", *words]), caught.value


def test_a_misspelt_name_to_spare_is_an_error_before_anything_is_changed():
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(4, name="a"), keras.layers.ReLU(name="r")]
    )
    message = r"Each entry of `spare` must match a layer or a kernel: .*, a, a/kernel, r\. Received: 'b'"
    with pytest.raises(ValueError, match=message):
        prune_low_magnitude(model, None, spare="b")
    prune_low_magnitude(model, None, spare="r")  # Of a layer that nothing can be pruned in, too.
    with pytest.raises(ValueError, match="Nothing to prune"):
        prune_low_magnitude(model, None, spare="a/kernel")


@pytest.mark.slow
def test_schedules_reach_inside_layers(tmp_path):
    early, late, none = ConstantSparsity(0.5, 0), PolynomialDecay(0.0, 0.75, 1, 2, frequency=1), None
    schedules = {
        "attention/(query|key)": early,
        "attention/value/kernel": late,
        "reader/.*/recurrent_kernel": late,
        "steps/head": none,
        "last": early,
    }
    model = prune_low_magnitude(make(), schedules)
    assert chosen(model) == {
        *("attention/query/kernel", "attention/key/kernel", "attention/value/kernel"),
        *(f"reader/{way}_lstm/lstm_cell/recurrent_kernel" for way in ("forward", "backward")),
        *("steps/head/kernel", "last/kernel"),
    }
    x, y = np.ones((2, 5, 8)), np.ones((2, 5, 2))

    def found(model):
        return {f"{v.layer}/{v.variable}".split("/")[-2]: v.sparsity for v in summarize(model).counted}

    model.compile("sgd", "mse")
    with pytest.warns(UserWarning, match="leaves sparsity 0.00 in layers 'attention/value/kernel', 'reader'"):
        model.fit(x, y, batch_size=2, verbose=0, callbacks=[UpdatePruningStep()])
    assert found(model) == {
        "query": 0.5,
        "key": 0.5,
        "value": 0.0,
        "lstm_cell": 0.0,
        "head": 0.0,
        "last": 0.5,
    }

    model.save(tmp_path / "model.keras")
    model = keras.models.load_model(tmp_path / "model.keras")
    model.fit(x, y, batch_size=2, verbose=0, callbacks=[UpdatePruningStep()])
    assert found(model) == {
        "query": 0.5,
        "key": 0.5,
        "value": 0.75,
        "lstm_cell": 0.75,
        "head": 0.0,
        "last": 0.5,
    }


def test_a_kernel_of_its_own_schedule_keeps_it_when_others_are_chosen():
    early, late = ConstantSparsity(0.5, 0), ConstantSparsity(0.25, 5)
    model = prune_low_magnitude(make(), {"attention/query": early, "attention/key": early})
    model = prune_low_magnitude(model, late, layers="attention/value|last")
    attention, last = pruned_layers(model)
    # By the numbers that Keras gives the layers inside.
    names = [kernel.layer.name for kernel, _ in attention.pruned]
    schedules = dict(zip(names, (rule.pruning_schedule for rule in attention.rule_of_each), strict=True))
    assert schedules == {"query": early, "key": early, "value": late}
    assert last.pruning_schedule is late


@pytest.mark.slow
def test_a_mapping_by_epochs_reaches_inside_layers():
    model = prune_low_magnitude(
        make(), {"attention/query": ByEpoch(0.5, 1), "attention/key": ByEpoch(0.25, 2)}
    )
    model.compile("sgd", "mse")
    x, y = np.ones((2, 5, 8)), np.ones((2, 5, 2))
    model.fit(x, y, batch_size=1, epochs=2, verbose=0, callbacks=[UpdatePruningStep()])
    assert {v.variable: v.sparsity for v in summarize(model).counted} == {
        "query/kernel": 0.5,
        "key/kernel": 0.25,
    }


def test_schedules_without_their_kernels_are_an_error():
    layer = keras.layers.Dense(4, name="a")
    layer.build((None, 3))
    with pytest.raises(
        ValueError, match=r"one schedule for each of `kernels`. Received: kernels=\[0\], schedul"
    ):
        PruneLowMagnitude(layer, kernels=[0], schedules=[None, None])
    with pytest.raises(ValueError, match="`schedules` is for `PruneLowMagnitude`"):
        prune_low_magnitude(layer, schedules=[None])


def test_frozen_kernels_inside_layers_are_told_and_left_out():
    def frozen():
        model = make()
        model.get_layer("attention").query_dense.trainable = False
        return model

    with pytest.warns(UserWarning, match="not trained .`trainable=False`.: layer 'attention/query'"):
        assert chosen(prune_low_magnitude(frozen(), None)) == ALL
    model = prune_low_magnitude(frozen(), None, prune_frozen=False)
    assert chosen(model) == ALL - {"attention/query/kernel"}
