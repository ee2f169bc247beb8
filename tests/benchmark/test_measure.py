"""The measurement of networks of any inputs and outputs, by what can take them."""

import keras
import numpy as np
import pytest

from tfprune.benchmark.measure import Plan, largest_difference, measure
from tfprune.benchmark.report import format_benchmark, inputs_title
from tfprune.export.export import export_model
from tfprune.export.network import keras_logits
from tfprune.export.signature import Signature


@pytest.fixture(autouse=True, scope="module")
def only_tensorflow():
    if keras.backend.backend() != "tensorflow":
        pytest.skip("export works on the TensorFlow backend only")


def two_in_two_out():
    words = keras.Input((4,), dtype="int32", name="words")
    numbers = keras.Input((3,), name="numbers")
    read = keras.layers.Flatten()(keras.layers.Embedding(10, 2)(words))
    x = keras.layers.Dense(6, "relu")(keras.layers.Concatenate()([read, numbers]))
    outputs = {"price": keras.layers.Dense(1, name="price")(x), "kind": keras.layers.Dense(3, name="kind")(x)}
    return keras.Model({"words": words, "numbers": numbers}, outputs)


@pytest.mark.slow
def test_several_inputs_and_outputs_are_timed_where_a_file_can_take_them(tmp_path):
    model, rng = two_in_two_out(), np.random.default_rng(0)
    inputs = {
        "words": rng.integers(0, 10, (4, 4)).astype("int32"),
        "numbers": rng.normal(size=(4, 3)).astype("float32"),
    }
    export_model(model, str(tmp_path), inputs=inputs, progress=lambda line: None)
    record = measure(
        str(tmp_path),
        inputs=Signature(model, inputs).arrays(),
        outputs=keras_logits(model, inputs),
        dense_weights_bytes=4 * model.count_params(),
        plan=Plan(rounds=2, batch_sizes=(1, 3), threads=(1,), zstd=False),
        progress=lambda line: None,
    )
    reasons = {row["name"]: row["reason"] for row in record["contenders"]}
    assert reasons["tfprune"] == reasons["saved_model"] == reasons["tflite_float32"] == ""
    for peer in ("onnxruntime", "pytorch"):
        assert (
            reasons[peer] == "is timed with networks of one image that give one vector"
            or "not installed" in reasons[peer]
        )
    differences = {row["name"]: row["largest_logit_difference_relative"] for row in record["contenders"]}
    assert differences["tflite_float32"] < 1e-5 and differences["tfprune"] < 1e-2
    assert [setting["batch_size"] for setting in record["latency"]] == [1, 3]
    peaks = {row["name"]: row["failure"] for row in record["memory"]["rows"]}
    assert peaks["tfprune"] == peaks["saved_model"] == peaks["tflite_float32"] == ""
    text = format_benchmark(record)
    assert "inputs " in text and "words int32 4" in text and "numbers float32 3" in text


def test_a_difference_is_that_of_the_worst_output():
    expected = {"a": np.float32([[2.0]]), "b": np.int64([[4, 0]])}
    assert largest_difference(expected, expected) == 0
    assert largest_difference({"a": np.float32([[2.0]]), "b": np.int64([[3, 0]])}, expected) == 0.25
    assert largest_difference({"a": np.float32([[np.nan]]), "b": expected["b"]}, expected) == np.inf
    with pytest.raises(ValueError, match="outputs must be a, b. Received: a"):
        largest_difference({"a": expected["a"]}, expected)
    with pytest.raises(ValueError, match=r"must be \(1, 1\)"):
        largest_difference(np.zeros((1, 2)), np.zeros((1, 1)))


def test_inputs_in_words():
    assert inputs_title([{"name": "", "dtype": "uint8", "shape": [8, 8, 3]}]) == "images 8x8x3"
    assert inputs_title([{"name": "", "dtype": "float32", "shape": [13]}]) == "input float32 13"
