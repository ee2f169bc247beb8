import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import hypothesis
import keras
import numpy as np
import pytest
from keras import layers, ops

from tfprune import sparsity

# The machine may be busy: no limit on an example's time.
hypothesis.settings.register_profile("sparsity", deadline=None, max_examples=60)
hypothesis.settings.load_profile("sparsity")


def _numpy(value):
    return np.array(ops.convert_to_numpy(value))


@pytest.fixture
def to_numpy():
    """A function from a tensor or variable to a copy of its values."""
    return _numpy


@pytest.fixture(autouse=True)
def fresh_keras():
    keras.utils.set_random_seed(0)
    yield
    keras.config.set_dtype_policy("float32")


@pytest.fixture
def mlp():
    """A function that makes a small Sequential: kernels "first" of 100 weights and "second" of 40."""

    def make(**first_options):
        return keras.Sequential(
            [
                keras.Input((10,)),
                layers.Dense(10, activation="tanh", name="first", **first_options),
                layers.Dense(4, name="second"),
            ]
        )

    return make


@pytest.fixture
def data():
    """A function that makes `batches` batches of 4 examples for `mlp`."""

    def make(batches):
        rng = np.random.default_rng(1)
        x = rng.normal(size=(4 * batches, 10)).astype("float32")
        return x, rng.normal(size=(4 * batches, 4)).astype("float32")

    return make


@pytest.fixture
def masks_of():
    """A function that returns the masks of a model as NumPy arrays."""

    def get(model):
        return [_numpy(mask) for layer in sparsity.pruned_layers(model) for mask in layer.masks]

    return get


@pytest.fixture
def kernels_of():
    """A function that returns the raw prunable variables of a wrapped model as NumPy arrays."""

    def get(model):
        return [_numpy(v) for layer in sparsity.pruned_layers(model) for v in layer.prunable_variables]

    return get


@pytest.fixture
def assert_exact_zeros(masks_of, kernels_of):
    """A function that checks that exactly the masked weights are exactly zero, `share` of each kernel."""

    def check(model, share):
        assert masks_of(model)
        for mask, kernel in zip(masks_of(model), kernels_of(model), strict=True):
            assert np.count_nonzero(~mask) == round(share * mask.size)
            np.testing.assert_array_equal(kernel == 0, ~mask)

    return check
