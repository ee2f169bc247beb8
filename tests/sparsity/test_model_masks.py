"""`masks_of` and `set_masks`: names, round trips, checks, and what becomes of weights and slots."""

import keras
import numpy as np
import pytest
from keras import layers

from tfprune import sparsity
from tfprune.sparsity import masks_of, prune_low_magnitude, prune_to, set_masks, strip_pruning


def assert_same(ours, theirs):
    assert list(ours) == list(theirs)
    for name, mask in theirs.items():
        np.testing.assert_array_equal(ours[name], mask)


def block(*shape):
    return keras.Sequential([keras.Input(shape), layers.Dense(6, name="dense")])


def nested():
    """Two nested models with layers of one name, a shared layer and a layer of several kernels."""
    inputs, shared = keras.Input((4, 6)), layers.Dense(6, name="shared")
    first, second = block(4, 6), block(4, 6)
    first.name, second.name = "first", "second"
    x = second(first(shared(shared(inputs))))
    return keras.Model(inputs, layers.Bidirectional(layers.LSTM(3), name="both")(x))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.stem = layers.Dense(6)
        self.blocks = [layers.Dense(6), layers.Dense(6)]
        self.inner = block(6)

    def call(self, x):
        x = self.stem(x)
        for layer in self.blocks:
            x = layer(x)
        return self.inner(x)


def subclassed():
    model = Subclassed()
    model(np.zeros((1, 6), "float32"))
    return model


def test_names_are_paths_of_layers(mlp):
    assert list(masks_of(prune_low_magnitude(mlp(), None))) == ["first/kernel", "second/kernel"]
    names = list(masks_of(prune_low_magnitude(nested(), None)))
    assert names[:3] == ["shared/kernel", "first/dense/kernel", "second/dense/kernel"]
    assert len(names) == 7 and all(name.startswith("both/") for name in names[3:])
    names = list(masks_of(prune_low_magnitude(subclassed(), None)))
    assert len(names) == 4 and "dense_0/kernel" in names and names[-1].endswith("/dense/kernel")


def test_a_layer_alone():
    layer = prune_low_magnitude(layers.Dense(4, name="dense"), None)
    layer.build((None, 3))
    assert list(masks_of(layer)) == ["dense/kernel"]


@pytest.mark.parametrize("make", [nested, subclassed])
def test_names_and_masks_are_the_same_in_a_twin(make, tmp_path):
    """Another instance, saved in an `.npz` file in between; and a model stripped and wrapped again."""
    model = prune_low_magnitude(make(), None)
    prune_to(model, 0.5)
    before = masks_of(model)
    np.savez(tmp_path / "masks.npz", **before)
    twin = prune_low_magnitude(make(), None)
    assert all(mask.all() for mask in masks_of(twin).values())
    set_masks(twin, np.load(tmp_path / "masks.npz"))
    assert_same(masks_of(twin), before)
    again = prune_low_magnitude(strip_pruning(model), None)
    assert list(masks_of(again)) == list(before)


def test_names_and_masks_are_the_same_in_a_reloaded_model(tmp_path):
    model = prune_low_magnitude(nested(), None)
    prune_to(model, 0.5)
    model.save(tmp_path / "model.keras")
    assert_same(masks_of(keras.saving.load_model(tmp_path / "model.keras")), masks_of(model))


