"""Every built-in Keras layer with a kernel or an embedding table, and none of the other weights."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from tests.support.layer_kinds import NEVER_PRUNED, PRUNED, call, inputs_of
from tfprune.sparsity import prune_low_magnitude, prune_to, pruned_layers, strip_pruning
from tfprune.sparsity.prune import is_prunable

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def initializers_in_numpy(monkeypatch):
    """JAX would compile its random numbers anew for each shape, at a second each."""

    def draw(self, shape, dtype=None, **options):
        return ops.convert_to_tensor(RNG.normal(size=shape), dtype)

    for cls in (keras.initializers.VarianceScaling, keras.initializers.OrthogonalInitializer):
        monkeypatch.setattr(cls, "__call__", draw)


def make(name):
    inputs = inputs_of(PRUNED[name])
    layer = PRUNED[name].make()
    outputs = call(layer, inputs)
    model = keras.Model(inputs, layers.GlobalAveragePooling1D()(layers.Reshape((-1, 2))(outputs)))
    x = [RNG.uniform(0, 2, size=(6, *tensor.shape[1:])).astype(tensor.dtype) for tensor in inputs]
    return model, layer, x


@pytest.mark.parametrize("name", PRUNED)
def test_pruned_trained_saved_and_stripped(name, tmp_path, masks_of, to_numpy, assert_exact_zeros):
    model, layer, x = make(name)
    assert is_prunable(PRUNED[name].make())  # As an unbuilt layer too.
    wrapped = prune_low_magnitude(model, None)
    wrapper = pruned_layers(wrapped)[0]
    assert wrapper.layer is layer
    assert [variable.name for variable in wrapper.prunable_variables] == PRUNED[name].pruned

    prune_to(wrapped, 0.5)
    before = {id(v): to_numpy(v) for v in layer.trainable_variables}
    wrapped.compile(
        keras.optimizers.SGD(0.5, momentum=0.9), "mse", run_eagerly=keras.backend.backend() != "jax"
    )
    wrapped.train_on_batch(x, np.ones((6, 2), "float32"))
    assert_exact_zeros(wrapped, 0.5)
    # It trains: of each kind of weight some moved.
    moved = [v.name for v in layer.trainable_variables if (to_numpy(v) != before[id(v)]).any()]
    assert set(PRUNED[name].pruned) <= set(moved)

    wrapped.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for old, new in zip(masks_of(wrapped), masks_of(loaded), strict=True):
        np.testing.assert_array_equal(old, new)
    expected = to_numpy(wrapped(x))
    np.testing.assert_allclose(to_numpy(loaded(x)), expected, atol=1e-5)
    np.testing.assert_allclose(to_numpy(strip_pruning(loaded)(x)), expected, atol=1e-5)


def test_a_reverse_table_of_its_own_is_pruned_too(to_numpy):
    layer = layers.ReversibleEmbedding(9, 4, tie_weights=False)
    tokens = keras.Input((5,), dtype="int32")
    model = prune_low_magnitude(keras.Model(tokens, layer(layer(tokens), reverse=True)), None)
    prune_to(model, 0.5)
    assert [v.name for v in pruned_layers(model)[0].prunable_variables] == [
        "embeddings",
        "reverse_embeddings",
    ]
    for variable in (layer.embeddings, layer.reverse_embeddings):
        assert np.count_nonzero(to_numpy(variable)) == 18
    table = to_numpy(layer.embeddings)[[[0, 1, 2, 3, 8]]]
    np.testing.assert_allclose(
        to_numpy(model(np.array([[0, 1, 2, 3, 8]]))), table @ to_numpy(layer.reverse_embeddings), atol=1e-6
    )


@pytest.mark.parametrize("name", NEVER_PRUNED)
def test_never_wrapped(name):
    inputs = inputs_of(NEVER_PRUNED[name])
    layer = NEVER_PRUNED[name].make()
    x = call(layer, inputs)
    model = keras.Model(inputs, layers.Dense(2, name="head")(layers.Flatten()(x)))
    assert layer.variables
    wrapped = prune_low_magnitude(model, None)
    assert [wrapper.layer.name for wrapper in pruned_layers(wrapped)] == ["head"]
    assert any(each is layer for each in wrapped.layers)
    with pytest.raises(ValueError, match="Nothing to prune"):
        prune_low_magnitude(model, None, layers=type(layer))
