"""Small models of `keras.applications` cut in half: the table of all of them is the script's."""

import keras
import numpy as np
import pytest

from scripts.structured_coverage import halve, randomise


def mobile_net():
    return keras.applications.MobileNetV2((32, 32, 3), 0.35, weights=None, classes=10)


def dense_net():
    from keras.src.applications.densenet import DenseNet

    return DenseNet([1, 1, 1, 1], weights=None, input_shape=(32, 32, 3), classes=10)


def conv_next():
    from keras.src.applications.convnext import ConvNeXt

    return ConvNeXt([1, 1, 1, 1], [8, 12, 16, 20], 0.1, weights=None, input_shape=(32, 32, 3), classes=10)


@pytest.mark.slow
@pytest.mark.one_backend  # The layers are tried on each, one by one.
@pytest.mark.parametrize("make", [mobile_net, dense_net, conv_next])
def test_half_of_the_channels(make):
    rng = np.random.default_rng(0)
    model = make()
    randomise(model, rng)
    model.layers[-1].activation = keras.activations.linear
    images = rng.uniform(0, 255, (2, 32, 32, 3)).astype(np.float32)
    found, smaller, _ = halve(model, images, rng)
    assert found["difference"] <= 1e-5
    assert found["parameters"][1] < 0.4 * found["parameters"][0]
    assert found["unknown"] == {}
    (head,) = found["fixed"]
    assert head == f"10 channels of {model.layers[-1].name}: fixed, output of the model"
    assert [layer.name for layer in smaller.layers] == [layer.name for layer in model.layers]
    assert "tfprune" not in smaller.to_json()