@keras.saving.register_keras_serializable("tests")
class PrunesItself(keras.Model):
    """A subclassed model whose layers are wrapped in `__init__`, so that Keras can make it anew."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.blocks = [prune_low_magnitude(layers.Dense(6), None) for _ in range(2)]
        self.head = prune_low_magnitude(layers.Dense(3), None)

    def call(self, x):
        for layer in self.blocks:
            x = layer(x)
        return self.head(x)


def test_a_reloaded_subclassed_model(tmp_path, to_numpy):
    x = np.ones((2, 6), "float32")
    model = PrunesItself()
    model(x)
    prune_to(model, 0.5)
    half = masks_of(model)
    assert len(half) == 3
    model.save(tmp_path / "model.keras")
    prune_to(model, 0.9)
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert_same(masks_of(loaded), half)
    set_masks(loaded, masks_of(model))  # The names are the same, though Keras's own are not.
    assert_same(masks_of(loaded), masks_of(model))
    np.testing.assert_allclose(to_numpy(loaded(x)), to_numpy(model(x)), atol=1e-6)


def test_weights_of_a_subclassed_model_bring_its_masks(tmp_path):
    model = prune_low_magnitude(subclassed(), None)
    prune_to(model, 0.5)
    model.save_weights(tmp_path / "pruned.weights.h5")
    other = prune_low_magnitude(subclassed(), None)
    other.load_weights(tmp_path / "pruned.weights.h5")
    assert_same(masks_of(other), masks_of(model))


def test_a_held_mask_does_not_follow_the_model(mlp):
    model = prune_low_magnitude(mlp(), None)
    held = masks_of(model)
    prune_to(model, 0.5)
    assert all(mask.all() for mask in held.values())


@pytest.mark.slow
def test_masks_change_between_fits_and_may_be_denser(mlp, data, to_numpy):
    """Weights that come back are zero and train; removed ones stay zero, with their slots."""
    model = prune_low_magnitude(mlp(), sparsity.ConstantSparsity(0.5, begin_step=0))
    model.compile("adam", "mse")
    x, y = data(4)

    def fit():
        model.fit(x, y, batch_size=4, verbose=0, callbacks=[sparsity.UpdatePruningStep()])

    fit()
    sparse = masks_of(model)
    set_masks(model, {name: np.ones(mask.shape, int) for name, mask in sparse.items()})
    kernel = sparsity.pruned_layers(model)[0].prunable_variables[0]
    np.testing.assert_array_equal(to_numpy(kernel) == 0, ~sparse["first/kernel"])
    model.fit(x, y, batch_size=4, verbose=0, callbacks=[sparsity.UpdatePruningStep()])
    assert (to_numpy(kernel) != 0).all()  # The schedule is not due again within these batches.
    set_masks(model, sparse)
    np.testing.assert_array_equal(to_numpy(kernel) == 0, ~sparse["first/kernel"])
    slots = [v for v in model.optimizer.variables if tuple(v.shape) == (10, 10)]
    assert len(slots) == 2 and all((to_numpy(slot)[~sparse["first/kernel"]] == 0).all() for slot in slots)
    fit()
    np.testing.assert_array_equal(to_numpy(kernel) == 0, ~sparse["first/kernel"])


@pytest.mark.parametrize(
    "name, mask, message",
    [
        ("second/kernel", np.ones((4, 10)), r"second/kernel.*shape \(10, 4\). Received: shape \(4, 10\)"),
        ("second/kernel", np.full((10, 4), 2), "second/kernel.*zeros and ones"),
        ("second/kernel", np.full((10, 4), 0.5), "second/kernel.*zeros and ones"),
        ("second/kernel", np.full((10, 4), np.nan), "second/kernel.*zeros and ones"),
        ("second/kernel", np.zeros((10, 4), bool), "second/kernel.*one weight at least"),
        ("third/kernel", np.ones((10, 4)), r"first/kernel, second/kernel.*unknown \['third/kernel'\]"),
        ("second/kernel", None, r"none for \['second/kernel'\]"),
    ],
)
def test_what_is_no_mask_is_an_error_and_changes_nothing(name, mask, message, mlp):
    model = prune_low_magnitude(mlp(), None)
    masks = {key: np.eye(*value.shape, dtype=bool) for key, value in masks_of(model).items()}
    if mask is None:
        del masks[name]
    else:
        masks[name] = mask
    with pytest.raises(ValueError, match=message):
        set_masks(model, masks)
    assert all(value.all() for value in masks_of(model).values())


def test_a_model_without_masks_is_an_error(mlp):
    for function in (masks_of, lambda model: set_masks(model, {})):
        with pytest.raises(ValueError, match="no pruned layers"):
            function(mlp())
