"""Recurrent layers and those that are called for each time step, in the kernels, against Keras."""

import itertools

import keras
import numpy as np
import pytest
from keras import layers

from tests.support.compiled_models import CELLS, assert_same, kinds, run_in_runtime
from tfprune import runtime
from tfprune.compiler.compile import compile_model
from tfprune.compiler.paths import on_path
from tfprune.errors import UserError
from tfprune.export.formats.sparse import kernels_of
from tfprune.export.network import Network
from tfprune.sparsity import masks_of, prune_low_magnitude, prune_to, strip_pruning

SIGNAL, IMAGE = (9, 5), (4, 9, 5)


def model_of(layer, shape=SIGNAL, states=()):
    signal, first = keras.Input(shape), [keras.Input((units,)) for units in states]
    made = layer(signal, initial_state=first) if first else layer(signal)
    return keras.Model([signal, *first], made)


def compile_and_compare(model, seed=0):
    """On both paths, with half of the weights zero."""
    rng = np.random.default_rng(seed)
    for weight in model.trainable_weights:
        kept = rng.random(weight.shape) < 0.5 if len(weight.shape) > 1 else 1.0
        weight.assign(rng.normal(size=weight.shape) * 0.4 * kept)
    graph = compile_model(model)
    for path in ("sparse", "dense"):
        options = {"low": -1, "high": 1, "run": run_in_runtime, "tolerance": 1e-5}
        assert_same(model, on_path(graph, path), **options)
    return graph


@pytest.mark.parametrize("cell", CELLS)
def test_cells(cell):
    for sequences, state, backwards in itertools.product((False, True), repeat=3):
        options = {"return_sequences": sequences, "return_state": state, "go_backwards": backwards}
        graph = compile_and_compare(model_of(CELLS[cell](7, **options)))
        assert kinds(graph)["Recurrent"] == kinds(graph)["Conv"] == 1


@pytest.mark.parametrize("cell", CELLS)
def test_first_states(cell):
    compile_and_compare(model_of(CELLS[cell](20), states=(20, 20) if cell == "LSTM" else (20,)))


def test_settings():
    compile_and_compare(model_of(layers.LSTM(3, "relu", "hard_sigmoid", use_bias=False, dropout=0.5)))
    compile_and_compare(model_of(layers.GRU(17, keras.activations.silu, recurrent_activation="softsign")))
    compile_and_compare(model_of(layers.SimpleRNN(3, activation=None, recurrent_dropout=0.2)))


@pytest.mark.parametrize("mode", ["concat", "sum", "mul", "ave", None])
def test_both_directions(mode):
    def both(cls, **options):
        return layers.Bidirectional(cls(4, return_sequences=mode != "ave", **options), merge_mode=mode)

    compile_and_compare(model_of(both(layers.LSTM, return_state=True)))
    compile_and_compare(model_of(both(layers.GRU), states=(4, 4)))


@pytest.mark.filterwarnings("error:Compiled with all channels")
def test_directions_of_other_widths():
    backward = layers.GRU(3, go_backwards=True, return_sequences=True)
    both = layers.Bidirectional(layers.LSTM(4, return_sequences=True), backward_layer=backward)
    compile_and_compare(model_of(both))


def test_cells_in_a_stack():
    cells = [layers.LSTMCell(4), layers.SimpleRNNCell(3), layers.GRUCell(5)]
    graph = compile_and_compare(model_of(layers.RNN(cells, return_state=True, return_sequences=True)))
    assert kinds(graph)["Recurrent"] == 3
    compile_and_compare(model_of(layers.RNN(layers.GRUCell(4))))


DISTRIBUTED = {
    "dense": (layers.Dense(3, "relu"), SIGNAL, {"Conv"}),
    "normalization": (layers.BatchNormalization(), SIGNAL, set()),
    "softmax": (layers.Softmax(), SIGNAL, {"Activation"}),
    "dense of a signal": (layers.Dense(3), IMAGE, {"Conv"}),
    "convolution": (layers.Conv1D(3, 3, padding="same", strides=2), IMAGE, {"Conv"}),
    "pool": (layers.MaxPooling1D(2), IMAGE, {"Pool"}),
    "flatten": (layers.Flatten(), IMAGE, {"Gather", "Concatenate"}),
    "global pool": (layers.GlobalAveragePooling1D(), IMAGE, {"Gather", "GlobalPool", "Concatenate"}),
}


@pytest.mark.parametrize("case", DISTRIBUTED)
def test_layers_of_each_time_step(case):
    layer, shape, wanted = DISTRIBUTED[case]
    graph = compile_and_compare(model_of(layers.TimeDistributed(layer), shape))
    assert kinds(graph).keys() == wanted | {"Input", "Flatten"}


def test_a_pruned_network_of_spoken_words(tmp_path):
    """A hundred steps: the file has each weight once, and its audit finds the masks."""
    signal = keras.Input((100, 12), name="signal")
    x = layers.Bidirectional(layers.LSTM(16, return_sequences=True, name="lstm"), name="both")(signal)
    x = layers.Dense(4, name="words")(layers.GRU(24, name="gru")(x))
    model = prune_low_magnitude(keras.Model(signal, x))
    prune_to(model, 0.9)
    masks, model = masks_of(model), strip_pruning(model)
    graph = compile_model(model)
    runtime.write_file(graph, tmp_path / "model.tfprune", "float32")
    assert (tmp_path / "model.tfprune").stat().st_size < 12_000 < 4 * model.count_params()
    read = runtime.read_file(tmp_path / "model.tfprune")
    assert_same(model, read, low=-1, high=1, run=run_in_runtime, tolerance=1e-5)
    network = Network(model, masks, str(tmp_path))
    found = kernels_of(read, network)
    assert found.keys() == network.masks.keys() and len(found) == 7
    for name, kernels in found.items():
        (kernel,) = kernels
        np.testing.assert_array_equal(kernel, network.kernels[name].variable)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (layers.LSTM(3, activation="softmax"), r"\(LSTM\).*`activation` must be"),
        (
            layers.RNN([layers.GRUCell(3), layers.GRUCell(2, recurrent_activation=abs)]),
            r"\(RNN\).*Received: abs",
        ),
        (layers.TimeDistributed(layers.LSTM(3)), r"\(TimeDistributed\).*its layer must be one of .*: LSTM"),
        (layers.ConvLSTM1D(3, 3), r"\(ConvLSTM1D\)"),
        (lambda x: layers.LSTM(3)(x[:, 0], mask=x[:, 0, :, 0] > 0), r"\(Greater\)"),
    ],
    ids=("softmax", "cells", "inside", "convolution", "given a mask"),
)
def test_refused(layer, message):
    image = keras.Input(IMAGE)
    recurrent = isinstance(layer, layers.RNN) and not isinstance(layer, layers.ConvLSTM1D)
    with pytest.raises(UserError, match=f"(?s){message}"):
        compile_model(keras.Model(image, layer(image[:, 0] if recurrent else image)))


def test_states_that_stay_are_refused():
    signal = keras.Input(batch_shape=(2, *SIGNAL))
    with pytest.raises(UserError, match="`stateful` must be False"):
        compile_model(keras.Model(signal, layers.LSTM(3, stateful=True)(signal)))
