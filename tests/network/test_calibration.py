"""Statistics of layers over batches, and training steps that leave a model as it was."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from tfprune.network.calibration import Moments, Probe, kept, layer_statistics
from tfprune.network.optimizers import Still, slots
from tfprune.sparsity import prune_low_magnitude, prune_to

RANDOM = np.random.default_rng(5)


def batches(shape, sizes=(4, 7)):
    return [RANDOM.normal(2.0, 3.0, (size, *shape)).astype("float32") for size in sizes]


def check(moments, values, channels_first=False):
    """That moments are those of all values together."""
    values = np.asarray(values, np.float64)
    values = np.moveaxis(values, 1, -1) if channels_first else values
    values = values.reshape(-1, values.shape[-1])
    assert moments.count == len(values)
    np.testing.assert_allclose(moments.mean, values.mean(axis=0), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(moments.variance, values.var(axis=0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(moments.second_moment, (values**2).mean(axis=0), rtol=1e-4, atol=1e-5)


def network():
    inner = keras.Sequential([keras.Input((4, 4, 5)), layers.Conv2D(3, 2, name="inner_conv")], name="inner")
    image = keras.Input((6, 6, 2))
    x = layers.ReLU(name="relu")(layers.Conv2D(5, 3, name="conv")(image))
    x = layers.BatchNormalization()(inner(x))
    x = layers.Dropout(0.5)(layers.Flatten()(x))
    return keras.Model(image, layers.Dense(4, name="head")(x))


def up_to(model, name):
    """What a layer of the model puts out."""
    return keras.Model(model.input, model.get_layer(name).output)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("kind", ["functional", "sequential"])
def test_statistics_are_those_of_all_batches_together(kind, compiled):
    model = network() if kind == "functional" else keras.Sequential([keras.Input((6, 6, 2)), network()])
    if compiled:
        model.compile("sgd", "mse")
    given = batches((6, 6, 2))
    whole = np.concatenate(given)
    before = [ops.convert_to_numpy(variable) for variable in model.variables]
    found = {layer.name: statistics for layer, statistics in layer_statistics(model, given).items()}
    assert list(found) == ["conv", "inner_conv", "head"]
    graph = model if kind == "functional" else model.layers[0]
    check(found["conv"].inputs[0], whole)
    check(found["conv"].outputs[0], up_to(graph, "conv").predict(whole, verbose=0))
    check(found["inner_conv"].inputs[0], up_to(graph, "relu").predict(whole, verbose=0))
    check(found["head"].outputs[0], model.predict(whole, verbose=0))
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(variable), value)
    assert all("call" not in vars(layer) for layer in graph.layers)


def test_layers_can_be_chosen_and_batches_have_labels():
    model = network()
    (given,) = batches((6, 6, 2), (4,))
    relu = model.get_layer("relu")
    found = layer_statistics(model, [(given, np.zeros(4))], [relu])
    assert list(found) == [relu]
    assert (found[relu].outputs[0].mean > found[relu].inputs[0].mean).all()


def test_several_tensors_and_calls():
    a, b = keras.Input((3,), name="a"), keras.Input((3,), name="b")
    shared, join = layers.Dense(3, name="shared"), layers.Subtract(name="join")
    model = keras.Model({"a": a, "b": b}, join([shared(a), shared(b)]))
    x, y = (np.concatenate(batches((3,))) for _ in range(2))
    found = layer_statistics(model, [{"a": x, "b": y}], [shared, join])
    check(found[shared].inputs[0], np.concatenate([x, y]))
    check(found[join].inputs[0], ops.convert_to_numpy(shared(x)))
    check(found[join].inputs[1], ops.convert_to_numpy(shared(y)))


def test_the_layer_in_a_pruning_wrapper_sees_the_masked_weights():
    image = keras.Input((5,))
    model = prune_low_magnitude(
        keras.Model(image, layers.Dense(4, use_bias=False, name="dense")(image)), None
    )
    prune_to(model, {".*": 0.95})
    (given,) = batches((5,), (6,))
    ((layer, statistics),) = layer_statistics(model, [given]).items()
    assert layer.name == "dense"
    check(statistics.outputs[0], ops.convert_to_numpy(model(given)))
    assert (statistics.outputs[0].variance == 0).sum() == 3


def test_recurrent_layers_count_time_and_embeddings_have_no_inputs():
    tokens = keras.Input((7,), dtype="int32")
    embedding, recurrent, head = (
        layers.Embedding(9, 4),
        layers.LSTM(3, return_sequences=True),
        layers.Dense(2),
    )
    model = keras.Model(tokens, head(recurrent(embedding(tokens))))
    given = RANDOM.integers(0, 9, (5, 7))
    found = layer_statistics(model, [given], [embedding, recurrent, head])
    assert found[embedding].inputs == ()
    assert found[embedding].outputs[0].count == found[recurrent].inputs[0].count == 35
    check(found[head].outputs[0], ops.convert_to_numpy(model(given)))


def test_channels_first():
    layer = layers.Conv1D(3, 2, data_format="channels_first")
    layer.build((None, 2, 6))
    call, layer.call = layer.call, lambda x: x  # The processor has no such convolution on every backend.
    (given,) = batches((2, 6), (4,))
    (statistics,) = layer_statistics(layer, [given]).values()
    layer.call = call
    check(statistics.inputs[0], given, channels_first=True)


def test_a_channel_that_is_nearly_constant_far_from_zero():
    layer = layers.Dense(1, name="dense")
    layer.build((None, 1))
    given = [
        (1e4 + np.float32(2.0**-6) * RANDOM.integers(0, 2, (500, 1))).astype("float32") for _ in range(4)
    ]
    (statistics,) = layer_statistics(layer, given).values()
    expected = np.concatenate(given).astype(np.float64).var()
    np.testing.assert_allclose(statistics.inputs[0].variance, expected, rtol=1e-6)


def test_merging_does_not_depend_on_the_order():
    parts = [Moments(len(x), x.mean(axis=0), x.var(axis=0)) for x in batches((3,), (2, 5, 9))]
    forward, backward = parts[0].merged(parts[1]).merged(parts[2]), parts[2].merged(parts[1]).merged(parts[0])
    assert forward.count == backward.count == 16
    np.testing.assert_allclose(forward.variance, backward.variance, rtol=1e-6)


def test_what_cannot_be_measured_is_an_error():
    model = network()
    with pytest.raises(ValueError, match="`batches` must have at least one batch. Received: none"):
        layer_statistics(model, [])
    with pytest.raises(ValueError, match="`layers` must be layers of the model. Received: <Dense"):
        layer_statistics(model, batches((6, 6, 2)), [layers.Dense(2)])


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="the loop is compiled on JAX alone")
def test_a_compiled_loop_hides_its_values():
    recurrent = layers.LSTM(3)
    model = keras.Sequential([keras.Input((5, 2)), recurrent])
    assert layer_statistics(model, batches((5, 2))) == {}  # Cells are left out.
    with pytest.raises(ValueError, match="'lstm_cell' must be visible: it runs in a compiled loop"):
        layer_statistics(model, batches((5, 2)), [recurrent.cell])


class Gradients(Still):
    def __init__(self):
        super().__init__()
        self.seen = {}

    def see(self, gradient, variable):
        self.seen[variable.path] = gradient.shape


def test_a_probe_moves_nothing_but_shows_the_gradients():
    model = network()
    model.compile("adam", "mse", metrics=["mae"])
    (given,) = batches((6, 6, 2), (4,))
    before = [ops.convert_to_numpy(variable) for variable in model.variables]
    state = [*model.non_trainable_variables, *model.metrics_variables]
    optimizer = Gradients()
    with kept(state):
        loss = Probe(model, optimizer).train_on_batch(given, np.ones((4, 4)))
        moved = ops.convert_to_numpy(model.layers[4].moving_mean)
        assert moved.any()
    assert np.isfinite(loss)
    assert set(optimizer.seen) == {variable.path for variable in model.trainable_variables}
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(variable), value)
    assert int(model.optimizer.iterations) == 0


def test_slots_are_what_moves_a_variable():
    variables = [keras.Variable(np.ones(3)), keras.Variable(np.ones((2, 2)))]
    for optimizer, count in [
        (keras.optimizers.SGD(), 0),
        (keras.optimizers.SGD(momentum=0.9), 1),
        (keras.optimizers.Adam(), 2),
        (keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam()), 2),
        (keras.optimizers.Adagrad(), 0),
    ]:
        assert not any(list(slots(optimizer, variable)) for variable in variables)
        optimizer.build(variables)
        for variable in variables:
            shapes = [tuple(slot.shape) for slot in slots(optimizer, variable)]
            assert shapes == [tuple(variable.shape)] * count
        assert list(slots(optimizer, keras.Variable(np.ones(3)))) == []
    assert list(slots(None, variables[0])) == []
