"""Each score ranks channels by what it says, pooled over all layers of a group."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from tfprune.sparsity import needs_gradients
from tfprune.structured import plan

RNG = np.random.default_rng(0)


def make_model():
    """A residual group of six channels, and a group of four."""
    image = keras.Input((4, 4, 3))
    x = layers.Conv2D(6, 3, padding="same", name="first")(image)
    x = layers.BatchNormalization(name="norm")(x)
    y = layers.Conv2D(6, 3, padding="same", name="second")(x)
    x = layers.Add()([x, y])
    x = layers.Conv2D(4, 1, name="third")(x)
    return keras.Model(image, layers.Dense(2, name="head")(layers.GlobalAveragePooling2D()(x)))


def kernel(model, name):
    return np.array(ops.convert_to_numpy(model.get_layer(name).kernel), np.float64)


def pooled(model, norm):
    """The sums over all weights of each channel of the residual group, by hand."""
    first, second, third = (kernel(model, name) for name in ("first", "second", "third"))
    return [
        sum(
            (np.abs(part) ** norm).sum()
            for part in (first[..., c], second[..., c], second[:, :, c], third[:, :, c])
        )
        for c in range(6)
    ]


def kept_of_first(model, count, **arguments):
    """The channels of the residual group that stay when `count` of six may."""
    sizes = [27 * c + c + 4 * c + 9 * c * c + c + 4 * c + 4 + 10 for c in (count, 6)]
    made = plan(model, params=sizes[0] / sizes[1], keep="third", **arguments)
    assert (made.after.parameters, made.before.parameters) == tuple(sizes)
    return set(np.flatnonzero(made.stays[made.traced.groups[0].sets]))


@pytest.mark.one_backend
@pytest.mark.parametrize(("score", "norm"), [("l1", 1), ("l2", 2), ("magnitude", 2)])
def test_magnitudes_are_of_all_weights_that_make_and_take_a_channel(score, norm):
    model = make_model()
    for name in ("first", "second", "third"):
        variable = model.get_layer(name).kernel
        variable.assign(RNG.standard_cauchy(variable.shape))
    expected = np.argsort(pooled(model, norm))[-3:]
    assert kept_of_first(model, 3, score=score) == set(expected)


@pytest.mark.one_backend
def test_the_factors_of_normalisation():
    model = make_model()
    model.get_layer("norm").gamma.assign([0.1, -3.0, 0.2, 2.0, 0.3, -0.05])
    assert kept_of_first(model, 2, score="batchnorm") == {1, 3}
    made = plan(model, params=0.9, score="batchnorm")
    assert made.groups[1].fixed == "no BatchNormalization scales it"
    assert made.groups[1].kept == 4


@pytest.mark.one_backend
def test_a_function_is_summed_over_the_weights():
    model = make_model()

    def first_weights(tensor):
        values = np.zeros(tensor.weights.shape)
        if "second" in tensor.name:
            values[..., [5, 0]] = 1
        return values

    assert kept_of_first(model, 2, score=first_weights) == {0, 5}


@pytest.mark.slow
@pytest.mark.parametrize("batched", [False, True])
def test_the_variance_of_what_the_next_layers_take(batched):
    model = make_model()
    image = RNG.normal(size=(80, 4, 4, 3)).astype(np.float32)
    first, second = model.get_layer("first"), model.get_layer("second")
    first.kernel.assign(first.kernel * np.array([3, 0.01, 5, 0.02, 0.03, 0.01]))
    first.bias.assign([0, 100, 0, 50, 0, 0])  # A large constant has no variance.
    second.kernel.assign(second.kernel * np.array([1, 0.01, 1, 0.01, 5, 0.01]) * 0.2)
    before = [np.array(ops.convert_to_numpy(weight)) for weight in model.weights]
    data = [image[:40], (image[40:], np.zeros(40))] if batched else image
    assert kept_of_first(model, 3, score="variance", data=data) == {0, 2, 4}
    for old, new in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(old, ops.convert_to_numpy(new))


@pytest.mark.slow
@pytest.mark.parametrize("score", ["taylor", "fisher"])
def test_scores_of_the_loss(score):
    model = make_model()
    model.compile("adam", "mse")
    head = model.get_layer("third")
    # Channels that the loss does not see, however large what makes them is.
    head.kernel.assign(head.kernel * np.array([1, 0, 1, 0, 0, 1])[:, None])
    model.get_layer("first").kernel.assign(model.get_layer("first").kernel * np.array([1, 50, 1, 50, 50, 1]))
    second = model.get_layer("second")
    second.kernel.assign(second.kernel * np.array([1, 0, 1, 0, 0, 1])[:, None])
    before = [np.array(ops.convert_to_numpy(weight)) for weight in model.variables]
    images = RNG.normal(size=(8, 4, 4, 3)).astype(np.float32)
    data = [(images, np.ones((8, 2), np.float32))]
    made = plan(model, params=0.45, score=score, data=data, keep="third", scope="layer")
    assert made.groups[0].kept == 3
    assert set(np.flatnonzero(made.stays[made.traced.groups[0].sets])) == {0, 2, 5}
    for old, new in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(old, ops.convert_to_numpy(new))


@pytest.mark.slow
@pytest.mark.one_backend
def test_gradients_of_layers_that_do_not_train_are_missed():
    model = make_model()
    model.get_layer("third").trainable = False
    model.get_layer("head").trainable = False
    with pytest.raises(ValueError, match="must be compiled"):
        plan(model, params=0.9, score="taylor", data=[(np.ones((2, 4, 4, 3)), np.ones((2, 2)))])
    model.compile("sgd", "mse")
    data = [(np.ones((2, 4, 4, 3), np.float32), np.ones((2, 2), np.float32))]

    @needs_gradients
    def own(tensor):
        return tensor.gradients.mean_abs

    made = plan(model, params=0.8, score=own, data=data)
    assert made.groups[1].fixed == "it has no kernel that trains"
    assert made.groups[0].kept < 6
    with pytest.raises(ValueError, match="`gradient_data` must be an iterable of batches"):
        plan(model, params=0.8, score="fisher", data=data[0])


@pytest.mark.one_backend
def test_inputs_of_several_names_are_measured_as_arrays_by_name():
    first, second = keras.Input((3,), name="first"), keras.Input((2,), name="second")
    x = layers.Concatenate()([layers.Dense(4, name="wide")(first), second])
    model = keras.Model({"first": first, "second": second}, layers.Dense(2)(x))
    wide = model.get_layer("wide")
    wide.kernel.assign(wide.kernel * np.array([1, 0, 1, 0]))
    data = {"first": RNG.normal(size=(100, 3)), "second": RNG.normal(size=(100, 2))}
    made = plan(model, params=0.7, score="variance", data=data)
    assert set(np.flatnonzero(made.stays[made.traced.groups[0].sets])) == {0, 2}
