"""A small residual network with random statistics and masks, exported once for all tests."""

import keras
import numpy as np
import pytest
from keras import layers
from sklearn.datasets import load_digits

from tests.support.disk import watched

IMAGE_SIZE = 16


@pytest.fixture(autouse=True, scope="session")
def tensorflow_backend():
    if keras.backend.backend() != "tensorflow":
        pytest.skip("export works on the TensorFlow backend only")


def conv_bn(x, filters, kernel_size, strides, name):
    padding = "same"
    if strides > 1:
        padding = "valid"
        if kernel_size > 1:
            x = layers.ZeroPadding2D(1, name=f"{name}_pad")(x)
    x = layers.Conv2D(filters, kernel_size, strides, padding, use_bias=False, name=name)(x)
    return layers.BatchNormalization(epsilon=1e-5, name=f"{name}_bn")(x)


def residual_network(width=32, classes=10):
    image = keras.Input((IMAGE_SIZE, IMAGE_SIZE, 3), dtype="uint8", name="image")
    scale = {"mean": (120.0, 121.0, 122.0), "variance": (2500.0, 2400.0, 2600.0)}
    x = layers.Normalization(**scale, dtype="float32", name="normalization")(image)
    x = layers.ReLU(name="stem_relu")(conv_bn(x, width, 3, 1, "stem_conv"))
    y = layers.ReLU(name="relu1")(conv_bn(x, 2 * width, 3, 2, "conv1"))
    y = conv_bn(y, 2 * width, 3, 1, "conv2")
    x = layers.Add(name="add")([y, conv_bn(x, 2 * width, 1, 2, "shortcut_conv")])
    x = layers.GlobalAveragePooling2D(name="pool")(layers.ReLU(name="relu2")(x))
    return keras.Model(image, layers.Dense(classes, name="head")(x), name="residual")


def randomise(model, seed=0):
    """Gives every BatchNorm statistics that folding must get right, signs included."""
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            n = layer.gamma.shape[0]
            sign = rng.choice([-1.0, 1.0], n)
            gamma, beta = sign * rng.uniform(0.5, 1.5, n), rng.normal(size=n)
            layer.set_weights([gamma, beta, rng.normal(size=n), rng.uniform(0.5, 2.0, n)])
        elif isinstance(layer, layers.Conv2D):
            shape = layer.kernel.shape
            layer.kernel.assign(rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[:3])))


def prune(model, sparsity=0.9, seed=0):
    """Zeroes random weights of every convolution, but no whole channel; returns the masks."""
    rng = np.random.default_rng(seed)
    masks = {}
    for layer in model.layers:
        if isinstance(layer, layers.Conv2D):
            mask = (rng.random(layer.kernel.shape) >= sparsity).astype("float32")
            inputs, outputs = mask.shape[2:]
            places = np.arange(max(inputs, outputs))
            mask[0, 0, places % inputs, places % outputs] = 1
            layer.kernel.assign(layer.kernel * mask)
            masks[layer.name] = mask
    return masks


@pytest.fixture(scope="session")
def images():
    digits = load_digits().images[:64] * (255 / 16)
    large = np.kron(digits, np.ones((2, 2)))  # 8x8 to 16x16
    return np.repeat(large[..., None], 3, axis=-1).astype(np.uint8)


@pytest.fixture
def make_network():
    def make(sparsity=0.9, seed=0, **arguments):
        keras.utils.set_random_seed(seed)
        model = residual_network(**arguments)
        randomise(model, seed)
        return model, prune(model, sparsity, seed) if sparsity else {}

    return make


@pytest.fixture(scope="session")
def network():
    keras.utils.set_random_seed(0)
    model = residual_network()
    randomise(model)
    return model, prune(model)


@pytest.fixture(scope="session")
def exported_twice(network, images, tmp_path_factory, tensorflow_backend):
    """A folder that was exported into before, the audit, and what was seen of the disk at the second time."""
    from tfprune.export import export_model

    model, masks = network
    folder = tmp_path_factory.mktemp("export")
    arguments = {"inputs": images, "progress": lambda line: None}
    export_model(model, str(folder), masks=masks, formats=["saved_model"], **arguments)
    (folder / "benchmark.json").write_text("{}")
    with watched(folder) as disk:
        audit = export_model(model, str(folder), masks=masks, **arguments)
    return folder, audit, disk


@pytest.fixture(scope="session")
def exported(exported_twice):
    folder, audit, _ = exported_twice
    return folder, audit
