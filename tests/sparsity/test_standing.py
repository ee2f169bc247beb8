"""Masks that gather in few channels: the standing of channels, and the score that reads it."""

import keras
import numpy as np
import pytest
from keras import layers

from tfprune.sparsity import masks_of, prune_low_magnitude, prune_to, strip_pruning
from tfprune.sparsity.standing import channel_standing


def two_dense():
    """Two inputs, three hidden channels, two outputs."""
    model = keras.Sequential(
        [
            keras.Input((2,)),
            layers.Dense(3, use_bias=False, name="first"),
            layers.Dense(2, use_bias=False, name="second"),
        ]
    )
    model.set_weights(
        [
            np.array([[5.0, 4.0, 0.5], [5.0, 3.0, 0.5]], "float32"),
            np.array([[1.3, 7.0], [0.2, 0.1], [2.5, 0.3]], "float32"),
        ]
    )
    return model


def test_standing_by_hand():
    model = two_dense()
    first, second = model.weights
    kept = [(first, np.array([[3.0, 4.0, 0], [0, 0, 0]])), (second, np.array([[4.0, 0], [0, 0], [0, 1.0]]))]
    # The hidden channels' norms are 5, 4 and 1, the median 4; the outputs are never cut.
    found = channel_standing(model, kept)
    np.testing.assert_allclose(np.broadcast_to(found[id(first)], (2, 3)), [[1, 1, 0.25]] * 2)
    np.testing.assert_allclose(np.broadcast_to(found[id(second)], (3, 2)), [[1, 1], [1, 1], [0.25, 0.25]])


def test_channels_without_a_weight_come_last_and_nothing_kept_is_no_standing():
    model = two_dense()
    first, second = model.weights
    found = channel_standing(model, [(first, np.diag([2.0, 2.0, 0])[:2]), (second, np.zeros((3, 2)))])
    assert 0 < found[id(first)][0, 2] < 1e-5
    assert channel_standing(model, [(first, np.zeros((2, 3)))]) == {}


def test_the_weak_channel_loses_all_that_it_would_keep_by_magnitude():
    # By magnitude 7, 5, 5, 4, 3 and 2.5 stay. The last is all of the third channel, whose norm is half the
    # median, that of the second: its score, 1.25, is below the 1.3 of the first channel.
    for score, second in (
        ("magnitude", [[0, 1], [0, 0], [1, 0]]),
        ("gathered", [[1, 1], [0, 0], [0, 0]]),
    ):
        pruned = prune_low_magnitude(two_dense(), None, score=score, scope="global")
        prune_to(pruned, 0.5)
        first, found = masks_of(pruned).values()
        np.testing.assert_array_equal(first, [[1, 1, 0], [1, 1, 0]])
        np.testing.assert_array_equal(found, second)


def test_more_channels_die_where_layers_are_added():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 3))
    x = first = layers.Conv2D(16, 3, padding="same", use_bias=False, name="first")(inputs)
    for number in range(2):
        x = layers.Conv2D(16, 3, padding="same", use_bias=False, name=f"inner{number}")(layers.ReLU()(x))
    x = layers.GlobalAveragePooling2D()(layers.Add()([first, x]))
    model = keras.Model(inputs, layers.Dense(4, name="head")(x))
    empty, kept = {}, {}
    for score in ("magnitude", "gathered"):
        pruned = prune_low_magnitude(
            keras.models.clone_model(model), None, layers=layers.Conv2D, score=score, scope="global"
        )
        pruned.set_weights(prune_low_magnitude(model, None, layers=layers.Conv2D).get_weights())
        prune_to(pruned, 0.97)
        kernels = [layer.kernel for layer in strip_pruning(pruned).layers if isinstance(layer, layers.Conv2D)]
        values = [keras.ops.convert_to_numpy(kernel) for kernel in kernels]
        kept[score] = sum(np.count_nonzero(each) for each in values)
        empty[score] = sum(
            int((~each.any((0, 1, 2))).sum() + (~each.any((0, 1, 3))).sum()) for each in values
        )
    assert kept["gathered"] == kept["magnitude"]
    assert empty["gathered"] > 1.2 * empty["magnitude"]


def test_a_subclassed_model_is_an_error_before_any_mask_changes():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = prune_low_magnitude(layers.Dense(4), None, score="gathered")

        def call(self, inputs):
            return self.dense(inputs)

    model = Own()
    model(np.ones((1, 4), "float32"))
    with pytest.raises(ValueError, match="`model` must be functional or Sequential"):
        prune_to(model, 0.5)
    assert all(mask.all() for mask in masks_of(model).values())
